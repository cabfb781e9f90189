"""95 % intervals of means over scenes, by the bootstrap.

Scenes are drawn with replacement, as many as there are; the interval lies between the 2.5th and the 97.5th
percentile of the means of 10,000 such draws (Efron and Tibshirani, An introduction to the bootstrap, 1993,
chapter 13). All figures of an evaluation share the draws, so a difference of two methods is paired: both are
averaged over the same scenes each time.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean over scenes and its interval; `low` and `high` are NaN where there is no interval."""

    mean: float
    low: float
    high: float
    scenes: int  # those that have a value

    def json(self) -> dict[str, Any]:
        """The estimate as JSON values."""
        return {"mean": self.mean, "interval": [self.low, self.high], "scenes": self.scenes}


@functools.lru_cache(maxsize=4)
def draws(scenes: int) -> np.ndarray:
    """How often each scene is in each draw, float64 [RESAMPLES, scenes]; the same at each call."""
    rng = np.random.default_rng(0)
    return rng.multinomial(scenes, np.full(scenes, 1 / scenes), size=RESAMPLES).astype(np.float64)


def resampled_means(values: np.ndarray) -> np.ndarray:
    """The mean of each draw, [RESAMPLES] from [S]; NaN is a scene without a value and does not count.

    Other statistics follow from means: a slope through the origin is the mean of x * y over that of x * x.
    """
    values = np.asarray(values, np.float64)
    there = ~np.isnan(values)
    weights = draws(len(values))
    with np.errstate(invalid="ignore"):  # a draw of scenes without a value has no mean
        return weights @ np.where(there, values, 0) / (weights @ there)


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """The percentile interval of a statistic of each draw [RESAMPLES]."""
    if np.isnan(resampled).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def estimate(values: np.ndarray) -> Estimate:
    """The mean over scenes of values [S], and its interval.

    NaN is a scene without a value. There is no interval for one scene, nor where a value is infinite, as the
    PSNR of equal videos is.
    """
    values = np.asarray(values, np.float64)
    there = values[~np.isnan(values)]
    count = len(there)
    if count == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    if count == 1 or np.isinf(there).any():
        return Estimate(float(np.mean(there)), float("nan"), float("nan"), count)
    return Estimate(float(np.mean(there)), *interval(resampled_means(values)), count)


def difference(values: np.ndarray, others: np.ndarray) -> Estimate:
    """The mean over scenes of `values - others`, both [S] in one order of scenes, and its interval."""
    with np.errstate(invalid="ignore"):  # of two infinite values there is no difference
        return estimate(np.asarray(values, np.float64) - np.asarray(others, np.float64))


def slope(products: np.ndarray, squares: np.ndarray) -> Estimate:
    """The slope through 0 of y against x by least squares over all scenes, and its interval.

    Args:
      products, squares: each scene's sums of x * y and of x * x, [S]; NaN is a scene without any.
    """
    count = int((~np.isnan(squares)).sum())
    if not count or not np.nansum(squares) > 1e-6:  # nothing moves
        return Estimate(float("nan"), float("nan"), float("nan"), count)
    mean = float(np.nansum(products) / np.nansum(squares))
    if count == 1:
        return Estimate(mean, float("nan"), float("nan"), count)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = resampled_means(products) / resampled_means(squares)
    return Estimate(mean, *interval(np.where(np.isfinite(slopes), slopes, np.nan)), count)
