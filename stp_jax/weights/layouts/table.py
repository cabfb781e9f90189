"""Tables between our parameters and tensors stored under other names, and reading and writing through them.

A table is a list of `Rule`s. Reading is lazy: stored tensors are memory-mapped, and only one device's part of
one parameter is in host memory at a time.
"""

from __future__ import annotations

import dataclasses
import itertools
import mmap
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from tqdm import tqdm

from stp_jax.errors import InputError
from stp_jax.weights.changes import Change, fill, one_thread_each
from stp_jax.weights.encoded import Decoded, Encoded
from stp_jax.weights.finite import all_finite
from stp_jax.weights.native import piece_bounds

if TYPE_CHECKING:
    import jax

BAR_AFTER = 2.0  # seconds of reading
PART_BYTES = 2**25  # that one thread copies and checks at a time


@dataclasses.dataclass(frozen=True)
class Form:
    """The conversion of axes between a stored tensor and ours. Both directions keep every bit."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


SAME = Form(lambda x: x, lambda x: x)
#: A PyTorch Linear or convolution: `[out, in, *size]`, ours `[*size, in, out]`.
WEIGHT = Form(lambda x: np.moveaxis(x, (0, 1), (-1, -2)), lambda x: np.moveaxis(x, (-1, -2), (0, 1)))
#: Stored with a leading axis of 1.
LEADING_ONE = Form(lambda x: x[0], lambda x: x[None])


def trailing_ones(count: int) -> Form:
    """A vector stored `[C, 1, ...]`, with `count` ones."""
    return Form(lambda x: x.reshape(len(x)), lambda x: x.reshape(-1, *(1,) * count))


def patches(side: int) -> Form:
    """A convolution over patches, `[D, C, 1, side, side]`; ours `[rows * columns * C, D]`."""
    return Form(
        lambda x: x[:, :, 0].transpose(2, 3, 1, 0).reshape(-1, len(x)),
        lambda x: x.reshape(side, side, -1, x.shape[-1]).transpose(3, 2, 0, 1)[:, :, None],
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """A row of a table: where one of our parameters is stored.

    Attributes:
      ours: dotted name.
      theirs: name of the stored tensor, with `{n}` where there are several.
      form: of each stored tensor.
      pieces: the number of stored tensors that make one of ours; 0: it is a single tensor.
      stacked: whether pieces are stacked on a new leading axis (layers) or joined along their first axis.
      changes: what is added to the parameter while it is read.
    """

    ours: str
    theirs: str
    form: Form = SAME
    pieces: int = 0
    stacked: bool = True
    changes: tuple[Change, ...] = dataclasses.field(default=(), compare=False)

    def names(self) -> list[str]:
        """The stored tensors, in order."""
        return [self.theirs.format(n=n) for n in range(self.pieces)] if self.pieces else [self.theirs]

    def split(self, array: Any) -> Iterator[tuple[str, np.ndarray]]:
        """Name and value of each stored tensor of a parameter (an array, or something sliced like one)."""
        if not self.pieces:
            yield self.theirs, self.form.to_theirs(np.asarray(array))
            return
        bounds = piece_bounds(len(array), self.pieces)
        for n, name in enumerate(self.names()):
            piece = array[n] if self.stacked else array[bounds[n] : bounds[n + 1]]
            yield name, self.form.to_theirs(np.asarray(piece))


class LazyParameter:
    """One of our parameters, read from its stored tensors when it is indexed along its first axis.

    What is read is checked to be finite, as every layout and every device's part comes by here.
    """

    def __init__(self, rule: Rule, tensors: Mapping[str, np.ndarray], dtype: Any = None):
        self._names, self._changes = rule.names(), rule.changes
        self._stored = [tensors[name] for name in self._names]
        self._pieces = [_piece(rule, stored) for stored in self._stored]
        self._stacked = bool(rule.pieces and rule.stacked)
        self._lengths = [1 if self._stacked else piece.shape[0] for piece in self._pieces]
        self.shape = (sum(self._lengths), *self._pieces[0].shape[0 if self._stacked else 1 :])
        self.ndim = len(self.shape)
        # One that keeps all values, unless another is asked for.
        self.dtype = np.dtype(dtype or np.result_type(*(stored.dtype for stored in self._stored)))

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, index: tuple[slice, ...], dtype: Any = None) -> np.ndarray:
        """A copy of the part that `index`, one slice of step 1 for each axis, selects.

        Raises:
          InputError: it has numbers that are not finite; the stored tensor and its file are named.
        """
        ranges = [range(*one.indices(size)) for one, size in zip(index, self.shape, strict=True)]
        out = np.empty([len(one) for one in ranges], self.dtype if dtype is None else dtype)
        start = ranges[0].start
        rest = tuple(slice(one.start, one.stop) for one in ranges[1:])

        def copy(number: int, at: int, low: int, high: int) -> None:
            part = out[low - start : high - start]
            self._copy(part, number, low, low - at, rest)
            if not all_finite(part):
                raise self._not_finite(number, out.dtype)

        parts = list(self._parts(ranges[0], out.nbytes // max(1, len(out))))
        if len(parts) == 1:
            copy(*parts[0])
            return out
        # Copying releases Python's lock, and so does waiting for the disk.
        with one_thread_each() if self._changes else nullcontext(), ThreadPoolExecutor() as pool:
            list(pool.map(copy, *zip(*parts, strict=True)))
        return out

    def _parts(self, wanted: range, row_bytes: int) -> Iterator[tuple[int, int, int, int]]:
        """Number and first entry of a piece, and the entries of it to read, for each part of the work."""
        starts = itertools.accumulate(self._lengths, initial=0)
        for number, (at, length, piece) in enumerate(zip(starts, self._lengths, self._pieces, strict=False)):
            low, high = max(wanted.start, at), min(wanted.stop, at + length)
            whole = self._changes or isinstance(piece, Decoded)  # these are read as they are stored
            step = length if whole else max(1, PART_BYTES // max(1, row_bytes))
            for first in range(low, high, step):
                yield number, at, first, min(first + step, high)

    def _copy(self, part: np.ndarray, number: int, first: int, within: int, rest: tuple[slice, ...]) -> None:
        """Fills `part`, which begins at entry `first` of the parameter and `within` of piece `number`."""
        piece, end = self._pieces[number], first + len(part)
        changes = [one for one in self._changes if one.layer is None or first <= one.layer < end]
        if not changes and not isinstance(piece, Decoded):
            chosen = rest if self._stacked else (slice(within, within + len(part)), *rest)
            with np.errstate(over="ignore", invalid="ignore"):  # it is an error, found by the caller
                part[0 if self._stacked else ...] = piece[chosen]
            return
        if self._stacked or (changes and changes[0].layer is not None):
            for n in range(len(part)):
                layer = piece if self._stacked else _layer(piece, within + n)
                fill(part[n], layer, rest, [one for one in changes if one.layer == first + n])
        else:
            index = (slice(within, within + len(part)), *rest)
            fill(part, piece, index, changes, shift=first - within)

    def _not_finite(self, number: int, dtype: np.dtype) -> InputError:
        stored = self._stored[number]
        cast = "" if dtype == stored.dtype else f" as {dtype}"
        if self._changes:
            cast += " (with the LoRAs that are merged into it)"
        return InputError(
            f"{file_of(stored)}: {self._names[number]} has numbers that are NaN or infinite{cast}. "
            "The file is damaged, or its training went wrong: get it again."
        )

    def __getitem__(self, index: int | slice) -> np.ndarray:
        rest = (slice(None),) * (self.ndim - 1)
        if isinstance(index, slice):
            return self.read((index, *rest))
        return self.read((slice(index, index + 1), *rest))[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read((slice(None),) * self.ndim, dtype)

    def release(self) -> None:
        """Lets the system forget the file's pages in this process."""
        maps = {id(found): found for found in map(_memory_map, self._stored) if found is not None}
        for found in maps.values():
            found.madvise(mmap.MADV_DONTNEED)


