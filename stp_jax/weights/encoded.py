"""Stored tensors whose numbers are written in few bits, decoded a part at a time while they are read."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np


class Encoded(abc.ABC):
    """A stored tensor of which only the shape is known until rows of it are decoded.

    It stands in a mapping of tensors beside arrays.

    Attributes:
      shape: of the tensor that it encodes.
      dtype: the smallest that keeps every value.
      base: the array with the codes, which leads to the file.
      kind: what it is, for messages.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    base: np.ndarray
    kind: str

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @abc.abstractmethod
    def rows(self, start: int, stop: int) -> np.ndarray:
        """Float32 values of some of the entries along the first axis."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.rows(0, len(self)).astype(dtype or self.dtype, copy=False)


class Float8(Encoded):
    """Numbers in fp8 (e4m3 or e5m2), times a scale.

    Args:
      codes: of an fp8 dtype, or of any other if only the scale is to be applied.
      scale: None: 1; a number; or one for each entry along the first axis.
    """

    def __init__(self, codes: np.ndarray, scale: np.ndarray | None = None):
        self.base, self.shape = codes, codes.shape
        self.kind = "fp8 without scales" if scale is None else "fp8 with scales"
        self._scale = None if scale is None else np.asarray(scale, np.float32).reshape(-1)
        # bfloat16 has more bits than fp8 both for exponents and fractions.
        self.dtype = np.dtype(ml_dtypes.bfloat16 if scale is None else np.float32)

    def rows(self, start: int, stop: int) -> np.ndarray:
        codes = self.base[start:stop]
        if codes.dtype.itemsize == 1:
            values = _values(codes.dtype).take(codes.view(np.uint8))
        else:
            values = codes.astype(np.float32)
        if self._scale is not None:
            scale = self._scale if self._scale.size == 1 else self._scale[start:stop]
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found where it is read
                values *= scale.reshape(-1, *(1,) * (values.ndim - 1))
        return values


@functools.cache
def _values(dtype: np.dtype) -> np.ndarray:
    """The values of the 256 codes of an 8-bit type; looking them up is faster than converting."""
    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)


class Decoded:
    """An encoded tensor in our layout of axes, of which parts are read.

    Attributes:
      shape: in our layout.
      axis: ours that is the tensor's first one, along which parts cost no more than their share; None: every
        part costs as much as the whole.
    """

    def __init__(self, stored: Encoded, to_ours: Callable[[np.ndarray], np.ndarray], axis: int | None):
        self._stored, self._to_ours, self.axis = stored, to_ours, axis
        self.shape = to_ours(np.broadcast_to(np.int8(0), stored.shape)).shape

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Float32 values of a part, slices of step 1."""
        if self.axis is None:
            return self.whole()[index]
        start, stop, _ = index[self.axis].indices(self.shape[self.axis])
        rest = (*index[: self.axis], slice(None), *index[self.axis + 1 :])
        return self._to_ours(self._stored.rows(start, stop))[rest]

    def whole(self) -> np.ndarray:
        """All values, float32."""
        return self._to_ours(self._stored.rows(0, len(self._stored)))
