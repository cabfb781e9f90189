"""Untrusted weights files, read as data: every tensor by its name, memory-mapped, and nothing is executed.

Safetensors files, alone or in parts with an index, and the zip files that `torch.save` writes. PyTorch is not
needed. Nothing of a tensor is read until it is used.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from stp_jax.errors import InputError

ENDINGS = (".safetensors", ".safetensors.index.json", ".pth", ".pt", ".ckpt", ".bin", ".bin.index.json")
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
TORCH_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Some programs keep the tensors under these keys, beside other things that they save.
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "module")
AGAIN = "Download or copy it again."


def open_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint by its name, as read-only views of the file.

    Args:
      path: a .safetensors file; the .safetensors.index.json of a file in parts; a file that `torch.save`
        wrote (.pth, .pt, .ckpt, .bin) of a dict of tensors, or of one under "state_dict" or the like; a
        folder with one of these.

    Raises:
      InputError: nothing is there; it is damaged, truncated, or of another form; it tries to run code.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist. Give a weights file.")
    if path.is_dir():
        path = _only_file(path)
    if not path.stat().st_size:
        raise InputError(f"{path} is empty (0 bytes). {AGAIN}")
    if path.name.endswith(".index.json"):
        tensors = _read_index(path)
    else:
        start = _start(path)
        if start.startswith(b"PK"):
            tensors = _read_torch(path)
        elif path.suffix == ".safetensors" or start[8:9] == b"{":
            tensors = _read_safetensors(path)
        else:
            raise InputError(f"{path} is not a weights file: {_what_it_is(start)}.")
    if not tensors:
        raise InputError(f"{path} holds no tensors. Give a weights file.")
    return tensors


def _only_file(folder: Path) -> Path:
    indices = sorted(folder.glob("*.index.json"))
    files = indices or sorted(file for file in folder.iterdir() if file.name.endswith(ENDINGS))
    if len(files) != 1:
        shown = ", ".join(file.name for file in files[:4])
        raise InputError(
            f"{folder} holds {'more than one weights file: ' + shown if files else 'no weights file'}. "
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


def _memory_map(path: Path) -> np.ndarray:
    return np.memmap(path, np.uint8, mode="r")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Views of the tensors in the file.

    The library reads and checks the header. Its arrays would be copies, and only of numpy's own types.
    """
    data = _memory_map(path)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.offset_keys()}
            entries = {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except SafetensorError as error:
        raise InputError(_what_is_wrong(path, data, str(error))) from None
    tensors = {}
    start = 8 + int.from_bytes(bytes(data[:8]), "little")  # tensors lie side by side from here on
    for name, (kind, shape) in entries.items():
        if kind not in SAFETENSORS_DTYPES:
            known = ", ".join(SAFETENSORS_DTYPES)
            raise InputError(f"{path}: {name} is of type {kind}; known are {known}.")
        dtype = np.dtype(SAFETENSORS_DTYPES[kind])
        end = start + math.prod(shape) * dtype.itemsize
        tensors[name] = data[start:end].view(dtype).reshape(shape)
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
    return f"{path} is not a safetensors file, or its header is damaged ({reason}). {AGAIN}"


def _read_index(path: Path) -> dict[str, np.ndarray]:
    try:
        places = json.loads(path.read_text())["weight_map"]
        parts = sorted(set(places.values()))
        outside = [part for part in parts if Path(part).name != part]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is not an index of a model's parts, or is damaged. {AGAIN}") from None
    if outside:
        raise InputError(f"{path} names {outside[0]!r}, which is not in its own folder.")
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
        raise InputError(f"{path} names {absent[0]}, which is in none of its parts. {AGAIN}")
    return tensors


# What torch.save writes: a zip with a pickle of the structure and an uncompressed entry for each storage.


class _StorageType(NamedTuple):
    dtype: Any


class _Refused(Exception):
    """The pickle asks for something that is not a tensor or a plain container."""


def _rebuild_tensor(storage, offset, size, stride, *_) -> np.ndarray:
    """A view of a storage, checked to lie within it."""
    size, stride, offset = tuple(map(int, size)), tuple(map(int, stride)), int(offset)
    if min((offset, *size, *stride)) < 0 or len(size) != len(stride):
        raise ValueError("a tensor of impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= len(storage):
        raise ValueError("a tensor that reaches beyond its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


class _TensorUnpickler(pickle.Unpickler):
    """Accepts tensors, storages and plain containers; any other global is refused, so nothing can run."""

    def __init__(self, file: io.BytesIO, storages: dict[str, np.ndarray]):
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if (module, name) == ("torch", "Size"):
            return tuple
        if (module, name) == ("torch._utils", "_rebuild_tensor_v3"):  # of types newer than its storages
            raise InputError("it has tensors of a type not known here, perhaps 8 bits wide: use bfloat16.")
        if module == "torch" and name in TORCH_STORAGES:
            return _StorageType(TORCH_STORAGES[name])
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> np.ndarray:
        what, kind, key, _, count = pid
        if what != "storage" or not isinstance(kind, _StorageType):
            raise ValueError("something stored that is not a tensor")
        return self._storages[key].view(kind.dtype)[: int(count)]


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    data = _memory_map(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            structures = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(structures) != 1:
                raise InputError(f"{path} is a zip file, but not one that torch.save wrote.")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise InputError(
                    f"{path} is compressed; torch.save does not do that. Save it again with PyTorch."
                )
            root = structures[0].filename.removesuffix("data.pkl")
            order = root + "byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise InputError(f"{path} was saved on a big-endian machine. Save it again on another.")
            storages = {
                entry.filename.removeprefix(root + "data/"): _entry(data, entry)
                for entry in entries
                if entry.filename.startswith(root + "data/")
            }
            structure = _TensorUnpickler(io.BytesIO(archive.read(structures[0])), storages).load()
    except zipfile.BadZipFile:
        raise InputError(
            f"{path} is truncated or damaged: its directory, at the end, is missing. {AGAIN}"
        ) from None
    except _Refused as refused:
        raise InputError(
            f"{path} is refused: its pickle asks for {refused}, which is not a tensor, and reading it could "
            "run code. Do not load it elsewhere unless you trust its source; ask for safetensors."
        ) from None
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle may fail in any way
        raise InputError(f"{path} is damaged: its pickle cannot be read ({error}). {AGAIN}") from None
    return _tensors_of(structure)


def _entry(data: np.ndarray, entry: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of an uncompressed entry, in place."""
    # The lengths of name and extra field in the entry's own header may differ from the directory's.
    name, extra = struct.unpack("<HH", bytes(data[entry.header_offset + 26 : entry.header_offset + 30]))
    start = entry.header_offset + 30 + name + extra
    if start + entry.file_size > len(data):
        raise ValueError("a storage that reaches beyond the file")
    return data[start : start + entry.file_size]


def _tensors_of(structure: Any) -> dict[str, np.ndarray]:
    if not isinstance(structure, dict):
        return {}
    tensors = {
        name: value
        for name, value in structure.items()
        if isinstance(name, str) and isinstance(value, np.ndarray)
    }
    if tensors:
        return tensors
    for wrapper in WRAPPERS:
        if isinstance(structure.get(wrapper), dict):
            return _tensors_of(structure[wrapper])
    return {}