def _piece(rule: Rule, stored: Any) -> Any:
    """A stored tensor in our layout of axes."""
    if isinstance(stored, Encoded):
        first = {WEIGHT: stored.ndim - 1, SAME: 0}.get(rule.form)  # where the form puts the first axis
        return Decoded(stored, rule.form.to_ours, first)
    return rule.form.to_ours(stored)


def _layer(piece: Any, n: int) -> np.ndarray:
    """An entry along the first axis of a piece, an array or `Decoded`."""
    if not isinstance(piece, Decoded):
        return piece[n]
    return piece[(slice(n, n + 1), *(slice(None),) * (len(piece.shape) - 1))][0]


def file_of(array: Any) -> str:
    """The path of the file that an array is a view of, or "weights" where it is none."""
    while array is not None:
        if isinstance(array, np.memmap) and array.filename is not None:
            return str(array.filename)
        array = getattr(array, "base", None)
    return "weights"


def _memory_map(array: Any) -> mmap.mmap | None:
    while array is not None and not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array if hasattr(mmap, "MADV_DONTNEED") else None


def count_layers(tensors: Iterable[str], prefix: str, described: Mapping[str, Any], published: int) -> int:
    """The number of layers of a model, from a config.json or from the names of its tensors.

    Args:
      tensors: names; those of layers begin with `prefix`, the layer's number and a dot.
      described: the contents of a config.json beside them.
      published: the layers of published models of this size; a file with fewer is incomplete.
    """
    if "num_layers" in described:
        return described["num_layers"]
    numbers = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in tensors)
    sizes = Counter(number[1] for number in numbers if number)
    # A number with more than half of the usual tensors is a layer, even if a few are missing.
    return max(published, sum(size > max(sizes.values()) / 2 for size in sizes.values()))


