"""Compares a small picture with many others under shifts, which approximate small turns of the camera."""

from __future__ import annotations

import numpy as np


class ShiftedComparison:
    """Differences between a picture and candidates [K, h, w, 3] where they overlap, for every shift.

    Args:
      shifts: the farthest shift in pixels, up, down, left and right; less than half of the height and width.
    """

    def __init__(self, candidates: np.ndarray, shifts: int):
        self._shape = (
            2 * candidates.shape[1],
            2 * candidates.shape[2],
        )  # padded, so that no shift wraps around
        self._kept = np.arange(-shifts, shifts + 1)
        self._candidates = self._transform(np.moveaxis(candidates, -1, 1))  # [K, 3, ...]
        self._inside = self._transform(np.ones(candidates.shape[1:3]))
        self._area = self._correlate(self._inside, self._inside)
        self._sums = self._correlate(self._inside, self._candidates)
        self._squares = self._correlate(self._inside, self._transform((candidates**2).sum(-1)))

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Mean squared difference, summed over channels, less that of the overlaps' mean colours.

        Args:
          picture: [h, w, 3].

        Returns:
          [K, 2 shifts + 1, 2 shifts + 1]: how far the picture's content lies down and right of a candidate's,
          from -shifts to shifts.
        """
        own = self._transform(np.moveaxis(picture, -1, 0))
        squares = self._correlate(self._transform((picture**2).sum(-1)), self._inside) + self._squares
        product = self._correlate((own * np.conj(self._candidates)).sum(1), 1)
        means = (self._correlate(own, self._inside) - self._sums) / self._area
        return (squares - 2 * product) / self._area - np.square(means).sum(1)

    def _transform(self, pictures: np.ndarray) -> np.ndarray:
        return np.fft.rfft2(pictures, self._shape)

    def _correlate(self, first: np.ndarray, second: np.ndarray | int) -> np.ndarray:
        """The sum over pixels of first(x + shift) second(x), for the shifts kept."""
        whole = np.fft.irfft2(first * np.conj(second), self._shape)
        return whole[..., self._kept[:, None], self._kept]
