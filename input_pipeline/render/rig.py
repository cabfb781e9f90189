"""Camera rigs: one smooth path of cameras around the place where things happen."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from input_pipeline.render.geometry import unit

KINDS = {"arc": 0.38, "crane": 0.18, "spiral": 0.14, "truck": 0.15, "dolly": 0.15}


class Rig(NamedTuple):
    kind: str
    c2w: np.ndarray  # [C, 4, 4] OpenCV axes (x right, y down, z forward), world z up, metres
    intrinsics: np.ndarray  # [C, 4] fx, fy, cx, cy by width and height

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points [N, 3] -> [C, N, 3]: x and y in 0..1 across the picture, depth in metres."""
        local = (points - self.c2w[:, None, :3, 3]) @ self.c2w[:, :3, :3]
        xy = local[..., :2] / np.maximum(local[..., 2:], 1e-6)
        xy = xy * self.intrinsics[:, None, :2] + self.intrinsics[:, None, 2:]
        return np.concatenate([xy, local[..., 2:]], -1)


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """c2w [..., 4, 4] of level cameras at `eye` [..., 3] that look at `target` [..., 3]."""
    forward = unit(target - eye)
    right = unit(np.cross(forward, [0.0, 0.0, 1.0]))
    c2w = np.zeros((*eye.shape[:-1], 4, 4))
    c2w[..., :3, :] = np.stack([right, np.cross(forward, right), forward, eye], -1)
    c2w[..., 3, 3] = 1
    return c2w


def draw(rng: np.random.Generator, cameras: int, focus: np.ndarray, height: float) -> Rig:
    """A random rig of `cameras` cameras around `focus` [3], where the main figure of `height` metres is.

    The figure fills about 40 to 60 % of the picture's height, and the path goes 50 to 90 degrees round it
    (dolly: 25 to 45 degrees, and nearer).
    """
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    fov = np.radians(rng.uniform(45, 60))
    distance = np.clip(height / (rng.uniform(0.4, 0.6) * 2 * np.tan(fov / 2)), 2.8, 5.0)
    u = np.linspace(0, 1, cameras)
    span = np.radians(rng.uniform(25, 45) if kind == "dolly" else rng.uniform(50, 90)) * rng.choice([-1, 1])
    angle = rng.uniform(0, 2 * np.pi) + span * (u - 0.5)
    radius = np.full(cameras, distance)
    z = np.full(cameras, rng.uniform(0.7, 2.2))
    if kind == "crane":
        z = _ramp(rng, rng.uniform(0.5, 1.0), rng.uniform(1.9, 2.8), cameras)
    elif kind == "spiral":
        z = z + np.linspace(rng.uniform(-0.4, 0.6), rng.uniform(-0.4, 0.6), cameras)
        radius = distance * _ramp(rng, rng.uniform(0.85, 0.95), rng.uniform(1.1, 1.3), cameras)
    elif kind == "truck":  # along the chord of the arc
        radius = distance * np.cos(span / 2) / np.cos(span * (u - 0.5)) * 1.1
    elif kind == "dolly":
        radius = distance * _ramp(rng, 0.8, rng.uniform(1.2, 1.4), cameras)
    around = np.stack([np.cos(angle), np.sin(angle)], -1)
    eye = np.concatenate([focus[:2] + radius[:, None] * around, np.maximum(z, 0.4)[:, None]], -1)
    drift = np.linspace(-1, 1, cameras)[:, None] * rng.normal(0, 0.12, 3)
    focal = 0.5 / np.tan(fov / 2)
    return Rig(kind, look_at(eye, focus + drift), np.tile([focal, focal, 0.5, 0.5], (cameras, 1)))


def _ramp(rng: np.random.Generator, low: float, high: float, cameras: int) -> np.ndarray:
    """From `low` to `high` or the other way round."""
    return np.linspace(low, high, cameras)[:: rng.choice([-1, 1])]


def camera_data(rig: Rig) -> dict[str, Any]:
    """World-to-camera matrices and intrinsics of a rig, by camera, as camera_data.json holds them."""
    names = [f"camera_{c:03d}" for c in range(len(rig.c2w))]
    return {
        "extrinsic": dict(zip(names, np.linalg.inv(rig.c2w).tolist(), strict=True)),
        "intrinsic": dict(zip(names, rig.intrinsics.tolist(), strict=True)),
    }
