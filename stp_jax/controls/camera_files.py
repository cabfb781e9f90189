"""Camera paths in files of any supported form; `formats.registry` is the table of them.

A file's type (JSON, arrays, text, a folder) is known by its ending, its form by what it holds.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from stp_jax import user_input
from stp_jax.controls import lenses
from stp_jax.controls.formats import colmap
from stp_jax.controls.formats.base import AXES, POSES, Arrays, CameraFile, Content, Reading, Rows
from stp_jax.controls.formats.own import GRID_CONVENTION
from stp_jax.controls.formats.registry import FORMATS
from stp_jax.errors import InputError

__all__ = ["AXES", "FILE_TYPES", "FORMATS", "GRID_CONVENTION", "POSES", "CameraFile", "Reading"]

FILE_TYPES = (".json", ".npz", ".npy", ".txt", ".tum", ".bin")
_TEXTS = (".txt", ".tum")
_EXPECTED = (
    'expected "c2w" [F x 4 x 4] (camera-to-world, OpenCV axes) and, optional, "intrinsics" [F x 4]; '
    f'a camera_data.json with "convention": "{GRID_CONVENTION}"; or another of the forms that '
    "`python sample.py --list` shows"
)
# Of a .npz: what is read, and what is only looked at.
_ARRAYS = ("c2w", "intrinsics", "frame_numbers", *(name for names in lenses.SIZE_NAMES for name in names))
_ARRAYS += ("cam_c2w", "intrinsic", "extrinsic", "data", "inds")
_PICTURES = ("images",)
_DEPTHS = ("depths", "depth")


def choice(text: str | os.PathLike) -> tuple[str, int | None]:
    """The file's name, and the camera's number if one is chosen, as in `FILE.json:cam05` or `FILE.json:5`."""
    chosen = re.fullmatch(r"(.+):(?:cam)?(\d{1,9})", str(text), re.IGNORECASE | re.DOTALL)
    if chosen and (chosen[1].lower().endswith(".json") or (_exists(chosen[1]) and not _exists(str(text)))):
        return chosen[1], int(chosen[2])
    return str(text), None


def _exists(name: str) -> bool:
    return "\0" not in name and os.path.exists(name)


def load(path: str | os.PathLike, reading: Reading = Reading()) -> CameraFile:  # noqa: B008 (immutable)
    """Reads a file of any form. Raises `InputError` for unreadable files and other forms."""
    found = content(path)
    where, number = found.where, found.camera
    for form in FORMATS:
        if form.matches(found) and (number is None or form.chooses):
            return form.read(found, reading)
    if isinstance(found.data, dict) and {"version", "keyframes"} <= set(found.data):
        raise InputError(f"{where}: is a file of keyframes: give it as --keyframes")
    if number is not None:
        raise InputError(f"{where}: has no cameras to choose from; leave out what follows the file's name")
    raise InputError(f"{where}: no camera path in it; {_EXPECTED}")


def content(path: str | os.PathLike) -> Content:
    """A file as its type says, before its form is known. Raises `InputError` for unreadable files."""
    where, number = choice(path)
    return Content(where, _load(where), number)


def _load(where: str) -> object:
    """What `Content.data` may be."""
    model = colmap.find(Path(where)) if _exists(where) else None
    if model is not None:
        return model
    if _exists(where) and os.path.isdir(where):
        raise InputError(
            f"{user_input.shown(where)}: is a folder without a COLMAP model (images.bin or images.txt); "
            f"expected one, or a file of type {', '.join(FILE_TYPES)}"
        )
    kind = Path(where).suffix.lower()
    if kind == ".npz":
        return Arrays(*user_input.load_arrays(where, names=_ARRAYS, shapes=_PICTURES, firsts=_DEPTHS))
    data = user_input.load(where, FILE_TYPES)
    if kind in _TEXTS:
        return _rows(data, where)
    if isinstance(data, np.ndarray) and data.ndim == 4 and data.shape[0] == 1:
        return data[0]  # of a batch of one
    return data


def _rows(text: str, where: str) -> Rows:
    """The numbers of a text. Raises `InputError` for a line with something else, but for a title."""
    rows: list[np.ndarray] = []
    numbers, title = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        values = [user_input.number(part) for part in re.split(r"[\s,;]+", line.strip(",; "))]
        if any(value is None for value in values):
            if not rows and not title:
                title = line
                continue
            raise InputError(
                f"{where}: line {number}: {user_input.short(line, 60)} is not a line of finite numbers"
            )
        rows.append(np.array(values, np.float64))
        numbers.append(number)
        if len(rows) > user_input.MOST_ROWS:
            raise InputError(f"{where}: more than {user_input.MOST_ROWS:,} lines; at most as many are read")
    if not rows:
        raise InputError(f"{where}: no camera path in it; {_EXPECTED}")
    lengths = [len(row) for row in rows]
    common = max(set(lengths), key=lengths.count)
    odd = [i for i, length in enumerate(lengths) if length != common]
    if len(rows) != 3 and odd:
        raise InputError(
            f"{where}: line {numbers[odd[0]]}: {lengths[odd[0]]} numbers; other lines have {common}"
        )
    return Rows(rows, numbers, title)
