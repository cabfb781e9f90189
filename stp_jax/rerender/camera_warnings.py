"""What looks wrong about a new camera path from a file."""

from __future__ import annotations

import numpy as np

from stp_jax.controls.paths import Cameras


def reason(given_source: bool, own_convention: bool) -> str:
    """Why a target's path from a file may look wrong, to print.

    Args:
      given_source: whether the source's cameras are given, too.
      own_convention: whether the file's form states axes and poses.
    """
    reasons = []
    if not given_source:
        reasons.append(
            "Without --source_cameras its poses are taken relative to the source's first camera: give the "
            "source's in the same world, too."
        )
    if not own_convention:
        reasons.append(
            "Is the axes' or the poses' convention another: --camera_axes opengl, --camera_poses w2c?"
        )
    return "  " + " ".join(reasons or ["Is its unit another, --camera_scale, or its world?"])


def warnings(source: Cameras, target: Cameras, distance: float) -> list[str]:
    """What looks wrong about a target's path from a file, as lines to print; both in one world.

    Args:
      distance: metres from the source's cameras to what they look at, roughly.
    """
    places, seen_from = target.c2w[:, :3, 3].astype(np.float64), source.c2w[:, :3, 3].astype(np.float64)
    apart = np.linalg.norm(places[:, None] - seen_from, axis=-1).min(1)
    lines = []
    if apart.min() > distance / 2:
        lines.append(
            f"every frame of it is {apart.min():.3g} m or more away from every camera of the source "
            f"(the first {apart[0]:.3g} m)"
        )
    if not _looks_there(source, target, distance):
        forward, ahead = target.c2w[:, :3, 2].astype(np.float64), source.c2w[:, :3, 2].astype(np.float64)
        angles = np.degrees(np.arccos(np.clip(forward @ ahead.T, -1, 1))).min(1)
        lines.append(
            "no frame of it looks where the source looked "
            f"(its first looks {angles[0]:.0f} degrees away, its nearest {angles.min():.0f})"
        )
    if not lines:
        return []
    return [f"WARNING: the new camera: {'; '.join(lines)}."]


def _looks_there(source: Cameras, target: Cameras, distance: float) -> bool:
    """Whether any target frame has a point in its picture that a source frame has in its middle.

    The points lie on the optical axes, at distances from half to 16 times `distance`.
    """
    depths = distance * np.array([0.5, 1, 2, 4, 16])
    c2w = source.c2w.astype(np.float64)
    points = (c2w[:, None, :3, 3] + depths[:, None] * c2w[:, None, :3, 2]).reshape(-1, 3)
    for pose, (fx, fy, cx, cy) in zip(target.c2w.astype(np.float64), target.intrinsics, strict=True):
        x, y, z = ((points - pose[:3, 3]) @ pose[:3, :3]).T
        ahead = z > 1e-6
        u, v = fx * x[ahead] / z[ahead] + cx, fy * y[ahead] / z[ahead] + cy
        if ((u > 0) & (u < 1) & (v > 0) & (v < 1)).any():
            return True
    return False