def stored_shapes(rules: Iterable[Rule], shapes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every stored tensor of parameters with these shapes (anything with `.shape`)."""
    found: dict[str, tuple[int, ...]] = {}
    for rule in rules:
        zeros = np.broadcast_to(np.int8(0), shapes[rule.ours].shape)
        found |= {name: piece.shape for name, piece in rule.split(zeros)}
    return found


def check(
    rules: Iterable[Rule],
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    where: str,
    allow_missing: Callable[[str], bool] | None = None,
) -> None:
    """Compares names, shapes and types; reads no tensor.

    Args:
      rules: of the file.
      tensors: of the file.
      shapes: of the parameters that are wanted.
      where: for the message.
      allow_missing: says of a parameter that the rules do not know whether it may be left out.

    Raises:
      InputError: tensors are missing, not known, of another shape or no floating-point numbers; the first of
        them are named.
    """
    rules = [rule for rule in rules if rule.ours in shapes]
    expected = stored_shapes(rules, shapes)
    ruled = {rule.ours for rule in rules}
    missing = [name for name in expected if name not in tensors]
    missing += [name for name in shapes if name not in ruled and not (allow_missing and allow_missing(name))]
    unknown = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    strange = [
        f"{name} {array.dtype}"
        for name, array in tensors.items()
        if name in expected and array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", missing),
            ("not known", unknown),
            ("of another shape", misshapen),
            ("no floating-point numbers", strange),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"{where}: its tensors are not those of the model: {'; '.join(problems)}. "
            "Give the weights of this model, or copy the file again."
        )


def lazy_parameters(
    rules: Iterable[Rule], tensors: Mapping[str, np.ndarray], dtype: Any = None
) -> dict[str, LazyParameter]:
    """Our parameters by name, each read when it is indexed. The tensors must have passed `check`.

    Args:
      rules, tensors: of the file.
      dtype: of what is read; default: the smallest that keeps every stored value.
    """
    return {rule.ours: LazyParameter(rule, tensors, dtype) for rule in rules}


def read_parameters(
    rules: Iterable[Rule],
    tensors: Mapping[str, np.ndarray],
    like: Mapping[str, jax.ShapeDtypeStruct],
    shardings: Mapping[str, jax.sharding.Sharding],
    where: str,
    allow_missing: Callable[[str], bool] | None = None,
    bar: bool = True,
) -> dict[str, jax.Array]:
    """Reads parameters onto the devices one after the other, on each device its own part.

    Args:
      rules, tensors: of the file.
      like: shape and dtype of the parameters that are wanted; values are cast.
      shardings: of each parameter.
      where, allow_missing: see `check`.
      bar: whether a bar is shown where it takes long.

    Returns:
      Parameter by name; those that may be missing and are, are left out.

    Raises:
      InputError: see `check`; before anything is read. Numbers that are not finite.
    """
    import jax

    rules = list(rules)
    check(rules, tensors, like, where, allow_missing)
    parameters = lazy_parameters(rules, tensors)
    total = sum(int(np.prod(lazy.shape)) * lazy.dtype.itemsize for lazy in parameters.values())
    read: dict[str, jax.Array] = {}
    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "delay": BAR_AFTER, "disable": not bar}
    # Below another bar it goes when it is full.
    with tqdm(total=total, desc="weights", leave=None, **options) as shown:
        for name, lazy in parameters.items():
            wanted = like[name]

            def part(index, lazy=lazy, dtype=wanted.dtype) -> np.ndarray:
                return lazy.read(index, dtype)

            read[name] = jax.make_array_from_callback(wanted.shape, shardings[name], part)
            lazy.release()
            shown.update(int(np.prod(lazy.shape)) * lazy.dtype.itemsize)
    return read


def write_tensors(rules: Iterable[Rule], parameters: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and value of every stored tensor, the inverse of reading; in host memory is one at a time.

    Args:
      rules: of the layout to write.
      parameters: our parameters by name: numpy, JAX, or as `lazy_parameters` gives them.
    """
    for rule in rules:
        for name, piece in rule.split(parameters[rule.ours]):
            yield name, np.asarray(piece, order="C")
