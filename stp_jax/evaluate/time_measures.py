"""Time fidelity and disentanglement as measures of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from input_pipeline.shots import Scene
from stp_jax.errors import InputError
from stp_jax.evaluate.cases import BOTH, CAMERA, COPY, GROUPS, TIME, Case
from stp_jax.evaluate.disentanglement import background_psnr, moving_mask, time_drift
from stp_jax.evaluate.intervals import interval, resampled_means
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.rows import Row, Values, unique
from stp_jax.evaluate.scene_cameras import SceneCameras
from stp_jax.evaluate.time_fidelity import TimeScores, time_scores
from stp_jax.media import new_file

# The figures that are reported for a group of cases, and those for a mode of animation time.
_ERRORS = ("mean_absolute_error_frames", "median_absolute_error_frames")
_AT_ESTIMATED = ("estimated_camera_mean_frames", "estimated_camera_median_frames")
_OF_GROUPS = (*_ERRORS, *_AT_ESTIMATED, "mean_error_frames", "absolute_drift")
_OF_MODES = (*_ERRORS, *_AT_ESTIMATED, "spread_frames", "slope")


class TimeFidelity(Measure):
    """Which animation time each frame shows, compared with the commanded one.

    All frames are compared with the scene from the commanded cameras. Where the scene can be rendered again,
    some frames are also compared with the scene from their estimated cameras. An error of the camera counts
    as time in the first comparison, and not in the second.
    """

    name, title = "time", "Time fidelity, in source frames"
    degraded = True
    seconds = 0.6

    def __init__(self, cameras: SceneCameras | None = None) -> None:
        """`cameras` may be shared with other measures."""
        self._cameras = cameras or SceneCameras()
        self._why_commanded_only: str | None = None

    def available(self, scene: Scene, frames: int) -> str | None:
        try:
            self._cameras.enter(scene)
        except InputError as error:
            self._why_commanded_only = str(error)
        return None

    def parts_left_out(self) -> dict[str, str]:
        reason = self._why_commanded_only
        return {} if reason is None else {"time at estimated cameras": reason}

    def close(self) -> None:
        self._cameras.close()

    def measure(
        self, scene: Scene, case: Case, source: np.ndarray, target: np.ndarray, video: np.ndarray
    ) -> Values:
        scores = _scores(scene, case, video)
        values: Values = {
            "mean_absolute_error_frames": scores.mean_absolute_error,
            "median_absolute_error_frames": scores.median_absolute_error,
            "mean_error_frames": scores.mean_error,
            "absolute_drift": abs(scores.drift),
            "spread_frames": scores.spread,
            "slope": scores.slope,
            "estimated": scores.estimated.tolist(),
            "commanded": scores.commanded.tolist(),
        }
        if self._why_commanded_only is None and (case.group, case.mode) != (TIME, COPY):
            own = self._at_estimated_cameras(scene, case, video)
            figures = own.mean_absolute_error, own.median_absolute_error
            values |= dict(zip(_AT_ESTIMATED, figures, strict=True))
        return values

    def _at_estimated_cameras(self, scene: Scene, case: Case, video: np.ndarray) -> TimeScores:
        """The scores of the frames whose cameras are estimated, with references from those cameras."""
        found = self._cameras.estimate(scene, case, video)
        references = self._cameras.enter(scene).all_times(found.c2w, found.intrinsics)
        commanded = case.target_animation_time[found.frames]
        return time_scores(video[found.frames], references, _times(scene), commanded)

    def summarise(self, rows: Sequence[Row]) -> dict[str, Any]:
        """As `Measure.summarise`, for each group, and for each mode of animation time over all groups."""
        of_groups = super().summarise(rows)
        counted = [row for row in rows if (row.group, row.mode) != (TIME, COPY)]
        result = {group: _only(found, _OF_GROUPS) for group, found in of_groups.items()}
        for mode in unique(row.mode for row in counted):
            own = [row._replace(group=GROUPS[-1]) for row in counted if row.mode == mode]
            for found in super().summarise(own).values():
                result[mode.replace("_", " ")] = _only(found, _OF_MODES)
        return result

    def plot(self, rows: Sequence[Row], summary: dict[str, Any], folder: Path) -> None:
        """Plots the estimated time of each frame, mean over scenes with its interval, for each mode."""
        super().plot(rows, summary, folder)
        counted = [row for row in rows if (row.group, row.mode) != (TIME, COPY)]
        modes, methods = unique(row.mode for row in counted), unique(row.method for row in counted)
        scenes = unique(row.scene for row in counted)
        figure = Figure(figsize=(4 * len(modes), 4.2), layout="constrained")
        for axes, mode in zip(figure.subplots(1, len(modes), squeeze=False)[0], modes, strict=True):
            of_mode = [row for row in counted if row.mode == mode]
            commanded = np.array(of_mode[0].values["commanded"])
            axes.plot(commanded, "k--", label="commanded")
            for method in methods:
                curves = np.array([_mean_curve(of_mode, method, scene) for scene in scenes])  # [S, F]
                bounds = np.array([interval(resampled_means(curves[:, f])) for f in range(len(commanded))])
                known = ~np.isnan(curves).all(0)
                (line,) = axes.plot(
                    np.flatnonzero(known), np.nanmean(curves[:, known], axis=0), ".-", label=method
                )
                if len(scenes) > 1:
                    axes.fill_between(range(len(commanded)), *bounds.T, color=line.get_color(), alpha=0.2)
            axes.set(title=mode.replace("_", " "), xlabel="frame", ylim=(-0.5, len(commanded) - 0.5))
            axes.grid(alpha=0.3)
        figure.axes[0].set_ylabel("animation time, source frames")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
        with new_file(folder / "time_curves.png") as partial:
            figure.savefig(partial, dpi=100)


class Disentanglement(Measure):
    """Whether animation time changes the scenery, and the camera the animation time.

    PSNR of the static background between the videos of a scene with equal cameras and different animation
    times: the five of time control, and the five whose target is filmed from the other half of the rig.
    """

    name, title = "disentanglement", "Disentanglement: static background, dB; time in source frames"

    def compare(self, scene: Scene, cases: Sequence[Case], videos: Sequence[np.ndarray]) -> Values:
        values: Values = {}
        for name, groups in (("same_camera", (TIME,)), ("new_camera", (CAMERA, BOTH))):
            own = [i for i, case in enumerate(cases) if case.group in groups]
            moving = moving_mask(scene.videos[cases[own[0]].target_camera])
            values[f"background_psnr_{name}"] = background_psnr([videos[i] for i in own], moving)
        only_camera = next(i for i, case in enumerate(cases) if case.group == CAMERA)
        drift = time_drift(_scores(scene, cases[only_camera], videos[only_camera]))
        values["camera_only_time_error_frames"] = drift.mean_absolute_error
        values["camera_only_time_drift"] = drift.drift
        return values


def _scores(scene: Scene, case: Case, video: np.ndarray) -> TimeScores:
    references = scene.videos[case.target_camera]  # [F, T, H, W, 3]
    return time_scores(video, references, _times(scene), case.target_animation_time)


def _times(scene: Scene) -> np.ndarray:
    """Animation times [T] of the grid, in source frames from the source's first frame on."""
    return scene.animation_time - scene.animation_time[0]


def _only(methods: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {
        method: {name: figures[name] for name in names if name in figures}
        for method, figures in methods.items()
    }


def _mean_curve(rows: Sequence[Row], method: str, scene: str) -> np.ndarray:
    """The estimated animation time of a scene [F], mean over the cases that have one."""
    own = [row.values["estimated"] for row in rows if (row.method, row.scene) == (method, scene)]
    curves = np.array(own, np.float64)
    known = ~np.isnan(curves)
    with np.errstate(invalid="ignore"):
        return np.where(known, curves, 0).sum(0) / known.sum(0)
