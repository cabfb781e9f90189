"""A long video as sample.py makes it: going on where it was stopped, a preview, and its results.

In the folder of results there is a folder `windows` until all is written: what each window leaves (`Pieces`),
its frames as a video for the preview, and what they are made from. `preview.mp4` shows the finished windows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stp_jax import media
from stp_jax.errors import InputError
from stp_jax.files import read_json, replace_file
from stp_jax.media import writing
from stp_jax.media.lazy import Pictures
from stp_jax.rerender import progress, results, runs
from stp_jax.rerender.long import LongVideo, Pieces
from stp_jax.rerender.records import locked, of_weights, record
from stp_jax.weights.native import SamplingNotes

if TYPE_CHECKING:
    from stp_jax.rerender.rerenderer import Rerenderer
    from stp_jax.rerender.windows import Windows

WINDOWS, PREVIEW = "windows", "preview.mp4"
_RECORD = "made_from.json"


def made_from(flags: argparse.Namespace) -> dict[str, Any]:
    """What a long video is made from, see `record`; the model, too."""
    return record(flags) | {"file of weights": of_weights(flags.weights)}


def going_on(flags: argparse.Namespace, notes: SamplingNotes) -> Callable[[Path], bool]:
    """Whether a folder has the beginning of the long video that is asked for.

    With `--out` the result raises `InputError` for one that has the beginning of another.
    """
    if flags.dry_run or not runs.is_long(flags, notes):
        return lambda folder: False
    wanted = made_from(flags)

    def same(folder: Path) -> bool:
        path = folder / WINDOWS / _RECORD
        if not path.is_file():
            return False
        found = read_json(path, dict)
        differing = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
        if differing and flags.out is not None:
            raise InputError(
                f"--out {folder} has the beginning of a video with another {', '.join(differing)}: give the "
                "same flags and files to go on, or choose a new folder."
            )
        return not differing

    return same


def unfinished(folder: Path, job: dict[str, Any]) -> bool:
    """Whether a folder has windows of the long video of a job, see `record`."""
    path = folder / WINDOWS / _RECORD
    with contextlib.suppress(InputError):
        return path.is_file() and job.items() <= read_json(path, dict).items()
    return False


def make(folder: Path, model: Rerenderer, planned: runs.Plan, flags: argparse.Namespace) -> None:
    """Makes the windows that are missing, and writes all results.

    Raises:
      InputError: as `Rerenderer`; something cannot be written, as on a full disk: what was made stays.
    """
    windows, request = planned.windows, planned.request
    assert windows is not None
    pieces = Pieces(folder / WINDOWS)
    with locked(pieces.folder):
        with results.saying_what_is_there(folder), replace_file(pieces.folder / _RECORD) as partial:
            partial.write_text(json.dumps(made_from(flags), indent=1) + "\n")
        source, target = request.in_world()
        if target.c2w is None:  # the source's path, frame by frame
            path = request.target
            c2w = (request.world @ path.c2w.astype(np.float64)).astype(np.float32)
            target = path._replace(c2w=c2w)
        video = LongVideo(
            model,
            windows,
            request.clip.frames.__getitem__,
            source,
            target,
            pieces,
            seed=flags.seed,
            prompt=flags.prompt or "",
            negative_prompt=flags.negative_prompt,
            **({} if flags.distance is None else {"distance": flags.distance}),
        )
        _make_windows(folder, video, pieces, windows, runs.enlarged(flags, model.notes), planned.fps)
        _clear(folder)
        forwards = sum(int(pieces.read(window, "forwards")) for window in range(len(windows.starts)))
        print(runs.forwards(model, forwards, len(windows.starts)))
        runs.write(folder, model, planned, flags, _joined(pieces, windows), forwards)
    shutil.rmtree(pieces.folder)
    (folder / PREVIEW).unlink(missing_ok=True)


def _make_windows(
    folder: Path, video: LongVideo, pieces: Pieces, windows: Windows, scale: int, fps: float
) -> None:
    count, done = len(windows.starts), pieces.count()
    if done:
        print(f"Going on after window {done} of {count}", flush=True)
    started, first = time.monotonic(), done
    with progress.bar() as show:
        coming = video.make(
            lambda what, share: show(f"window {done + 1}/{count}: {what}", (done + share) / count)
        )
        while done < count:
            with _keeping(folder, done, count):
                window = next(coming)
                _preview(folder, pieces, window, windows, scale, fps)
            done = window + 1
    if done > first:
        seconds = (time.monotonic() - started) / (done - first)
        print(f"{done - first} windows, {seconds:.3g} s each")


@contextlib.contextmanager
def _keeping(folder: Path, done: int, count: int):
    """Errors of writing become an `InputError` that says what stays."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror or error}. The {done} of {count} windows that are "
            f"finished stay in {folder}: the same command goes on after them."
        ) from error


def _preview(folder: Path, pieces: Pieces, window: int, windows: Windows, scale: int, fps: float) -> None:
    """Adds a window to `preview.mp4`."""
    parts = [pieces.folder / f"{number:05d}.mp4" for number in range(window + 1)]
    for number, part in enumerate(parts):
        if not part.is_file():  # also of a window before, where a run was killed before it wrote that
            frames = pieces.read(number, "frames")
            frames = frames if frames.dtype == np.uint8 else writing.to_8_bits(frames)
            try:
                media.write_video(part, results.enlarge(frames, scale) if scale > 1 else frames, fps)
            except InputError as error:
                raise OSError(str(error)) from error
    counts = [windows.new_until(number) - int(windows.starts[number]) for number in range(window + 1)]
    writing.write_joined(folder / PREVIEW, parts, counts, fps)


def _joined(pieces: Pieces, windows: Windows) -> Pictures:
    """The whole video, read from the pieces when it is asked for."""
    ends = np.array([windows.new_until(window) for window in range(len(windows.starts))])
    last: tuple[int, np.ndarray] | None = None

    def read(numbers: np.ndarray) -> np.ndarray:
        nonlocal last
        made = []
        for number in numbers:
            window = int(np.searchsorted(ends, number, side="right"))
            if last is None or last[0] != window:
                last = window, pieces.read(window, "frames")
            made.append(last[1][number - windows.starts[window]])
        return np.stack(made)

    first = pieces.read(0, "frames")
    return Pictures(read, (windows.length, *first.shape[1:]), first.dtype)


def _clear(folder: Path) -> None:
    """Removes results of a run that was stopped while it wrote them."""
    for name in (*results.NAMES, *(form.name for form in writing.FORMS.values())):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
