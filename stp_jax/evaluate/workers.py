"""Measures finished scenes in processes of their own, while the models make the videos of the next ones."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

import jax
from threadpoolctl import threadpool_limits

from input_pipeline.shots import Scene
from stp_jax.errors import InputError
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.rows import Row
from stp_jax.evaluate.scores import Outcome, measure_scene

MOST = 16  # processes by default: each takes about 0.7 GB


def default_workers(scenes: int) -> int:
    """Half of the cores, for the models on another device; none where the models need the cores."""
    if jax.default_backend() == "cpu":
        return 0
    return min((os.cpu_count() or 1) // 2, scenes, MOST)


class SceneMeasurer:
    """Measures scenes, and hands on their rows in the order in which the scenes were added.

    With n = `workers` processes up to n scenes are measured at a time, and 2n are in memory. A
    context manager: at the end all scenes are finished, after an error those in progress are dropped.
    """

    def __init__(
        self,
        measures: Sequence[Measure],
        labels: Sequence[str],
        workers: int,
        finished: Callable[[Sequence[Row]], None],
        progress: Callable[[int], None],
    ):
        """`finished` takes the rows of a scene; `progress` the number of cases measured since its last call.

        The measures have been asked whether they are available.
        """
        self._measures, self._labels, self._workers = measures, labels, workers
        self._finished, self._progress = finished, progress
        self._pending: deque[tuple[int, Future[list[Row]]]] = deque()
        self._pool: ProcessPoolExecutor | None = None
        if workers:
            for measure in measures:
                measure.close()  # what it holds, such as an OpenGL context, stays in this process
            context = multiprocessing.get_context("spawn")
            others = [measure for measure in measures if not measure.on_device]
            self._pool = ProcessPoolExecutor(workers, context, _start, (others, list(labels)))

    def __enter__(self) -> SceneMeasurer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        try:
            if error is None:
                self._take(0)
        finally:
            unfinished = bool(self._pending)
            self._pool.shutdown(wait=not unfinished, cancel_futures=True)
            if unfinished:  # a scene takes minutes: nobody waits for it after Ctrl-C
                for process in multiprocessing.active_children():
                    process.terminate()

    def add(self, scene: Scene, outcomes: Iterable[Outcome]) -> None:
        """Measures a scene, or begins to; waits while too many are in progress.

        Raises:
          InputError: of a measure, also of one for an earlier scene; a process was killed.
        """
        if self._pool is None:
            rows = measure_scene(
                scene, outcomes, self._labels, self._measures, each=lambda: self._progress(1)
            )
            self._finished(rows)
            return
        # The process has no use for the videos of the baselines.
        needed = [o._replace(videos={name: o.videos[name] for name in self._labels}) for o in outcomes]
        try:
            self._pending.append((len(needed), self._pool.submit(_measure, scene, needed)))
        except BrokenProcessPool:
            raise _killed() from None
        self._take(2 * self._workers)

    def _take(self, most: int) -> None:
        """Hands on finished scenes, waiting until at most `most` are in progress."""
        while self._pending and (len(self._pending) > most or self._pending[0][1].done()):
            cases, future = self._pending[0]
            try:
                rows = future.result()
            except BrokenProcessPool:
                raise _killed() from None
            self._pending.popleft()
            self._progress(cases)
            self._finished(rows)


def _killed() -> InputError:
    return InputError(
        "a process that measures was killed, most likely for want of memory: give fewer --workers. "
        "The same command continues after the last finished scene."
    )


_state: tuple[Sequence[Measure], Sequence[str]]  # of a process of the pool


def _start(measures: Sequence[Measure], labels: Sequence[str]) -> None:
    global _state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one decides
    jax.config.update("jax_platforms", "cpu")  # the accelerator is the models'
    threadpool_limits(1)  # the processes share the cores
    _state = measures, labels


def _measure(scene: Scene, outcomes: Sequence[Outcome]) -> list[Row]:
    measures, labels = _state
    return measure_scene(scene, outcomes, labels, measures)
