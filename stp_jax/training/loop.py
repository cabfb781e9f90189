"""The training loop: one for every model, told apart by a `Task`."""

from __future__ import annotations

import collections
import contextlib
import math
import os
import signal
import time
from pathlib import Path

import grain
import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from tqdm import tqdm

from input_pipeline.pipeline import count_examples, make_dataset
from stp_jax.command_line import check_fields
from stp_jax.devices.distributed import Agreement, broadcast_from_first, log, on_host
from stp_jax.devices.sharding import AXES, RULES, global_batch, host_rows, make_mesh, size_of
from stp_jax.errors import InputError
from stp_jax.models.parameters import Params, bind
from stp_jax.training.checkpoints import Checkpoints
from stp_jax.training.held_out import Preview, Validation
from stp_jax.training.metrics import Meter, Writer
from stp_jax.training.optimizer import make_optimizer
from stp_jax.training.state import Average, abstract_state, graph_of, init_state, trained
from stp_jax.training.step import make_train_step
from stp_jax.training.tasks import Task, make_task
from stp_jax.training.workdir import check_workdir, locked, write_config
from stp_jax.weights import native

# Steps that may be on their way on the device before the host waits: enough to never leave the device idle.
STEPS_AHEAD = 2
PROFILED = range(10, 13)  # steps of a run that --profile traces
RUN_FIELDS = (  # of config.train
    *("steps", "seconds", "batch_size", "accumulate", "trainable", "data_workers", "max_skipped"),
    *("validate_every", "validation_batches", "log_every", "pictures_every", "checkpoint_every"),
    *("keep_checkpoints", "export_every", "export_dtype"),
)


class StopRequest:
    """Turns Ctrl-C, SIGTERM and SIGUSR1 into a wish that the loop grants after the step in hand.

    A second Ctrl-C aborts at once.

    Attributes:
      number: of the signal that came, 0 before one does.
    """

    def __init__(self):
        self.number = 0

    def _note(self, number, _frame) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def __enter__(self) -> StopRequest:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def device_batches(dataset: grain.IterDataset, mesh: Mesh, batch_size: int) -> grain.DatasetIterator:
    """Batches of all hosts on the devices, made two ahead."""
    batches = dataset.map(lambda batch: global_batch(batch, mesh, batch_size))
    return iter(grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=2))


def training_data(config: ConfigDict, seed: int, mesh: Mesh, first_example: int = 0) -> grain.IterDataset:
    """This host's rows of the training batches."""
    batch_size = config.train.batch_size
    return make_dataset(
        config.data,
        split="train",
        seed=seed,
        batch_size=batch_size,
        rows=host_rows(mesh, batch_size),
        num_workers=config.train.data_workers,
        first_example=first_example,
    )


def check_run(config: ConfigDict, mesh: Mesh) -> None:
    """Raises `InputError` for fields and numbers of `config` that make no sense, on this mesh."""
    run = config.train
    check_fields(run, "config.train", RUN_FIELDS, optional=["validation"])
    if "validation" in run:
        check_fields(run.validation, "config.train.validation", ["batch_size", "seed", "flow"])
    counts = ["steps", "batch_size", "log_every", "keep_checkpoints", "accumulate", "max_skipped"]
    counts += ["validation_batches"] if run.validate_every else []
    for where, part, names in (
        ("config.train", run, counts),
        ("config.pictures", config.pictures, ["count"] if run.pictures_every else []),
        ("config.sampling", config.get("sampling", {}), ["steps"] if "sampling" in config else []),
    ):
        for name in names:
            if part[name] < 1:
                raise InputError(f"{where}.{name} is {part[name]}; it must be at least 1.")
    averaged = config.optimizer.get("ema_decay") and config.optimizer.get("ema_every", 1)
    if averaged and averaged > run.steps:
        raise InputError(
            f"config.optimizer.ema_every is {averaged}: in a run of {run.steps} steps the average would "
            "never be taken."
        )
    try:
        jax.numpy.dtype(run.export_dtype)
    except TypeError:
        raise InputError(
            f"config.train.export_dtype is {run.export_dtype!r}; choose float32, bfloat16 or float16."
        ) from None
    shards = size_of(RULES.batch, mesh)
    if run.batch_size % (shards * run.accumulate):
        parts = f" in {run.accumulate} parts" if run.accumulate > 1 else ""
        raise InputError(
            f"config.train.batch_size {run.batch_size} does not divide over {shards} devices{parts} "
            f"({' x '.join(RULES.batch)} of config.mesh)."
        )


