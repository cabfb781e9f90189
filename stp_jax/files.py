"""Atomic writing of files (complete or absent), reading of JSON and arrays, and the cache folder."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import stat
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stp_jax.errors import InputError

MOST_JSON = 512 * 2**20  # bytes of a JSON file; poses of 120 cameras at 120 moments take 5 MB
MOST_HEADER = 2**16  # bytes of the header of a .npy file; a damaged one may claim 4 GB
MOST_NESTED = 64  # lists and objects within each other


@contextlib.contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a partial path beside `path`, of its suffix, that becomes `path` when the block ends well.

    An older file of that name is replaced; if the block fails it stays, and the partial one is removed.

    Raises:
      OSError: it cannot be written; its `filename` is `path`.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with naming(path, partial):
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | os.PathLike, partial: str | os.PathLike | None = None) -> Iterator[None]:
    """Gives an `OSError` that names no file, or `partial`, the name of `path`: writing knows no names."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(partial)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """As `replace_file`, but `path` must not exist.

    Raises:
      InputError: `path` exists, or its folder does not or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise InputError(f"{path} exists already and is not overwritten: choose another name.")
    try:
        with replace_file(path) as partial:
            yield partial
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


def size_text(size: float) -> str:
    """A number of bytes with three digits and its unit, such as `12.3 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 99.95 else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def cache_folder(*names: str) -> Path:
    """This program's folder in the user's cache folder, or a subfolder; it may not exist yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "stp_jax", *names)


def read_json(path: str | os.PathLike, kind: type | None = None, *, most: int = MOST_JSON) -> Any:
    """The value of a JSON file in UTF-8.

    Args:
      kind: `dict` or `list`, which the value must be. None: any.
      most: bytes that the file may have.

    Raises:
      InputError: no such file, larger than `most`, not readable, not JSON, nested deeper than MOST_NESTED, or
        of another kind. The message is one line that begins with the file's name.
    """
    path = Path(path)
    try:
        size = file_size(path)
        if size > most:
            raise InputError(f"{path}: {size:,} bytes; a JSON file may have {most:,}")
        return parse_json(path.read_bytes(), str(path), kind)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error  # a name with a NUL
        raise InputError(f"{path}: cannot be read ({reason})") from None


def file_size(path: str | os.PathLike) -> int:
    """Bytes of a file. Raises `OSError` for a folder, and for pipes and devices, which may have no end."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is not a file", str(path))
    return found.st_size


def parse_json(data: bytes, where: str, kind: type | None = None) -> Any:
    """The value of JSON in UTF-8, as `read_json`; errors begin with `where`."""
    if not data.strip():
        raise InputError(f"{where}: the file is empty")
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{where}: is not a text in UTF-8") from None
    except RecursionError:
        raise InputError(f"{where}: nested deeper than {MOST_NESTED} levels") from None
    except MemoryError:
        raise InputError(f"{where}: too large for the memory") from None
    except ValueError as error:
        raise InputError(f"{where}: broken or truncated JSON ({error})") from None
    if data.count(b"[") + data.count(b"{") > MOST_NESTED and _depth(value) > MOST_NESTED:
        raise InputError(f"{where}: nested deeper than {MOST_NESTED} levels")
    if kind is not None and not isinstance(value, kind):
        raise InputError(f"{where}: must hold {'an object, {..}' if kind is dict else 'a list, [..]'}")
    return value


def _depth(value: Any) -> int:
    """How deep lists and objects are nested, counted up to one more than MOST_NESTED."""
    level, depth = [value], 0
    while depth <= MOST_NESTED:
        level = [one for one in level if isinstance(one, (dict, list))]
        if not level:
            break
        level = [item for one in level for item in (one.values() if isinstance(one, dict) else one)]
        depth += 1
    return depth


def read_json_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The objects in the lines of a file such as metrics.jsonl.

    Damaged lines are left out, as the last may be cut. Raises `InputError` where the file cannot be read.
    """
    lines = []
    try:
        file_size(path)
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for text in data.split(b"\n"):
        with contextlib.suppress(InputError):
            lines.append(parse_json(text, str(path), dict))
    return lines


def array_header(path: str | os.PathLike) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape and dtype of a .npy file in C order, and where its numbers begin; its size is checked.

    Raises:
      InputError: the file cannot be read, is damaged or truncated, or holds something else.
    """
    try:
        file_size(path)
        with open(path, "rb") as file:
            head, size = io.BytesIO(file.read(MOST_HEADER)), os.fstat(file.fileno()).st_size
        version = np.lib.format.read_magic(head)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(head)
        start = head.tell()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError, SyntaxError, EOFError):
        raise InputError(f"{path}: is not a .npy file, or its header is damaged") from None
    except tokenize.TokenError:
        raise InputError(f"{path}: is not a .npy file, or its header is damaged") from None
    if max(shape, default=0) >= 2**48 or len(shape) > 32:  # numbers that nobody wants to read in a message
        raise InputError(f"{path}: is not a .npy file, or its header is damaged")
    wanted = start + dtype.itemsize
    for length in shape:  # Python's integers do not overflow
        wanted += (wanted - start) * (length - 1)
    if fortran or dtype.kind not in "biuf" or not shape or min(shape) < 1:
        raise InputError(f"{path}: holds an array of another kind ({dtype}, {list(shape)})")
    if size != wanted:
        raise InputError(f"{path}: has {size:,} bytes, and its header means {wanted:,}: truncated or damaged")
    return shape, dtype, start


def map_array(
    path: str | os.PathLike, shape: Sequence[int], dtype: Any, mode: Literal["r", "r+"] = "r"
) -> np.memmap:
    """Maps a .npy file of this shape and dtype into memory; its length is never changed.

    Raises:
      InputError: see `array_header`; it has another shape or dtype.
    """
    found, kind, start = array_header(path)
    if found != tuple(shape) or kind != np.dtype(dtype):
        raise InputError(f"{path}: {kind} {list(found)}, not {np.dtype(dtype)} {list(shape)}")
    try:
        return np.memmap(path, kind, mode, start, found)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from None
