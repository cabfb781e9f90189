"""The figures of an evaluation as text and as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stp_jax.evaluate.cases import COPY, TIME
from stp_jax.evaluate.intervals import Estimate
from stp_jax.evaluate.rows import Row, number_names
from stp_jax.evaluate.summary import Metric, Summary, is_clear

BASELINE_LIMIT = 18.0  # dB; with a better baseline the cameras of a case are too near to show anything


def text(summary: Summary) -> str:
    """For table.txt: each metric by group with intervals, each case, and the differences in PSNR."""
    blocks = [_by_group(summary, metric) for metric in summary.metrics]
    return "\n\n".join([*blocks, _by_case(summary), _differences(summary)])


def _by_group(summary: Summary, metric: Metric) -> str:
    label = max(len(metric.title), *map(len, summary.methods)) + 2
    lines = [metric.title.ljust(label) + "".join(group.ljust(24) for group in summary.means)]
    for method in summary.methods:
        cells = [_cell(summary.means[group][method][metric.name], metric.digits) for group in summary.means]
        lines.append(method.ljust(label) + "".join(cell.ljust(24) for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def _cell(estimate: Estimate, digits: int, sign: str = "") -> str:
    cell = f"{estimate.mean:{sign}.{digits}f}"
    if not math.isnan(estimate.low):
        cell += f" [{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]"
    return cell


def _by_case(summary: Summary) -> str:
    shown = [metric for metric in summary.metrics if metric.name != "psnr_frames"]
    heads = "  ".join(metric.name.upper().ljust(5) for metric in shown).rstrip()
    width = max(len(heads) + 3, max(map(len, summary.methods)) + 2)
    lines = ["by case".ljust(28) + "".join(method.ljust(width) for method in summary.methods)]
    lines.append(" " * 28 + "".join(heads.ljust(width) for _ in summary.methods))
    for group, modes in summary.cases.items():
        lines.append(group)
        for mode, means in modes.items():
            copy = " (a copy: apart)" if (group, mode) == (TIME, COPY) else ""
            cells = [
                "  ".join(f"{means[method][m.name].mean:5.{m.digits}f}" for m in shown).ljust(width)
                for method in summary.methods
            ]
            lines.append(f"  {mode.replace('_', ' ')}{copy}".ljust(28) + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def _differences(summary: Summary) -> str:
    """The differences in PSNR, dB, and a warning where a baseline is too good."""
    lines = []
    for difference in summary.differences:
        if difference.metric != "psnr":
            continue
        group, against = difference.group, difference.against
        cell = _cell(difference.estimate, 2, "+").replace(" ", " dB ", 1)
        cell = cell if "dB" in cell else f"{cell} dB"
        line = f"{group}: {difference.method} {cell} beside "
        if against in summary.models:
            clear = "" if is_clear(difference.estimate) else ": no clear difference"
            lines.append(f"{line}{against}{clear}")
            continue
        level = summary.means[group][against]["psnr"].mean
        line += f"the better baseline ({against}, {level:.2f} dB)"
        if group != TIME and level >= BASELINE_LIMIT:
            line += f"; this baseline is not under {BASELINE_LIMIT:g} dB: the cameras are too near each other"
        lines.append(line)
    return "\n".join(lines)


def write_per_scene(path: Path, rows: Sequence[Row]) -> None:
    """A line for each video: its case, its method, and every figure that is a single number."""
    names = number_names(rows)
    lines = [(*row[:4], *("" if n not in row.values else row.number(n) for n in names)) for row in rows]
    _write(path, ["scene", "group", "mode", "method", *names], lines)


def write_means(path: Path, summary: Summary) -> None:
    """A line for each mean over scenes; the mode `mean` is the group's, without the copy in time control."""
    lines: list[tuple] = []
    for group, modes in summary.cases.items():
        for mode, means in [*modes.items(), ("mean", summary.means[group])]:
            for method, metrics in means.items():
                lines += [(group, mode, method, name, *_numbers(e)) for name, e in metrics.items()]
    _write(path, ["group", "mode", "method", "metric", "mean", "low", "high", "scenes"], lines)


def write_differences(path: Path, summary: Summary) -> None:
    """A line for each difference of two methods, in each metric and group."""
    lines = [(*d[:4], *_numbers(d.estimate)) for d in summary.differences]
    _write(path, ["group", "method", "against", "metric", "mean", "low", "high", "scenes"], lines)


def _numbers(estimate: Estimate) -> list[float | str]:
    return ["" if math.isnan(value) else value for value in estimate]


def _write(path: Path, head: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(lines)
