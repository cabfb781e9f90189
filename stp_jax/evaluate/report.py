"""The output folder of an evaluation: figures of each scene, contact sheets; at the end tables and plots."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError
from stp_jax.evaluate import tables
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.plots import plot_metrics
from stp_jax.evaluate.rows import NEAREST, Row, rows_of, unique
from stp_jax.evaluate.scores import Outcome
from stp_jax.evaluate.summary import summarise
from stp_jax.files import parse_json, read_json, replace_file
from stp_jax.media.pictures import contact_sheet, side_by_side
from stp_jax.media.writing import write_video


class Report:
    """Writes an evaluation's folder scene by scene, and continues an interrupted evaluation.

    Args:
      folder: new or empty, or of an interrupted evaluation with the same settings.
      settings: everything that the figures depend on, as JSON values.

    Raises:
      InputError: the folder holds something else, or cannot be written.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict[str, Any]):
        self.folder = Path(folder)
        self.rows: list[Row] = []
        self._settings = settings
        self._notes = self.folder / "scenes.jsonl"  # a line for each whole scene
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
            if read_json(path, dict) != self._settings:
                raise InputError(
                    f"--out {self.folder} holds an evaluation with other settings (see its settings.json): "
                    "choose another folder."
                )
            if self._notes.exists():
                self.rows = _whole_scenes(self._notes)
        elif any(self.folder.iterdir()):
            raise InputError(f"--out {self.folder} is not empty: choose a new folder.")
        else:
            with replace_file(path) as partial:
                partial.write_text(json.dumps(self._settings, indent=1) + "\n")

    @property
    def scenes(self) -> list[str]:
        """Names of the finished scenes."""
        return unique(row.scene for row in self.rows)

    def add_scene(self, rows: Sequence[Row]) -> None:
        """Adds the rows of a finished scene, also to scenes.jsonl."""
        with self._writing(), open(self._notes, "a") as file:
            file.write(json.dumps(rows) + "\n")
        self.rows += rows

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Errors of writing become an `InputError` that says how to go on."""
        try:
            yield
        except (OSError, InputError) as error:
            cause = error.__cause__ if isinstance(error, InputError) else error
            if not isinstance(cause, OSError):
                raise
            raise InputError(
                f"--out {self.folder} cannot be written: {cause.strerror or cause}. Free some space there: "
                "the same command continues after the last finished scene."
            ) from error

    def showing(self, scene: str, outcomes: Iterable[Outcome], models: Sequence[str]) -> Iterator[Outcome]:
        """The outcomes, each of which is shown as it comes."""
        for outcome in outcomes:
            self.show(scene, outcome, models)
            yield outcome

    def show(self, scene: str, outcome: Outcome, models: Sequence[str]) -> None:
        """Writes a contact sheet and a video of one case: its source, the models, and the ground truth."""
        rows = {
            "source": outcome.source,
            NEAREST: outcome.videos[NEAREST],
            **{model: outcome.videos[model] for model in models},
            "ground truth": outcome.target,
        }
        name = f"{scene}_{outcome.case.group}_{outcome.case.mode}".replace(" ", "_")
        for kind, suffix in (("sheets", "png"), ("videos", "mp4")):
            path = self.folder / kind / f"{name}.{suffix}"
            with self._writing():
                path.parent.mkdir(exist_ok=True)
                path.unlink(missing_ok=True)  # left by the interrupted evaluation that is continued
                if suffix == "png":
                    contact_sheet(path, rows)
                else:
                    write_video(path, side_by_side(rows), fps=8)

    def finish(
        self,
        models: Sequence[str],
        methods: Sequence[str],
        measures: Sequence[Measure],
        notes: dict[str, Any],
    ) -> str:
        """Writes tables, plots and, last, metrics.json; returns the table.

        Args:
          models, methods: names, as in `stp_jax.evaluate.summary.summarise`.
          notes: for metrics.json.

        Raises:
          InputError: they cannot be written; nothing of them is there then.
        """
        for older in self.folder.glob(".partial*"):  # of a process that was killed
            shutil.rmtree(older, ignore_errors=True)
        with self._writing(), tempfile.TemporaryDirectory(prefix=".partial", dir=self.folder) as partial:
            text = self._write_tables(Path(partial), models, methods, measures, notes)
            plots = self.folder / "plots"
            shutil.rmtree(plots, ignore_errors=True)  # left by the interrupted evaluation that is continued
            metrics = Path(partial) / "metrics.json"
            for path in (*(path for path in Path(partial).iterdir() if path != metrics), metrics):
                os.replace(path, self.folder / path.name)
        return text

    def _write_tables(
        self,
        folder: Path,
        models: Sequence[str],
        methods: Sequence[str],
        measures: Sequence[Measure],
        notes: dict[str, Any],
    ) -> str:
        """What `finish` writes, into another folder."""
        summary = summarise(self.rows, models, methods)
        plots = folder / "plots"
        plots.mkdir()
        plot_metrics(plots / "metrics.png", summary)
        blocks, measured = [tables.text(summary)], {}
        for measure in measures:
            own = rows_of(measure.name, self.rows)
            measured[measure.name] = measure.summarise(own)
            measure.plot(own, measured[measure.name], plots)
            blocks.append(f"{measure.title}\n{measure.table(measured[measure.name])}")
        text = "\n\n".join(blocks)
        tables.write_per_scene(folder / "per_scene.csv", self.rows)
        tables.write_means(folder / "means.csv", summary)
        tables.write_differences(folder / "differences.csv", summary)
        (folder / "table.txt").write_text(text + "\n", "utf-8", "backslashreplace")
        result = {"settings": self._settings, **notes, "scenes": len(self.scenes), **summary.json()}
        whole = json.dumps(_finite(result | {"measures": measured}), indent=1)
        (folder / "metrics.json").write_text(whole + "\n")
        return text


def _whole_scenes(path: Path) -> list[Row]:
    """The rows of the scenes whose line is complete; an unfinished last line is removed from the file."""
    whole = path.read_bytes().split(b"\n")[:-1]  # the last is unfinished or empty
    rows = []
    for number, line in enumerate(whole, 1):
        found = parse_json(line, f"{path}, line {number}", list)
        if not all(isinstance(row, list) and _is_row(row) for row in found):
            raise InputError(f"{path}, line {number}: damaged, it holds no figures: choose another --out.")
        rows += [Row(*row) for row in found]
    with replace_file(path) as partial:
        partial.write_bytes(b"".join(line + b"\n" for line in whole))
    return rows


def _is_row(row: list[Any]) -> bool:
    """Whether these JSON values are those of a `Row`."""
    *names, values = row or [None]
    return (
        len(row) == len(Row._fields)
        and all(isinstance(name, str) for name in names)
        and isinstance(values, dict)
        and all(type(value) in (int, float, list) for value in values.values())
    )


def _finite(value: Any) -> Any:
    """The value with null for infinity and NaN, which JSON lacks, as in the PSNR of equal videos."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
