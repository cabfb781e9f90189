"""Decoded pictures of a video file, of a folder or of a pattern of pictures, one at a time."""

from __future__ import annotations

import os

import numpy as np

from stp_jax.media import decode
from stp_jax.media.colour import Notes
from stp_jax.media.key_frames import KeyFrames
from stp_jax.media.sequences import PictureSequence, find


def frames(
    path: str | os.PathLike,
    end: float = np.inf,
    notes: Notes | None = None,
    *,
    keys: KeyFrames | None = None,
    begin: float = 0.0,
) -> decode.TimedFrames:
    """As `stp_jax.media.decode.frames`, also of what `stp_jax.media.sequences.find` finds."""
    found = find(path)
    if isinstance(found, PictureSequence):
        return found.frames(end, notes)
    return decode.frames(found, end, notes, keys=keys, begin=begin)


def stamps(path: str | os.PathLike) -> np.ndarray:
    """As `stp_jax.media.decode.stamps`."""
    found = find(path)
    return found.stamps() if isinstance(found, PictureSequence) else decode.stamps(found)


def times(path: str | os.PathLike) -> tuple[int, float]:
    """The number of frames and the seconds from the first to the last, see `stamps`."""
    seconds = stamps(path)
    return len(seconds), float(seconds[-1]) if len(seconds) else 0.0


def rate(path: str | os.PathLike) -> float:
    """Frames per second as the file declares them, or of a sequence."""
    found = find(path)
    return found.fps if isinstance(found, PictureSequence) else decode.rate(found)


def is_still(path: str | os.PathLike) -> bool:
    """Whether it is a single picture rather than a video, which may have a single frame, too."""
    found = find(path)
    if isinstance(found, PictureSequence):
        return len(found.files) == 1
    return decode.is_picture(found) and len(decode.stamps(found)) == 1
