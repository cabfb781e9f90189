"""Compares the presets of speed on a video: seconds, forwards, and PSNR against `exact` from the same noise.

    python -m stp_jax.benchmark --compare_speeds                              # the bundled model and clip
    python -m stp_jax.benchmark --compare_speeds --weights models --video clip.mp4 --out speeds.json

The video is re-rendered by several camera moves and animation times. `seconds` is the median of a video once
everything is compiled, `first` the first one with all that must be read and compiled. PSNR is of the pixels.
docs/speed.md says what the presets are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any, NamedTuple

import numpy as np

from stp_jax.benchmark.settings import refuse_existing
from stp_jax.command_line import Parser, count
from stp_jax.files import new_file
from stp_jax.media.metrics import psnr
from stp_jax.rerender import flags as sample_flags
from stp_jax.rerender import runs
from stp_jax.rerender.request import Request, read_notes
from stp_jax.rerender.speed import PRESETS
from stp_jax.rerender.takes import Takes, refuse_idle_flags
from stp_jax.weights import native

FLAG = "--compare_speeds"
_CASES = (
    ("orbit_left:30:-15", "bullet_time"),
    ("dolly_in", "forward"),
    ("truck_right", "reverse"),
    ("crane_up", "slow_motion"),
)
_PASSED_ON = ("weights", "video", "prompt", "seed", "steps", "guidance", "frames", "size", "dtype")


class Compared(NamedTuple):
    """A preset beside `exact`."""

    preset: str
    speed: dict[str, Any]  # its knobs, as they were used
    device: str
    seconds: float
    first_seconds: float
    forwards: list[int]  # of each video
    psnr: list[float | None]  # dB, of each video against exact; None: the same


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags. Raises `InputError` for impossible values, or an output that exists."""
    parser = Parser(prog=f"python -m stp_jax.benchmark {FLAG}", description=__doc__)
    add = parser.add_argument
    add(FLAG, action="store_true", help="this comparison, instead of the other measurements")
    add("--weights", default=str(native.BUNDLED), metavar="PATH", help="as of sample.py (the bundled model)")
    add("--video", metavar="FILE", help="default: the bundled clip")
    add("--cases", type=count, default=len(_CASES), help=f"camera moves, at most {len(_CASES)}; default all")
    add("--presets", nargs="+", choices=PRESETS, default=list(PRESETS), help="beside exact; default: all")
    add("--out", metavar="FILE", help="write the figures to this JSON file, too")
    for name in ("prompt", "seed", "steps", "guidance", "frames", "dtype"):
        add(f"--{name}", help="as of sample.py")
    add("--size", nargs=2, metavar=("WIDTH", "HEIGHT"), help="as of sample.py")
    flags = parser.parse_args(arguments)
    refuse_existing(flags.out)
    return flags


def main(arguments: list[str]) -> None:
    """Runs the comparison and prints its table."""
    flags = parse(arguments)
    words: list[str] = []
    for name in _PASSED_ON:
        value = getattr(flags, name)
        if value is not None:
            words += [f"--{name}", *value] if isinstance(value, list) else [f"--{name}={value}"]
    given = sample_flags.parse_flags(words)
    notes, takes = read_notes(given.weights, frames=given.frames, size=given.size)
    refuse_idle_flags(given, takes, notes)
    requests = [_request(words, notes, takes, *case) for case in _CASES[: flags.cases]]
    exact: list[np.ndarray] = []
    rows = []
    for preset in dict.fromkeys(["exact", *flags.presets]):
        given.speed = preset
        made, row = _measure(given, notes, requests, exact)
        exact = exact or made
        rows.append(row)
    about = f"{rows[0].device}; videos: {len(requests)}"
    print(f"\n{about}; forwards of each without a preset: {rows[0].forwards[0]}\n\n{table(rows)}")
    if flags.out:
        with new_file(flags.out) as partial:
            partial.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")


def _request(words: list[str], notes: native.SamplingNotes, model: Takes, camera: str, clock: str) -> Request:
    """One case, without what the model does not take."""
    given = [f"--camera={camera}"] if model.camera != "none" else []
    given += [f"--animation_time={clock}"] if model.animation_time else []
    asked = sample_flags.parse_flags([*words, *given])
    runs.set_defaults(asked, model)
    return runs.plan(asked, notes, model).request


def _measure(
    flags: argparse.Namespace,
    notes: native.SamplingNotes,
    requests: list[Request],
    exact: list[np.ndarray],
) -> tuple[list[np.ndarray], Compared]:
    """The videos of a preset, and its row; `exact`: videos to compare with, none for the first preset."""
    print(f"\n--speed {flags.speed}")
    started = time.perf_counter()
    model = runs.load_model(flags, notes)
    videos, seconds, forwards = [], [], []
    for request in [requests[0], *requests]:  # the first one twice, as it compiles
        videos.append(runs.rerender(model, request, flags))
        seconds.append(time.perf_counter() - started)
        forwards.append(model.forwards)
        started = time.perf_counter()
    del videos[0], forwards[0]
    row = Compared(
        flags.speed,
        model.speed._asdict(),
        model.device,
        statistics.median(seconds[1:]),
        seconds[0],
        forwards,
        [
            None if np.array_equal(*pair) else psnr(*pair)
            for pair in zip(videos, exact or videos, strict=True)
        ],
    )
    return videos, row


def table(rows: list[Compared]) -> str:
    """The comparison as a markdown table."""
    lines = [
        "| --speed | seconds | first, seconds | forwards | dB to exact, mean | least |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = [one for one in row.psnr if one is not None]
        same = "" if row.preset == "exact" else "the same"
        cells = [f"{statistics.mean(found):.1f}", f"{min(found):.1f}"] if found else [same, same]
        least, most = min(row.forwards), max(row.forwards)
        made = str(least) if least == most else f"{least} to {most}"
        figures = [row.preset, f"{row.seconds:.2f}", f"{row.first_seconds:.1f}", made, *cells]
        lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines)
