"""Display matrices: turns and mirrors that a file asks of its player."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type

from stp_jax.media.colour import Notes, rgb


def frame_picture(
    frame: av.VideoFrame, notes: Notes | None = None, *, width: int | None = None
) -> np.ndarray:
    """A decoded frame as it is seen: uint8 [H, W, 3], see `stp_jax.media.colour.rgb` and `upright`.

    Args:
      notes: gets remarks on how it was read.
      width: of the stored picture, for pixels that are not square.
    """
    notes = {} if notes is None else notes
    return upright(rgb(frame, width or frame.width, notes), frame, notes)


def upright(image: np.ndarray, frame: av.VideoFrame, notes: Notes) -> np.ndarray:
    """Turns and mirrors [H, W, 3] as the frame's display matrix says.

    Its first four numbers (a, b; c, d) take a point (x, y) of the stored picture to (a x + c y, b x + d y),
    as in ISO/IEC 14496-12. Turns by other than right angles are taken as the nearest of them.
    """
    a, b, c, d = _matrix(frame)
    if max(abs(b), abs(c)) > max(abs(a), abs(d)):
        image, across, down = np.swapaxes(image, 0, 1), c, b
    else:
        across, down = a, d
    if a * d - b * c < 0:
        notes["mirrored, as its display matrix says"] = None
    image = image[:, ::-1] if across < 0 else image
    return image[::-1] if down < 0 else image


def seen_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width of `frame_picture`."""
    a, b, c, d = _matrix(frame)
    sideways = max(abs(b), abs(c)) > max(abs(a), abs(d))
    return (frame.width, frame.height) if sideways else (frame.height, frame.width)


def is_turned(frame: av.VideoFrame) -> bool:
    """Whether the frame's display matrix turns or mirrors it, see `upright`."""
    a, b, c, d = _matrix(frame)
    return max(abs(b), abs(c)) > max(abs(a), abs(d)) or a < 0 or d < 0


def _matrix(frame: av.VideoFrame) -> tuple[float, float, float, float]:
    """(a, b, c, d) of the frame's display matrix, else those of no change."""
    try:
        parts: Any = frame.side_data  # what it iterates over differs between versions of PyAV
        data = parts.get(Type.DISPLAYMATRIX)
    except ValueError:  # other side data, of a type that PyAV does not know
        angle = np.deg2rad(frame.rotation)  # anticlockwise
        cos, sin = np.cos(angle), np.sin(angle)
        return cos, -sin, sin, cos
    if data is None or data.buffer_size < 36:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(memoryview(data), np.int32)[:9].tolist()
    return a, b, c, d
