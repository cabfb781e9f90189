"""The sound of a new video: the source's where its clock runs forward at one speed, otherwise none."""

from __future__ import annotations

import os

import numpy as np

from stp_jax.media import sound as sounds
from stp_jax.media.sound import RATE, Sound
from stp_jax.rerender.request import Request

STRETCHED = (0.25, 4.0)  # speeds; beyond these nothing can be made out
_LONGEST = 600.0  # seconds


def speed(animation_time: np.ndarray, source_fps: float, fps: float) -> float | None:
    """How many times faster than filmed the new video runs; None unless it runs forward at one speed.

    Args:
      animation_time: of its frames [F], in source frames.
      source_fps: source frames per second as filmed.
      fps: frames per second at which it plays.
    """
    steps = np.diff(np.asarray(animation_time, np.float64))
    if not len(steps) or steps.mean() <= 0 or np.ptp(steps) > 1e-3 * steps.mean():
        return None
    return float(steps.mean() * fps / source_fps)


def soundtrack(video: str | os.PathLike, request: Request, fps: float) -> tuple[Sound | None, str | None]:
    """The sound of the new video, and a sentence on it; None where the source has none.

    Args:
      video: the file that the request is of.
      fps: frames per second at which the new video plays.
    """
    if not sounds.has_sound(video):
        return None, None
    clock, clip = request.target.animation_time, request.clip
    factor = speed(clock, clip.fps, fps)
    if factor is None:
        return None, "Sound: left out, as the animation time does not run forward at one speed"
    stays = 0.99 < factor < 1.01
    times = f"{factor:.3g} times faster" if factor > 1 else f"{1 / factor:.3g} times slower"
    if not STRETCHED[0] <= factor <= STRETCHED[1]:
        return None, f"Sound: left out, as the new video is {times}"
    seconds = len(clock) / fps
    if seconds > _LONGEST:
        return None, f"Sound: left out, as the new video takes more than {_LONGEST:g} s"
    start = request.seconds[0] + float(clock[0]) / clip.fps
    filmed = sounds.read_sound(video, start, seconds * (1 if stays else factor))
    if filmed is None:
        return None, "Sound: left out, as nothing of it there can be decoded"
    if stays:
        return filmed, "Sound: the source's"
    return sounds.stretch(filmed, factor, round(seconds * RATE)), f"Sound: the source's, stretched ({times})"
