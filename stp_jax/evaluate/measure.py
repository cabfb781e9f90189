"""The interface of all measures of a video beside PSNR, SSIM and LPIPS.

A measure is called for each case once per model, and once with the ground truth as the video, which shows the
measure's own error. With `degraded` it is also called with the ground truth degraded to the PSNR of the first
model's video. It looks at one video at a time (`measure`), or at all videos of a scene (`compare`). Both
return figures by name, which are kept in the evaluation's folder. At the end `summarise`, `table` and `plot`
turn them into the report. The defaults report the mean over scenes of each number, with its interval.

Figures are stored as JSON. Names should be short and state the unit, as `rotation_error_deg`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.shots import Scene
from stp_jax.evaluate.cases import COPY, GROUPS, TIME, Case
from stp_jax.evaluate.intervals import estimate
from stp_jax.evaluate.rows import WHOLE_SCENE, Row, Values, by_scene, number_names, unique


class Measure:
    """The base of all measures, with the default report.

    Attributes:
      name: one word, for the flag --measures and for files.
      title: its name in tables and plots.
      degraded: whether it is also called with degraded ground truth, to state its own error at the PSNR of
        the first model's video.
      needs_grid: whether it needs a scene's whole grid, every camera at every time. Other measures also take
        videos of the Cam x Time set, whose scenes have only the source's cameras, each at its own time.
      on_device: whether it is a network that runs where the models do. Of such a measure only `measure` is
        called, never `compare`. The others run in processes of their own where there are `--workers`: then
        they are pickled, after `available` and `close`.
      seconds: that it typically takes of one core for a video of 17 frames of 128 x 128; to say beforehand
        how long an evaluation takes.
      only_if_named: why it is left out unless `--measures` names it. Empty: it is not left out.
    """

    name: str
    title: str
    degraded = False
    needs_grid = True
    on_device = False
    seconds = 0.0
    only_if_named = ""

    def available(self, scene: Scene, frames: int) -> str | None:
        """Why it cannot be measured, such as a package that is missing; None where it can.

        Args:
          scene: the first one.
          frames: of each video.
        """
        return None

    def parts_left_out(self) -> dict[str, str]:
        """Figures of it that cannot be measured, by name, with the reason; call after `available`."""
        return {}

    def measure(
        self, scene: Scene, case: Case, source: np.ndarray, target: np.ndarray, video: np.ndarray
    ) -> Values:
        """The figures of one video; all videos are uint8 [F, H, W, 3].

        Args:
          scene: the held-out scene; `scene.name` is the name of its folder, which states the renderer's seed.
          case: the cameras and animation times of source and target.
          source, target: the clips of the case.
          video: what is measured: a model's video, or the target itself.
        """
        return {}

    def compare(self, scene: Scene, cases: Sequence[Case], videos: Sequence[np.ndarray]) -> Values:
        """Figures that need several videos of one scene: `videos[i]` is of `cases[i]`, all of one method."""
        return {}

    def close(self) -> None:
        """Frees what it holds, such as an OpenGL context. All calls come from one thread."""

    def summarise(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The measure's part of metrics.json, from its rows of all scenes and methods.

        By default {group: {method: {figure: {"mean", "interval", "scenes"}}}}. Groups are those of the cases,
        and WHOLE_SCENE for `compare`. Copies in time control do not count.
        """
        scenes, methods, names = (
            unique(r.scene for r in rows),
            unique(r.method for r in rows),
            number_names(rows),
        )
        result: dict[str, Any] = {}
        for group in (*GROUPS, WHOLE_SCENE):
            own = [row for row in rows if row.group == group and (group, row.mode) != (TIME, COPY)]
            found = {
                method: {
                    name: estimate(values).json()
                    for name in names
                    if not np.isnan(values := by_scene(own, method, name, scenes)).all()
                }
                for method in methods
            }
            if any(found.values()):
                result[group] = found
        return result

    def table(self, summary: dict[str, Any]) -> str:
        """The summary as text for table.txt: for each group a line for each figure, methods side by side."""
        lines = []
        for group, methods in summary.items():
            names = unique(name for figures in methods.values() for name in figures)
            shown = [method for method in methods if methods[method]]
            lines.append(f"  {group:<34}" + "".join(f"{method:<28}" for method in shown))
            for name in names:
                cells = [_cell(methods[method].get(name)) for method in shown]
                lines.append(f"    {name:<32}" + "".join(f"{cell:<28}" for cell in cells))
        return "\n".join(line.rstrip() for line in lines)

    def plot(self, rows: Sequence[Row], summary: dict[str, Any], folder: Path) -> None:
        """Writes plots as new files in `folder`; their names start with the measure's."""
        from stp_jax.evaluate.plots import plot_measure

        if summary:
            plot_measure(folder / f"{self.name}.png", self.title, summary)


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "-"
    low, high = figure["interval"]
    return f"{figure['mean']:.4g}" + ("" if np.isnan(low) else f" [{low:.4g}, {high:.4g}]")
