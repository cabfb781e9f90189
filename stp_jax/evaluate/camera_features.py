"""The camera path of a video by its features, for videos without rendered ground truth.

`stp_jax.controls.structure` is the estimator. It is given the video and its lens, never the commanded path.
Read its figures beside its own error on videos of known cameras. At 128 pixels features are too few and too
coarse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from stp_jax.controls import structure
from stp_jax.controls.structure import MIN_FRAMES, CameraPath

__all__ = ["MIN_FRAMES", "CameraPath", "PathErrors", "Similarity", "compare", "gain_of", "load", "umeyama"]

NOT_INSTALLED = (
    "Camera paths by features are left out: pycolmap is not installed (pip install 'stp-jax[eval]')."
)
MIN_TURN = 1.0  # degrees; a commanded path that turns less has no gain


class PathErrors(NamedTuple):
    """Errors of an estimated path; both paths are relative to the first frame found. NaN: not known."""

    rotation: np.ndarray  # float64 [F], degrees
    rotation_of_pairs: float  # degrees, mean over all pairs of frames
    achieved_angle: np.ndarray  # float64 [F], degrees from the first frame
    achieved_part: np.ndarray  # float64 [F], of the achieved rotation vector along the commanded one
    commanded_angle: np.ndarray  # float64 [F], degrees from the first frame
    gain: float  # achieved rotation for each degree commanded, see `gain_of`
    translation: np.ndarray  # float64 [F], metres of the commanded path, after a similarity fit


class Similarity(NamedTuple):
    """x -> scale * rotation @ x + translation."""

    scale: float
    rotation: np.ndarray  # [3, 3]
    translation: np.ndarray  # [3]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.scale * points @ self.rotation.T + self.translation


def load() -> Callable[[np.ndarray, np.ndarray], CameraPath] | None:
    """The estimator, see `structure.estimate`. None if `pycolmap` is not installed."""
    return structure.estimate if structure.installed() else None


def rotation_vectors(rotations: np.ndarray) -> np.ndarray:
    """Rotation vectors, axis times angle in radians (at most pi): [..., 3, 3] -> [..., 3]; NaN for NaN."""
    from scipy.spatial.transform import Rotation

    vectors = np.full(rotations.shape[:-1], np.nan)
    known = np.isfinite(rotations).all((-1, -2))
    if known.any():
        vectors[known] = Rotation.from_matrix(rotations[known]).as_rotvec()
    return vectors


def angles(rotations: np.ndarray) -> np.ndarray:
    """Angles of rotations in degrees, 0 to 180: [..., 3, 3] -> [...]."""
    return np.degrees(np.linalg.norm(rotation_vectors(rotations), axis=-1))


def gain_of(achieved: np.ndarray, commanded: np.ndarray) -> float:
    """How far the camera turned for each commanded degree: 1 is right, 0 is no turn at all.

    The least-squares slope through the origin of achieved over commanded rotation vectors, so rotation about
    other axes does not count. Both must stay below 180 degrees from the first frame.

    Args:
      achieved, commanded: rotations relative to the same frame, [F, 3, 3]; NaN where not known.

    Returns:
      The gain; NaN where the commanded path turns less than MIN_TURN degrees.
    """
    a, c = rotation_vectors(achieved), rotation_vectors(commanded)
    known = np.isfinite(a).all(1) & np.isfinite(c).all(1)
    if not known.any() or np.degrees(np.linalg.norm(c[known], axis=1).max()) < MIN_TURN:
        return float("nan")
    return float(np.sum(a[known] * c[known]) / np.sum(c[known] ** 2))


def umeyama(points: np.ndarray, targets: np.ndarray) -> Similarity:
    """The similarity that brings points nearest to targets, both [N, 3], in least squares.

    Umeyama, Least-squares estimation of transformation parameters between two point patterns, 1991. Points
    that all coincide get scale 0.
    """
    points, targets = np.asarray(points, np.float64), np.asarray(targets, np.float64)
    centre, goal = points.mean(0), targets.mean(0)
    u, sizes, vt = np.linalg.svd((targets - goal).T @ (points - centre) / len(points))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * signs) @ vt
    variance = np.mean(np.sum((points - centre) ** 2, axis=1))
    scale = float(sizes @ signs / variance) if variance else 0.0
    return Similarity(scale, rotation, goal - scale * rotation @ centre)


def compare(path: CameraPath, commanded: np.ndarray) -> PathErrors:
    """The errors of a path beside the commanded one.

    Args:
      commanded: c2w [F, 4, 4], in any world, metres.
    """
    commanded = np.asarray(commanded, np.float64)
    frames, unknown = len(commanded), float("nan")
    if not path.found.any():
        nothing = np.full(frames, unknown)
        return PathErrors(nothing, unknown, nothing, nothing, nothing, unknown, nothing)
    first = np.argmax(path.found)
    command = np.linalg.inv(commanded[first]) @ commanded
    achieved, wanted = path.c2w[:, :3, :3], command[:, :3, :3]
    pairs = _relative(achieved).swapaxes(-1, -2) @ _relative(wanted)
    upper = np.triu_indices(frames, 1)
    of_pairs = angles(pairs[upper])
    return PathErrors(
        rotation=angles(achieved.swapaxes(-1, -2) @ wanted),
        rotation_of_pairs=float(np.nanmean(of_pairs)) if np.isfinite(of_pairs).any() else unknown,
        achieved_angle=angles(achieved),
        achieved_part=_part_along(rotation_vectors(achieved), rotation_vectors(wanted)),
        commanded_angle=angles(wanted),
        gain=gain_of(achieved, wanted),
        translation=_translation_errors(path, command),
    )


def _part_along(achieved: np.ndarray, commanded: np.ndarray) -> np.ndarray:
    """Degrees [F] of rotation vectors [F, 3] in radians; 0 where none is commanded."""
    length = np.linalg.norm(commanded, axis=-1)
    return np.degrees(np.sum(achieved * commanded, -1) / np.maximum(length, 1e-12))


def _relative(rotations: np.ndarray) -> np.ndarray:
    """Rotations [F, 3, 3] -> the rotation between each two of them, [F, F, 3, 3]."""
    return rotations.swapaxes(-1, -2)[:, None] @ rotations[None]


def _translation_errors(path: CameraPath, command: np.ndarray) -> np.ndarray:
    errors = np.full(len(command), np.nan)
    if path.parallax:
        centres: Any = path.c2w[path.found, :3, 3]
        wanted = command[path.found, :3, 3]
        errors[path.found] = np.linalg.norm(umeyama(centres, wanted)(centres) - wanted, axis=1)
    return errors
