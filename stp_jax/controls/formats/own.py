"""Our own camera files, and lists of matrices that state nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from stp_jax import user_input
from stp_jax.controls import lenses
from stp_jax.controls.formats import official
from stp_jax.controls.formats.base import (
    Arrays,
    CameraFile,
    Content,
    Format,
    Numbers,
    Reading,
    Rows,
    is_of_new_video,
    plain,
    stated,
)
from stp_jax.errors import InputError

GRID_CONVENTION = "opencv w2c, metres"  # of the renderer's camera_data.json


def _matrices(content: Content) -> bool:
    if isinstance(content.data, Rows):
        return {len(row) for row in content.data.of} == {16} and not content.data.title
    data = content.data
    listed = isinstance(data, list) and bool(data) and isinstance(data[0], list)
    return listed or isinstance(data, np.ndarray)


def _read_matrices(content: Content, reading: Reading) -> CameraFile:
    """Poses alone; of SpaceTimePilot's release, if they are named as there and read for its weights."""
    data = np.stack(content.data.of) if isinstance(content.data, Rows) else content.data
    file = CameraFile(content.where, data, "")
    if official.is_named_extrinsics(content.where):
        return official.read_extrinsics(file, reading)
    return plain(file, reading)


def _has_c2w(content: Content) -> bool:
    data = content.data.of if isinstance(content.data, Arrays) else content.data
    return isinstance(data, dict) and "c2w" in data


def _read_c2w(content: Content, reading: Reading) -> CameraFile:
    data = content.data.of if isinstance(content.data, Arrays) else content.data
    size = lenses.stated_size(data, content.where)
    file = CameraFile(content.where, data["c2w"], "", data.get("intrinsics"), size)
    numbers = _frame_numbers(data.get("frame_numbers"), content.where)
    return plain(file._replace(numbers=numbers, of_new_video=is_of_new_video(data)), reading)


def _frame_numbers(value: Any, where: str) -> Numbers | None:
    """Which frames of the source's video the poses are of, counted from 0."""
    if value is None:
        return None
    at = user_input.table(value, (), f'{where}: "frame_numbers"')
    if not ((np.diff(at) > 0).all() and 0 <= at[0] <= at[-1] < 1e6 and (at == np.round(at)).all()):
        raise InputError(f'{where}: "frame_numbers" must be whole numbers that increase, from 0 or more')
    return Numbers(at, frames=True, first=0)


def _is_rig(content: Content) -> bool:
    return isinstance(content.data, dict) and content.data.get("convention") == GRID_CONVENTION


def _read_rig(content: Content, reading: Reading) -> CameraFile:
    where, data = content.where, content.data
    poses = official.by_name(data, "extrinsic", where)
    if not isinstance(data["cameras"], dict):
        raise InputError(f'{where}: "cameras" must be an object')
    intrinsics = official.by_name(data, "intrinsic", where) if "intrinsic" in data["cameras"] else None
    form = "a scene's camera_data.json: world-to-camera, OpenCV axes, metres"
    return stated(CameraFile(where, poses, form, intrinsics, to_c2w=np.linalg.inv), reading)


C2W = Format(
    '.json, .npz with "c2w"',
    'ours: {"c2w": [F x 4 x 4], "intrinsics": [4] or [F x 4]}; camera-to-world, OpenCV axes, unless said',
    _has_c2w,
    _read_c2w,
)
MATRICES = Format(
    "lists of matrices",
    ".npy, .json or lines of text: F times 4 x 4, 3 x 4 or 16 numbers; the same axes, unless said",
    _matrices,
    _read_matrices,
)
RIG = Format(
    "camera_data.json",
    "of a rendered scene: the path runs through its cameras; world-to-camera, OpenCV axes",
    _is_rig,
    _read_rig,
)
