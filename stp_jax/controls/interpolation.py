"""Curves through keys: numbers, positions and rotations, each way from key to key of its own kind.

Between two keys a curve is

- `linear`: at constant speed (rotations along the shortest arc: slerp, K. Shoemake 1985);
- `smooth`: without a jump of the speed at the keys (see `_Ways`);
- `ease`: from rest to rest;
- `hold`: the first key's value, until the second.

Next to a hold and an ease a smooth way starts from rest or comes to rest, next to a linear one it has its
speed. Before the first key and after the last their values are held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

KINDS = ("linear", "smooth", "ease", "hold")
_Slopes = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of a run of keys: times [n], slopes [n - 1, D]


class _Ways(NamedTuple):
    """The ways between n keys: cubics with these speeds at their ends (cubic Hermite curves)."""

    begin: np.ndarray  # [n - 1, D]
    end: np.ndarray  # [n - 1, D]


def numbers(times: np.ndarray, values: np.ndarray, kinds: Sequence[str], at: np.ndarray) -> np.ndarray:
    """Numbers between keys without overshoot: monotone wherever the keys are.

    Smooth ways have the speeds of the monotone cubic of F. N. Fritsch and J. Butland, 1984 ("PCHIP").

    Args:
      times: [n], increasing.
      values: [n] or [n, D], of which each column is a curve of its own.
      kinds: [n - 1] of KINDS; more are not looked at.
      at: [m], where to look.

    Returns:
      [m] or [m, D], float64.
    """
    from scipy.interpolate import PchipInterpolator  # takes a while to import

    values = np.asarray(values, np.float64)
    columns = values.reshape(len(values), -1)

    def monotone(of: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        reached = np.concatenate([[0 * slopes[0]], np.cumsum(slopes * np.diff(of)[:, None], axis=0)])
        return PchipInterpolator(of, reached).derivative()(of)

    def limit(speed: np.ndarray, slope: np.ndarray) -> np.ndarray:
        return np.clip(speed, np.minimum(0, 3 * slope), np.maximum(0, 3 * slope))

    at = np.asarray(at, np.float64)
    curve = _hermite(times, columns, kinds, at, monotone, limit)
    if len(times) > 1:  # not even by rounding
        which, _ = _places(times, kinds, at)
        ends = columns[which], columns[which + 1]
        curve = np.clip(curve, np.minimum(*ends), np.maximum(*ends))
    return curve.reshape(-1, *values.shape[1:])


def points(times: np.ndarray, values: np.ndarray, kinds: Sequence[str], at: np.ndarray) -> np.ndarray:
    """Points [m, D] of a path through keys [n, D]; arguments as for `numbers`.

    Smooth ways have the speed of the parabola through a key and its two neighbours (Catmull-Rom for uneven
    times), at most three times the mean speed of either way: between equal keys a path stands still. At the
    first and last key it does not accelerate. A path of constant speed is met exactly.
    """
    return _hermite(
        times, np.asarray(values, np.float64), kinds, np.asarray(at, np.float64), _key_speeds, _limit
    )


def rotations(times: np.ndarray, keys: Rotation, kinds: Sequence[str], at: np.ndarray) -> Rotation:
    """Rotations [m] through keys [n], as `points`; speeds are angular velocities in the body's frame.

    Each way is a cubic Bezier curve on the sphere of quaternions, as M.-J. Kim, M.-S. Kim and S. Y. Shin
    built them ("A general construction scheme for unit quaternion curves with simple high order derivatives",
    1995): of the same speeds at its ends as the cubic of `points`. Constant speed is met exactly.
    """
    from scipy.spatial.transform import Rotation  # takes a while to import

    at = np.asarray(at, np.float64)
    if len(times) == 1:
        return keys[np.zeros(len(at), int)]
    step = np.diff(times)[:, None]
    ways = _ways(
        np.asarray(times, np.float64),
        (keys[:-1].inv() * keys[1:]).as_rotvec() / step,
        kinds,
        _key_speeds,
        _limit,
    )
    which, part = _places(times, kinds, at)
    part = part[:, None]
    first, third = ways.begin * step / 3, ways.end * step / 3
    between = Rotation.from_rotvec(-first) * keys[:-1].inv() * keys[1:] * Rotation.from_rotvec(-third)
    second = between.as_rotvec()
    return (
        keys[which]
        * Rotation.from_rotvec(first[which] * (1 - (1 - part) ** 3))
        * Rotation.from_rotvec(second[which] * part**2 * (3 - 2 * part))
        * Rotation.from_rotvec(third[which] * part**3)
    )


def _hermite(
    times: np.ndarray,
    values: np.ndarray,
    kinds: Sequence[str],
    at: np.ndarray,
    slopes_of: _Slopes,
    limit: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """The curve [m, D] through keys [n, D]."""
    if len(times) == 1:
        return np.repeat(values, len(at), axis=0)
    times = np.asarray(times, np.float64)
    step = np.diff(times)[:, None]
    ways = _ways(times, np.diff(values, axis=0) / step, kinds, slopes_of, limit)
    which, part = _places(times, kinds, at)
    part, step = part[:, None], step[which]
    # The four cubics of Hermite, of values and speeds at both ends.
    risen = part**2 * (3 - 2 * part)
    begin, end = part * (1 - part) ** 2 * step, part**2 * (part - 1) * step
    ends = (1 - risen) * values[which] + risen * values[which + 1]
    return ends + begin * ways.begin[which] + end * ways.end[which]


def _places(times: np.ndarray, kinds: Sequence[str], at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `at` the way that it is on, and how far, 0 to 1."""
    which = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
    part = np.clip((at - times[which]) / np.diff(times)[which], 0, 1)
    held = np.array([kind == "hold" for kind in kinds[: len(times) - 1]])
    return which, np.where(held[which] & (part < 1), 0.0, part)


