"""GGUF files, versions 2 and 3, read as data; the package `gguf` decodes the numbers of quantised types.

A file has key-value pairs, then name, axes (the fastest first), type and place of every tensor, then the
tensors (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). That package's own reader is not used: it
follows counts of damaged files without end. ComfyUI's converter writes the shape of a tensor whose axes it
changed as `comfy.gguf.orig_shape.<name>`.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from stp_jax.errors import InputError
from stp_jax.weights.encoded import Encoded
from stp_jax.weights.untrusted import AGAIN, DESCRIPTION_BYTES, memory_map, shown

MAGIC = b"GGUF"
INSTALL = "pip install 'stp-jax[gguf]'"
PLAIN: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}
NOT_DECODED = ("Q8_1", "Q8_K", "Q1_0", "I8", "I16", "I32", "I64")  # by the package
AXES = 8
ALIGNMENT = 32
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
# Formats of struct by the number of a value's type; 8 is a text, 9 a list.
VALUES = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
LONGEST_LIST = 2**16  # that is kept; longer ones, of tokenizers, are passed over


class Quantised(Encoded):
    """A tensor of which rows of blocks are decoded by the package `gguf`.

    Args:
      codes: uint8 `[rows, bytes of a row]`.
      kind: the package's type of it.
      shape: of the tensor.
    """

    def __init__(self, codes: np.ndarray, kind: Any, shape: tuple[int, ...]):
        self.base, self.shape, self.dtype = codes, shape, np.dtype(np.float32)
        self._type, self.kind = kind, f"GGUF ({kind.name})"

    def rows(self, start: int, stop: int) -> np.ndarray:
        from gguf import quants

        # Where axes were changed, the file's rows are not the tensor's.
        aligned = len(self.base) % max(1, len(self)) == 0
        each = len(self.base) // max(1, len(self)) if aligned else 0
        chosen = self.base[start * each : stop * each] if aligned else self.base
        with np.errstate(all="ignore"):  # what is not finite is found where it is read
            values = quants.dequantize(np.ascontiguousarray(chosen), self._type).astype(
                np.float32, copy=False
            )
        if aligned:
            return values.reshape(stop - start, *self.shape[1:])
        return values.reshape(self.shape)[start:stop]


class _Stored(NamedTuple):
    """Where a tensor lies: its axes (the slowest first), type and place after the header."""

    shape: tuple[int, ...]
    type_number: int
    offset: int


def read_gguf(path: Path) -> dict[str, Any]:
    """The tensors of a file by name: arrays, or `Quantised` ones.

    Raises:
      InputError: it is damaged, has tensors of a type that cannot be decoded, or the package is missing.
    """
    try:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError:
        raise InputError(f"{path} is a GGUF file; reading it needs a package: {INSTALL}.") from None
    data = memory_map(path)
    try:
        pairs, stored, end = _Header(bytes(data[:DESCRIPTION_BYTES])).read()
    except (struct.error, ValueError) as error:
        what = "its header is not complete" if isinstance(error, struct.error) else str(error)
        raise InputError(f"{path} is truncated or damaged: {what}. {AGAIN}") from None
    alignment = pairs.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= 2**16:
        raise InputError(f"{path} is damaged: an alignment of {shown(alignment)}. {AGAIN}")
    start = -(-end // alignment) * alignment
    tensors: dict[str, Any] = {}
    for name, one in stored.items():
        if one.type_number not in GGMLQuantizationType.__members__.values():
            raise InputError(f"{path}: {shown(name)} is of type {one.type_number}, which is not known.")
        kind = GGMLQuantizationType(one.type_number)
        if kind.name in NOT_DECODED:
            raise InputError(f"{path}: {shown(name)} is in {kind.name}, which is not read. Get it in Q8_0.")
        block, size = GGML_QUANT_SIZES[kind]
        width = one.shape[-1] if one.shape else 1
        rows = math.prod(one.shape[:-1])
        first, row_bytes = start + one.offset, width // block * size
        if width % block or first + rows * row_bytes > len(data):
            raise InputError(f"{path} is truncated or damaged: {shown(name)} lies beyond its end. {AGAIN}")
        codes = data[first : first + rows * row_bytes]
        shape = _original_shape(pairs.get(ORIGINAL_SHAPE + name), one.shape)
        if kind.name in PLAIN:
            tensors[name] = codes.view(PLAIN[kind.name]).reshape(shape)
        else:
            tensors[name] = Quantised(codes.reshape(rows, row_bytes), kind, shape)
    return tensors


def _original_shape(noted: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape before a converter changed the axes."""
    if not isinstance(noted, list) or len(noted) > AXES or any(type(n) is not int or n < 0 for n in noted):
        return shape
    return tuple(noted) if math.prod(noted) == math.prod(shape) else shape


class _Header:
    """What comes before the tensors."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0

    def read(self) -> tuple[dict[str, Any], dict[str, _Stored], int]:
        """The key-value pairs, the tensors, and where the header ends.

        Raises:
          struct.error: it ends before that.
          ValueError: something in it is impossible; the message says what.
        """
        self._skip(len(MAGIC))
        version, tensors, pairs = self._take("IQQ")
        if version not in (2, 3):
            raise ValueError(f"it is of version {version}, not 2 or 3")
        found: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._text()
            found[key] = self._value(self._take("I")[0])
        stored: dict[str, _Stored] = {}
        for _ in range(tensors):
            name, (axes,) = self._text(), self._take("I")
            if axes > AXES or name in stored:
                raise ValueError(
                    f"{shown(name)} has {axes} axes" if axes > AXES else f"two are {shown(name)}"
                )
            shape = self._take("Q" * axes)
            type_number, offset = self._take("IQ")
            if any(not 0 < n <= 2**40 for n in shape) or math.prod(shape) > 2**40:
                raise ValueError(f"{shown(name)} has an impossible shape")
            stored[name] = _Stored(shape[::-1], type_number, offset)
        return found, stored, self._at

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self._data, self._at)
        self._skip(struct.calcsize(f"<{form}"))
        return values

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise struct.error

    def _text(self) -> str:
        start = self._at + 8
        self._skip(self._take("Q")[0])
        return self._data[start : self._at].decode(errors="replace")

    def _value(self, kind: int) -> Any:
        """A value of a type; None for texts, and lists of these, which are passed over."""
        if kind in VALUES:
            return self._take(VALUES[kind])[0]
        if kind == TEXT:
            self._text()
            return None
        if kind != LIST:
            raise ValueError(f"it has a value of type {kind}")
        of, count = self._take("IQ")
        if of in VALUES:
            start = self._at
            self._skip(count * struct.calcsize(f"<{VALUES[of]}"))
            kept = count <= LONGEST_LIST
            return list(struct.unpack_from(f"<{count}{VALUES[of]}", self._data, start)) if kept else None
        if of != TEXT:
            raise ValueError(f"it has a list of type {of}")
        for _ in range(count):
            self._text()
        return None
