"""Trajectories in lines of text: RealEstate10K (also CameraCtrl), TUM, KITTI, TrajectoryCrafter.

A form is recognised by the count of numbers in its lines, and by their holding rotations.
"""

from __future__ import annotations

import numpy as np

from stp_jax.controls.formats.base import (
    CameraFile,
    Content,
    Format,
    Reading,
    Rows,
    plain,
    rigid,
    rotations,
    stated,
    time_stamps,
)
from stp_jax.errors import InputError

_OFF = 0.05  # of R^T R from the unit matrix, for numbers to be taken for a rotation
CRAFTER_FRAMES = 49  # into which TrajectoryCrafter divides its paths


def _table(content: Content, columns: int) -> np.ndarray | None:
    """[F, columns], if all lines have that many numbers."""
    if not isinstance(content.data, Rows) or {len(row) for row in content.data.of} != {columns}:
        return None
    return np.stack(content.data.of)


def _lines(content: Content) -> list[str]:
    """What the poses of a text are called in messages."""
    return [f"line {number}" for number in content.data.lines]


def _are_rotations(matrices: np.ndarray) -> bool:
    """Whether most of some matrices [F, 3, 3] are rotations."""
    with np.errstate(all="ignore"):
        off = np.abs(matrices.swapaxes(1, 2) @ matrices - np.eye(3)).max((1, 2))
    return bool((off < _OFF).mean() > 0.5)


def _is_re10k(content: Content) -> bool:
    return _table(content, 19) is not None


def _read_re10k(content: Content, reading: Reading) -> CameraFile:
    """Lines: time in microseconds, fx fy cx cy by width and height, 0 0, 3 x 4 world-to-camera."""
    table = _table(content, 19)
    assert table is not None
    form = "RealEstate10K: world-to-camera, OpenCV axes"
    poses = table[:, 7:].reshape(-1, 3, 4)
    file = CameraFile(content.where, poses, form, table[:, 1:5], to_c2w=np.linalg.inv)
    numbers = time_stamps(table[:, 0], content.where, _lines(content))
    file = file._replace(numbers=numbers, pose_per_frame=True)
    return stated(file, reading)


def _is_tum(content: Content) -> bool:
    return _table(content, 8) is not None


def _read_tum(content: Content, reading: Reading) -> CameraFile:
    """Lines: time in seconds, position, quaternion x y z w, camera-to-world (TUM RGB-D's file formats)."""
    table = _table(content, 8)
    assert table is not None
    lines = _lines(content)
    poses = rigid(rotations(table[:, 4:], content.where, lines), table[:, 1:4])
    numbers = time_stamps(table[:, 0], content.where, lines)
    file = CameraFile(content.where, poses, "TUM's trajectory", numbers=numbers)
    return plain(file._replace(pose_per_frame=True), reading)


def _is_kitti(content: Content) -> bool:
    return _table(content, 12) is not None


def _read_kitti(content: Content, reading: Reading) -> CameraFile:
    """Lines of 3 x 4 matrices, camera-to-world (KITTI odometry's readme)."""
    table = _table(content, 12)
    assert table is not None
    file = CameraFile(content.where, table.reshape(-1, 3, 4), "KITTI's poses", pose_per_frame=True)
    return plain(file, reading)


def _is_crafter(content: Content) -> bool:
    """Three lines of angles and radii, which begin with 0; not three poses of another form."""
    if not isinstance(content.data, Rows) or len(content.data.of) != 3 or content.data.title:
        return False
    counts = {len(row) for row in content.data.of}
    if not (counts <= {8, 12, 16, 19} and len(counts) == 1):
        return True
    matrices = _table(content, 12)
    poses = matrices is not None and _are_rotations(matrices.reshape(-1, 3, 4)[:, :, :3])
    return all(row[0] == 0 for row in content.data.of) and not poses


def _read_crafter(content: Content, reading: Reading) -> CameraFile:
    """Three lines of keys: theta and phi in degrees, r in parts of the distance to what is looked at.

    By TrajectoryCrafter's models/utils.py (`generate_traj_txt`, `sphere2pose`) and demo.py (`get_poses`):
    more than three keys are smoothed by a cubic spline with exact ends, others joined linearly. The poses
    they give are used as world-to-camera when pictures are warped, relative to the first of them:
    T(d) Ry(phi) Rx(theta) T(-d - r d) with translations along z and the distance d. So +theta moves the
    camera up and +phi to the right around the point at d, and +r forward, as docs/config_help.md there says.
    """
    from scipy.spatial.transform import Rotation  # takes a while to import

    frames, distance = reading.frames or CRAFTER_FRAMES, reading.distance
    for name, row in zip(("theta", "phi", "r"), content.data.of, strict=True):
        if not np.isfinite(row).all() or np.abs(row).max() > 1e4 or len(row) > 1000:
            raise InputError(f"{content.where}: {name}: expected at most 1000 numbers below 10,000")
    theta, phi = (_through(row, frames, content.where) for row in content.data.of[:2])
    r = _through(content.data.of[2] * distance, frames, content.where)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    turns = np.stack([theta, phi], 1)
    poses[:, :3, :3] = Rotation.from_euler("xy", turns, degrees=True).as_matrix()  # first about x
    poses[:, :3, 3] = -poses[:, :3, 2] * (distance + r)[:, None] + [0, 0, distance]
    keys = "/".join(str(len(row)) for row in content.data.of)
    form = (
        f"TrajectoryCrafter's keys ({keys} of theta, phi, r) around a point at {distance:g} m: "
        "world-to-camera, OpenCV axes"
    )
    file = CameraFile(content.where, poses, form, to_c2w=np.linalg.inv, motion_only=True)
    return stated(file._replace(uses_distance=True, of_new_video=True), reading)


def _through(keys: np.ndarray, frames: int, where: str) -> np.ndarray:
    """Values for all frames between evenly spaced keys."""
    from scipy.interpolate import UnivariateSpline  # takes a while to import

    if len(keys) < 2:
        raise InputError(f"{where}: each of the lines theta, phi and r needs two numbers or more")
    at, new = np.linspace(0, 1, len(keys)), np.linspace(0, 1, frames)
    if len(keys) <= 3:
        return np.interp(new, at, keys)
    values = UnivariateSpline(at, keys, k=3)(new)  # which smooths
    values[0], values[-1] = keys[0], keys[-1]
    return values


RE10K = Format(
    "RealEstate10K, CameraCtrl",
    "lines of 19 numbers: time, fx fy cx cy, 0 0, 3 x 4 world-to-camera, OpenCV axes",
    _is_re10k,
    _read_re10k,
)
TUM = Format(
    "TUM",
    "lines of 8 numbers: time, position, quaternion x y z w; camera-to-world, OpenCV axes, unless said",
    _is_tum,
    _read_tum,
)
KITTI = Format(
    "KITTI",
    "lines of 12 numbers: 3 x 4 camera-to-world, OpenCV axes, unless said",
    _is_kitti,
    _read_kitti,
)
CRAFTER = Format(
    "TrajectoryCrafter",
    "three lines of keys: theta (up), phi (right) in degrees, r (forward) in parts of --distance",
    _is_crafter,
    _read_crafter,
)
