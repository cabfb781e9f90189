"""The training loop: one for every model, told apart by a `Task`."""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from tqdm import tqdm

from input_pipeline.pipeline import make_dataset
from stp_jax import weights
from stp_jax.errors import InputError
from stp_jax.sharding import RULES, batch_sharding, make_mesh
from stp_jax.training.checkpoints import Checkpoints
from stp_jax.training.metrics import Writer, mean_of
from stp_jax.training.optimizer import make_optimizer
from stp_jax.training.state import PICTURES, Params, TrainState, bind, graph_of, init_state, random_key
from stp_jax.training.step import make_train_step
from stp_jax.training.tasks import Task, make_task

# Steps that may be on their way on the device before the host waits: enough to never leave the device idle.
STEPS_AHEAD = 2
# Fields that may differ when a run is continued; a name stands for everything below it.
FREE_FIELDS = (
    *("train.steps", "train.seconds", "train.log_every", "train.checkpoint_every", "train.pictures_every"),
    *("train.export_every", "train.export_dtype", "train.keep_checkpoints", "pictures", "sampling"),
)


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a wish that the loop grants after the step in hand.

    A second Ctrl-C aborts at once.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None

    def _note(self, number, _frame) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def __enter__(self) -> StopRequest:
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Makes the work directory, or checks that the run in it has the same config.

    Raises:
      InputError: the folder cannot be written, or belongs to a run with another config (the difference is
        shown).
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
        path = workdir / "config.json"
        if not path.exists():
            return
        old = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"--workdir {workdir}: {error.strerror}. Give a folder you may write to.") from None
    except json.JSONDecodeError:
        raise InputError(f"--workdir {workdir}: config.json is damaged. Give a new --workdir.") from None
    old, new = _flat(old), _flat(json.loads(config.to_json_best_effort()))
    free = tuple(f"{field}." for field in FREE_FIELDS)
    changed = [
        f"{name} was {old.get(name, '(absent)')}, is {new.get(name, '(absent)')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not f"{name}.".startswith(free)
    ]
    if changed:
        more = f"; and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise InputError(
            f"--workdir {workdir} holds a run with another config: {'; '.join(changed[:8])}{more}.\n"
            "Give a new --workdir, or the old config to continue that run."
        )


def write_config(workdir: Path, config: ConfigDict) -> None:
    temporary = workdir / "config.json.tmp"
    temporary.write_text(json.dumps(json.loads(config.to_json_best_effort()), indent=1) + "\n")
    os.replace(temporary, workdir / "config.json")


