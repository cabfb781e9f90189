"""Reading a user's input: files of numbers, and names that may be misspelt.

Files may be damaged, lie about their size or be of another kind than their name says: limits are checked
before anything of that size is allocated.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import lzma
import math
import os
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stp_jax.errors import InputError
from stp_jax.files import read_json

TEXT_BYTES = 16 << 20  # of a .json or a text: 50,000 poses
ARRAY_BYTES = 64 << 20  # of an array, unpacked
HEADER_BYTES = 1024  # of an array: type and shape take 128
MOST_ROWS = 100_000  # frames of a file

_NEAR = 0.72  # how alike a name and its misspelling are, from 0 to 1
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
# What numpy and zipfile raise for files that are not what their name says.
_DAMAGED = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    SyntaxError,
    tokenize.TokenError,
    OverflowError,
    RecursionError,
    MemoryError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def unknown(
    what: str, name: str, known: Iterable[str], others: Mapping[str, str] | None = None
) -> InputError:
    """The error for a name that is not among the known ones: suggests the nearest, or lists them all.

    Args:
      others: names that people know such a thing by elsewhere, and what it is called here.
    """
    known = list(known)
    plain = name[:100].lower().replace("-", "_").replace(" ", "_")  # the search is slow
    meant = (others or {}).get(plain)
    near = [meant] if meant else _nearest(plain, known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"
    return InputError(f"unknown {what} {short(name)}: {hint}")


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    """Three known names at most that `name` may mean: some of their words, or misspelt."""
    words = {word for word in name.split("_") if len(word) > 2}
    shared = {one: len(words & set(one.split("_"))) for one in known}
    scores = {one: difflib.SequenceMatcher(None, name, one).ratio() for one in known}
    most, best = max(shared.values(), default=0), max(scores.values(), default=0)
    if best >= _NEAR and not 0 < len(words) == most:
        return sorted((one for one in scores if scores[one] > best - 0.1), key=lambda one: -scores[one])[:3]
    return [one for one in shared if shared[one] == most > 0][:3]


def short(text: str, most: int = 80) -> str:
    """`repr(text)`, for a message of one line; the middle of a long text is left out."""
    return repr(text if len(text) <= most else f"{text[: most - 20]} ... {text[-15:]}")


def shown(path: str | os.PathLike) -> str:
    """A path as it is, for a message; one that would not be a line of text as `short` has it."""
    text = str(path)
    return text if text.isprintable() and len(text) <= 500 else short(text)


def number(text: str) -> float | None:
    """The finite number that `text` spells, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_file_name(text: str, file_types: tuple[str, ...]) -> bool:
    """Whether `text` means a file: by its ending, by a folder in front of it, or because it exists.

    Endings of other kinds of files count, too (`path.txt`), but not fractions (`orbit_left:22.5`).
    """
    return (
        Path(text).suffix.lower() in file_types
        or re.search(r"\w\.[A-Za-z]\w{0,4}$", text) is not None
        or os.sep in text
        or os.path.exists(text)
    )


def load(
    path: str | os.PathLike,
    file_types: tuple[str, ...],
    *,
    names: Collection[str] = (),
    text_bytes: int = TEXT_BYTES,
) -> Any:
    """Reads a file of numbers by its ending.

    Returns the value of a .json, the array of a .npy, the arrays by name of a .npz, the text of other types.

    Args:
      names: of the arrays of a .npz that are read; its others are not looked at.
      text_bytes: the largest .json or text that is read.

    Raises:
      InputError: no such file, empty, too large, unreadable or truncated, or its ending is not among
        `file_types`.
    """
    kind = Path(path).suffix.lower()
    with _opening(path, file_types) as size:
        path = Path(path)
        if kind == ".json":
            return read_json(path, most=text_bytes)
        if kind not in (".npy", ".npz"):
            if size > text_bytes:
                raise InputError(
                    f"{shown(path)}: {size:,} bytes are too many; at most {text_bytes:,} are read"
                )
            return path.read_text(encoding="utf-8-sig")
        with path.open("rb") as file:
            return _array(file, size) if kind == ".npy" else _arrays(file, size, names)[0]


