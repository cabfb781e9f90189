"""Time fidelity: the animation time that each frame of a video shows, compared with the commanded one.

A frame is compared with renderings from its commanded camera at all grid times, in the pixels that change
over time there. The time with the least error explains the frame best. A parabola through the errors around
it refines the estimate below the grid's step. Times are in source frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stp_jax.errors import InputError
from stp_jax.evaluate.alignment import reduce

BLUR = 2.0  # pixels at 128: the error is then a parabola around its minimum, over a step of the grid
CHANGES = 16.0  # levels of 255: where a blurred pixel's colour changes by more over time, it shows motion
LEAST_AREA = 0.002  # of a picture: with less of it changing, nothing moves in the frame


class TimeScores(NamedTuple):
    """Commanded and estimated animation time of one video, with their errors."""

    commanded: np.ndarray  # [F] animation time
    estimated: np.ndarray  # [F]; NaN in frames in which nothing moves

    @property
    def error(self) -> np.ndarray:
        """[F] source frames; positive where the video is later than commanded."""
        return self.estimated - self.commanded

    @property
    def mean_absolute_error(self) -> float:
        """Mean over frames, in source frames."""
        return _mean(np.abs(self.error))

    @property
    def median_absolute_error(self) -> float:
        """As the mean, but robust to single frames in which the motion cannot be recognised."""
        return float(np.median(values)) if len(values := _known(np.abs(self.error))) else float("nan")

    @property
    def mean_error(self) -> float:
        """Mean over frames, in source frames; positive where the video is late."""
        return _mean(self.error)

    @property
    def spread(self) -> float:
        """Standard deviation of the estimated time over frames: 0 in a perfect bullet time."""
        return float(values.std()) if len(values := _known(self.estimated)) else float("nan")

    @property
    def slope(self) -> float:
        """Slope of the estimated time over frames, source frames per frame: 1 forward, 0 in bullet time."""
        return _slope(self.estimated)

    @property
    def drift(self) -> float:
        """Slope of the error over frames, source frames per frame: 0 in any perfect video."""
        return _slope(self.error)


def estimate_times(video: np.ndarray, references: np.ndarray, animation_time: np.ndarray) -> np.ndarray:
    """The animation time that explains each frame best, [F]; NaN in frames in which nothing moves.

    Args:
      video: uint8 [F, H, W, 3].
      references: uint8 [F, T, H, W, 3], the scene from the commanded camera of each frame at all grid times;
        for a decoded grid, `scene.videos[case.target_camera]`. Errors of the video's cameras move things,
        too, and count as time; with references from estimated cameras (`SceneViews.all_times`) they do not.
      animation_time: [T], evenly spaced and rising, of the references.

    Raises:
      InputError: shapes do not fit, or fewer than three times.
    """
    frames, times = references.shape[:2]
    if video.shape != (frames, *references.shape[2:]) or len(animation_time) != times or times < 3:
        raise InputError(
            f"time fidelity: a video of shape {list(video.shape)}, references of {list(references.shape)} "
            f"and {len(animation_time)} times do not fit; at least 3 times are needed"
        )
    estimated = np.full(frames, np.nan)
    blur = BLUR * video.shape[1] / 128
    for f, (frame, shown) in enumerate(zip(reduce(video, 2, blur / 2), references, strict=True)):
        shown = reduce(shown, 2, blur / 2)
        weight = np.ptp(shown, axis=0).max(-1) > CHANGES
        if weight.mean() >= LEAST_AREA:
            error = np.square(shown[:, weight] - frame[weight]).mean((1, 2), dtype=np.float64)
            place = _least(error)
            estimated[f] = np.interp(place, np.arange(times), animation_time)
    return estimated


def time_scores(
    video: np.ndarray, references: np.ndarray, animation_time: np.ndarray, commanded: np.ndarray
) -> TimeScores:
    """The estimated times, see `estimate_times`, together with the commanded animation times [F]."""
    return TimeScores(np.asarray(commanded, np.float64), estimate_times(video, references, animation_time))


def summary(scores: Sequence[TimeScores]) -> dict[str, float]:
    """Means over videos, without those in which nothing moves.

    Keys: as the properties of `TimeScores`, but absolute_drift for the drift without its sign.
    """
    names = ("mean_absolute_error", "median_absolute_error", "mean_error", "spread", "slope")
    figures = {name: _mean(np.array([getattr(score, name) for score in scores])) for name in names}
    return figures | {"absolute_drift": _mean(np.abs([score.drift for score in scores]))}


def _least(error: np.ndarray) -> float:
    """Place of the least value of a curve [T], refined by a parabola through it and its neighbours."""
    best = int(np.clip(error.argmin(), 1, len(error) - 2))
    before, here, after = error[best - 1 : best + 2]
    curvature = before - 2 * here + after
    if curvature <= 0:
        return float(error.argmin())
    return float(np.clip(best + 0.5 * (before - after) / curvature, best - 1, best + 1))


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values := _known(values)) else float("nan")


def _slope(values: np.ndarray) -> float:
    """Slope of values [F] over their index, by least squares, without those that are NaN."""
    known = np.flatnonzero(np.isfinite(values))
    return float(np.polyfit(known, values[known], 1)[0]) if len(known) > 1 else float("nan")
