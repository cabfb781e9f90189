"""Sequences of pictures: a folder, or a pattern such as `frame_%04d.png`, `frame_####.exr`, `*.jpg`."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stp_jax.errors import InputError
from stp_jax.media import decode
from stp_jax.media.colour import Notes

#: pictures per second where nobody says, as in film
FPS = 24.0
PICTURES = (
    *(".png", ".jpg", ".jpeg", ".exr", ".tif", ".tiff", ".bmp", ".webp", ".dpx", ".tga"),
    *(".avif", ".heic", ".heif", ".hdr"),
)
_PLACEHOLDER = re.compile(r"%(?:0?(\d*))d|(#+|@+)")
_WILDCARD = re.compile(r"[*?]")


@dataclass(frozen=True)
class PictureSequence(os.PathLike):
    """Pictures that follow each other at a constant rate.

    Attributes:
      name: the folder or pattern that it was given as.
      files: in their order, at least one.
      fps: pictures per second.
      notes: remarks on how they were found, to print.
    """

    name: str
    files: tuple[Path, ...]
    fps: float
    notes: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name

    def stamps(self) -> np.ndarray:
        """Seconds of every picture after the first one, float64 [F]."""
        return np.arange(len(self.files)) / self.fps

    def frames(self, end: float = np.inf, notes: Notes | None = None) -> decode.TimedFrames:
        """As `stp_jax.media.decode.frames`; a file is opened when its picture is made.

        The functions raise `InputError` for a picture that is damaged or of another size than the first.
        """
        notes = {} if notes is None else notes
        notes.update(dict.fromkeys(self.notes))
        sizes: dict[str, tuple[int, ...]] = {}

        def picture(file: Path) -> np.ndarray:
            made = _only_picture(file, notes)
            first, size = next(iter(sizes.items()), (file.name, made.shape))
            if size != made.shape:
                (h, w, _), (h0, w0, _) = made.shape, size
                raise InputError(
                    f"{file} is {w} x {h}, and {first} is {w0} x {h0}: bring all pictures to one size."
                )
            sizes[file.name] = made.shape
            return made

        return _timed(self, picture, end)


def _timed(
    sequence: PictureSequence, picture: Callable[[Path], np.ndarray], end: float
) -> Generator[tuple[float, Callable[[], np.ndarray]], None, None]:
    for seconds, file in zip(sequence.stamps().tolist(), sequence.files, strict=True):
        yield seconds, lambda file=file: picture(file)  # type: ignore[misc]
        if seconds > end:
            return


def _only_picture(file: Path, notes: Notes) -> np.ndarray:
    timed = decode.frames(file, notes=notes)
    try:
        return next(timed)[1]()
    finally:
        timed.close()


def find(path: str | os.PathLike, fps: float | None = None) -> str | os.PathLike:
    """The sequence that a folder or a pattern means; a path that is neither, as it is.

    A file of that very name is no pattern. In a folder, and where a pattern has a placeholder (`%04d`,
    `####`), names may differ in one number alone, whose steps must be equal: none may be missing. A wildcard
    (`*`, `?`) takes what there is, in the order of its numbers.

    Args:
      fps: pictures per second; None: `FPS`.

    Raises:
      InputError: no pictures, several kinds, several sequences, missing numbers.
    """
    if isinstance(path, PictureSequence):
        return path
    text = os.fspath(path)
    kind = _kind(text)
    if kind == "file":
        return path
    found, notes = _in_folder(Path(text)) if kind == "folder" else _of_pattern(text)
    if fps is None and len(found) > 1:
        notes.append(f"pictures at {FPS:g} a second; --fps says another rate")
    return PictureSequence(text, tuple(found), fps or FPS, tuple(notes))


def _kind(text: str) -> Literal["folder", "pattern", "file"]:
    """What a path means, without reading any file."""
    if os.path.isdir(text):
        return "folder"
    if os.path.exists(text) or "://" in text or not (_PLACEHOLDER.search(text) or _WILDCARD.search(text)):
        return "file"
    return "pattern"


def title(path: str | os.PathLike) -> str:
    """A short name of a video, a folder or a pattern: what its number has before it, or its folder's name."""
    text = os.fspath(path)
    kind = _kind(text)
    if kind == "file":
        return os.path.basename(text)
    if kind == "folder":
        return os.path.basename(os.path.abspath(text))
    start = re.split(r"[%#@*?]", os.path.basename(text))[0].strip("_-. ")
    return start or os.path.basename(os.path.abspath(os.path.dirname(text) or "."))


def _in_folder(folder: Path) -> tuple[list[Path], list[str]]:
    files = [Path(entry.path) for entry in _entries(folder) if Path(entry.name).suffix.lower() in PICTURES]
    if not files:
        raise InputError(
            f"{folder} is a folder without pictures: give a video, or a folder of {', '.join(PICTURES[:5])}."
        )
    kinds = sorted({file.suffix.lower() for file in files})
    if len(kinds) > 1:
        raise InputError(
            f"{folder} has {' and '.join(kinds[:3])} pictures: choose one kind, as '{folder}/*{kinds[0]}'."
        )
    return _numbered(files, str(folder / f"*{files[0].suffix}"))


