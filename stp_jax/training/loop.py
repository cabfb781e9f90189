"""The training loop, one for every model; a `Task` holds what differs between them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import jax
from ml_collections import ConfigDict

from stp_jax.devices.distributed import log
from stp_jax.devices.sharding import make_mesh
from stp_jax.training.config import MeshConfig, check_run, check_section
from stp_jax.training.events import Events
from stp_jax.training.metrics import Writer
from stp_jax.training.progress import Progress, StopRequest
from stp_jax.training.reporter import Reporter
from stp_jax.training.run import Run, last_words
from stp_jax.training.step import make_train_step
from stp_jax.training.trace import Trace
from stp_jax.training.workdir import check_workdir, locked, write_config


def train(config: ConfigDict, workdir: str | os.PathLike, *, profile: bool = False) -> signal.Signals | None:
    """Trains the task of `config` in `workdir` until its steps or seconds are done; resumes an earlier run.

    Args:
      profile: whether to write a trace of a few steps to `workdir/profile`.

    Returns:
      The signal that ended the run early (its state is saved), or None if the run is complete.

    Raises:
      InputError: a mistake in the config, the work directory, its checkpoints or the data; the loss is no
        longer finite.
    """
    workdir = Path(workdir)
    check_section(MeshConfig, config.mesh, "config.mesh")
    mesh = make_mesh(**config.mesh)
    check_run(config, mesh)
    with jax.set_mesh(mesh), StopRequest() as stop, contextlib.ExitStack() as cleanup:
        progress = Progress(config.train, stop, mesh)
        changed = check_workdir(workdir, config)
        if jax.process_index() == 0:
            cleanup.enter_context(locked(workdir, log))
        run = Run(config, workdir, mesh)
        step_fn = make_train_step(run.task, run.optimizer, config)
        state = run.begin(changed)
        progress.resume(run.position.step, run.position.seconds)
        batches = run.batches()
        cleanup.callback(batches.close)  # else the worker processes of the data leave shared memory behind
        run.describe(state.params)
        if jax.process_index() == 0:
            write_config(workdir, config)  # only now, so that after a mistake above the folder is still free
        writer = cleanup.enter_context(contextlib.closing(Writer(workdir, progress.first)))
        reporter = cleanup.enter_context(contextlib.closing(Reporter(run, progress, writer)))
        events, trace = Events(run, progress, writer, reporter), Trace(profile, workdir / "profile")
        try:
            while not progress.ended():
                batch = reporter.next(batches)
                trace.before_step(progress.step - progress.first)
                agreed = progress.all_reduce()
                stepped, metrics = step_fn(state._replace(ema={}), run.frozen, batch, agreed[0])
                progress.step += 1
                state = run.average.take(stepped._replace(ema=state.ema), progress.step)
                trace.after_step(progress.step - progress.first, metrics)
                reporter.add(metrics, agreed)
                reporter.check_finite()
                with reporter.paused():
                    events.after_step(state)
        except Exception:
            events.after_error(state, alike=progress.alone or reporter.gives_up())
            raise
        reporter.flush()
        reporter.close()
        stopped_by = progress.stopped_by()
        if reporter.skipped:
            log(f"{reporter.skipped} of these steps were skipped, as their loss or gradient was not finite.")
        trace.close()
        events.at_end(state, complete=stopped_by is None)
    log(last_words(run, progress.step, stopped_by))
    return stopped_by
