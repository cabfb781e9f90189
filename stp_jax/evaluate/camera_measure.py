"""Camera fidelity as a measure of an evaluation: held-out scenes are rendered again from their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from input_pipeline.shots import Scene
from stp_jax.errors import InputError
from stp_jax.evaluate import camera_fidelity
from stp_jax.evaluate.cases import COPY, GROUPS, TIME, Case
from stp_jax.evaluate.intervals import Estimate, slope
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.rows import Row, Values, unique
from stp_jax.evaluate.scene_cameras import SceneCameras
from stp_jax.media import new_file

# Each gain of the summary is the slope of these achieved values over the commanded ones.
_GAINS = {
    "rotation_gain": ("from_source", "angle"),
    "translation_gain": ("from_source", "distance"),
    "rotation_gain_from_first": ("from_first", "angle"),
    "translation_gain_from_first": ("from_first", "distance"),
}


class CameraFidelity(Measure):
    """How near the cameras of a video are to the commanded ones, for scenes that our renderer made."""

    name, title = "camera", "Camera fidelity: degrees, metres, shares of the scene's extent"
    degraded = True
    seconds = 2.6

    def __init__(self, cameras: SceneCameras | None = None) -> None:
        """`cameras` may be shared with other measures."""
        self._cameras = cameras or SceneCameras()

    def available(self, scene: Scene, frames: int) -> str | None:
        try:
            self._cameras.enter(scene)
        except InputError as error:
            return str(error)
        return None

    def close(self) -> None:
        self._cameras.close()

    def measure(
        self, scene: Scene, case: Case, source: np.ndarray, target: np.ndarray, video: np.ndarray
    ) -> Values:
        if (case.group, case.mode) == (TIME, COPY):
            return {}
        found = self._cameras.estimate(scene, case, video)
        c2w, source_first = scene.c2w[:, 0], scene.c2w[case.source_camera[0], 0]
        commanded = c2w[case.target_camera[found.frames]]
        scores = camera_fidelity.camera_scores(
            found.c2w, commanded, source_first, camera_fidelity.extent_of(c2w)
        )
        values: Values = {
            name: value for name, value in camera_fidelity.summary([scores]).items() if name not in _GAINS
        }
        for start in ("from_source", "from_first"):
            motion = getattr(scores, start)._asdict()
            values |= {f"{start}.{name}": array.tolist() for name, array in motion.items()}
        return values

    def summarise(self, rows: Sequence[Row]) -> dict[str, Any]:
        """As `Measure.summarise`; with the gains, which are slopes over the frames of all scenes."""
        return with_gains(super().summarise(rows), rows, _GAINS)

    def plot(self, rows: Sequence[Row], summary: dict[str, Any], folder: Path) -> None:
        """Achieved against commanded angle from the source's first camera, for each group."""
        super().plot(rows, summary, folder)
        groups = [group for group in GROUPS if group in summary]
        if not groups:
            return
        figure = Figure(figsize=(5 * len(groups), 5), layout="constrained")
        for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
            most = 1.0
            for method in unique(row.method for row in rows):
                own = [row for row in rows if (row.group, row.method) == (group, method)]
                x, y = (joined(own, f"from_source.{kind}_angle") for kind in ("commanded", "achieved"))
                if len(x):
                    gain = summary[group][method]["rotation_gain"]["mean"]
                    axes.plot(x, y, ".", alpha=0.4, markersize=4, label=f"{method}: gain {gain:.3f}")
                    most = max(most, x.max())
            axes.plot([0, most], [0, most], "k--", linewidth=0.8)
            axes.set(title=group, xlabel="commanded angle, degrees", ylabel="achieved angle, degrees")
            axes.legend(fontsize="small")
            axes.grid(alpha=0.3)
        with new_file(folder / "camera_gain.png") as partial:
            figure.savefig(partial, dpi=100)


def joined(rows: Sequence[Row], name: str) -> np.ndarray:
    """A figure's lists of all rows, joined to one array, float64."""
    return np.concatenate([np.zeros(0), *(np.asarray(row.values[name], np.float64) for row in rows)])


def with_gains(
    summary: dict[str, Any], rows: Sequence[Row], gains: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """A summary with gains added to the figures of each group and method.

    Args:
      gains: by name, what `gain_over_scenes` takes for them: start and kind.
    """
    scenes = unique(row.scene for row in rows)
    for group, methods in summary.items():
        for method, figures in methods.items():
            own = [row for row in rows if (row.group, row.method) == (group, method)]
            if own:
                figures |= {name: gain_over_scenes(own, scenes, *of).json() for name, of in gains.items()}
    return summary


def gain_over_scenes(rows: Sequence[Row], scenes: Sequence[str], start: str, kind: str) -> Estimate:
    """The slope through 0 of achieved against commanded values, over the frames of all rows."""
    products, squares = np.full(len(scenes), np.nan), np.full(len(scenes), np.nan)
    for i, scene in enumerate(scenes):
        own = [row for row in rows if row.scene == scene]
        if own:
            commanded, achieved = (
                joined(own, f"{start}.{what}_{kind}") for what in ("commanded", "achieved")
            )
            products[i], squares[i] = (commanded * achieved).sum(), (commanded**2).sum()
    return slope(products, squares)
