"""The folder of an evaluation: scores of each scene, contact sheets, and at the end a table and metrics."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError
from stp_jax.evaluation.cases import CASES_PER_SCENE, COPY, GROUPS, TIME
from stp_jax.evaluation.scores import BASELINES, METHODS, NEAREST, OURS, Outcome, Score, mean_scores
from stp_jax.media import new_file, write_video
from stp_jax.pictures import contact_sheet, side_by_side

BASELINE_LIMIT = 18.0  # dB; above it the camera of a case moves too little to show anything


class Report:
    """Writes an evaluation's folder scene by scene, and goes on with an interrupted one.

    Args:
      folder: new or empty, or of an interrupted evaluation with the same settings.
      settings: everything that the scores depend on, as JSON values.

    Raises:
      InputError: the folder holds something else, or cannot be written.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict[str, Any]):
        self.folder = Path(folder)
        self.scores: list[Score] = []
        self._settings = settings
        self._csv = self.folder / "per_scene.csv"
        try:
            self._claim()
        except OSError as error:
            raise InputError(f"--out {self.folder} cannot be written: {error.strerror}.") from error

    def _claim(self) -> None:
        path = self.folder / "settings.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / "metrics.json").exists():
            raise InputError(f"--out {self.folder} holds a complete evaluation: choose another folder.")
        if path.exists():
            if json.loads(path.read_text()) != self._settings:
                raise InputError(
                    f"--out {self.folder} holds an evaluation with other settings (see its settings.json): "
                    "choose another folder."
                )
            if self._csv.exists():
                self.scores = _complete_scenes(self._csv)
        elif any(self.folder.iterdir()):
            raise InputError(f"--out {self.folder} is not empty: choose a new folder.")
        else:
            path.write_text(json.dumps(self._settings, indent=1) + "\n")
        with open(self._csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Score._fields)
            writer.writerows(self.scores)

    @property
    def scenes(self) -> set[str]:
        """Names of the scenes done."""
        return {score.scene for score in self.scores}

    def add_scene(self, outcomes: list[Outcome]) -> None:
        scores = [score for outcome in outcomes for score in outcome.scores]
        with open(self._csv, "a", newline="") as file:
            csv.writer(file).writerows(scores)
        self.scores += scores

    def show(self, scene: str, outcome: Outcome) -> None:
        """Writes a contact sheet and a video of one case, beside its source and the ground truth."""
        rows = {
            "source": outcome.source,
            NEAREST: outcome.videos[NEAREST],
            OURS: outcome.videos[OURS],
            "ground truth": outcome.target,
        }
        name = f"{scene}_{outcome.case.group}_{outcome.case.mode}".replace(" ", "_")
        for kind, suffix in (("sheets", "png"), ("videos", "mp4")):
            path = self.folder / kind / f"{name}.{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)  # of the interrupted evaluation that goes on
            if suffix == "png":
                contact_sheet(path, rows)
            else:
                write_video(path, side_by_side(rows), fps=8)

    def finish(self, notes: dict[str, Any]) -> str:
        """Writes metrics.json and table.txt; returns the table."""
        result = {"settings": self._settings, **notes, "scenes": len(self.scenes), **summary(self.scores)}
        text = table(self.scores)
        (self.folder / "table.txt").write_text(text + "\n")
        with new_file(self.folder / "metrics.json") as partial:
            partial.write_text(json.dumps(_finite(result), indent=1) + "\n")
        return text


def _complete_scenes(path: Path) -> list[Score]:
    """The scores of the scenes whose every line was written."""
    with open(path, newline="") as file:
        lines = [line for line in list(csv.reader(file))[1:] if len(line) == len(Score._fields)]
    try:
        scores = [
            Score(scene, group, mode, method, float(psnr), float(ssim), float(lpips) if lpips else None)
            for scene, group, mode, method, psnr, ssim, lpips in lines
        ]
    except ValueError as error:
        raise InputError(f"{path} is damaged: choose another --out.") from error
    counts = Counter(score.scene for score in scores)
    return [score for score in scores if counts[score.scene] == CASES_PER_SCENE * len(METHODS)]


def summary(scores: list[Score]) -> dict[str, Any]:
    """Means over scenes by group, mode and method, and of each group (of time control without the copies)."""
    cases: dict[str, Any] = {}
    means: dict[str, Any] = {}
    for group in GROUPS:
        own = [score for score in scores if score.group == group]
        modes = dict.fromkeys(score.mode for score in own)
        cases[group] = {mode: mean_scores([s for s in own if s.mode == mode]) for mode in modes}
        means[group] = mean_scores([s for s in own if (group, s.mode) != (TIME, COPY)])
    return {"cases": cases, "means": means}


def table(scores: list[Score]) -> str:
    """The figures as text, and what they say about the baselines."""
    found = summary(scores)
    has_lpips = all(score.lpips is not None for score in scores)
    metrics = "PSNR  SSIM  LPIPS" if has_lpips else "PSNR  SSIM"
    width = max(len(metrics) + 5, max(map(len, METHODS)) + 2)
    lines = [" " * 28 + "".join(method.ljust(width) for method in METHODS).rstrip()]
    lines.append((" " * 28 + "".join(metrics.ljust(width) for _ in METHODS)).rstrip())

    def add(label: str, means: dict[str, dict[str, float | None]]) -> None:
        cells = [_cell(means[method], has_lpips).ljust(width) for method in METHODS]
        lines.append((label.ljust(28) + "".join(cells)).rstrip())

    for group in GROUPS:
        modes = found["cases"][group]
        lines.append(group)
        for mode, means in modes.items():
            copy = " (a copy: apart)" if (group, mode) == (TIME, COPY) else ""
            add(f"  {mode.replace('_', ' ')}{copy}", means)
        if len(modes) > 1:
            add("  mean", found["means"][group])
    lines.append("")
    for group in GROUPS:
        means = found["means"][group]
        best = max(BASELINES, key=lambda method: means[method]["psnr"])
        gain = means[OURS]["psnr"] - means[best]["psnr"]
        line = f"{group}: {gain:+.2f} dB beside the better baseline ({best}, {means[best]['psnr']:.2f} dB)"
        if group != TIME and means[best]["psnr"] >= BASELINE_LIMIT:
            line += f"; this baseline is not under {BASELINE_LIMIT:g} dB: the cameras are too near each other"
        lines.append(line)
    return "\n".join(lines)


def _cell(means: dict[str, float | None], has_lpips: bool) -> str:
    text = f"{means['psnr']:5.2f}  {means['ssim']:.2f}"
    return f"{text}  {means['lpips']:.3f}" if has_lpips else text


def _finite(value: Any) -> Any:
    """JSON has no infinity: the PSNR of equal videos becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
