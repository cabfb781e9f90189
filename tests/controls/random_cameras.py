"""Arbitrary cameras, and what they see."""

import numpy as np


def random_cameras(
    seed: int = 0, frames: int = 9, batch: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Arbitrary poses (Haar rotations) and lenses in float64."""
    rng = np.random.default_rng(seed)
    c2w = np.tile(np.eye(4), (*batch, frames, 1, 1))
    q, r = np.linalg.qr(rng.standard_normal((*batch, frames, 3, 3)))
    q = q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
    q[..., 0] *= np.linalg.det(q)[..., None]
    c2w[..., :3, :3] = q
    c2w[..., :3, 3] = rng.normal(0, 3, (*batch, frames, 3))
    return c2w, rng.uniform([0.6, 0.6, 0.4, 0.4], [1.5, 1.5, 0.6, 0.6], (*batch, frames, 4))


def project(points: np.ndarray, c2w: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pinhole projection of world points [N, 3]: (x, y) by width and height [N, 2], and depth [N]."""
    seen = (points - c2w[:3, 3]) @ c2w[:3, :3]
    return seen[:, :2] / seen[:, 2:] * intrinsics[:2] + intrinsics[2:], seen[:, 2]
