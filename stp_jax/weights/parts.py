"""Writes tensors as safetensors files of bounded size."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import ml_dtypes  # noqa: F401  gives numpy its bfloat16
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file


def write_parts(
    folder: Path,
    stem: str,
    tensors: Iterable[tuple[str, np.ndarray]],
    part_bytes: int,
    file_name: Callable[[int, int], str],
    metadata: dict[str, str] | None = None,
) -> dict[str, list[str]]:
    """Writes tensors in their order; files are renamed to their final names when all are written.

    No more than one part is in host memory at a time.

    Args:
      folder: that exists; older files of the same names are replaced.
      stem: of temporary names.
      tensors: name and value; there may be none, then one empty part is written.
      part_bytes: size of a part; a larger tensor has a part of its own.
      file_name: of a part, by its place from 0 on and the number of parts.
      metadata: for the header of each part.

    Returns:
      The names of the tensors in each file, in their order.

    Raises:
      OSError: they cannot be written; nothing is left behind.
    """
    names: list[list[str]] = []
    part: dict[str, np.ndarray] = {}

    def temporary(index: int) -> Path:
        return folder / f"{stem}-{index + 1:05d}.tmp"

    def write_part() -> None:
        names.append(list(part))
        save_part(part, temporary(len(names) - 1), metadata)
        part.clear()

    try:
        for name, array in tensors:
            if part and sum(one.nbytes for one in part.values()) + array.nbytes > part_bytes:
                write_part()
            part[name] = array
        if part or not names:
            write_part()
        files = {file_name(i, len(names)): inside for i, inside in enumerate(names)}
        for i, file in enumerate(files):
            os.replace(temporary(i), folder / file)
    except BaseException:
        for i in range(len(names)):
            temporary(i).unlink(missing_ok=True)
        raise
    return files


def save_part(tensors: dict[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file with the user's default permissions, which the library does not set.

    Raises:
      OSError: it cannot be written.
    """
    try:
        save_file(tensors, str(path), metadata)
    except SafetensorError as error:  # the library's own, of a full disk: "... (os error 28)"
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise OSError(str(error)) from None
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
