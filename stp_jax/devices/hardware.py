"""Data-sheet figures of devices, by the name that JAX gives them, and the compilation cache."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

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
_NEVER = 1e9  # seconds of compiling from which on a function would be kept
_compiled = [0.0]  # seconds


def _note_compiling(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith("/jax/core/compile/"):  # tracing, lowering, XLA; or reading the compilation cache
        _compiled[0] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_note_compiling)


def set_up_devices() -> None:
    """Begins to set up the devices in a thread: with CUDA that takes seconds, in which Python can import.

    The first one gets a byte, for which its memory is set up. The others may be somebody else's, and are left
    alone until they are used. What goes wrong is raised where the devices, or memory of theirs, are first
    asked for; the former waits for the thread.
    """

    def ask() -> None:
        with contextlib.suppress(RuntimeError):
            first = jax.local_devices()[0]
            if first.platform != "cpu":
                jax.device_put(np.zeros(1, np.uint8), first).block_until_ready()

    threading.Thread(target=ask, name="devices").start()


def compile_seconds() -> float:
    """Seconds that this process has spent in compiling so far, as JAX reports them."""
    return _compiled[0]


def _cannot_keep(folder: Path) -> str | None:
    """Why compiled functions cannot be kept in a folder, which is made; None: they can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or str(error)
    return f"has {size_text(free)} free" if free < CACHE_ROOM else None


def _remove_cut(folder: Path) -> None:
    """Removes what a full disk left of earlier writing.

    JAX writes a file in place, and never again: one that is cut would be compiled, with a warning, each time.
    """
    with contextlib.suppress(OSError):
        for file in folder.glob("jit_*-cache"):
            if file.stat().st_size % 4096 == 0:  # empty, or cut at a page
                file.unlink(missing_ok=True)


def use_compilation_cache() -> None:
    """Keeps compiled functions, so that the next process starts faster.

    In the folder JAX_COMPILATION_CACHE_DIR; default: the user's cache folder. Where that cannot be written,
    or its disk is nearly full, says so and keeps none; those that are there are still read.
    """
    if not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]  # defined by name
        return
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if given and "://" in given:  # not on this machine: JAX looks after it
        reason = None
    else:
        folder = Path(given) if given else cache_folder()
        reason = _cannot_keep(folder)
        if reason is None and not given:
            _remove_cut(folder)
        if reason is not None:
            print(f"Compiled functions are not kept: {folder}: {reason}.", file=sys.stderr)
        jax.config.update("jax_compilation_cache_dir", str(folder) if folder.is_dir() else None)
    if reason is not None:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _NEVER)
    elif not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
