"""FVD-small as a measure of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from input_pipeline.shots import Scene
from stp_jax.errors import InputError
from stp_jax.evaluate import fvd, i3d
from stp_jax.evaluate.cases import COPY, GROUPS, TIME, Case
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.rows import TRUTH, Row, Values, unique

ALL = "all groups"


class FvdSmall(Measure):
    """The Fréchet distance of a model's videos to the ground truth, in I3D's features.

    It is a figure of a set of clips and depends on their number. So it has no mean over scenes and no
    interval, and can be compared only with figures of the same scenes.
    """

    name, title = (
        "fvd",
        "FVD-small: I3D, far fewer clips than the 2,048 of published figures; lower is better",
    )

    needs_grid = False
    on_device = True
    seconds = 3.5

    def __init__(self) -> None:
        self._features: Callable[[np.ndarray], np.ndarray] | None = None

    def available(self, scene: Scene, frames: int) -> str | None:
        if frames < i3d.MIN_FRAMES:
            return f"videos of {frames} frames are too short for I3D, which takes {i3d.MIN_FRAMES} or more."
        try:
            self._features = fvd.load()
        except InputError as error:
            return str(error)
        return None if self._features else fvd.NOT_INSTALLED.partition(": ")[2]

    def measure(
        self, scene: Scene, case: Case, source: np.ndarray, target: np.ndarray, video: np.ndarray
    ) -> Values:
        assert self._features is not None
        return {"features": self._features(video).astype(np.float32).tolist()}

    def summarise(self, rows: Sequence[Row]) -> dict[str, Any]:
        """{group: {method: {"fvd_small": {"mean", "interval", "clips"}}}}; the interval is empty."""
        counted = [row for row in rows if (row.group, row.mode) != (TIME, COPY)]
        methods = [method for method in unique(row.method for row in rows) if method != TRUTH]
        result: dict[str, Any] = {}
        for group in (*GROUPS, ALL):
            own = [row for row in counted if group in (row.group, ALL)]
            truth = _features(own, TRUTH)
            if len(truth) < 2:
                continue
            result[group] = {
                method: {
                    "fvd_small": {
                        "mean": fvd.frechet_distance(_features(own, method), truth),
                        "interval": [float("nan")] * 2,
                        "clips": len(truth),
                    }
                }
                for method in methods
            }
        return result

    def table(self, summary: dict[str, Any]) -> str:
        lines = []
        for group, methods in summary.items():
            for method, figures in methods.items():
                figure = figures["fvd_small"]
                name = fvd.title(figure["clips"])
                lines.append(f"  {group:<16}{method:<22}{name:<28}{figure['mean']:>10.1f}")
        return "\n".join(lines)


def _features(rows: Sequence[Row], method: str) -> np.ndarray:
    return np.array([row.values["features"] for row in rows if row.method == method])
