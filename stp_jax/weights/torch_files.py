"""Files that `torch.save` wrote, read as data: tensors and plain containers, without PyTorch.

Such a file is a zip with a pickle of the structure and an uncompressed entry for each storage. Python's
unpickler is not used: `_Structure` goes through the pickle's opcodes, knows those that torch.save writes, and
makes nothing but numbers, texts, tuples, lists, dicts with texts as keys, and views of the storages. Nothing
in the file is called or compared. Limits are checked before anything is allocated.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from stp_jax.errors import InputError
from stp_jax.weights.untrusted import AGAIN, DESCRIPTION_BYTES, memory_map, shown

STORAGES = {
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
# Types newer than PyTorch's typed storages, as its attributes.
TYPES = {"float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2}
# Some programs keep the tensors under these keys, beside other things that they save.
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "module")
OPCODES = 500_000  # of a pickle; a model of 14B parameters has 25,000
AXES = 16  # of a tensor


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name, as read-only views of it.

    Raises:
      InputError: it is damaged, or another zip; its pickle asks for more than tensors and containers.
    """
    data = memory_map(path)
    try:
        pickled, storages = _read_zip(path, data)
        return _tensors_of(_Structure(storages, len(data)).read(pickled))
    except zipfile.BadZipFile:
        raise InputError(
            f"{path} is truncated or damaged: its directory, at the end, is missing or wrong. {AGAIN}"
        ) from None
    except _Refused as refused:
        raise InputError(
            f"{path} is refused: its pickle asks for {refused}, which is not a tensor, and reading it could "
            "run code. Do not load it elsewhere unless you trust its source; ask for safetensors."
        ) from None
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except (ValueError, IndexError, NotImplementedError, OverflowError, OSError, struct.error) as error:
        raise InputError(f"{path} is damaged: its pickle cannot be read ({error}). {AGAIN}") from None


class _BoundedFile(io.FileIO):
    """A file of which no more than a description is read at once: zipfile reads a whole directory."""

    def read(self, size: int | None = -1, /) -> bytes:
        limit = DESCRIPTION_BYTES + 1
        content = super().read(limit if size is None or size < 0 else min(size, limit)) or b""
        if len(content) > DESCRIPTION_BYTES:
            raise zipfile.BadZipFile("a directory of absurd size")
        return content


def _read_zip(path: Path, data: np.ndarray) -> tuple[bytes, dict[str, np.ndarray]]:
    """The pickle, and the bytes of the storages by their keys."""
    with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError(f"{path} is a zip file, but not one that torch.save wrote.")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise InputError(f"{path} is compressed; torch.save does not do that. Save it again with PyTorch.")
    places = {entry.filename: _place(data, entry) for entry in entries}
    _check_places(places, len(entries))
    content = {name: data[start:end] for name, (start, end) in places.items()}
    root = pickles[0].filename.removesuffix("data.pkl")
    if bytes(content.get(f"{root}byteorder", b"little")[:6]) != b"little":
        raise InputError(f"{path} was saved on a big-endian machine. Save it again on another.")
    pickled = bytes(content[pickles[0].filename][: DESCRIPTION_BYTES + 1])
    if len(pickled) > DESCRIPTION_BYTES:
        raise InputError(f"{path} is damaged: its pickle is too large for a model's. {AGAIN}")
    if zlib.crc32(pickled) != pickles[0].CRC:
        raise ValueError("its checksum is wrong")
    prefix = f"{root}data/"
    storages = {name.removeprefix(prefix): one for name, one in content.items() if name.startswith(prefix)}
    return pickled, storages


