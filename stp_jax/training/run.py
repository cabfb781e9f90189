"""A run: everything that is made of its config, and where it begins."""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from input_pipeline import latent_batches
from input_pipeline.pipeline import check_captions, count_by_part, count_examples
from stp_jax.devices.distributed import log
from stp_jax.errors import InputError
from stp_jax.training.checkpoints import Checkpoints
from stp_jax.training.data import device_batches, training_data
from stp_jax.training.flow_map_task import dit_task
from stp_jax.training.held_out import Preview, Validation
from stp_jax.training.optimizer import make_optimizer
from stp_jax.training.state import (
    Average,
    TrainState,
    abstract_state,
    frozen_shardings,
    init_state,
    trained,
)
from stp_jax.training.task import Params, Task
from stp_jax.training.vae_task import VAETask


@dataclasses.dataclass
class Position:
    """Where a run is, in addition to the state of its step.

    Attributes:
      step: number of finished steps.
      seconds: their duration, over all calls.
      examples: number of examples in an epoch of the data.
      order_from: the step at which the order of these examples begins.
      best: the lowest loss on held-out scenes.
      parts: number of examples in an epoch of each data set of a mixture.
    """

    step: int
    seconds: float
    examples: int
    order_from: int = 0
    best: float = math.inf
    parts: dict[str, int] = dataclasses.field(default_factory=dict)

    def meta(self) -> dict[str, Any]:
        """The position as JSON values, for a checkpoint."""
        return {
            "step": self.step,
            "elapsed_seconds": self.seconds,
            "epoch_examples": self.examples,
            "order_from": self.order_from,
            "best": self.best if math.isfinite(self.best) else None,
        } | ({"parts": self.parts} if self.parts else {})


class Run:
    """Everything that is made of a config before the first step; mistakes of the user are found here.

    Attributes:
      task, optimizer: the model with its loss, and the optimizer.
      average: keeps the moving average of the parameters.
      frozen: the weights that the loss reads, on the devices.
      preview, validation: on held-out scenes; None if the config asks for none.
      checkpoints: of the work directory.
      position: set by `begin`.

    Raises:
      InputError: a mistake in the config, the checkpoints or the data.
    """

    position: Position

    def __init__(self, config: ConfigDict, workdir: Path, mesh: Mesh):
        self.config, self.workdir, self.mesh = config, workdir, mesh
        self.task = make_task(config)
        self.optimizer = make_optimizer(config.optimizer)
        self.average = Average(config.optimizer)
        frozen = self.task.frozen_for(config.data)
        self.frozen = jax.device_put(frozen, frozen_shardings(frozen, mesh))
        training_data(config, config.seed, mesh)  # finds mistakes in the data
        check_captions(config.data, "train")
        for remark in latent_batches.remarks(config.data, "train") if "kind" in config.data else ():
            log(remark)
        of_held_out = (self.task, config, self.frozen, mesh)
        self.preview = Preview(*of_held_out) if config.train.pictures_every else None
        self.validation = Validation(*of_held_out) if config.train.validate_every else None
        keep = config.train.keep_checkpoints
        self.checkpoints = Checkpoints(workdir / "checkpoints", keep=keep, report=log)

    def begin(self, changed: list[str]) -> TrainState:
        """The state to begin with; also sets `position`.

        A run that has a checkpoint resumes there. Otherwise it starts from the weights `config.init_from`
        (fine-tuning). Without these its parameters are random.

        Args:
          changed: differences from the config of earlier calls, to log.
        """
        config, task, optimizer, mesh = self.config, self.task, self.optimizer, self.mesh
        trainable, averaging = config.train.trainable, config.optimizer.ema_decay > 0
        examples = count_examples(config.data, "train")
        if self.checkpoints.latest is not None:
            self._resume(examples, changed)
            state = self.checkpoints.restore(abstract_state(task, optimizer, mesh, trainable, averaging))
        else:
            self.position = Position(step=0, seconds=0.0, examples=examples)
            self.position.parts = count_by_part(config.data, "train")
            state = init_state(task, optimizer, config.seed, mesh, config.init_from, trainable, averaging)
        return self.average.place(state)

    def _resume(self, examples: int, changed: list[str]) -> None:
        meta = self.checkpoints.meta()
        position = Position(meta["step"], meta["elapsed_seconds"], examples)
        position.parts = count_by_part(self.config.data, "train")
        position.best = meta["best"] or math.inf
        position.order_from = meta.get("order_from", 0)  # older checkpoints know no other order
        self._check_end(position)
        log(f"Continuing {self.workdir} at step {position.step}.")
        if changed:
            log(f"The config has changed: {'; '.join(changed)}.")
        if (meta["epoch_examples"], meta.get("parts", {})) != (examples, position.parts):
            now, before = position.parts or examples, meta.get("parts") or meta["epoch_examples"]
            log(
                f"The data has {now} examples an epoch and had {before}: training continues with the first "
                "of the new order."
            )
            position.order_from = position.step
        self.position = position

    def _check_end(self, done: Position) -> None:
        """Says where nothing is left to train; raises `InputError` where fewer steps are asked for."""
        asked = self.config.train
        if done.step > asked.steps:
            raise InputError(
                f"config.train.steps is {asked.steps}, but {self.workdir} has done {done.step} steps.\n"
                f"Give more to go on, or {done.step} to write its weights again."
            )
        if done.step == asked.steps:
            log(f"All {asked.steps} steps are done already: give a larger config.train.steps to go on.")
        elif asked.seconds and done.seconds >= asked.seconds:
            log(
                f"The run has taken {done.seconds:.0f} s already; config.train.seconds is {asked.seconds:g}: "
                "nothing is left to train."
            )

    def batches(self) -> grain.DatasetIterator:
        """The batches of the steps from `position` on."""
        batch_size = self.config.train.batch_size
        seen = (self.position.step - self.position.order_from) * batch_size
        dataset = training_data(self.config, self.config.seed, self.mesh, seen)
        return device_batches(dataset, self.mesh, batch_size)

    def describe(self, params: Params) -> None:
        """Logs the model, its size and the devices."""
        parts = (params, trained(params, self.config.train.trainable))
        size, chosen = (sum(array.size for array in part.values()) / 1e6 for part in parts)
        share = "" if chosen == size else f", of which {chosen:.1f} M are trained"
        devices = jax.devices()
        hosts = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        on = f"{len(devices)} x {devices[0].device_kind}{hosts}"
        log(f"{self.task.name}: {size:.1f} M parameters{share}, {on}")


def last_words(run: Run, step: int, stopped_by: signal.Signals | None) -> str:
    """The line to log at the end of a run."""
    if stopped_by:
        return f"Stopped by {stopped_by.name}; step {step} is saved. Run the same command again to continue."
    pictures = f", pictures in {run.workdir / 'pictures'}" if run.preview else ""
    return f"Done: {step} steps. Weights in {run.workdir / 'weights'}{pictures}."


def make_task(config: ConfigDict) -> Task:
    """The task named by `config.task`.

    Raises:
      InputError: an unknown task, or its frozen weights cannot be read.
    """
    tasks: dict[str, Callable[[ConfigDict], Task]] = {"dit": dit_task, "vae": VAETask}
    if config.task not in tasks:
        raise InputError(f"config.task is {config.task!r}; choose one of {', '.join(tasks)}.")
    return tasks[config.task](config)
