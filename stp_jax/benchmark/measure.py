"""Measures one workload: seconds, memory, and the kernels that take longest."""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax

from stp_jax.benchmark.settings import Settings
from stp_jax.benchmark.workloads import Workload
from stp_jax.models.attention import attention_backend

GIB = 2**30


@dataclasses.dataclass
class Measurement:
    """The result of a measurement: seconds, GiB and 10^12 operations; None: not known on this device."""

    name: str
    device: str
    seconds: float
    first_seconds: float | None = None
    program_gib: float | None = None
    peak_gib: float | None = None
    tflop: float | None = None
    kernels: list[tuple[str, float]] = dataclasses.field(default_factory=list)  # name, seconds
    parts: list[tuple[str, float, float]] = dataclasses.field(default_factory=list)  # name, from, to

    @property
    def tflop_per_second(self) -> float | None:
        """10^12 operations a second; None if not known."""
        return None if self.tflop is None else self.tflop / self.seconds


def in_own_process(function: Callable, *arguments, first: Callable[[], None] | None = None):
    """The result of a function, called in a new process; `first` is called before its module is imported."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=first) as process:
        return process.submit(function, *arguments).result()


def measure(name: str, make: Callable[[Settings], Workload], settings: Settings) -> Measurement:
    """Compiles and runs one workload."""
    device = jax.local_devices()[0]
    work = make(settings)
    jax.block_until_ready(work.arguments)
    function, program = work.function, None
    start = time.perf_counter()
    if work.one_program:
        with attention_backend(settings.attention):
            function = jax.jit(function).lower(*work.arguments).compile()
        memory: Any = function.memory_analysis()
        needed = ("argument_size_in_bytes", "temp_size_in_bytes", "output_size_in_bytes")
        program = sum(getattr(memory, name) for name in needed) / GIB

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(function(*work.arguments))
        return time.perf_counter() - start

    run()
    first_seconds = time.perf_counter() - start
    # Whole videos take a minute: one more run tells enough, and a trace of it would be huge.
    seconds = statistics.median(run() for _ in range(settings.repeats if work.one_program else 1))
    stats = device.memory_stats() or {}
    peak = stats["peak_bytes_in_use"] / GIB if "peak_bytes_in_use" in stats else None
    kernels = costliest_kernels(run, settings.profile) if settings.profile and work.one_program else []
    return Measurement(
        name, device.device_kind, seconds, first_seconds, program, peak, work.flop / 1e12, kernels
    )


def costliest_kernels(run: Callable[[], Any], most: int) -> list[tuple[str, float]]:
    """Names and seconds of GPU kernels in one run: of all together, then of the `most` costliest."""
    seconds: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        for path in Path(folder).rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
                if "GPU" not in plane.name:
                    continue
                for line in plane.lines:
                    if "Stream" in line.name:
                        for event in line.events:
                            seconds[event.name] += event.duration_ns / 1e9
                            calls[event.name] += 1
    if not seconds:
        return []
    costliest = [(f"{calls[name]} x {name}", spent) for name, spent in seconds.most_common(most)]
    return [(f"{sum(calls.values())} x all kernels", sum(seconds.values())), *costliest]