def _place(data: np.ndarray, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of an uncompressed entry lie in the file."""
    at = entry.header_offset
    if at < 0 or bytes(data[at : at + 4]) != b"PK\x03\x04":
        raise ValueError("an entry without its header")
    # The lengths of name and extra field in the entry's own header may differ from the directory's.
    name, extra = struct.unpack("<HH", bytes(data[at + 26 : at + 30]))
    start = at + 30 + name + extra
    if start + entry.file_size > len(data):
        raise ValueError("a storage that reaches beyond the file")
    return start, start + entry.file_size


def _check_places(places: dict[str, tuple[int, int]], count: int) -> None:
    if len(places) != count:
        raise ValueError("two entries of one name")
    end = 0
    for start, stop in sorted(places.values()):
        if start < end:
            raise ValueError("entries that overlap")
        end = stop


class _Refused(Exception):
    """The pickle asks for something that is not a tensor or a plain container."""


class _StorageType(NamedTuple):
    dtype: Any


class _Function(NamedTuple):
    name: str  # see `_Structure._call`


class _Type(NamedTuple):
    dtype: Any


class _Storage:
    """A storage of the file; not an array, so that no tensor can stand in its place."""

    def __init__(self, values: np.ndarray):
        self.values = values


KNOWN_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Function("dict"),
    ("torch", "Size"): _Function("tuple"),
    ("torch._utils", "_rebuild_tensor"): _Function("tensor"),
    ("torch._utils", "_rebuild_tensor_v2"): _Function("tensor"),
    ("torch._utils", "_rebuild_parameter"): _Function("parameter"),
    **{("torch", name): _StorageType(dtype) for name, dtype in STORAGES.items()},
    ("torch._utils", "_rebuild_tensor_v3"): _Function("tensor of a type"),
    ("torch.storage", "UntypedStorage"): _StorageType(np.uint8),
    **{("torch", name): _Type(dtype) for name, dtype in TYPES.items()},
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES")


class _Structure:
    """Goes through a pickle. The stack has plain values, containers, storages, arrays and `KNOWN_GLOBALS`."""

    def __init__(self, storages: dict[str, np.ndarray], file_bytes: int):
        self._storages, self._file_bytes = storages, file_bytes
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}

    def read(self, pickled: bytes) -> Any:
        """The value of the pickle.

        Raises:
          ValueError, IndexError: it is damaged.
          _Refused: it asks for something that is not a tensor or a plain container.
        """
        for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
            if count > OPCODES:
                raise ValueError("it has too many parts")
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ("PROTO", "FRAME"):
            return
        if name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in NUMBERS or name in TEXTS:
            stack.append(argument)
        elif name == "MARK":
            self._marks.append(stack)
            self._stack = []
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self._memo:
                raise ValueError("something that was not stored")
            stack.append(self._memo[argument])
        elif not self._step_of_container(name):
            self._step_of_object(name, argument)

    def _step_of_container(self, name: str) -> bool:
        """Whether the opcode is one of containers, and then carries it out."""
        match name:
            case "EMPTY_TUPLE":
                self._stack.append(())
            case "EMPTY_LIST":
                self._stack.append([])
            case "EMPTY_DICT":
                self._stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._stack.append(tuple(self._pop(int(name[-1]))))
            case "TUPLE":
                items = self._pop_to_mark()
                self._stack.append(tuple(items))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if name == "APPEND" else self._pop_to_mark()
                self._top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if name == "SETITEM" else self._pop_to_mark()
                self._set_items(self._top(dict), items)
            case _:
                return False
        return True

    def _step_of_object(self, name: str, argument: Any) -> None:
        match name:
            case "GLOBAL":
                self._stack.append(_known(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                module, attribute = self._pop(2)
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise ValueError("a global without a name")
                self._stack.append(_known(module, attribute))
            case "REDUCE":
                function, arguments = self._pop(2)
                self._stack.append(self._call(function, arguments))
            case "BUILD":  # torch.save's: attributes of an OrderedDict, which hold no tensors
                self._pop(1)
                self._top(dict)
            case "BINPERSID":
                self._stack.append(self._storage(*self._pop(1)))
            case "INST":
                raise _Refused(shown(argument.replace(" ", "."))[1:-1])
            case _:
                raise ValueError(f"{name} is not among the opcodes of tensors")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("something is missing")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("something is missing")
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise ValueError(f"something in the place of a {kind.__name__}")
        return self._stack[-1]

    @staticmethod
    def _set_items(target: dict, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("a key without a value")
        # Other keys, such as an optimizer's numbers, name no tensors. Hashes of texts cannot be chosen.
        pairs = zip(items[::2], items[1::2], strict=True)
        target.update((key, value) for key, value in pairs if isinstance(key, str))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Function) or type(arguments) is not tuple:
            raise ValueError("a call of something that is no function")
        match function.name, arguments:
            case "dict", ():
                return {}
            case "dict", (list() as pairs,):
                found: dict[str, Any] = {}
                for pair in pairs:
                    if type(pair) not in (tuple, list) or len(pair) != 2:
                        raise ValueError("a dict of impossible pairs")
                    self._set_items(found, list(pair))
                return found
            case "tuple", (tuple() | list() as items,):
                return tuple(items)
            case "parameter", (np.ndarray() as values, *_):
                return values
            case "tensor", (_Storage() as storage, offset, size, stride, *_):
                return self._tensor(storage.values, offset, size, stride)
            case "tensor of a type", (_Storage() as storage, offset, size, stride, _, _, _Type(dtype), *_):
                # All are 8 bits wide; numpy cannot give strides to them.
                return self._tensor(storage.values.view(np.uint8), offset, size, stride).view(dtype)
        raise ValueError(f"a {function.name} that is none")

    def _tensor(self, values: np.ndarray, offset: Any, size: Any, stride: Any) -> np.ndarray:
        """A view of a storage, checked to lie within it."""
        if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride):
            raise ValueError("a tensor of impossible shape")
        numbers = (offset, *size, *stride)
        if len(size) > AXES or any(type(n) is not int or not 0 <= n < 2**62 for n in numbers):
            raise ValueError("a tensor of impossible shape")
        elements = math.prod(size)
        if elements == 0:
            return np.zeros(size, values.dtype)
        if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= len(values):
            raise ValueError("a tensor that reaches beyond its storage")
        if elements * values.itemsize > self._file_bytes:  # one number repeated
            raise ValueError("a tensor larger than its file")
        steps = [step * values.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
        return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)

    def _storage(self, identity: Any) -> _Storage:
        match identity:
            case ("storage", _StorageType(dtype), str() as key, _, int() as count):
                if key not in self._storages:
                    raise ValueError(f"storage {shown(key)} is missing")
                size = count * np.dtype(dtype).itemsize
                if not 0 <= size <= len(self._storages[key]):
                    raise ValueError("a storage that lacks bytes")
                return _Storage(self._storages[key][:size].view(dtype))
        raise ValueError("something stored that is not a tensor")


def _known(module: str, name: str) -> Any:
    if module == "torch" and re.fullmatch(r"(float|u?int|bits|q)[a-z0-9_]+", name) and name not in TYPES:
        raise InputError(f"it has tensors of the type {name}, which is not known here: use bfloat16.")
    if (module, name) not in KNOWN_GLOBALS:
        raise _Refused(shown(f"{module}.{name}")[1:-1])
    return KNOWN_GLOBALS[module, name]


def _tensors_of(structure: Any) -> dict[str, np.ndarray]:
    for _ in range(4):  # wrappers in wrappers
        if not isinstance(structure, dict):
            break
        tensors = {name: value for name, value in structure.items() if isinstance(value, np.ndarray)}
        if tensors:
            return tensors
        wrapped = (structure[name] for name in WRAPPERS if isinstance(structure.get(name), dict))
        structure = next(wrapped, None)
    return {}
