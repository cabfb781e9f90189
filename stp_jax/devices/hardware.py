"""Data-sheet figures of devices, by the name that JAX gives them, and the compilation cache."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import jax

from stp_jax.files import cache_folder, size_text


class Chip(NamedTuple):
    """A chip's figures, from its maker's data sheet."""

    tflops: float  # 10^12 bfloat16 operations a second, dense
    memory_gib: float
    bandwidth: float  # 10^12 bytes a second from its memory
    links: float  # 10^12 bytes a second from other chips nearby, over all links


# A part of `device_kind`, in lower case -> the chip; the first that is found counts.
CHIPS = {
    "h200": Chip(989, 141, 4.8, 0.45),
    "h100": Chip(989, 80, 3.35, 0.45),
    "a100": Chip(312, 80, 2.0, 0.3),
    "tpu7x": Chip(2307, 192, 7.4, 0.6),
    "v6 lite": Chip(918, 32, 1.64, 0.4),
    "v6e": Chip(918, 32, 1.64, 0.4),
    "v5 lite": Chip(197, 16, 0.82, 0.2),
    "v5e": Chip(197, 16, 0.82, 0.2),
    "v5p": Chip(459, 95, 2.77, 0.6),
    "v5": Chip(459, 95, 2.77, 0.6),
    "v4": Chip(275, 32, 1.23, 0.3),
}


def chip(device_kind: str) -> Chip | None:
    """The chip of this name, or None if it is not known here."""
    return next((one for name, one in CHIPS.items() if name in device_kind.lower()), None)


CACHE_ROOM = 200 * 10**6  # bytes; a command's functions take some MB
_compiled = [0.0]  # seconds


def _note_compiling(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith("/jax/core/compile/"):  # tracing, lowering, XLA; or reading the compilation cache
        _compiled[0] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_note_compiling)


def compile_seconds() -> float:
    """Seconds that this process has spent in compiling so far, as JAX reports them."""
    return _compiled[0]


def _has_room(folder: Path) -> bool:
    """Whether a cache may be written there; removes what a full disk left of earlier writing.

    JAX writes a file in place, and never again: one that is cut would be compiled, with a warning, each time.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("jit_*-cache"):
            if file.stat().st_size % 4096 == 0:  # empty, or cut at a page
                file.unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        print(f"Compiled functions are not kept: {folder}: {error.strerror}.", file=sys.stderr)
        return False
    if free < CACHE_ROOM:
        print(f"Compiled functions are not kept: {folder} has {size_text(free)} free.", file=sys.stderr)
    return free >= CACHE_ROOM


def use_compilation_cache() -> None:
    """Keeps compiled functions in the user's cache folder, so that the next process starts faster.

    Where that cannot be written, or its disk is nearly full, says so and keeps none.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        if not _has_room(cache_folder()):
            return
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
