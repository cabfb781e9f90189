"""Reads the numbers of steps from the devices, and reports them to files and the progress bar."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from stp_jax.devices.distributed import log
from stp_jax.errors import InputError
from stp_jax.training.metrics import Meter, Writer
from stp_jax.training.progress import Progress
from stp_jax.training.run import Run

# Steps that may be in flight on the devices before the host waits: enough to keep the devices busy.
STEPS_AHEAD = 2


class Reporter:
    """Reads the numbers of steps some steps later, and writes their means every `log_every` steps.

    Reading the numbers of an older step keeps the host from running further ahead. Each line of
    `metrics.jsonl` has the means of the steps since the line before, and there is one at every checkpoint: so
    a run that resumes has each step in one line, too.

    Attributes:
      skipped: steps whose loss or gradient was not finite.
    """

    def __init__(self, run: Run, progress: Progress, writer: Writer):
        self._run, self._progress, self._writer = run.config.train, progress, writer
        self._meter = Meter(self._run.batch_size, run.task.tokens, run.task.flop)
        self._underway: collections.deque = collections.deque()
        self.skipped = self._in_a_row = 0
        self._bar = tqdm(
            total=self._run.steps,
            initial=progress.first,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            disable=jax.process_index() > 0,
        )
        self._meter.restart(progress.step)

    def next(self, batches: Iterator[Any]) -> Any:
        """The next batch; the wait for it counts where the devices have nothing left to do."""
        first = self._progress.step == self._progress.first
        if first:
            self._bar.set_description_str("reading the first batch")
        before = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - before
        if first:
            self._bar.set_description_str("compiling")
            self._compiling_from = time.monotonic()
        if not self._underway or jax.tree.leaves(self._underway[-1][1])[0].is_ready():
            self._meter.waited += waited
        return batch

    def add(self, metrics: dict[str, jax.Array], agreed: jax.Array | np.ndarray) -> None:
        """Takes what a step gave, and `agreed` of `Progress.all_reduce`; reads those of older steps."""
        if self._progress.step == self._progress.first + 1:
            self._first_step(metrics)
        self._underway.append((self._progress.step, metrics, agreed))
        while len(self._underway) > (0 if self._progress.at_last_step() else STEPS_AHEAD):
            self._read_oldest()
        self._bar.update()

    def flush(self) -> None:
        """Waits for all steps, and writes the means of those that are in no line yet."""
        while self._underway:
            self._read_oldest()
        if self._meter.steps:
            self._write(self._progress.step)

    def _first_step(self, metrics: dict[str, jax.Array]) -> None:
        compiling = time.monotonic() - self._compiling_from
        self._bar.set_description_str("first step")
        jax.block_until_ready(metrics)
        self._bar.set_description_str("")
        self._bar.unpause()  # the time so far says nothing of the steps to come
        seconds = self._progress.seconds_of_call()
        log(f"First step after {seconds:.0f} s, of which compiling took {compiling:.0f} s.")
        self._writer.scalars(self._progress.step, {"start_seconds": seconds})
        self._meter.restart(self._progress.step)  # it compiled: that is not the time of a step

    def _read_oldest(self) -> None:
        step, *underway = self._underway.popleft()
        numbers, agreed = jax.device_get(underway)
        self._progress.update(agreed)
        self._meter.steps.append(numbers)
        self._in_a_row = self._in_a_row + 1 if numbers["skipped"] else 0
        self.skipped += int(numbers["skipped"])
        if step % self._run.log_every == 0 or step == self._run.steps:
            self._write(step)

    def _write(self, step: int) -> None:
        """Writes the means of the steps since the last line, up to `step`."""
        numbers = self._meter.numbers(step) | {"elapsed_seconds": self._progress.seconds()}
        self._writer.scalars(step, numbers)
        # A time limit may end the run before its last step.
        done = self._progress.step
        self._bar.total = max(done, round(done / self._progress.share()))
        self._bar.set_postfix_str(self._meter.summary(numbers))
        self._meter.restart(step)

    def gives_up(self) -> bool:
        """Whether too many steps in a row were skipped; all processes know it at the same step."""
        return self._in_a_row >= self._run.max_skipped

    def check_finite(self) -> None:
        """Raises `InputError` where `gives_up`."""
        if self.gives_up():
            raise InputError(
                f"The loss or its gradient was not finite for {self._in_a_row} steps in a row, to step "
                f"{self._progress.step}; they changed nothing, and what was before is saved.\nLook for NaN "
                "in the data, or lower config.optimizer.learning_rate or raise warmup_steps in a new run "
                "from these weights."
            )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in this context does not count as time of steps."""
        before = time.monotonic()
        yield
        now = time.monotonic()
        # A new interval may have begun in this context.
        self._meter.started = min(now, self._meter.started + now - before)

    def close(self) -> None:
        """Closes the progress bar."""
        self._bar.close()
