"""Changes to parameters while they are read: what a LoRA adds to a layer, in float32, a part at a time.

The changed model is never in memory beside the stored one: a parameter is read, changed and cast in blocks of
bounded size.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from threadpoolctl import ThreadpoolController

from stp_jax.weights.encoded import Decoded

BLOCK = 2**20  # numbers that are changed at a time


class Change(Protocol):
    """Something to add to one layer of a parameter.

    Attributes:
      layer: its place on the leading axis of the parameter; None: the parameter has no layers.
    """

    @property
    def layer(self) -> int | None: ...

    def part(self, index: tuple[slice, ...]) -> np.ndarray:
        """Float32 values of a part of the layer, one slice for each of its axes.

        Matrices may be in the order of memory that is the faster one to add.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class LowRank:
    """`scale * down @ up`.

    Attributes:
      layer: see `Change`.
      down: `[.., in, rank]`, with the leading axes of the layer's kernel.
      up: `[rank, out]`.
      scale: strength times alpha / rank.
    """

    layer: int | None
    down: np.ndarray
    up: np.ndarray
    scale: float

    def part(self, index: tuple[slice, ...]) -> np.ndarray:
        down, up = self.down[index[:-1]].astype(np.float32), self.up[:, index[-1]].astype(np.float32)
        up *= np.float32(self.scale)
        # As matrices are stored: [out, in].
        return (up.T @ down.T).T if down.ndim == 2 else down @ up


@dataclasses.dataclass(frozen=True, eq=False)
class Difference:
    """`scale * values`, `values` of the shape of the layer."""

    layer: int | None
    values: np.ndarray
    scale: float

    def part(self, index: tuple[slice, ...]) -> np.ndarray:
        return self.values[index].astype(np.float32) * np.float32(self.scale)


def one_thread_each() -> AbstractContextManager:
    """Products of matrices take one thread each while this is entered: layers are changed in parallel.

    Otherwise the threads of all products wait for each other, on a busy machine for several times as long.
    """
    return _controller().limit(limits=1, user_api="blas")


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def fill(
    target: np.ndarray, source: Any, index: tuple[slice, ...], changes: Iterable[Change], shift: int = 0
) -> None:
    """Writes a part of a layer, changed, into `target`, which has its own dtype.

    Args:
      target: to be filled.
      source: the layer, or a piece of it along its first axis; an array or `Decoded`.
      index: which part of the source, slices of step 1.
      changes: all for this layer.
      shift: the entry of the layer at which the piece begins.
    """
    changes, axis = list(changes), target.ndim - 1
    if isinstance(source, Decoded):
        if source.axis is None:  # parts would cost as much as the whole
            source = source.whole()
        else:
            axis = source.axis
    step, length = max(1, BLOCK * target.shape[axis] // max(1, target.size)), target.shape[axis]
    for start in range(0, length, step):
        stop, first = min(start + step, length), index[axis].start
        part = _with(index, axis, slice(first + start, first + stop))
        block = np.array(source[part], np.float32)
        there = _with(part, 0, slice(part[0].start + shift, part[0].stop + shift))
        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks for what is not finite
            for change in changes:
                block += change.part(there)
            # Cast first, which is fast in the block's own order; then the axes are exchanged.
            target[_with((slice(None),) * target.ndim, axis, slice(start, stop))] = block.astype(target.dtype)


def _with(index: tuple[slice, ...], axis: int, one: slice) -> tuple[slice, ...]:
    return (*index[:axis], one, *index[axis + 1 :])
