"""A profile of a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from stp_jax.devices.distributed import log

TRACED = range(10, 13)  # steps of a call


class Trace:
    """Traces some steps of a call into a folder, once, if `wanted`."""

    def __init__(self, wanted: bool, folder: Path):
        self._wanted, self._folder, self._tracing = wanted, folder, False

    def before_step(self, done: int) -> None:
        """Begins with the step after `done` steps of this call."""
        if self._wanted and done == TRACED.start:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after_step(self, done: int, results: Any) -> None:
        """Ends with the step that has these results."""
        if self._tracing and done == TRACED.stop:
            jax.block_until_ready(results)
            jax.profiler.stop_trace()
            self._wanted = self._tracing = False
            log(f"The trace of {len(TRACED)} steps is in {self._folder}.")

    def close(self) -> None:
        """Ends a trace that is still running; logs where the run was too short for one."""
        if self._tracing:
            jax.profiler.stop_trace()
        if self._wanted:
            log(f"The run was too short for a whole trace: that takes {TRACED.stop} steps.")