def _ways(
    times: np.ndarray,
    slopes: np.ndarray,
    kinds: Sequence[str],
    slopes_of: _Slopes,
    limit: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> _Ways:
    """Speeds at the ends of each way, from the mean speeds of the ways [n - 1, D]."""
    count = len(slopes)
    begin, end = slopes.copy(), slopes.copy()
    first = 0
    while first < count:
        last = first + 1  # the ways first .. last - 1 are a run
        if kinds[first] == "ease":
            begin[first], end[first] = 0.0, 0.0
        elif kinds[first] == "smooth":
            while last < count and kinds[last] == "smooth":
                last += 1
            speeds = slopes_of(times[first : last + 1], slopes[first:last])
            for way, beside, key in ((first, first - 1, 0), (last - 1, last, -1)):
                if 0 <= beside < count:
                    linear = kinds[beside] == "linear"
                    speeds[key] = limit(slopes[beside], slopes[way]) if linear else 0.0
            begin[first:last], end[first:last] = speeds[:-1], speeds[1:]
        first = last
    return _Ways(begin, end)


def _key_speeds(times: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Speeds [n, D] at the keys of a smooth run; see `points`."""
    if len(slopes) == 1:
        return np.repeat(slopes, 2, axis=0)
    step = np.diff(times)[:, None]
    before, after = slopes[:-1], slopes[1:]
    inner = (step[1:] * before + step[:-1] * after) / (step[1:] + step[:-1])
    inner = _limit(_limit(inner, before), after)
    return np.concatenate([[1.5 * slopes[0] - inner[0] / 2], inner, [1.5 * slopes[-1] - inner[-1] / 2]])


def _limit(speed: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """A speed of at most three times the length of a mean speed; on a line such a curve is monotone."""
    size = np.linalg.norm(speed, axis=-1, keepdims=True)
    most = 3 * np.linalg.norm(slope, axis=-1, keepdims=True)
    return speed * np.where(size > most, most / np.where(size > 0, size, 1), 1.0)