def device_batches(dataset: grain.IterDataset, mesh: Mesh) -> grain.DatasetIterator:
    """Batches on the devices, made two ahead; the iterator's state counts only those handed out."""
    sharding = batch_sharding(mesh)

    def put(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return {
            name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()
        }

    return iter(grain.experimental.ThreadPrefetchIterDataset(dataset.map(put), prefetch_buffer_size=2))


def training_data(config: ConfigDict, seed: int) -> grain.IterDataset:
    """This host's share of the training batches."""
    return make_dataset(
        config.data,
        split="train",
        seed=seed,
        host_index=jax.process_index(),
        host_count=jax.process_count(),
        batch_size=config.train.batch_size // jax.process_count(),
        num_workers=config.train.data_workers,
    )


def train(config: ConfigDict, workdir: str | os.PathLike) -> signal.Signals | None:
    """Trains the task of `config` in `workdir` until its steps or seconds are up, from where an earlier call
    stopped.

    Returns:
      The signal that ended the run early (its state is saved), or None if the run is complete.

    Raises:
      InputError: something about the config, the work directory, its checkpoints or the data.
    """
    started = time.monotonic()
    workdir, run = Path(workdir), config.train
    for field in ("steps", "batch_size", "log_every", "keep_checkpoints"):
        if run[field] < 1:
            raise InputError(f"config.train.{field} is {run[field]}; it must be at least 1.")
    mesh = make_mesh(**config.mesh)
    shards = math.prod(mesh.shape[axis] for axis in RULES.batch)
    if run.batch_size % shards:
        raise InputError(
            f"config.train.batch_size {run.batch_size} does not divide over {shards} devices "
            f"({' x '.join(RULES.batch)} of config.mesh)."
        )
    with jax.set_mesh(mesh), StopRequest() as stop, contextlib.ExitStack() as cleanup:
        check_workdir(workdir, config)
        task = make_task(config)
        optimizer = make_optimizer(config.optimizer)
        step_fn = make_train_step(task, optimizer, config)
        frozen = jax.device_put(task.frozen, NamedSharding(mesh, P()))
        batches = device_batches(training_data(config, config.seed), mesh)
        preview = Preview(task, config, frozen, mesh)
        checkpoints = Checkpoints(workdir / "checkpoints", keep=run.keep_checkpoints, report=tqdm.write)
        init_from = config.init_from if checkpoints.latest is None else ""
        state = init_state(task, optimizer, config.seed, mesh, init_from, run.trainable)
        first, elapsed_before = 0, 0.0
        if checkpoints.latest is not None:
            state = checkpoints.restore(state, batches)
            meta = checkpoints.meta()
            first, elapsed_before = meta["step"], meta["elapsed_seconds"]
            tqdm.write(f"Continuing {workdir} at step {first}.")
        size = sum(array.size for array in state.params.values())
        devices = jax.devices()
        tqdm.write(f"{task.name}: {size / 1e6:.1f} M parameters, {len(devices)} x {devices[0].device_kind}")

        def elapsed() -> float:
            return elapsed_before + time.monotonic() - started

        def progress(step: int) -> float:
            return min(1.0, max(step / run.steps, elapsed() / run.seconds if run.seconds else 0.0))

        def save(step: int) -> None:
            checkpoints.save(state, batches, {"step": step, "elapsed_seconds": elapsed()})

        def export(step: int) -> None:
            notes = {"steps": step, "batch_size": run.batch_size, "seconds": round(elapsed())}
            export_weights(task, config, state.averaged(), workdir / "weights", notes)

        # Only now: a mistake found above leaves the folder free for another config.
        write_config(workdir, config)
        writer = cleanup.enter_context(contextlib.closing(Writer(workdir)))
        bar = tqdm(total=run.steps, initial=first, unit="step", dynamic_ncols=True, smoothing=0.05)
        underway: collections.deque[dict[str, jax.Array]] = collections.deque()
        finished: list[dict[str, np.ndarray]] = []
        logged, logged_step, waited, step = time.monotonic(), first, 0.0, first

        while progress(step) < 1 and not stop.signal:
            before = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - before
            state, metrics = step_fn(state, frozen, batch, np.float32(progress(step)))
            step += 1
            if step == first + 1:  # it compiled: that is not the time of a step
                logged, logged_step, waited = time.monotonic(), step, 0.0
            underway.append(metrics)
            if len(underway) > STEPS_AHEAD:
                # Reading the numbers of an older step is what keeps the host from running further ahead.
                finished.append(jax.device_get(underway.popleft()))
            bar.update()

            if step % run.log_every == 0 and finished:
                seconds = time.monotonic() - logged
                per_step = seconds / (step - logged_step)
                numbers = mean_of(finished) | {
                    "step_seconds": per_step,
                    "examples_per_second": run.batch_size / per_step,
                    "data_wait_share": waited / seconds,
                    "elapsed_seconds": elapsed(),
                }
                writer.scalars(step, numbers)
                # A time limit may end the run before its last step.
                bar.total = max(step, round(step / progress(step)))
                rate = f"{1000 * per_step:.0f} ms/step, {run.batch_size / per_step:.1f} examples/s"
                bar.set_postfix_str(f"loss {numbers['loss']:.4f}, {rate}")
                finished.clear()
                logged, logged_step, waited = time.monotonic(), step, 0.0

            ended = progress(step) >= 1 or stop.signal
            before = time.monotonic()
            if run.pictures_every and step % run.pictures_every == 0 and not ended:
                preview.write(writer, state, step)
            if run.checkpoint_every and step % run.checkpoint_every == 0 and not ended:
                save(step)
            if run.export_every and step % run.export_every == 0 and not ended:
                export(step)
            logged += time.monotonic() - before  # nor is this the time of a step

        bar.close()
        if checkpoints.latest != step:
            save(step)
        if not stop.signal:
            if run.pictures_every:
                preview.write(writer, state, step)
            export(step)
        checkpoints.close()
        batches.close()
    if stop.signal:
        tqdm.write(
            f"Stopped by {stop.signal.name}; step {step} is saved. Run the same command again to continue."
        )
    else:
        pictures = f", pictures in {workdir / 'pictures'}" if run.pictures_every else ""
        tqdm.write(f"Done: {step} steps. Weights in {workdir / 'weights'}{pictures}.")
    return stop.signal


class Preview:
    """Pictures and figures on one fixed held-out batch, with the averaged weights and the same noise each
    time."""

    def __init__(self, task: Task, config: ConfigDict, frozen, mesh: Mesh):
        self._task, self._frozen, self._seed = task, frozen, config.seed
        held_out = config.pictures
        iterator = iter(
            make_dataset(held_out.data, split=held_out.split, seed=config.seed, batch_size=held_out.count)
        )
        self._batch = next(iterator)
        iterator.close()
        graph = graph_of(task)
        self._generate = jax.jit(lambda ema, *inputs: task.generate(bind(graph, ema), *inputs))

    def write(self, writer: Writer, state: TrainState, step: int) -> None:
        key = random_key(self._seed, 0, PICTURES)
        generated = jax.device_get(self._generate(state.averaged(), self._frozen, self._batch, key))
        videos, numbers = self._task.show(generated)
        writer.pictures(step, videos)
        writer.scalars(step, {f"preview/{name}": value for name, value in numbers.items()})
        tqdm.write(", ".join([f"step {step}", *(f"{name} {value:.3f}" for name, value in numbers.items())]))


def export_weights(task: Task, config: ConfigDict, params: Params, folder: Path, notes: dict) -> None:
    """Writes the model, and the frozen ones that it needs, as weights that `sample.py` reads."""
    model = bind(graph_of(task), params)
    params = task.to_export(params)
    fields = task.final_config(model, training_data(config, config.seed + 1))
    weights.save_weights(
        folder, task.name, params, fields, dtype=config.train.export_dtype, notes=notes | task.notes()
    )
    for name, (tensors, fields) in task.companions().items():
        if not (folder / f"{name}.json").exists():
            weights.save_weights(folder, name, tensors, fields, dtype=config.train.export_dtype)
