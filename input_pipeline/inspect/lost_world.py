"""Inverted poses whose world is lost: world-to-camera matrices, read as camera-to-world, made relative.

Builders take the first camera's frame for the world. Of world-to-camera matrices W_i that were read as
camera-to-world ones, a record then has Y_i = W_0^-1 W_i, where W_0 is not in the record. The motion from
camera i to j is W_j W_i^-1 = W_0 Z W_0^-1 with Z = Y_j Y_i^-1 = (Q, q): known but for W_0 = (R, -R s), one
rotation and one translation for all pairs. In rays a' = R^T a and b' = R^T b the epipolar constraint is
(Q a' x b') . ((Q - 1) s + q) = 0, linear in s. So s follows by least squares for many rotations, and the best
are improved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from input_pipeline.inspect import epipolar
from input_pipeline.inspect.epipolar import Pair

Matches = tuple[Pair, np.ndarray, np.ndarray]  # two cameras, and pixels [N, 2] of both

_ROTATIONS = 300  # that are tried, about 30 degrees apart
_BEST = 6  # of them that are improved
_MATCHES = 25  # of a pair that are used
_COARSE, _FINE = 0.05, 2e-3  # radians: matches that are farther off count less


class _Rays(NamedTuple):
    """All matches: rays [N, 3] of length 1 in both cameras, Q [N, 3, 3] and q [N, 3] of their pair."""

    first: np.ndarray
    second: np.ndarray
    turn: np.ndarray
    shift: np.ndarray


def apply(poses: tuple[np.ndarray, np.ndarray], first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Camera-to-world poses of relative, inverted ones [..., 4, 4] and lenses; `first` is W_0 [4, 4]."""
    return np.linalg.inv(first @ np.asarray(poses[0], np.float64)), poses[1]


def find(matches: Sequence[Matches]) -> list[np.ndarray]:
    """Matrices W_0 [4, 4] that the matches fit best of all near them, whatever that is worth.

    Some of them may have what is seen behind the cameras: the constraint itself does not ask for that.
    """
    parts = [_rays(*one) for one in matches]
    rays = _Rays(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    starts = []
    for turn in Rotation.random(_ROTATIONS, random_state=0):
        vector = np.concatenate([turn.as_rotvec(), _best_shift(turn.as_matrix(), rays)])
        off = np.log1p((_residuals(vector, rays) / _COARSE) ** 2)
        starts.append((float((off + _behind(vector, rays)).mean()), vector))
    starts.sort(key=lambda start: start[0])
    made = []
    for _, vector in starts[:_BEST]:
        for likely in (_COARSE, _FINE):
            vector = least_squares(
                _residuals, vector, args=(rays,), loss="cauchy", f_scale=likely, max_nfev=40
            ).x
        first = np.eye(4)
        first[:3, :3] = Rotation.from_rotvec(vector[:3]).as_matrix()
        first[:3, 3] = -first[:3, :3] @ vector[3:]
        made.append(first)
    return made


def _rays(pair: Pair, first: np.ndarray, second: np.ndarray) -> _Rays:
    chosen = np.linspace(0, len(first) - 1, min(len(first), _MATCHES)).astype(int)
    a = epipolar.rays(first[chosen], pair.first_lens, pair.size)
    b = epipolar.rays(second[chosen], pair.second_lens, pair.size)
    between = np.asarray(pair.second, np.float64) @ np.linalg.inv(np.asarray(pair.first, np.float64))
    a, b = (rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in (a, b))
    count = len(chosen)
    return _Rays(a, b, np.tile(between[:3, :3], (count, 1, 1)), np.tile(between[:3, 3], (count, 1)))


def _turned(rotation: np.ndarray, rays: _Rays) -> tuple[np.ndarray, np.ndarray]:
    """Q a' and b', [N, 3] each, for R = `rotation`."""
    return (rays.turn @ (rays.first @ rotation)[..., None])[..., 0], rays.second @ rotation


def _best_shift(rotation: np.ndarray, rays: _Rays) -> np.ndarray:
    """s [3] by least squares that are weighted anew by what is far off."""
    a, b = _turned(rotation, rays)
    normals = np.cross(a, b)
    rows = (normals[:, None] @ (rays.turn - np.eye(3)))[:, 0]
    wanted = -(normals * rays.shift).sum(1)
    weights = np.ones(len(rows))
    shift = np.zeros(3)
    for _ in range(3):
        weighted = rows * weights[:, None]
        matrix = weighted.T @ rows
        matrix += 1e-6 * max(float(np.trace(matrix)), 1e-12) * np.eye(3)
        shift = np.linalg.solve(matrix, weighted.T @ wanted)
        along = rays.turn @ shift - shift + rays.shift
        length = np.maximum(np.linalg.norm(np.cross(along, a), axis=1), 1e-9)
        angle = (rows @ shift - wanted) / length
        weights = 1 / (length**2 * (1 + (angle / _COARSE) ** 2))
    return shift


def _residuals(vector: np.ndarray, rays: _Rays) -> np.ndarray:
    """Sines of the angles [N] of b' from the plane of Q a' and the translation; `vector` is R's and s."""
    a, b = _turned(Rotation.from_rotvec(vector[:3]).as_matrix(), rays)
    along = rays.turn @ vector[3:] - vector[3:] + rays.shift
    normal = np.cross(along, a)
    return (normal * b).sum(1) / np.maximum(np.linalg.norm(normal, axis=1), 1e-9)


def _behind(vector: np.ndarray, rays: _Rays) -> np.ndarray:
    """Which rays [N] meet behind a camera."""
    a, b = _turned(Rotation.from_rotvec(vector[:3]).as_matrix(), rays)
    along = rays.turn @ vector[3:] - vector[3:] + rays.shift
    ab, at, bt = ((x * y).sum(1) for x, y in ((a, b), (a, along), (b, along)))
    return (ab * bt < at) | (bt < ab * at)  # the depths, by least squares
