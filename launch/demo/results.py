"""What a demo run leaves: weights, metrics, pictures, and its line in the log of all runs."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError
from stp_jax.files import naming, parse_json, read_json_lines, replace_file
from stp_jax.weights import native

ROOT = Path(__file__).resolve().parents[2]
PART_BYTES = 15_000_000
PICTURES = 4  # contact sheets and videos to keep, the last ones


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none before there is one."""
    return read_json_lines(path) if path.exists() else []


def trained_seconds(run: Path) -> float:
    """Of a work directory of train.py: what it has trained up to its last checkpoint."""
    saved = [int(folder.name) for folder in (run / "checkpoints").glob("*") if folder.name.isdigit()]
    lines = read_metrics(run / "metrics.jsonl")
    return max(
        (
            line["elapsed_seconds"]
            for line in lines
            if "elapsed_seconds" in line and line["step"] <= max(saved, default=0)
        ),
        default=0.0,
    )


def copy(run: Path, out: Path) -> None:
    """Copies metrics, config, last pictures and weights of a work directory of train.py, as far as they are
    there: `weights` of a complete run, `best` of any."""
    for name in ("metrics.jsonl", "config.json"):
        if (run / name).exists():
            shutil.copyfile(run / name, out / name)
    pictures = sorted((run / "pictures").glob("*.*"))[-2 * PICTURES :]
    for picture in pictures:
        (out / "pictures").mkdir(exist_ok=True)
        shutil.copyfile(picture, out / "pictures" / picture.name)
    for folder in ("weights", "best"):
        for index in sorted((run / folder).glob("*.json")):
            about = native.read_index(run / folder, index.stem)
            native.save_weights(
                out / folder,
                index.stem,
                native.read_weights(run / folder, index.stem),
                about["config"],
                dtype=None,
                notes=about["notes"],
                part_bytes=PART_BYTES,
            )


def commit() -> str | None:
    """Of the code, with a + if it has been changed; None outside a git repository."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def line(args: Any, notes: dict[str, Any], seconds: float) -> dict[str, Any]:
    """A complete run as one JSON object.

    Args:
      notes: scenes, data_seconds.
      seconds: that the run took in all.
    """
    metrics = read_metrics(args.out / "metrics.jsonl")
    validation = [one["validation/loss"] for one in metrics if "validation/loss" in one]
    losses = [one["loss"] for one in metrics if "loss" in one]
    of_step = [one["step_seconds"] for one in metrics if "step_seconds" in one]
    steps = max((one["step"] for one in metrics), default=0)
    return {
        "date": datetime.date.today().isoformat(),
        "out": args.out.name,
        "from": args.from_name or None,
        "vae": os.path.relpath(args.vae, ROOT)
        if args.vae.is_relative_to(ROOT)
        else args.vae_name or args.from_name,
        "config": args.config_name,
        "seeds": f"{args.seeds.start}:{args.seeds.stop}",
        "scenes": notes["scenes"],
        "long_scenes": args.long_scenes,
        "clips_per_scene": args.clips_per_scene,
        "steps": steps,
        "batch_size": args.batch_size,
        "pairs": steps * args.batch_size,
        "loss": losses[-1] if losses else None,
        "validation_first": validation[0] if validation else None,
        "validation_last": validation[-1] if validation else None,
        "step_ms": round(1000 * statistics.median(of_step), 1) if of_step else None,
        "seconds": round(seconds),
        "data_seconds": notes["data_seconds"],
        "devices": args.device_kind,
        "commit": commit(),
    }


def write(one: dict[str, Any], out: Path, log: Path) -> None:
    """Writes the line of a run into its folder, and appends it to the log."""
    with replace_file(out / "run.json") as partial:
        partial.write_text(json.dumps(one, indent=1) + "\n")
    log.parent.mkdir(parents=True, exist_ok=True)
    with naming(log), open(log, "a") as file:
        file.write(json.dumps(one) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """All runs of a log; none where it does not exist. Raises `InputError` for a damaged line."""
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"--log {path}: cannot be read ({error.strerror}); give another.") from None
    runs = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        where = f"--log {path}, line {number}"
        runs.append(parse_json(text, where, dict))
        if not re.fullmatch(r"\d{1,9}:\d{1,9}", str(runs[-1].get("seeds"))) or "out" not in runs[-1]:
            raise InputError(f"{where}: lacks the seeds of its run, or its folder; mend it or give another.")
    return runs


def table(runs: list[dict[str, Any]]) -> str:
    """A markdown table, a line for each run, and the pairs of all runs so far."""
    head = ["run", "from", "seeds", "scenes (long)", "steps x batch", "pairs, M (all)", "loss"]
    head += ["validation: first, last", "seconds (data)", "devices", "commit"]
    lines, pairs = [head, ["---"] * len(head)], 0

    def loss(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    for one in runs:
        pairs += one["pairs"]
        lines.append(
            [
                *(f"{one['out']}, {one['date']}", str(one["from"] or "random"), one["seeds"]),
                f"{one['scenes']:,} ({one['long_scenes']:,})",
                f"{one['steps']:,} x {one['batch_size']}",
                f"{one['pairs'] / 1e6:.2f} ({pairs / 1e6:.2f})",
                loss(one["loss"]),
                f"{loss(one['validation_first'])}, {loss(one['validation_last'])}",
                f"{one['seconds']:,} ({one['data_seconds']:,})",
                *(one["devices"], str(one["commit"] or "-")),
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
