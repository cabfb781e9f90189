"""Means over scenes with their intervals, and differences of methods, from the rows of an evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stp_jax.evaluate.cases import COPY, GROUPS, TIME
from stp_jax.evaluate.intervals import Estimate, difference, estimate
from stp_jax.evaluate.rows import BASELINES, Row, by_scene, unique


class Metric(NamedTuple):
    """A metric of how near a video is to the ground truth."""

    name: str
    title: str
    digits: int  # that tables show
    lower_is_better: bool = False


METRICS = (
    Metric("psnr", "PSNR of the whole video, dB", 2),
    Metric("psnr_frames", "PSNR, mean over frames, dB", 2),
    Metric("ssim", "SSIM", 3),
    Metric("lpips", "LPIPS (lower is better)", 3, lower_is_better=True),
)


class Difference(NamedTuple):
    """By how much the metric of a method is higher than another's, scene by scene."""

    group: str
    method: str
    against: str
    metric: str
    estimate: Estimate


class Summary(NamedTuple):
    """The figures of an evaluation.

    Attributes:
      methods: the columns of the tables: models, baselines, ceilings.
      models: those of the methods that are models.
      metrics: the metrics that were measured.
      cases: {group: {mode: {method: {metric: Estimate}}}}.
      means: {group: {method: {metric: Estimate}}}, of time control without the copies.
      best: {group: the baseline of the highest PSNR}.
      differences: of each model to the best baseline of the group, and of each two models.
    """

    methods: list[str]
    models: list[str]
    metrics: list[Metric]
    cases: dict[str, dict[str, dict[str, dict[str, Estimate]]]]
    means: dict[str, dict[str, dict[str, Estimate]]]
    best: dict[str, str]
    differences: list[Difference]

    def json(self) -> dict[str, Any]:
        """The summary as in metrics.json."""

        def plain(value: Any) -> Any:
            if isinstance(value, Estimate):
                return value.json()
            return {key: plain(item) for key, item in value.items()}

        differences = [d._asdict() | {"estimate": d.estimate.json()} for d in self.differences]
        differences = [{**d, **d.pop("estimate")} for d in differences]
        means = {"cases": plain(self.cases), "means": plain(self.means)}
        return means | {"best_baseline": self.best, "differences": differences}


def summarise(rows: Sequence[Row], models: Sequence[str], methods: Sequence[str]) -> Summary:
    """The summary of all rows; `methods` are in the order of the table, `models` are among them."""
    scenes = unique(row.scene for row in rows)
    metrics = [m for m in METRICS if any(m.name in row.values for row in rows)]

    def estimates(own: Sequence[Row]) -> dict[str, dict[str, Estimate]]:
        return {
            method: {metric.name: estimate(by_scene(own, method, metric.name, scenes)) for metric in metrics}
            for method in methods
        }

    cases: dict[str, Any] = {}
    means: dict[str, Any] = {}
    best: dict[str, str] = {}
    differences: list[Difference] = []
    for group in [group for group in GROUPS if any(row.group == group for row in rows)]:
        own = [row for row in rows if row.group == group]
        modes = unique(row.mode for row in own)
        cases[group] = {mode: estimates([row for row in own if row.mode == mode]) for mode in modes}
        own = [row for row in own if (group, row.mode) != (TIME, COPY)]
        means[group] = estimates(own)
        best[group] = max(BASELINES, key=lambda method: means[group][method]["psnr"].mean)
        pairs = [(model, best[group]) for model in models]
        pairs += [(later, earlier) for earlier, later in itertools.combinations(models, 2)]
        for metric in metrics:
            values = {m: by_scene(own, m, metric.name, scenes) for m in unique(itertools.chain(*pairs))}
            differences += [
                Difference(group, a, b, metric.name, difference(values[a], values[b])) for a, b in pairs
            ]
    return Summary(list(methods), list(models), metrics, cases, means, best, differences)


def is_clear(estimated: Estimate) -> bool:
    """Whether the interval of a difference lies on one side of 0."""
    return not np.isnan(estimated.low) and (estimated.low > 0 or estimated.high < 0)
