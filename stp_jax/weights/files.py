"""Untrusted weights files, read as data: every tensor by its name, memory-mapped, and nothing is executed.

Safetensors files, alone or in parts with an index, and the zip files that `torch.save` writes. PyTorch is not
needed. Nothing of a tensor is read until it is used.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from stp_jax.errors import InputError
from stp_jax.weights.gguf_files import MAGIC, read_gguf
from stp_jax.weights.torch_files import read_torch
from stp_jax.weights.untrusted import AGAIN, DESCRIPTION_BYTES, memory_map, read_json, shown

ENDINGS = (
    ".safetensors",
    ".safetensors.index.json",
    ".pth",
    ".pt",
    ".ckpt",
    ".bin",
    ".bin.index.json",
    ".gguf",
)
SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NAME_LENGTH = 300  # of a tensor


def open_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint by its name, as read-only views of the file (or `Quantised`, of GGUF).

    Args:
      path: a .safetensors file; the .safetensors.index.json of a file in parts; a file that `torch.save`
        wrote (.pth, .pt, .ckpt, .bin) of a dict of tensors, or of one under "state_dict" or the like; a
        .gguf file; a folder with one of these.

    Raises:
      InputError: nothing is there; it is damaged, truncated, or of another form; it tries to run code.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist. Give a weights file.")
    if path.is_dir():
        path = _only_file(path)
    if not path.is_file():
        raise InputError(f"{path} is no file. Give a weights file.")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty (0 bytes). {AGAIN}")
    if path.name.endswith(".index.json"):
        tensors = _read_index(path)
    else:
        start = _start(path)
        if start.startswith(b"PK"):
            tensors = read_torch(path)
        elif start.startswith(MAGIC):
            tensors = read_gguf(path)
        elif path.suffix == ".safetensors" or start[8:9] == b"{":
            tensors = _read_safetensors(path)
        else:
            raise InputError(f"{path} is not a weights file: {_what_it_is(start)}.")
    if not tensors:
        raise InputError(f"{path} holds no tensors. Give a weights file.")
    for name in tensors:
        if len(name) > NAME_LENGTH or not name.isprintable():
            raise InputError(f"{path} is damaged: it has a tensor named {shown(name)}. {AGAIN}")
    return tensors


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The texts in the header of a safetensors file; none of files of another form, or in parts.

    Args:
      path: see `open_tensors`, which must have read it.
    """
    path = _only_file(Path(path)) if Path(path).is_dir() else Path(path)
    if path.name.endswith(".index.json") or _start(path)[8:9] != b"{":
        return {}
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read: {str(error)[:200]}.") from None


def _only_file(folder: Path) -> Path:
    indices = sorted(folder.glob("*.index.json"))
    files = indices or sorted(file for file in folder.iterdir() if file.name.endswith(ENDINGS))
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:4])
        raise InputError(
            f"{folder} holds {'more than one weights file: ' + names if files else 'no weights file'}. "
            f"Give the path of a file that ends in {', '.join(ENDINGS)}."
        )
    return files[0]


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None


def _what_it_is(start: bytes) -> str:
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, saved in its place. Download the file itself"
    if text.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs. Fetch the file itself with `git lfs pull`"
    if start.startswith(b"\x80"):
        return "it is a pickle of an old form. Load and save it once with PyTorch 1.6 or newer"
    return f"it is neither safetensors nor what torch.save writes, or it is damaged. {AGAIN[:-1]}"


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Views of the tensors in the file.

    The library reads and checks the header. Its arrays would be copies, and only of numpy's own types.
    """
    data = memory_map(path)
    length = int.from_bytes(bytes(data[:8]), "little")
    if length > DESCRIPTION_BYTES:
        raise InputError(_what_is_wrong(path, data, "header too large"))
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.offset_keys()}
            entries = {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except (SafetensorError, OSError) as error:
        raise InputError(_what_is_wrong(path, data, str(error))) from None
    tensors = {}
    start = 8 + length  # tensors lie side by side from here on
    for name, (kind, shape) in entries.items():
        if kind not in SAFETENSORS_DTYPES:
            known = ", ".join(SAFETENSORS_DTYPES)
            raise InputError(f"{path}: {name} is of type {kind}; known are {known}.")
        dtype = np.dtype(SAFETENSORS_DTYPES[kind])
        end = start + math.prod(shape) * dtype.itemsize
        try:
            tensors[name] = data[start:end].view(dtype).reshape(shape)
        except (ValueError, OverflowError):  # of sizes that numpy cannot count, or too many axes
            raise InputError(f"{path} is damaged: {shown(name)} has an impossible shape. {AGAIN}") from None
        start = end
    return tensors


def _what_is_wrong(path: Path, data: np.ndarray, error: str) -> str:
    """A line about a file that the library refuses."""
    reason = error.removeprefix("Error while deserializing header: ")
    if reason in ("header too small", "header too large", "invalid header length"):
        if bytes(data[8:9]) != b"{":
            return f"{path} is not a safetensors file: {_what_it_is(bytes(data[:512]))}."
        return f"{path} is truncated: its header is not complete. {AGAIN}"
    if reason.startswith("incomplete metadata"):
        return f"{path} is truncated or damaged: {len(data):,} bytes are not what its header says. {AGAIN}"
    return f"{path} is not a safetensors file, or its header is damaged ({reason[:200]}). {AGAIN}"


def _read_index(path: Path) -> dict[str, np.ndarray]:
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(part, str) for part in places.values()):
        raise InputError(f"{path} is not an index of a model's parts, or is damaged. {AGAIN}")
    parts = sorted(set(places.values()))
    outside = [part for part in parts if not is_file_name(part) or part.endswith(".index.json")]
    if outside:
        raise InputError(f"{path} names {shown(outside[0])}, which is not a part in its own folder.")
    missing = [part for part in parts if not (path.parent / part).is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"{path}: {', '.join(missing[:3])}{more} of its {len(parts)} parts are missing. {AGAIN}"
        )
    tensors: dict[str, np.ndarray] = {}
    for part in parts:
        tensors |= open_tensors(path.parent / part)
    absent = [name for name in places if name not in tensors]
    if absent:
        raise InputError(f"{path} names {absent[0][:200]}, which is in none of its parts. {AGAIN}")
    return tensors


def is_file_name(name: str) -> bool:
    """Whether a name found in a file is that of a file in the same folder, and nothing else."""
    return Path(name).name == name and name.isprintable() and 0 < len(name.encode()) < 250