def train(config: ConfigDict, workdir: str | os.PathLike, *, profile: bool = False) -> signal.Signals | None:
    """Trains the task of `config` in `workdir` until its steps or seconds are up, from where an earlier call
    stopped.

    Args:
      profile: whether to write a trace of a few steps to `workdir/profile`.

    Returns:
      The signal that ended the run early (its state is saved), or None if the run is complete.

    Raises:
      InputError: something about the config, the work directory, its checkpoints or the data; the loss is not
        finite any more.
    """
    started = time.monotonic()
    workdir, run = Path(workdir), config.train
    check_fields(config.mesh, "config.mesh", [], optional=AXES)
    mesh = make_mesh(**config.mesh)
    check_run(config, mesh)
    with jax.set_mesh(mesh), StopRequest() as stop, contextlib.ExitStack() as cleanup:
        changed = check_workdir(workdir, config)
        if jax.process_index() == 0:
            cleanup.enter_context(locked(workdir, log))
        task = make_task(config)
        optimizer = make_optimizer(config.optimizer)
        step_fn = make_train_step(task, optimizer, config)
        frozen = jax.device_put(task.frozen_for(config.data), NamedSharding(mesh, P()))
        training_data(config, config.seed, mesh)  # a mistake in the data is told now
        preview = Preview(task, config, frozen, mesh) if run.pictures_every else None
        validation = Validation(task, config, frozen, mesh) if run.validate_every else None
        checkpoints = Checkpoints(workdir / "checkpoints", keep=run.keep_checkpoints, report=log)
        resumed = checkpoints.latest is not None
        averaging = config.optimizer.ema_decay > 0
        average = Average(config.optimizer)
        first, elapsed_before, best, order_from = 0, 0.0, math.inf, 0
        examples = count_examples(config.data, "train")
        if resumed:
            state = checkpoints.restore(abstract_state(task, optimizer, mesh, run.trainable, averaging))
            meta = checkpoints.meta()
            first, elapsed_before, best = meta["step"], meta["elapsed_seconds"], meta["best"] or math.inf
            order_from = meta.get("order_from", 0)  # older checkpoints know no other order
            log(f"Continuing {workdir} at step {first}.")
            if changed:
                log(f"The config has changed: {'; '.join(changed)}.")
            if meta["epoch_examples"] != examples:
                log(
                    f"The data has {examples} examples an epoch and had {meta['epoch_examples']}: training "
                    "goes on with the first of the new order."
                )
                order_from = first
        else:
            state = init_state(task, optimizer, config.seed, mesh, config.init_from, run.trainable, averaging)
        state = average.place(state)
        seen = (first - order_from) * run.batch_size
        batches = device_batches(training_data(config, config.seed, mesh, seen), mesh, run.batch_size)
        describe(task, state.params, trained(state.params, run.trainable))

        agreement = Agreement(mesh)
        agreement.progress = min(1.0, first / run.steps)

        def elapsed() -> float:
            return elapsed_before + time.monotonic() - started

        def progress(step: int) -> float:
            return min(1.0, max(step / run.steps, elapsed() / run.seconds if run.seconds else 0.0))

        def ended(step: int) -> bool:
            if agreement.alone:
                agreement.update(agreement.all_reduce(progress(step), stop.number))
            return step >= run.steps or agreement.progress >= 1 or agreement.signal > 0

        def save(step: int) -> bool:
            meta = {"step": step, "elapsed_seconds": elapsed(), "epoch_examples": examples}
            finite = best if math.isfinite(best) else None
            return checkpoints.save(state, meta | {"order_from": order_from, "best": finite})

        def export(step: int, folder: str = "weights", **more) -> bool:
            notes = {"steps": step, "batch_size": run.batch_size, "seconds": round(elapsed())} | more
            written = True
            try:
                export_weights(task, config, state.averaged(), workdir / folder, notes, mesh)
            except OSError as error:
                log(f"Weights of step {step} are NOT written to {workdir / folder}: {error}")
                written = False
            return bool(broadcast_from_first(written))

        def validate(step: int) -> float:
            """The best loss on held-out scenes so far."""
            assert validation is not None
            loss = validation.loss(state.averaged())
            writer.scalars(step, {"validation/loss": loss})
            if not math.isfinite(loss):
                log(f"Loss on held-out scenes at step {step}: {loss}. See config.pictures.data.")
            return loss if loss < best and export(step, "best", validation_loss=loss) else best

        # Only now: a mistake found above leaves the folder free for another config.
        if jax.process_index() == 0:
            write_config(workdir, config)
        writer = cleanup.enter_context(contextlib.closing(Writer(workdir)))
        bar = tqdm(
            total=run.steps,
            initial=first,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            disable=jax.process_index() > 0,
        )
        cleanup.callback(bar.close)
        meter = Meter(run.batch_size, task.tokens, task.flop)
        underway: collections.deque = collections.deque()
        in_a_row, skipped, step, tracing = 0, 0, first, False
        meter.restart(step)

        try:
            while not ended(step):
                before = time.monotonic()
                batch = next(batches)
                waited = time.monotonic() - before
                # Time in which the devices still had work is not lost.
                if not underway or jax.tree.leaves(underway[-1])[0].is_ready():
                    meter.waited += waited
                if profile and step - first == PROFILED.start:
                    jax.profiler.start_trace(workdir / "profile")
                    tracing = True
                agreed = agreement.all_reduce(progress(step), stop.number)
                stepped, metrics = step_fn(state._replace(ema={}), frozen, batch, agreed[0])
                step += 1
                state = average.take(stepped._replace(ema=state.ema), step)
                if tracing and step - first == PROFILED.stop:
                    jax.block_until_ready(metrics)
                    jax.profiler.stop_trace()
                    profile = tracing = False
                    log(f"The trace of {len(PROFILED)} steps is in {workdir / 'profile'}.")
                if step == first + 1:
                    jax.block_until_ready(metrics)
                    start = elapsed() - elapsed_before
                    log(f"First step after {start:.0f} s.")
                    writer.scalars(step, {"start_seconds": start})
                    meter.restart(step)  # it compiled: that is not the time of a step
                underway.append((metrics, agreed))
                while len(underway) > (STEPS_AHEAD if step < run.steps else 0):
                    # Reading the numbers of an older step is what keeps the host from running further ahead.
                    numbers, heard = jax.device_get(underway.popleft())
                    agreement.update(heard)
                    meter.steps.append(numbers)
                    in_a_row = in_a_row + 1 if numbers["skipped"] else 0
                    skipped += int(numbers["skipped"])
                bar.update()

                if (step % run.log_every == 0 or step == run.steps) and meter.steps:
                    numbers = meter.numbers(step) | {"elapsed_seconds": elapsed()}
                    writer.scalars(step, numbers)
                    # A time limit may end the run before its last step.
                    bar.total = max(step, round(step / progress(step)))
                    bar.set_postfix_str(meter.summary(numbers))
                    meter.restart(step)
                if in_a_row >= run.max_skipped:
                    raise InputError(
                        f"The loss or its gradient was not finite for {in_a_row} steps in a row, to step "
                        f"{step}; they changed nothing, and what was before is saved.\nLook for NaN in the "
                        "data, or lower config.optimizer.learning_rate or raise warmup_steps in a new run "
                        "from these weights."
                    )

                # A run that is about to end does this once more in any case.
                before, last = time.monotonic(), step >= run.steps or (agreement.alone and ended(step))
                if preview and step % run.pictures_every == 0 and not last:
                    preview.write(writer, state.averaged(), step)
                if validation and step % run.validate_every == 0:
                    best = validate(step)
                if run.checkpoint_every and step % run.checkpoint_every == 0 and not last:
                    save(step)
                if run.export_every and step % run.export_every == 0 and not last:
                    export(step)
                meter.started += time.monotonic() - before  # nor is this the time of a step
        except Exception:
            # A mistake in the data costs no work. Of several processes the others may be elsewhere; that the
            # loss is not finite all of them find at the same step.
            lost = any(array.is_deleted() for array in jax.tree.leaves(state))  # by a step that failed
            alike = agreement.alone or in_a_row >= run.max_skipped
            if alike and not lost and step > first and checkpoints.latest != step:
                save(step)
                checkpoints.close()
            raise

        bar.close()
        # Whatever came to only some of the processes, all know now.
        agreement.update(jax.device_get(agreement.all_reduce(progress(step), stop.number)))
        stopped_by = signal.Signals(agreement.signal) if agreement.signal else None
        if skipped:
            log(f"{skipped} of these steps were skipped, as their loss or gradient was not finite.")
        if tracing:
            jax.profiler.stop_trace()
        if profile:
            log(f"The run was too short for a whole trace: that takes {PROFILED.stop} steps.")
        if validation and not stopped_by and step % run.validate_every:
            best = validate(step)
        if checkpoints.latest != step:
            save(step)
        checkpoints.close()
        exported = True
        if not stopped_by:
            if preview:
                preview.write(writer, state.averaged(), step)
            exported = export(step)
        batches.close()
        if checkpoints.latest != step:
            saved = "no step" if checkpoints.latest is None else f"step {checkpoints.latest}"
            raise InputError(
                f"Step {step} could not be saved, {saved} is: the last lines above say why.\n"
                "The same command goes on from there."
            )
        if not exported:
            raise InputError(
                f"Step {step} is saved, but its weights could not be written to {workdir / 'weights'}.\n"
                "Free some space there; the same command writes them."
            )
    if stopped_by:
        log(f"Stopped by {stopped_by.name}; step {step} is saved. Run the same command again to continue.")
    else:
        pictures = f", pictures in {workdir / 'pictures'}" if run.pictures_every else ""
        log(f"Done: {step} steps. Weights in {workdir / 'weights'}{pictures}.")
    return stopped_by


def describe(task: Task, params: Params, chosen: Params) -> None:
    """Prints what is trained, on what."""
    size, trained = (sum(array.size for array in part.values()) / 1e6 for part in (params, chosen))
    share = "" if trained == size else f", of which {trained:.1f} M are trained"
    devices = jax.devices()
    hosts = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    log(f"{task.name}: {size:.1f} M parameters{share}, {len(devices)} x {devices[0].device_kind}{hosts}")


def export_weights(
    task: Task, config: ConfigDict, params: Params, folder: Path, notes: dict, mesh: Mesh
) -> None:
    """Writes the model, and the frozen ones that it needs, as weights that `sample.py` reads."""
    model = bind(graph_of(task), params)
    fields = task.final_config(model, training_data(config, config.seed + 1, mesh))
    whole = on_host(task.to_export(params), config.train.export_dtype)
    if jax.process_index() > 0:
        return
    native.save_weights(
        folder, task.name, whole, fields, dtype=config.train.export_dtype, notes=notes | task.notes()
    )
    for name, (tensors, fields) in task.companions().items():
        if not (folder / f"{name}.json").exists():
            native.save_weights(folder, name, tensors, fields, dtype=config.train.export_dtype)
