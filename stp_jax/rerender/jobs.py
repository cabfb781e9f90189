"""Several re-renderings with one start of the model: a file with a JSON object of flags in each line.

Each job has a folder of its own beside the others. It is written under a hidden name and gets its own when it
is complete, so what has its name is finished, and is skipped the next time.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from stp_jax import media, user_input
from stp_jax.errors import InputError
from stp_jax.files import file_size, parse_json, read_json, replace_file
from stp_jax.rerender import long_runs, results, runs
from stp_jax.rerender.flags import ELSEWHERE, parse_flags
from stp_jax.rerender.records import OF_RUN, locked, record
from stp_jax.rerender.takes import Takes, refuse_idle_flags
from stp_jax.weights.native import SamplingNotes

# Flags of the model, which is loaded once, and of the whole run.
_OF_ALL = (
    *(
        "weights",
        "lora",
        "vae",
        "text_encoder",
        "frames",
        "window",
        "overlap",
        "size",
        "steps",
        "shift",
        "guidance",
    ),
    *("speed", "guidance_interval", "cache_threshold", "attention", "dtype", "tiled", "low_memory"),
)
_RECORD = "job.json"  # in each folder: what it was made from
_HELD = 1 << 30  # bytes of clips that are kept from the check to the work
_ROWS = 40  # of a contact sheet


class Job(NamedTuple):
    """A line of the file."""

    where: str  # names it in messages
    flags: argparse.Namespace
    folder: Path
    finished: bool = False


def run(flags: argparse.Namespace, argv: Sequence[str]) -> None:
    """Does all jobs of `flags.jobs` that are not finished.

    Args:
      argv: the words of the command line, which hold for all lines.

    Raises:
      InputError: a mistake in any line, before the model is loaded; a folder that has something else; at the
        end, where some jobs failed.
    """
    folder = Path(flags.out or Path("outputs", Path(flags.jobs).stem))
    notes, model_takes = runs.notes_of(flags)
    jobs = _placed(flags.jobs, read_lines(flags.jobs, argv), folder, notes, model_takes)
    waiting = [job for job in jobs if not job.finished]
    print(f"{Path(flags.jobs).name}: {_count(len(jobs))}, {len(jobs) - len(waiting)} finished before")
    plans, held = {}, 0
    for job in waiting:
        with _naming(f"{flags.jobs}: {job.where}"):
            plan = runs.plan(job.flags, notes, model_takes)
        if flags.dry_run:
            print(f"\n{job.where}, {job.folder}\n{plan.summary}")
        held += plan.request.clip.frames.nbytes
        if held < _HELD:  # what comes later is read again
            plans[job.where] = plan
    if flags.dry_run:
        print()
        runs.check_model(flags, notes)
        print("Dry run: nothing is computed, and nothing is written.")
        return
    with locked(folder):
        failed = _do_all(waiting, plans, flags, notes, model_takes) if waiting else []
        sheets = _contact_sheets(folder, [job for job in jobs if job.where not in failed], notes)
    print(f"In {folder}: {_count(len(jobs) - len(failed))} in folders, {', '.join(sheets)} of all")
    if failed:
        raise InputError(f"{len(failed)} of {len(jobs)} jobs failed, see above: {', '.join(failed)}.")


def _count(jobs: int) -> str:
    return f"{jobs} job" + "s" * (jobs != 1)


def read_lines(path: str | os.PathLike, argv: Sequence[str]) -> list[tuple[str, argparse.Namespace]]:
    """Names and flags of all jobs of a file; `argv` as in `run`. Raises `InputError` naming the line."""
    try:
        if (size := file_size(path)) > user_input.TEXT_BYTES:
            raise InputError(f"--jobs {path}: {size:,} bytes are too many for a list of jobs.")
        text = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"--jobs {path}: cannot be read ({error.strerror}).") from None
    jobs = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            where = f"line {number}"
            with _naming(f"{path}: {where}"):
                jobs.append((where, _flags(parse_json(line, "a job", dict), argv)))
    if not jobs:
        raise InputError(f"--jobs {path}: has no job: write a JSON object with flags in each line.")
    return jobs


def _flags(fields: dict[str, Any], argv: Sequence[str]) -> argparse.Namespace:
    """Flags of a line, after those of the command line."""
    known = [name for name in vars(parse_flags([])) if name not in (*_OF_ALL, *OF_RUN)]
    words = []
    for name, value in fields.items():
        if name in _OF_ALL:
            raise InputError(f"{name!r} is for all jobs, as the model is loaded once: give it as --{name}")
        if name not in known:
            raise user_input.unknown("field", name, known, ELSEWHERE)
        words += _words(name, value)
    flags = parse_flags([*_without_out(argv), *words])
    if flags.out is None and "out" in fields:
        raise InputError("'out' is null: leave it out")
    return flags


def _words(name: str, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [f"--{name}"]
    if isinstance(value, (str, int, float)):
        return [f"--{name}={value}"]
    if isinstance(value, list) and value and all(isinstance(item, (str, int, float)) for item in value):
        return [f"--{name}", *map(str, value)]
    raise InputError(f"{name!r} is {json.dumps(value)[:60]}: a text, a number or true was expected")


def _without_out(argv: Sequence[str]) -> list[str]:
    """The command line without --out and --jobs and their values."""
    kept, words = [], iter(argv)
    for word in words:
        if word in ("--out", "--jobs"):
            next(words, None)
        elif not word.startswith(("--out=", "--jobs=")):
            kept.append(word)
    return kept


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _placed(
    path: str,
    lines: Sequence[tuple[str, argparse.Namespace]],
    folder: Path,
    notes: SamplingNotes,
    model: Takes,
) -> list[Job]:
    """Jobs with their folders. Raises `InputError` for idle flags, and where a folder has something else."""
    jobs: list[Job] = []
    taken = {flags.out for _, flags in lines if flags.out}
    seen: dict[str, str] = {}
    for where, flags in lines:
        with _naming(f"{path}: {where}"):
            refuse_idle_flags(flags, model, notes)
            runs.set_defaults(flags, model)
            name = flags.out
            if name is None:
                seed = [f"seed{flags.seed}"] if flags.seed else []
                plain = results.folder_name(*runs.names(flags), *seed)
                numbered = itertools.chain([plain], (f"{plain}_{n}" for n in itertools.count(2)))
                name = next(one for one in numbered if one not in taken)
                taken.add(name)
            elif name in (".", "..") or Path(name).name != name or name.startswith("."):
                raise InputError(f"out {name!r}: must be the name of a folder within {folder}")
            if name in seen:
                raise InputError(f"out {name!r}: {seen[name]} has the same: choose another")
            seen[name] = where
            job = Job(where, flags, folder / name)
            jobs.append(job._replace(finished=_is_finished(job)))
    return jobs


def _is_finished(job: Job) -> bool:
    """Raises `InputError` where the folder holds something else."""
    if not job.folder.is_dir() or not any(job.folder.iterdir()):
        if job.folder.exists() and not job.folder.is_dir():
            raise InputError(f"{job.folder} is a file: choose another 'out'")
        return False
    path = job.folder / _RECORD
    if not path.is_file():
        raise InputError(f"{job.folder} has something else, and nothing is overwritten: choose another 'out'")
    made, wanted = read_json(path, dict), record(job.flags)
    for name in sorted({*made, *wanted}):
        if made.get(name) != wanted.get(name):
            raise InputError(
                f"{job.folder} was made with another {name}: choose another 'out', or remove that folder"
            )
    return True


def _do_all(
    jobs: Sequence[Job],
    plans: dict[str, runs.Plan],
    flags: argparse.Namespace,
    notes: SamplingNotes,
    model_takes: Takes,
) -> list[str]:
    """Does the jobs one after the other; returns those that failed, which is printed."""
    deep = any(runs.is_deep(job.flags) for job in jobs)
    model = runs.load_model(flags, notes, deep=deep)
    failed = []
    for number, job in enumerate(jobs, 1):
        started = time.monotonic()
        print(f"\n{number} of {len(jobs)}: {job.where}, {job.folder}", flush=True)
        try:
            plan = plans.pop(job.where, None) or runs.plan(job.flags, notes, model_takes)
            print(plan.summary)
            with _complete(job) as partial:
                make = runs.make if plan.windows is None else long_runs.make
                make(partial, model, plan, job.flags)
        except InputError as error:
            failed.append(job.where)
            print(f"error: {job.where}: {error}", flush=True)
        else:
            print(f"Done in {time.monotonic() - started:.0f} s.", flush=True)
    return failed


@contextlib.contextmanager
def _complete(job: Job) -> Iterator[Path]:
    """Yields a hidden folder, which becomes the job's when the block ends well."""
    partial = job.folder.with_name(f".{job.folder.name}.partial")
    if not long_runs.unfinished(partial, record(job.flags)):
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was stopped
        partial.mkdir()
    try:
        yield partial
        (partial / _RECORD).write_text(json.dumps(record(job.flags), indent=1) + "\n")
        if job.folder.exists():  # and is empty
            job.folder.rmdir()
        partial.rename(job.folder)
    except InputError:
        if not long_runs.unfinished(partial, record(job.flags)):
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _contact_sheets(folder: Path, jobs: Sequence[Job], notes: SamplingNotes) -> list[str]:
    """Writes pictures with a row for each job, `_ROWS` at most in each; returns their names."""
    from stp_jax.media import pictures

    names = []
    for page, start in enumerate(range(0, len(jobs), _ROWS), 1):
        rows = {}
        for job in jobs[start : start + _ROWS]:
            video = job.folder / "result.mp4"
            if video.is_file():
                rows[job.folder.name] = _row(media.read_video(video)[0], notes)
        if rows:
            names.append("contact_sheet.png" if page == 1 else f"contact_sheet_{page}.png")
            with replace_file(folder / names[-1]) as partial:
                pictures.contact_sheet(partial, rows)
    return names


def _row(video: np.ndarray, notes: SamplingNotes, columns: int = 9) -> np.ndarray:
    """Some pictures of a video, in the size that all rows have."""
    width = min(notes.width, 256)
    size = width, max(1, round(notes.height * width / notes.width))
    chosen = video[np.round(np.linspace(0, len(video) - 1, columns)).astype(int)]
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in chosen])
