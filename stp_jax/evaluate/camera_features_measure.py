"""Camera fidelity by features as a measure: for videos whose scene cannot be rendered again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.shots import Scene
from stp_jax.evaluate import camera_features
from stp_jax.evaluate.camera_features import CameraPath
from stp_jax.evaluate.camera_fidelity import extent_of
from stp_jax.evaluate.camera_measure import with_gains
from stp_jax.evaluate.cases import COPY, TIME, Case
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.rows import Row, Values

FRAMES = 17  # of each video, evenly spaced, the first and the last among them


class CameraFeatures(Measure):
    """How near the cameras of a video are to the commanded ones, each path relative to its own first frame.

    The estimator is given the lens, never the path. A video in which nothing is found has no errors. So read
    the errors together with `frames_found` and with the same figures of the ground truth.
    """

    name = "camera_features"
    title = "Camera fidelity by features: degrees, shares of the commanded path's extent"
    degraded = True
    seconds = 10.0
    needs_grid = False
    only_if_named = (
        "features take 10 s to 3 minutes a video, and find little in small ones: --measures camera_features."
    )

    def __init__(self) -> None:
        self._estimate: Callable[[np.ndarray, np.ndarray], CameraPath] | None = None

    def available(self, scene: Scene, frames: int) -> str | None:
        if frames < camera_features.MIN_FRAMES:
            return f"a path is estimated from {camera_features.MIN_FRAMES} frames or more, not {frames}."
        self._estimate = camera_features.load()
        return None if self._estimate else camera_features.NOT_INSTALLED.partition(": ")[2]

    def measure(
        self, scene: Scene, case: Case, source: np.ndarray, target: np.ndarray, video: np.ndarray
    ) -> Values:
        if (case.group, case.mode) == (TIME, COPY):
            return {}
        assert self._estimate is not None
        chosen = np.unique(np.rint(np.linspace(0, len(video) - 1, FRAMES)).astype(int))
        cameras = case.target_camera[chosen]
        path = self._estimate(video[chosen], scene.intrinsics[cameras, 0])
        return figures_of(path, np.asarray(scene.c2w[cameras, 0], np.float64))

    def summarise(self, rows: Sequence[Row]) -> dict[str, Any]:
        """As `Measure.summarise`; with the gain, which is a slope over the frames of all scenes."""
        return with_gains(
            super().summarise(rows), rows, {"rotation_gain_from_first": ("from_first", "angle")}
        )

    def plot(self, rows: Sequence[Row], summary: dict[str, Any], folder: Path) -> None:
        if any(figures for methods in summary.values() for figures in methods.values()):
            super().plot(rows, summary, folder)


def figures_of(path: CameraPath, commanded: np.ndarray) -> Values:
    """The figures of one video.

    Args:
      path: the estimated cameras of F frames.
      commanded: c2w [F, 4, 4], in any world, metres.

    Returns:
      frames_found: share of the frames;
      rotation, rotation_of_pairs: degrees, see `stp_jax.evaluate.camera_features.PathErrors`; without the
        first frame, which is right by definition;
      translation_of_extent: after a similarity fit, divided by the greatest distance between two commanded
        cameras;
      from_first.commanded_angle, from_first.achieved_angle: lists over the frames found, degrees from the
        first frame: the commanded angle, and the part of the achieved rotation along it.
    """
    errors = camera_features.compare(path, commanded)
    later = np.flatnonzero(path.found)[1:]
    extent = extent_of(commanded)
    values: Values = {
        "frames_found": float(path.found.mean()),
        "rotation": float(np.mean(errors.rotation[later])) if len(later) else float("nan"),
        "rotation_of_pairs": errors.rotation_of_pairs,
        "translation_of_extent": float("nan"),
        "from_first.commanded_angle": [],
        "from_first.achieved_angle": [],
    }
    if len(later) and path.parallax and extent > 1e-6:
        values["translation_of_extent"] = float(np.mean(errors.translation[path.found])) / extent
    if len(later):
        angles, parts = errors.commanded_angle[later], errors.achieved_part[later]
        values["from_first.commanded_angle"], values["from_first.achieved_angle"] = (
            angles.tolist(),
            parts.tolist(),
        )
    return values