def _of_pattern(text: str) -> tuple[list[Path], list[str]]:
    folder, name = os.path.split(text)
    if _PLACEHOLDER.search(folder) or _WILDCARD.search(folder) or not name:
        raise InputError(f"{text}: only the name of the files may have a pattern, not their folder.")
    placeholders = list(_PLACEHOLDER.finditer(name))
    wild = _WILDCARD.search(name)
    if len(placeholders) > 1 or (placeholders and wild):
        raise InputError(f"{text} has several placeholders: give one, as frame_%04d.png, or wildcards (*).")
    names = [entry.name for entry in _entries(Path(folder or "."))]
    if wild:
        matching = [one for one in names if fnmatch.fnmatchcase(one, name.replace("[", "[[]"))]
        matching = [one for one in matching if Path(one).suffix.lower() in PICTURES]
    else:
        before, after = name[: placeholders[0].start()], name[placeholders[0].end() :]
        digits = placeholders[0][1] or len(placeholders[0][2] or "1")
        number = re.compile(rf"{re.escape(before)}\d{{{int(digits)},}}{re.escape(after)}")
        matching = [one for one in names if number.fullmatch(one)]
    if not matching:
        near = next((one for one in sorted(names) if Path(one).suffix.lower() in PICTURES), None)
        there = f"its folder has {near}, for example" if near else "its folder has no pictures"
        raise InputError(f"{text}: no picture has such a name; {there}.")
    files = [Path(folder, one) for one in matching]
    if not wild:
        return _numbered(files, str(Path(folder, f"{before}*{after}")))
    files.sort(key=_natural)
    return files, []


def _entries(folder: Path) -> list[os.DirEntry]:
    """Files that are not hidden."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.is_file()]
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be read ({error.strerror}).") from None


def _split(file: Path) -> list[str]:
    """Texts and numbers of a name in turn, a text first."""
    return re.split(r"(\d+)", file.name)


def _natural(file: Path) -> tuple[list[str], list[int], str]:
    parts = _split(file)
    return parts[::2], [int(part) for part in parts[1::2]], file.name


def _numbered(files: Sequence[Path], wild: str) -> tuple[list[Path], list[str]]:
    """Files of one sequence by their number, and remarks. `wild` is the pattern that takes them all."""
    files = sorted(files, key=_natural)
    if len(files) == 1:
        return files, []
    as_they_are = f"'{wild}' takes all in the order of their names"
    parts = [_split(file) for file in files]
    other = next((i for i, part in enumerate(parts) if part[::2] != parts[0][::2]), None)
    if other is not None:
        raise InputError(
            f"{files[0].parent}: {files[0].name} and {files[other].name} are of different sequences: give "
            f"one as a pattern, as {_pattern(files[0], parts[0])}; {as_they_are}."
        )
    numbers = np.array([[int(number) for number in part[1::2]] for part in parts], object)
    varying = [column for column in range(numbers.shape[1]) if len(set(numbers[:, column])) > 1]
    if len(varying) > 1:
        raise InputError(
            f"{files[0].parent}: names such as {files[0].name} and {files[-1].name} differ in several "
            f"numbers; {as_they_are}."
        )
    values = numbers[:, varying[0]].tolist() if varying else [0] * len(files)
    return files, _check_steps(files, values, as_they_are)


def _pattern(file: Path, parts: list[str]) -> str:
    """A pattern for the files that differ from this one in its last number."""
    last = len(parts) - 2
    if last < 1:
        return f"'{file}'"
    parts = [*parts[:last], "#" * len(parts[last]), *parts[last + 1 :]]
    return f"'{file.with_name(''.join(parts))}'"


def _check_steps(files: Sequence[Path], values: Sequence[int], as_they_are: str) -> list[str]:
    """Raises `InputError` unless the ascending numbers of files have one step; says so if it is not 1."""
    steps = [after - before for before, after in zip(values, values[1:], strict=False)]
    if 0 in steps:
        at = steps.index(0)
        raise InputError(
            f"{files[at].parent}: {files[at].name} and {files[at + 1].name} have one number: remove one; "
            f"{as_they_are}."
        )
    step = min(steps)
    gaps = [i for i, one in enumerate(steps) if one != step]
    if gaps:
        missing = sum(steps[i] // step - 1 for i in gaps)
        first = values[gaps[0]] + step
        more = f" and {missing - 1} more" if missing > 1 else ""
        raise InputError(
            f"{files[0].parent}: number {first} is missing{more}, between {files[gaps[0]].name} and "
            f"{files[gaps[0] + 1].name}: complete it; {as_they_are}."
        )
    return [f"every {_ordinal(step)} number, as the files are"] if step > 1 else []


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
