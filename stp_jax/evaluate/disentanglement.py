"""Disentanglement: does animation time change the scenery, and does the camera change animation time?

Two videos with equal cameras and different animation times must agree in everything that stands still. Where
only the camera changes, animation time must run as in the source. That is measured by the error and drift of
camera control, whose commanded time runs forward, see `stp_jax.evaluate.time_fidelity`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation

from stp_jax.errors import InputError
from stp_jax.evaluate.time_fidelity import TimeScores
from stp_jax.media.metrics import psnr_of_error

CHANGES = 12  # levels of 255: where a pixel's colour changes by more over time, something moves
MARGIN = 2  # pixels at 128 around what moves that do not count: compression, and a model's soft edges


def moving_mask(references: np.ndarray) -> np.ndarray:
    """A mask of the pixels in which anything, also a shadow, moves at any grid time: bool [F, H, W].

    Args:
      references: uint8 [F, T, H, W, 3], the scene from the camera of each frame at all grid times; for a
        decoded grid, `scene.videos[case.target_camera]`.
    """
    changes = np.ptp(references, axis=1).max(-1) > CHANGES
    margin = max(1, round(MARGIN * references.shape[2] / 128))
    around = np.ones((1, 2 * margin + 1, 2 * margin + 1), bool)
    return binary_dilation(changes, around)


def background_psnr(videos: Sequence[np.ndarray], moving: np.ndarray) -> float:
    """PSNR in dB of the static background between videos with equal cameras and other animation times.

    From the squared error over all pairs of videos and all pixels outside of `moving`. It is infinite where
    these are equal, and NaN where everything moves.

    Args:
      videos: two or more, uint8 [F, H, W, 3].
      moving: bool [F, H, W], see `moving_mask`.

    Raises:
      InputError: fewer than two videos, or shapes differ.
    """
    if len(videos) < 2 or any(video.shape != (*moving.shape, 3) for video in videos):
        raise InputError("disentanglement: two or more videos and a mask of one shape are needed")
    still = [video[~moving].astype(np.float64) for video in videos]
    if not still[0].size:
        return float("nan")
    error = np.mean([np.mean((first - second) ** 2) for first, second in itertools.combinations(still, 2)])
    return psnr_of_error(error)


class TimeDrift(NamedTuple):
    """The error in animation time of a video in which only the camera was changed."""

    mean_absolute_error: float  # source frames
    mean_error: float
    drift: float  # source frames per frame


def time_drift(camera_control: TimeScores) -> TimeDrift:
    """The drift of a video whose commanded time runs forward, filmed by other cameras than the source."""
    scores = camera_control
    return TimeDrift(scores.mean_absolute_error, scores.mean_error, scores.drift)
