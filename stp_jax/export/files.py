"""The files of an export: safetensors in parts, JSON, and a folder that appears once it is complete."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stp_jax.errors import InputError
from stp_jax.files import size_text
from stp_jax.weights.parts import write_parts

PART_BYTES = 8 * 2**30  # of a safetensors file; larger models are split, with an index


def write_safetensors(
    folder: Path, stem: str, tensors: Iterable[tuple[str, np.ndarray]], part_bytes: int | None = None
) -> None:
    """Writes `stem.safetensors`, or, where it would be larger than a part, parts and their index.

    No more than one part is in host memory at a time.
    """
    total = 0

    def counted() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal total
        for name, array in tensors:
            total += array.nbytes
            yield name, array

    def file_name(i: int, count: int) -> str:
        return f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" if count > 1 else f"{stem}.safetensors"

    limit = part_bytes or PART_BYTES
    files = write_parts(folder, stem, counted(), limit, file_name, {"format": "pt"})
    if len(files) > 1:
        places = {name: file for file, inside in files.items() for name in inside}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        write_json(folder / f"{stem}.safetensors.index.json", index)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON values, indented."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(path: Path, needed: int) -> Iterator[Path]:
    """Yields a temporary folder beside `path` that is renamed to it at the end, or removed on failure.

    Raises:
      InputError: `path` exists or cannot be made; the disk has less than `needed` bytes left.
    """
    given, path = path, path.resolve()  # a link stays one
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"--out {given}: exists and is not empty; name another folder.")
    if path == Path.cwd():
        raise InputError(f"--out {given} is the folder you are in; name another one.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < needed:
            raise InputError(f"--out {path}: {size_text(needed)} are needed, {size_text(free)} are free.")
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(f"--out {path} cannot be written: {error.strerror}.") from None
    try:
        yield temporary
        temporary.chmod(0o755)  # made for its owner alone
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"--out {path} cannot be written: {error.strerror}.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
