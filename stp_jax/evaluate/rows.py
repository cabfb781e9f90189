"""Rows of an evaluation, one for each video of each method, and arrays made of them for statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

# Figures for one video: numbers (NaN: none was found), and lists, for instance of one number per frame.
Values = dict[str, "float | list[float]"]

NEAREST, SOURCE, TRUTH, CEILING = "nearest source frame", "source as it is", "ground truth", "VAE ceiling"
DEGRADED = "ground truth, degraded"
BASELINES = (NEAREST, SOURCE)
WHOLE_SCENE = "whole scene"  # group and mode of figures that belong to no single case


class Row(NamedTuple):
    """The figures of one method's video."""

    scene: str
    group: str
    mode: str
    method: str
    values: Values

    def number(self, name: str) -> float:
        """A figure that is a single number; NaN where the row has none of this name."""
        value = self.values.get(name)
        return float("nan") if value is None or isinstance(value, list) else float(value)


def unique(items: Iterable[str]) -> list[str]:
    """The items without repeats, in the order of their first appearance."""
    return list(dict.fromkeys(items))


def number_names(rows: Sequence[Row]) -> list[str]:
    """Names of the figures that are single numbers."""
    return unique(name for row in rows for name, value in row.values.items() if not isinstance(value, list))


def by_scene(rows: Sequence[Row], method: str, name: str, scenes: Sequence[str]) -> np.ndarray:
    """A method's figure in each scene, float64 [S]: the mean over its rows; NaN where there is none."""
    found: dict[str, list[float]] = {scene: [] for scene in scenes}
    for row in rows:
        if row.method == method and not np.isnan(value := row.number(name)):
            found[row.scene].append(value)
    return np.array([np.mean(found[scene]) if found[scene] else np.nan for scene in scenes])


def rows_of(measure: str, rows: Sequence[Row]) -> list[Row]:
    """A measure's rows: those with figures of it, reduced to these, under the names that it gave them."""
    start = f"{measure}."
    own = [
        row._replace(values={k.removeprefix(start): v for k, v in row.values.items() if k.startswith(start)})
        for row in rows
    ]
    return [row for row in own if row.values]
