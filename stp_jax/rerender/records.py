"""What a result is made from, so that a later run knows whether it may go on; and one run at a time."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stp_jax.controls import camera_files
from stp_jax.controls.formats import colmap
from stp_jax.errors import InputError
from stp_jax.media import sequences
from stp_jax.weights.adapters import parse_lora

OF_RUN = ("jobs", "list", "dry_run")  # flags that change no result
_FILES = ("video", "camera", "source_cameras", "keyframes", "animation_time")
_HASHED = 1 << 20  # bytes of a file that are compared


def record(flags: argparse.Namespace) -> dict[str, Any]:
    """What a job is made from: its flags, and what is known of its files, see `_content`."""
    asked = {
        name: value
        for name, value in vars(flags).items()
        if name not in ("out", *OF_RUN) and value is not None and value is not False
    }
    files = {f"file of {name}": _content(name, str(asked[name])) for name in _FILES if name in asked}
    for lora in map(parse_lora, flags.lora or ()):
        files[f"file of lora {lora.path}"] = _content("lora", str(lora.path))
    files = {name: content for name, content in files.items() if content is not None}
    return json.loads(json.dumps(asked | files))


def _content(flag: str, text: str) -> list | None:
    """Size and checksum of what a flag names: a file, a COLMAP model, a sequence of pictures; None: neither.

    Of a sequence, these are the number of its pictures, and a checksum of their names and sizes.
    """
    path = Path(camera_files.choice(text)[0])
    path = colmap.find(path) or path if path.is_dir() else path
    if path.is_file():
        with path.open("rb") as file:
            return [path.stat().st_size, hashlib.sha256(file.read(_HASHED)).hexdigest()]
    sequence = sequences.find(text) if flag == "video" else text
    if not isinstance(sequence, sequences.PictureSequence):
        return None
    pictures = [(file.name, file.stat().st_size) for file in sequence.files]
    return [len(pictures), hashlib.sha256(json.dumps(pictures).encode()).hexdigest()]


def of_weights(path: str) -> list:
    """What is known of the files of a model without reading them whole: names, sizes, and how each begins."""
    root = Path(path)
    files = [root] if root.is_file() else sorted(one for one in root.iterdir() if one.is_file())
    digest = hashlib.sha256()
    for one in files:
        with one.open("rb") as file:
            digest.update(json.dumps([one.name, one.stat().st_size]).encode() + file.read(_HASHED))
    return [len(files), digest.hexdigest()]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for one run at a time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise InputError(f"another run works in {folder}: wait for it, or choose another --out.") from None
    except OSError as error:
        if error.filename is None or Path(error.filename).parent not in (folder, folder.parent):
            raise
        raise InputError(f"the folder {folder} cannot be written ({error.strerror}).") from None
