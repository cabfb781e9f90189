"""Rotations, quaternions (w, x, y, z) and smooth random curves. World: metres, z up."""

from __future__ import annotations

import numpy as np


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def about(axis: str, angle: float) -> tuple[float, ...]:
    """Quaternion of a turn by `angle` radians about the axis x, y or z."""
    c, s = float(np.cos(angle / 2)), float(np.sin(angle / 2))
    return (c, *(s if axis == name else 0.0 for name in "xyz"))


def yaw_pitch_roll(yaw, pitch=0.0, roll=0.0) -> np.ndarray:
    """[..., 3, 3] from angles in radians: z, then y, then x; pitch > 0 tips the x axis down."""
    yaw, pitch, roll = np.broadcast_arrays(*(np.asarray(a, float) for a in (yaw, pitch, roll)))
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def along_z(direction: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] that take z to `direction`, with x near the plane of `direction` and `side`."""
    z = unit(direction)
    y = unit(np.cross(z, side))
    return np.stack([np.cross(y, z), y, z], -1)


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """[..., 3, 3] -> [..., 4], w >= 0."""
    m = rotation
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    # Of the four ways to write a quaternion, each with another component as divisor, take the best scaled.
    rows = np.stack(
        [
            np.stack(
                [
                    1 + xx + yy + zz,
                    m[..., 2, 1] - m[..., 1, 2],
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 1, 0] - m[..., 0, 1],
                ],
                -1,
            ),
            np.stack(
                [
                    m[..., 2, 1] - m[..., 1, 2],
                    1 + xx - yy - zz,
                    m[..., 1, 0] + m[..., 0, 1],
                    m[..., 0, 2] + m[..., 2, 0],
                ],
                -1,
            ),
            np.stack(
                [
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 1, 0] + m[..., 0, 1],
                    1 - xx + yy - zz,
                    m[..., 2, 1] + m[..., 1, 2],
                ],
                -1,
            ),
            np.stack(
                [
                    m[..., 1, 0] - m[..., 0, 1],
                    m[..., 0, 2] + m[..., 2, 0],
                    m[..., 2, 1] + m[..., 1, 2],
                    1 - xx - yy + zz,
                ],
                -1,
            ),
        ],
        -2,
    )
    best = np.argmax(np.stack([xx + yy + zz, xx, yy, zz], -1), -1)
    q = unit(np.take_along_axis(rows, best[..., None, None], -2)[..., 0, :])
    return np.where(q[..., :1] < 0, -q, q)


def wander(rng: np.random.Generator, x: np.ndarray, period: float) -> np.ndarray:
    """A smooth random curve at `x`, of about unit deviation: three sinusoids of unrelated periods."""
    periods = period * rng.uniform(0.7, 1.8, 3)
    phases = rng.uniform(0, 2 * np.pi, 3)
    return sum(np.sin(2 * np.pi * x / p + phase) for p, phase in zip(periods, phases, strict=True)) * 0.8


def two_bones(root: np.ndarray, goal: np.ndarray, lengths: tuple[float, float], bend: np.ndarray):
    """Inverse kinematics of a limb of two bones.

    Args:
      root, goal: [..., 3] its fixed end, and where the other should be.
      bend: [..., 3] the side to which the middle joint bends.

    Returns:
      (middle, end): [..., 3] each; `end` lies short of `goal` where that is out of reach.
    """
    first, second = lengths
    distance = np.linalg.norm(goal - root, axis=-1, keepdims=True)
    u = (goal - root) / distance
    distance = np.clip(distance, abs(first - second) + 1e-3, 0.998 * (first + second))
    along = (first**2 - second**2 + distance**2) / (2 * distance)
    aside = unit(bend - (bend * u).sum(-1, keepdims=True) * u)
    middle = root + along * u + np.sqrt(np.maximum(first**2 - along**2, 0)) * aside
    return middle, root + distance * u
