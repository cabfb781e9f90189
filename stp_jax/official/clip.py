"""Video files as SpaceTimePilot's code reads them, and pixels as it writes them."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np
from PIL import Image

from stp_jax.errors import InputError
from stp_jax.media import Clip, sources
from stp_jax.media.colour import Notes
from stp_jax.media.video import take_pictures


def read_official_clip(
    path: str | os.PathLike, frames: int = 81, height: int = 480, width: int = 832, *, start: float = 0.0
) -> Clip:
    """Takes consecutive frames of a video file, and crops them as SpaceTimePilot does.

    They run from `start` on; the last one is repeated where the video ends early. Each is resized with a
    bilinear filter until it covers `height` x `width`, its sides rounded to whole pixels, and its centre is
    cropped. (`read_clip` spreads its frames over a range of seconds, and rounds nothing.)

    Frames that are not evenly spaced would play at another speed: of these, the one on screen is taken at
    even steps, of the median of their distances.

    Args:
      start: seconds after the first frame.

    Raises:
      InputError: as `read_video`; a video of a single frame; a start that is outside the video.
    """
    stamps = sources.stamps(path)
    wanted, remarks = consecutive_times(path, stamps, frames, start)
    notes: Notes = {}
    fps = rate_of(wanted) if len(wanted) > 1 else rate_of(stamps) if len(stamps) > 1 else sources.rate(path)
    with contextlib.closing(sources.frames(path, float(wanted[-1]), notes)) as timed:
        clip = take_pictures(timed, wanted.tolist(), lambda image: official_fit(image, height, width), fps)
    repeats = frames - len(wanted)
    return clip._replace(
        frames=np.concatenate([clip.frames, np.repeat(clip.frames[-1:], repeats, axis=0)]),
        notes=(*notes, *remarks, *clip.notes),
        source_frames=(*clip.source_frames, *[clip.source_frames[-1]] * repeats),
    )


def consecutive_times(
    path: str | os.PathLike, stamps: np.ndarray, frames: int, start: float
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The seconds of up to `frames` consecutive frames of a file, and remarks on them.

    Args:
      stamps: of all of its frames, see `sources.stamps`.

    Raises:
      InputError: as `read_official_clip`.
    """
    if len(stamps) < 2 <= frames or (len(stamps) > 1 and stamps[-1] <= 0):
        raise InputError(f"{path} has one frame: a video needs at least two.")
    first = int(np.searchsorted(stamps, start - 1e-6))
    if first >= len(stamps):
        raise InputError(f"{path}: the start, {start:g} s, must lie within the video.")
    wanted = np.unique(stamps[first:])[:frames]
    if len(wanted) < 2 or _is_even(wanted):
        return wanted, ()
    step = float(np.median(np.diff(wanted)))
    wanted = wanted[0] + step * np.arange(frames)
    remark = f"variable frame rate: taken at {1 / step:.3g} frames per second, to keep its speed"
    return wanted[wanted <= stamps[-1] + step / 2], (remark,)


def rate_of(seconds: np.ndarray) -> float:
    return (len(seconds) - 1) / float(seconds[-1] - seconds[0])


def _is_even(seconds: np.ndarray) -> bool:
    """Whether frames follow each other at one rate, but for time stamps rounded to milliseconds or so."""
    steps = np.diff(seconds)
    even = np.linspace(seconds[0], seconds[-1], len(seconds))
    middle = np.median(steps)
    drift = np.abs(seconds - even).max()
    return bool(steps.min() > 0.5 * middle and steps.max() < 1.5 * middle and drift < 0.6 * steps.mean())


def official_fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `[h, w, 3]` -> `[height, width, 3]`, cut as SpaceTimePilot does, see `read_official_clip`."""
    h, w = image.shape[:2]
    scale = max(width / w, height / h)
    h, w = round(h * scale), round(w * scale)
    resized = Image.fromarray(np.ascontiguousarray(image)).resize((w, h), Image.Resampling.BILINEAR)
    top, left = round((h - height) / 2), round((w - width) / 2)
    return np.asarray(resized)[top : top + height, left : left + width]


def to_official_pixels(video: Any) -> Any:
    """Float in [-1, 1], numpy or jax, to uint8 pixels: truncated, not rounded; values outside are clipped."""
    xp = video.__array_namespace__()
    return xp.clip((video.astype(xp.float32) + 1) * 127.5, 0, 255).astype(xp.uint8)


def to_deep_official_pixels(video: Any) -> Any:
    """As `to_official_pixels`, of 16 bits; 257 of their levels are one of those."""
    xp = video.__array_namespace__()
    return xp.clip((video.astype(xp.float32) + 1) * 32767.5, 0, 65535).astype(xp.uint16)
