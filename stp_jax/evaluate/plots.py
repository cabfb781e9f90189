"""Plots of an evaluation: points with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stp_jax.evaluate.rows import unique
from stp_jax.evaluate.summary import Summary
from stp_jax.files import new_file

# By method: (mean, low, high) in each group.
Series = Mapping[str, Sequence[tuple[float, ...]]]
_MARKERS = "osD^vP*X"


def plot_points(axes: Axes, groups: Sequence[str], series: Series) -> None:
    """Draws methods side by side in each group; infinite and missing values are not drawn."""
    for number, (method, points) in enumerate(series.items()):
        shift = (number - (len(series) - 1) / 2) * 0.8 / len(series)
        drawn = [(i + shift, *point) for i, point in enumerate(points) if math.isfinite(point[0])]
        if not drawn:
            continue
        # A point without an interval gets none drawn.
        below = [0 if math.isnan(low) else max(mean - low, 0) for _, mean, low, _ in drawn]
        above = [0 if math.isnan(high) else max(high - mean, 0) for _, mean, _, high in drawn]
        axes.errorbar(
            [x for x, *_ in drawn],
            [mean for _, mean, *_ in drawn],
            yerr=(below, above),
            fmt=_MARKERS[number % len(_MARKERS)],
            capsize=3,
            label=method,
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.grid(axis="y", alpha=0.3)


def plot_metrics(path: Path, summary: Summary) -> None:
    """Writes a PNG with a plot of each metric by group, and one of the differences in PSNR.

    Raises:
      InputError: `path` exists or cannot be written.
    """
    groups = list(summary.means)
    figure = Figure(figsize=(13, 12), layout="constrained")
    places = figure.subplots(3, 2)
    for axes, metric in zip(places.flat, summary.metrics, strict=False):
        series = {
            method: [summary.means[group][method][metric.name][:3] for group in groups]
            for method in summary.methods
        }
        plot_points(axes, groups, series)
        axes.set(title=metric.title)
    figure.legend(*places[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    differences, empty = places[2]
    empty.axis("off")
    found: dict[str, dict[str, tuple]] = {}
    for difference in summary.differences:
        if difference.metric == "psnr":
            against = difference.against if difference.against in summary.models else "the better baseline"
            name = f"{difference.method} beside {against}"
            found.setdefault(name, {})[difference.group] = difference.estimate[:3]
    plot_points(differences, groups, {name: [points[g] for g in groups] for name, points in found.items()})
    differences.axhline(0, color="black", linewidth=0.8)
    differences.set(title="Differences in PSNR, scene by scene, dB")
    empty.legend(*differences.get_legend_handles_labels(), loc="center left")
    with new_file(path) as partial:
        figure.savefig(partial, dpi=100)


def plot_measure(path: Path, title: str, summary: dict[str, Any]) -> None:
    """Writes a PNG with one plot for each figure of a measure's summary, by group; see `Measure.summarise`.

    Raises:
      InputError: `path` exists or cannot be written.
    """
    groups = list(summary)
    methods = unique(method for group in summary.values() for method in group)
    names = unique(name for group in summary.values() for own in group.values() for name in own)
    figure = Figure(figsize=(8, 3.6 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        series = {}
        for method in methods:
            found = [summary[group].get(method, {}).get(name) for group in groups]
            series[method] = [(f["mean"], *f["interval"]) if f else (math.nan,) * 3 for f in found]
        plot_points(axes, groups, series)
        axes.set(title=f"{title}: {name}")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    with new_file(path) as partial:
        figure.savefig(partial, dpi=100)
