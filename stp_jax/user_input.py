"""Reading a user's input: files of numbers, and names that may be misspelt."""

from __future__ import annotations

import difflib
import math
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from stp_jax.errors import InputError
from stp_jax.files import read_json


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the known ones: suggests the nearest, or lists them all."""
    known = list(known)
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"
    return InputError(f"unknown {what} {name!r}: {hint}")


def number(text: str) -> float | None:
    """The finite number that `text` spells, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_file_name(text: str, file_types: tuple[str, ...]) -> bool:
    """Whether `text` means a file: by its ending, by a folder in front of it, or because the file exists."""
    return Path(text).suffix.lower() in file_types or os.sep in text or os.path.isfile(text)


def load(path: str | os.PathLike, file_types: tuple[str, ...]) -> Any:
    """Reads a file by its ending.

    Returns the value of a .json, the array of a .npy, the arrays by name of a .npz, the text of other types.

    Raises:
      InputError: no such file, empty, unreadable or truncated, or its ending is not among `file_types`.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder; expected a file of type {', '.join(file_types)}")
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file")
    if kind not in file_types:
        raise InputError(f"{path}: files of this type are not read; expected {', '.join(file_types)}")
    if os.path.getsize(path) == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        if kind == ".json":
            return read_json(path)
        if kind not in (".npy", ".npz"):
            return path.read_text(encoding="utf-8-sig")
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as arrays:
            return dict(arrays)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not a text in UTF-8") from error
    except InputError:
        raise
    except (ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: is not a valid {kind} file; it may be truncated") from error


def numbers(value: Any) -> np.ndarray | None:
    """Nested lists of numbers as an array; None where they are ragged or hold something else."""
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "iuf" else None


def table(value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Turns a list or array of one item per frame into float64 [F, *shape].

    Raises:
      InputError: naming `where` and the frame, for items of another shape or that are not numbers.
    """
    if isinstance(value, np.ndarray) and value.ndim:
        value = list(value)
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: expected a list with an entry for each frame")
    rows = []
    for frame, item in enumerate(value):
        row = numbers(item)
        if row is None or row.shape != shape:
            wanted = f"{' x '.join(map(str, shape))} numbers" if shape else "a number"
            found = "something else" if row is None else f"shape {list(row.shape)}"
            raise InputError(f"{where}: frame {frame}: expected {wanted}, found {found}")
        rows.append(row.astype(np.float64))
    return np.stack(rows)
