"""Makes shards in this process or in several, in order, with progress and time left."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm import tqdm

from input_pipeline.datasets.shards import Note, Setup, Shard, ShardMaker
from stp_jax.errors import InputError

SCENES_OF_A_PROCESS = 8  # starting a process takes 2 s
_POLL = 0.5  # seconds between two looks at the progress


def default_workers(scenes: int) -> int:
    """A process for each core, but none for a few scenes."""
    return max(1, min(len(os.sched_getaffinity(0)), scenes // SCENES_OF_A_PROCESS))


def make_shards(
    setup: Setup, shards: Sequence[Shard], excluded: Mapping[str, str], workers: int
) -> Iterator[tuple[Shard, Note, bool]]:
    """Yields the shards in order, each with `ShardMaker.make` of it.

    Raises:
      InputError: as `ShardMaker.make`; a process was killed.
    """
    scenes = sum(len(shard.paths) for shard in shards)
    with tqdm(total=scenes, desc="scenes", unit="scene", smoothing=0.05) as bar:
        if workers == 1 or len(shards) == 1:
            maker = ShardMaker(setup, bar.update)
            for shard in shards:
                yield shard, *maker.make(shard, excluded)
            return
        with _pool(setup, min(workers, len(shards))) as (pool, done):
            futures = [pool.submit(_make, shard, excluded) for shard in shards]
            for place, shard in enumerate(shards):
                yield shard, *_result(futures[place], done, bar)
                futures[place] = Future()  # it would keep its note


@contextlib.contextmanager
def _pool(setup: Setup, workers: int) -> Iterator[tuple[ProcessPoolExecutor, Any]]:
    """Processes, and the counter of scenes that they are done with."""
    # Not forked: this process has threads, of ArrayRecord and others, whose locks a fork might copy closed.
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(setup, done, stop))
    try:
        yield pool, done
    finally:
        stop.set()  # they end after the scene that they are at
        pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future, done: Any, bar: tqdm) -> tuple[Note, bool]:
    while True:
        finished = wait([future], timeout=_POLL).done
        bar.update(done.value - bar.n)
        if finished:
            break
    try:
        return future.result()
    except BrokenProcessPool:
        raise InputError(
            "--workers: a process was killed, for want of memory perhaps; the same command goes on, "
            "with fewer --workers if need be"
        ) from None


# In a worker process ------------------------------------------------------------------------------------


class _Stopped(Exception):
    """The build ends."""


_maker: ShardMaker | None = None


def _start(setup: Setup, done: Any, stop: Any) -> None:
    global _maker
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # terminals and schedulers send them to all; the first one acts
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _maker = ShardMaker(setup, functools.partial(_after_a_scene, done, stop))


def _end_with_parent() -> None:
    """Ends this process when the one that started it was killed: the pool's queues would keep it waiting."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _after_a_scene(done: Any, stop: Any) -> None:
    with done.get_lock():
        done.value += 1
    if stop.is_set():
        raise _Stopped


def _make(shard: Shard, excluded: Mapping[str, str]) -> tuple[Note, bool]:
    assert _maker is not None
    return _maker.make(shard, excluded)