def load_arrays(
    path: str | os.PathLike,
    *,
    names: Collection[str],
    shapes: Collection[str] = (),
    firsts: Collection[str] = (),
    most: int | None = ARRAY_BYTES,
) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """The arrays of a .npz that are in `names`, and something of others, whatever their size.

    Args:
      shapes: of these the shapes.
      firsts: of these the first entry along the first axis, of numbers stored by rows; other axes of 1 before
        it do not count.
      most: bytes of an array, unpacked. None: of files that are written without compression, their own size.

    Raises:
      InputError: as `load`.
    """
    with _opening(path, (".npz",)) as size, Path(path).open("rb") as file:
        return _arrays(file, size, names, shapes, firsts, most=size if most is None else most)


@contextlib.contextmanager
def _opening(path: str | os.PathLike, file_types: tuple[str, ...]) -> Iterator[int]:
    """Yields the bytes of a file; what fails while it is read becomes an `InputError`."""
    if _URL.match(str(path)):
        raise InputError(
            f"{shown(path)}: is an address, and files are read from this machine: download it first"
        )
    try:
        yield _size(Path(path), file_types)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(path)}: is not a text in UTF-8") from error
    except _TooLarge as error:
        raise InputError(f"{shown(path)}: {error}") from error
    except _DAMAGED as error:
        kind = Path(path).suffix.lower()
        raise InputError(f"{shown(path)}: is not a valid {kind} file; it may be truncated") from error


def _size(path: Path, file_types: tuple[str, ...]) -> int:
    """Bytes of a file that can be read; raises `InputError` for what is none."""
    expected = f"expected {', '.join(file_types)}"
    if os.path.isdir(path):
        raise InputError(
            f"{shown(path)}: is a folder; {expected.replace('expected', 'expected a file of type')}"
        )
    if not os.path.exists(path):
        raise InputError(f"{shown(path)}: no such file")
    if not os.path.isfile(path):
        raise InputError(f"{shown(path)}: is not a file")
    if path.suffix.lower() not in file_types:
        raise InputError(f"{shown(path)}: files of this type are not read; {expected}")
    size = os.path.getsize(path)
    if not size:
        raise InputError(f"{shown(path)}: the file is empty")
    return size


class _TooLarge(Exception):
    """What a file says of its size is more than is read."""


def _array(file: Any, size: int, most: int = ARRAY_BYTES) -> np.ndarray:
    """The array of a .npy of this number of bytes; its header is checked before anything is allocated."""
    shape, columns_first, dtype = _header(file)
    if dtype.kind not in "iuf":
        raise ValueError(f"numbers of type {dtype}")
    needed = math.prod(shape) * dtype.itemsize
    if needed > most:
        raise _TooLarge(f"an array of {needed:,} bytes is too large; at most {most:,} are read")
    if needed > size - file.tell():
        raise ValueError("truncated")
    array = np.frombuffer(file.read(needed), dtype)
    return array.reshape(shape, order="F" if columns_first else "C")


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type of the array of a .npy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers of Python 2
        version, start = np.lib.format.read_magic(file), file.tell()
        if int.from_bytes(file.read(2 if version == (1, 0) else 4), "little") > HEADER_BYTES:
            raise ValueError("a header that is too long")
        file.seek(start)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, columns_first, dtype = header[version](file)
    if any(length < 0 for length in shape):
        raise ValueError("a negative length")
    return shape, columns_first, dtype


