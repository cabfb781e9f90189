"""Video files as SpaceTimePilot's code reads them, and pixels as it writes them."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np
from PIL import Image

from stp_jax.errors import InputError
from stp_jax.media import Clip, decode


def read_official_clip(
    path: str | os.PathLike, frames: int = 81, height: int = 480, width: int = 832, *, start: float = 0.0
) -> Clip:
    """Takes consecutive frames of a video file, and crops them as SpaceTimePilot does.

    They run from `start` on; the last one is repeated where the video ends early. Each is resized with a
    bilinear filter until it covers `height` x `width`, its sides rounded to whole pixels, and its centre is
    cropped. (`read_clip` spreads its frames over a range of seconds, and rounds nothing.)

    Args:
      start: seconds after the first frame.

    Raises:
      InputError: as `read_video`; a video of a single frame; a start that is outside the video.
    """
    pictures: list[np.ndarray] = []
    times: list[float] = []
    count, size = 0, (0, 0)
    with contextlib.closing(decode.frames(path)) as timed:
        for seconds, picture in timed:
            count += 1
            if seconds < start - 1e-6:
                continue
            image = picture()
            size = image.shape[:2]
            pictures.append(official_fit(image, height, width))
            times.append(seconds)
            if len(pictures) == frames:
                break
    if count < 2 <= frames:
        raise InputError(f"{path} has one frame: a video needs at least two.")
    if not pictures:
        raise InputError(f"{path}: the start, {start:g} s, must lie within the video.")
    fps = (len(times) - 1) / (times[-1] - times[0]) if times[-1] > times[0] else decode.rate(path)
    first = count - len(pictures)
    numbers = tuple(first + min(i, len(pictures) - 1) for i in range(frames))
    pictures += [pictures[-1]] * (frames - len(pictures))
    return Clip(np.stack(pictures), fps, size, (), numbers)


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
