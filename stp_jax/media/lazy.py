"""Videos whose pictures are made when they are asked for, so that long ones are never in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from stp_jax.media import sources
from stp_jax.media.colour import Notes
from stp_jax.media.key_frames import KeyFrames

_AT_ONCE = 16  # pictures that are read together where all are wanted


class Pictures:
    """A video that is indexed as an array [F, H, W, 3] is: by numbers, arrays of them and slices.

    Args:
      read: pictures by their numbers, int [n] -> [n, H, W, 3].
      shape: [F, H, W, 3].
    """

    ndim = 4
    nbytes = 0  # in memory

    def __init__(
        self,
        read: Callable[[np.ndarray], np.ndarray],
        shape: tuple[int, ...],
        dtype: type | np.dtype = np.uint8,
    ):
        self._read, self.shape, self.dtype = read, tuple(shape), np.dtype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: int | slice | np.ndarray) -> np.ndarray:
        numbers = np.arange(len(self))[which]
        return self._read(np.atleast_1d(numbers))[0] if numbers.ndim == 0 else self._read(numbers)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self[start : start + _AT_ONCE]

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> Pictures:
        """The same with a function of every picture, [H, W, 3] -> [h, w, 3]."""
        first = function(np.zeros(self.shape[1:], self.dtype))
        return Pictures(
            lambda numbers: np.stack([function(picture) for picture in self._read(numbers)]),
            (len(self), *first.shape),
            first.dtype,
        )

    def of_length(self, frames: int) -> Pictures:
        """The same with another number of frames; the last one is repeated."""
        last = len(self) - 1
        return Pictures(
            lambda numbers: self._read(np.minimum(numbers, last)), (frames, *self.shape[1:]), self.dtype
        )


Video = np.ndarray | Pictures


def each(video: Video, function: Callable[[np.ndarray], np.ndarray]) -> Video:
    """A function of every picture of a video."""
    if isinstance(video, Pictures):
        return video.each(function)
    return np.stack([function(picture) for picture in video])


class FilePictures:
    """Reads pictures of a video file, for `Pictures`: from where it is, or where that is too late, from a
    key frame before them.

    Args:
      path: any that `stp_jax.media.sources` reads.
      times: seconds after the first frame, ascending; each shows the picture on screen then.
      fit: brings a picture to size.
      notes: gets remarks on how the file was read.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        times: Sequence[float] | np.ndarray,
        fit: Callable[[np.ndarray], np.ndarray],
        notes: Notes | None = None,
    ):
        self._path, self._times, self._fit = path, np.asarray(times, np.float64), fit
        self._notes: Notes = {} if notes is None else notes
        self._keys = KeyFrames()
        self._kept: dict[int, np.ndarray] = {}  # of the last call
        self._coming: Iterator[tuple[int, Callable[[], np.ndarray]]] | None = None
        self._next = 0

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        wanted = set(map(int, numbers))
        kept = {number: self._kept[number] for number in wanted & self._kept.keys()}
        missing = wanted - kept.keys()
        if missing and (self._coming is None or min(missing) < self._next):
            self._next = min(missing)
            self._coming = self._from(self._next)
        while missing:
            assert self._coming is not None
            number, picture = next(self._coming)
            self._next = number + 1
            if number in missing:
                kept[number] = self._fit(picture())
                missing.remove(number)
        self._kept = kept
        return np.stack([kept[int(number)] for number in numbers])

    def _from(self, number: int) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
        """Numbers of `times` in their order from `number` on, and what makes the picture on screen then."""
        shown, begin = None, float(self._times[number])
        timed = sources.frames(self._path, self._times[-1], self._notes, keys=self._keys, begin=begin)
        with contextlib.closing(timed):
            for seconds, picture in timed:
                while (
                    shown is not None and number < len(self._times) and self._times[number] < seconds - 1e-6
                ):
                    yield number, shown
                    number += 1
                shown = picture
            while shown is not None and number < len(self._times):
                yield number, shown
                number += 1