def _arrays(
    file: Any,
    size: int,
    names: Collection[str],
    shapes: Collection[str] = (),
    firsts: Collection[str] = (),
    most: int = ARRAY_BYTES,
) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """The named arrays of a .npz, the shapes of others, and the first entries of others."""
    _check_directory(file, size)
    arrays: dict[str, np.ndarray] = {}
    found: dict[str, tuple[int, ...]] = {}
    first: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in shapes:
                with archive.open(member) as opened:
                    start = io.BytesIO(opened.read(HEADER_BYTES + 16))
                found[name] = _header(start)[0]
            if name in firsts:
                with archive.open(member) as opened:
                    entry = _first_entry(opened)
                first |= {} if entry is None else {name: entry}
            if name not in names:
                continue
            if member.file_size > most + (1 << 16):
                raise _TooLarge(
                    f"its {name!r} of {member.file_size:,} bytes is too large; at most {most:,} are read"
                )
            data = archive.read(member)  # no more than it declares
            arrays[name] = _array(io.BytesIO(data), len(data), most)
    return arrays, found, first


def _first_entry(file: Any) -> np.ndarray | None:
    """The first entry of the array of a .npy; None where it is not one of numbers, by rows."""
    start = io.BytesIO(file.read(HEADER_BYTES + 16))
    shape, columns_first, dtype = _header(start)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    needed = math.prod(shape[1:]) * dtype.itemsize
    if columns_first or dtype.kind not in "iuf" or not shape or not shape[0] or not 0 < needed <= ARRAY_BYTES:
        return None
    data = start.read(needed)
    data += file.read(needed - len(data))
    if len(data) != needed:
        raise ValueError("truncated")
    return np.frombuffer(data, dtype).reshape(shape[1:])


def _check_directory(file: Any, size: int) -> None:
    """Refuses zip files whose list of members, which is read as a whole, is not small."""
    tail = min(size, (1 << 16) + 22)
    file.seek(size - tail)
    end = file.read(tail)
    at = end.rfind(b"PK\5\6")
    if at < 0 or len(end) < at + 22 or b"PK\6\7" in end[max(at - 20, 0) : at]:
        raise zipfile.BadZipFile("truncated")
    (directory,) = struct.unpack_from("<I", end, at + 12)
    if directory > 1 << 16:
        raise _TooLarge("it has too many arrays")
    file.seek(0)


def numbers(value: Any) -> np.ndarray | None:
    """Nested lists of numbers as an array; None where they are ragged or hold something else."""
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind in "iuf" else None
    if _shape(value) is None:
        return None
    try:
        return np.asarray(value, np.float64)
    except (ValueError, OverflowError):  # whole numbers beyond every float
        return None


def _shape(value: Any, depth: int = 0) -> tuple[int, ...] | None:
    """The shape of nested lists of numbers, or None: numpy would pad texts to the length of the longest."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return ()
    if isinstance(value, np.ndarray):
        return value.shape if value.dtype.kind in "iuf" else None
    if isinstance(value, (np.integer, np.floating)):
        return ()
    if not isinstance(value, (list, tuple)) or depth > 4:
        return None
    inner = _shape(value[0], depth + 1) if value else ()
    if inner is None or any(_shape(item, depth + 1) != inner for item in value[1:]):
        return None
    return (len(value), *inner)


def table(value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Turns a list or array of one item per frame into float64 [F, *shape].

    Raises:
      InputError: naming `where` and the frame, for items of another shape or that are not numbers.
    """
    listed = value.ndim > 0 if isinstance(value, np.ndarray) else isinstance(value, list)
    if not listed or not len(value):
        raise InputError(f"{where}: expected a list with an entry for each frame")
    if len(value) > MOST_ROWS:
        raise InputError(f"{where}: {len(value):,} entries are too many; at most {MOST_ROWS:,} are read")
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.shape[1:] == shape:
        return value.astype(np.float64)
    rows = []
    for frame, item in enumerate(value):
        row = numbers(item)
        if row is None or row.shape != shape:
            wanted = f"{' x '.join(map(str, shape))} numbers" if shape else "a number"
            found = "something else" if row is None else f"shape {list(row.shape)}"
            raise InputError(f"{where}: frame {frame}: expected {wanted}, found {found}")
        rows.append(row.astype(np.float64))
    return np.stack(rows)
