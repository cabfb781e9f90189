"""Poses of files, as a path with one pose at every step."""

from __future__ import annotations

from typing import Any

import numpy as np

from stp_jax import user_input
from stp_jax.controls.formats.base import CameraFile, Reading
from stp_jax.controls.paths import Cameras, at


def square(poses: Any, where: str) -> np.ndarray:
    """Poses [F, 4, 4] of a list of 4 x 4 or 3 x 4 matrices, or of their 16 or 12 numbers."""
    listed = poses.ndim > 0 if isinstance(poses, np.ndarray) else isinstance(poses, list)
    first = user_input.numbers(poses[0]) if listed and len(poses) else None
    shape = first.shape if first is not None and first.shape in ((3, 4), (16,), (12,)) else (4, 4)
    rows = user_input.table(poses, shape, where)
    if shape == (4, 4):
        return rows
    rows = rows.reshape(len(rows), -1, 4)
    last = np.tile([0.0, 0, 0, 1], (len(rows), 1, 1))
    return rows if rows.shape[1] == 4 else np.concatenate([rows, last], 1)


def evenly_numbered(
    cameras: Cameras, file: CameraFile, reading: Reading
) -> tuple[Cameras, str, np.ndarray | None]:
    """The path with poses at even steps, where the file numbers or times them.

    Also a remark, to print, and the frames of the video that its poses are then of, where the file says so.

    Frames without a pose get one between their neighbours' (see `at`), where at least half have one. Poses at
    uneven times are brought to even ones, unless there is one for each frame of the video or of the result.
    """
    numbers, count = file.numbers, len(cameras.c2w)
    if numbers is None:
        return cameras, "", None
    stated = numbers.at if numbers.first is not None else None
    if count < 2 or count in (reading.frames, reading.video_frames):
        return cameras, "", stated
    steps = np.diff(numbers.at)
    if numbers.frames:
        start = numbers.at[0] if numbers.first is None else float(numbers.first)
        step = np.gcd.reduce(np.append(steps, numbers.at[0] - start).astype(np.int64))
        places = (numbers.at - start) / step
        wanted = round(places[-1]) + 1
        if wanted == count:
            return cameras, "", stated
        if wanted > 2 * count and stated is not None:
            return cameras, "", stated
        if wanted > 2 * count:
            return cameras, "; their numbers are not those of frames, as most would have no pose", None
        what = f"; {wanted - count} of {wanted} frames have no pose: in between, or as the first"
    else:
        step = float(np.median(steps))
        if steps.max() <= 1.5 * step:
            return cameras, "", None
        places = (numbers.at - numbers.at[0]) / step
        wanted = min(max(round(places[-1]) + 1, count), 10 * count)
        places *= (wanted - 1) / places[-1]
        what = f"; its {count} poses at uneven times are brought to {wanted} at even ones"
    every = np.interp(np.arange(wanted), places, np.arange(count))
    stated = None if stated is None else start + step * np.arange(wanted)
    return at(cameras, every), what, stated
