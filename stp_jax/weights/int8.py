"""Matrices in 8 bits with scales: our own weights in half of the size of float16.

A value is its code, -127 to 127, times a scale: one for each output channel (the last axis), and where a
tensor has three or more axes also for each entry of the first, which is the layer of stacked blocks, or a tap
of a convolution. The scales of tensor `x` are the tensor `x.int8_scale`. Small ones and vectors are float16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from stp_jax.errors import InputError
from stp_jax.weights.encoded import Encoded
from stp_jax.weights.untrusted import shown

SCALE = ".int8_scale"
LEAST = 4096  # values of a tensor below which it is not worth its scales


class Int8(Encoded):
    """Codes int8 [N, .., out], times scales that are float32 and broadcast to that shape."""

    kind = "int8 with scales"
    dtype = np.dtype(np.float32)

    def __init__(self, codes: np.ndarray, scale: np.ndarray):
        self.base, self.shape, self._scale = codes, codes.shape, scale

    def rows(self, start: int, stop: int) -> np.ndarray:
        scale = self._scale if len(self._scale) == 1 else self._scale[start:stop]
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found where it is read
            return self.base[start:stop] * scale


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the scales of a tensor."""
    first = shape[0] if len(shape) > 2 else 1
    return (first, *(1,) * (len(shape) - 2), shape[-1])


def dtype_of(shape: tuple[int, ...]) -> np.dtype:
    """The type that a tensor of this shape is stored in: int8 or float16."""
    return np.dtype(np.int8 if len(shape) > 1 and math.prod(shape) >= LEAST else np.float16)


def encode(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """Codes and scales of a tensor [.., in, out]; each value differs by at most half of its scale."""
    values = np.asarray(array, np.float32)
    axes = tuple(range(values.ndim - 1))[1 if values.ndim > 2 else 0 :]
    scale = np.abs(values).max(axes, keepdims=True) / 127
    codes = np.rint(values / np.where(scale, scale, 1)).astype(np.int8)
    return {name: np.ascontiguousarray(codes), name + SCALE: scale.astype(np.float32)}


def decoded(tensors: Mapping[str, np.ndarray], where: str) -> dict[str, Any]:
    """The tensors, those with scales as `Int8`.

    Raises:
      InputError: scales without a tensor, or of another type or shape than its codes ask for.
    """
    found: dict[str, Any] = {name: array for name, array in tensors.items() if not name.endswith(SCALE)}
    for name in tensors.keys() - found.keys():
        codes, scale = found.get(name.removesuffix(SCALE)), tensors[name]
        if (
            codes is None
            or codes.dtype != np.int8
            or codes.ndim < 2
            or (scale.dtype, scale.shape) != (np.float32, scale_shape(codes.shape))
        ):
            raise InputError(
                f"{where}: {shown(name)} does not fit its tensor. Copy the weights folder again."
            )
        found[name.removesuffix(SCALE)] = Int8(codes, scale)
    return found
