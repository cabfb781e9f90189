"""What a run does between its steps: it validates, previews, saves and exports."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from stp_jax.devices.distributed import broadcast_from_first, log, on_host
from stp_jax.errors import InputError
from stp_jax.models.parameters import bind
from stp_jax.training.data import training_data
from stp_jax.training.metrics import Writer
from stp_jax.training.progress import Progress
from stp_jax.training.reporter import Reporter
from stp_jax.training.run import Run
from stp_jax.training.state import TrainState, graph_of
from stp_jax.training.task import Params, Task
from stp_jax.weights import native


class Events:
    """Knows when each event is due, and carries it out."""

    def __init__(self, run: Run, progress: Progress, writer: Writer, reporter: Reporter):
        self._run, self._progress, self._writer, self._reporter = run, progress, writer, reporter

    def after_step(self, state: TrainState) -> None:
        """Everything that is due after a step, except what `at_end` does in any case."""
        run, every = self._run, self._run.config.train
        ends = self._progress.ends_now()
        if run.preview and self._due(every.pictures_every) and not ends:
            self._preview(state)
        if run.validation and self._due(every.validate_every):
            self._validate(state)
        if self._due(every.checkpoint_every) and not ends:
            self._reporter.flush()  # a run that resumes here finds these steps in metrics.jsonl
            self._save(state)
        if self._due(every.export_every) and not ends:
            self._export(state)

    def at_end(self, state: TrainState, *, complete: bool) -> None:
        """Saves the last step; of a complete run also writes validation, pictures and weights.

        Raises:
          InputError: the step could not be saved, or its weights could not be written.
        """
        run, step, checkpoints = self._run, self._progress.step, self._run.checkpoints
        if run.validation and complete and not self._due(run.config.train.validate_every):
            self._validate(state)
        if checkpoints.latest != step:
            self._save(state)
        checkpoints.close()
        if complete and run.preview:
            self._preview(state)
        exported = self._export(state) if complete else True
        if checkpoints.latest != step:
            saved = "no step" if checkpoints.latest is None else f"step {checkpoints.latest}"
            raise InputError(
                f"Step {step} could not be saved, {saved} is: the last lines above say why.\n"
                "The same command continues from there."
            )
        if not exported:
            raise InputError(
                f"Step {step} is saved, but its weights could not be written to {run.workdir / 'weights'}.\n"
                "Free some space there; the same command writes them."
            )

    def after_error(self, state: TrainState, *, alike: bool) -> None:
        """Saves what can be saved, so that a mistake in the data costs no work.

        Args:
          alike: whether all processes have the error at this step; otherwise some may be at another step.
        """
        step, checkpoints = self._progress.step, self._run.checkpoints
        lost = any(array.is_deleted() for array in jax.tree.leaves(state))  # donated to a step that failed
        if alike and not lost and step > self._progress.first and checkpoints.latest != step:
            with contextlib.suppress(Exception):  # of the step that failed, which is raised anyhow
                self._reporter.flush()
            self._save(state)
            checkpoints.close()

    def _due(self, every: int) -> bool:
        return bool(every) and self._progress.step % every == 0

    def _preview(self, state: TrainState) -> None:
        assert self._run.preview is not None
        self._run.preview.write(self._writer, state.averaged(), self._progress.step)

    def _validate(self, state: TrainState) -> None:
        """Measures the loss on held-out scenes, and keeps the weights if it is the lowest so far."""
        assert self._run.validation is not None
        position, step = self._run.position, self._progress.step
        losses = self._run.validation.losses(state.averaged())
        loss = losses["loss"]
        self._writer.scalars(step, {f"validation/{name}": value for name, value in losses.items()})
        if not math.isfinite(loss):
            log(f"Loss on held-out scenes at step {step}: {loss}. See config.pictures.data.")
        if loss < position.best and self._export(state, "best", validation_loss=loss):
            position.best = loss

    def _save(self, state: TrainState) -> None:
        position = self._run.position
        position.step, position.seconds = self._progress.step, self._progress.seconds()
        self._run.checkpoints.save(state, position.meta())

    def _export(self, state: TrainState, folder: str = "weights", **notes: Any) -> bool:
        """Writes the weights into a folder of the work directory; returns whether that went well."""
        run, step = self._run, self._progress.step
        notes = {
            "steps": step,
            "batch_size": run.config.train.batch_size,
            "seconds": round(self._progress.seconds()),
        } | notes
        written = True
        try:
            export_weights(run.task, run.config, state.averaged(), run.workdir / folder, notes, run.mesh)
        except OSError as error:
            log(f"Weights of step {step} are NOT written to {run.workdir / folder}: {error}")
            written = False
        return bool(broadcast_from_first(written))


def export_weights(
    task: Task, config: ConfigDict, params: Params, folder: Path, notes: dict, mesh: Mesh
) -> None:
    """Writes the model, and the frozen ones that it needs, as weights that `sample.py` reads."""
    model = bind(graph_of(task), params)
    fields = task.final_config(model, training_data(config, config.seed + 1, mesh))
    whole = on_host(task.to_export(params), config.train.export_dtype)
    if jax.process_index() > 0:
        return
    dtype = config.train.export_dtype
    for name, (tensors, companion) in task.companions().items():  # first: with the model the folder is whole
        if not native.is_whole(folder, name, companion):  # one that a killed run or a bad disk left is not
            native.save_weights(folder, name, tensors, companion, dtype=dtype)
    native.save_weights(folder, task.name, whole, fields, dtype=dtype, notes=notes | task.notes())
