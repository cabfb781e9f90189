"""Brings scenes of any data set to one picture size, one rate and one unit of length.

The rules depend on a record alone, so a scene is the same in every mixture and on every host. They are in
docs/conventions.md, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import av
import numpy as np

from input_pipeline.config import CAMERA_EXTENT
from stp_jax.errors import InputError
from stp_jax.media import fit
from stp_jax.media.orientation import seen_size

# Camera centres this near to each other, over their distance from the origin, are one: float32 has 7 digits.
_STANDING = 1e-6


class Fit(NamedTuple):
    """What scenes are brought to."""

    size: tuple[int, int] | None = None  # height, width; None: as they are
    fps: float = 0.0  # source frames in a second, at most; 0: as they are
    camera_extent: float = CAMERA_EXTENT  # metres, of scenes without metres
    depth: bool = False  # whether their depth is wanted


def fit_frames(
    frames: Iterable[av.VideoFrame], size: tuple[int, int] | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Frames of one size, one after the other, as a video uint8 [T, height, width, 3].

    Each is resized until it covers `size` and cropped at its centre. Only the new pictures are in memory.

    Returns:
      The video; height and width of the frames as they are seen.

    Raises:
      InputError: they would have to be enlarged, change their size, or there are none.
    """
    fitted: list[np.ndarray] = []
    first = None
    for frame in frames:
        seen = seen_size(frame)
        first = first or seen
        if seen != first:
            raise InputError("its pictures change their size")
        fitted.append(fit_frame(frame, size or seen))
    if first is None:
        raise InputError("the video has no frames")
    return np.stack(fitted), first


def fit_frame(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """A frame as a picture uint8 [height, width, 3] of a video in `fit_frames`."""
    _check_size(*seen_size(frame), size)
    return fit.fit_frame(frame, *size)


def _check_size(height: int, width: int, size: tuple[int, int]) -> None:
    if height < size[0] or width < size[1]:
        raise InputError(
            f"videos of {width} x {height}, smaller than data.width x data.height = {size[1]} x {size[0]}; "
            "they are not enlarged"
        )


def fit_lenses(
    intrinsics: np.ndarray, source_size: tuple[int, int], size: tuple[int, int] | None
) -> np.ndarray:
    """Intrinsics [..., 4] of pictures of `source_size` (height, width) after `fit_frames`."""
    if size is None or size == source_size:
        return intrinsics
    return fit.fit_frame_intrinsics(intrinsics, source_size, *size).astype(np.float32)


def stride(frame_rate: float, fps: float) -> int:
    """Which frames of a video count as source frames: every n-th, n = frame_rate / fps rounded to the nearest
    whole number, halves up, and 1 at least.

    The frames between are not lost: warps show them at fractions of a source frame. So a video slower than
    `fps` is as it was filmed, and one of 30 frames in a second at `fps` 15 has half source frames.

    Args:
      frame_rate: source frames in a second of the scene as it is; 0: not known, no frame is left out.
      fps: those wanted at most; 0: as filmed.
    """
    if not fps or not frame_rate:
        return 1
    return max(1, int(np.floor(frame_rate / fps + 0.5)))


def extent(c2w: np.ndarray) -> float:
    """How far cameras [..., 4, 4] extend: the root mean square distance of their centres from their mean."""
    centres = np.asarray(c2w, np.float64)[..., :3, 3].reshape(-1, 3)
    return float(np.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean()))


def scale(c2w: np.ndarray, camera_extent: float) -> float:
    """Metres for a unit of length of a scene without metres.

    It is such that all its cameras [C, T, 4, 4] extend `camera_extent` metres, see `extent`. Where they stand
    in one place no length has a meaning, and the factor is 1.
    """
    found = extent(c2w)
    farthest = float(np.abs(np.asarray(c2w, np.float64)[..., :3, 3]).max())
    return 1.0 if found <= _STANDING * farthest else camera_extent / found


def scaled(c2w: np.ndarray, factor: float) -> np.ndarray:
    """Poses [..., 4, 4] in another unit of length, float32."""
    changed = np.array(c2w, np.float32)
    changed[..., :3, 3] *= factor
    return changed
