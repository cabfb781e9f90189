"""Atomic writing of files (complete or absent), lines of JSON, and the cache folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError


@contextlib.contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a partial path beside `path`, of its suffix, that becomes `path` when the block ends well.

    An older file of that name is replaced; if the block fails it stays, and the partial one is removed.

    Raises:
      OSError: it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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


def cache_folder(*names: str) -> Path:
    """This program's folder in the user's cache folder, or a subfolder; it may not exist yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "stp_jax", *names)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file such as metrics.jsonl; one that is cut, as the last may be, is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
