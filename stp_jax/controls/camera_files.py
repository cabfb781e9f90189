"""Camera paths in files of any supported form; `stp_jax.controls.cameras.read` explains the forms."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stp_jax import user_input
from stp_jax.errors import InputError

FILE_TYPES = (".json", ".npz", ".npy")
GRID_CONVENTION = "opencv w2c, metres"  # of the renderer's camera_data.json
_EXPECTED = (
    'expected "c2w" [F x 4 x 4] (camera-to-world, OpenCV axes) and, optional, "intrinsics" [F x 4]; '
    f'a camera_data.json with "convention": "{GRID_CONVENTION}"; or a camera file of an official release'
)
# From Blender's camera (x right, y up, z back) to OpenCV's, in a world mirrored as SpaceTimePilot mirrors it.
_FLIP_CAMERA, _MIRROR_WORLD = np.diag([1.0, -1, -1, 1]), np.diag([-1.0, 1, 1, 1])


class CameraFile(NamedTuple):
    """The contents of a camera file, not yet checked."""

    where: str  # names it in errors
    poses: Any  # F matrices, 4 x 4
    intrinsics: Any = None  # 4 numbers, or 4 for each pose
    to_c2w: Callable[[np.ndarray], np.ndarray] = np.asarray  # float64 [F, 4, 4], of such poses
    motion_only: bool = False  # it says how the camera moves, not where it starts


def choice(text: str | os.PathLike) -> tuple[str, int | None]:
    """The file's name, and the camera's number if one is chosen, as in `FILE.json:cam05` or `FILE.json:5`."""
    chosen = re.fullmatch(r"(.+\.json):(?:cam)?(\d{1,4})", str(text), re.IGNORECASE | re.DOTALL)
    return (chosen[1], int(chosen[2])) if chosen else (str(text), None)


def load(path: str | os.PathLike) -> CameraFile:
    """Reads any form of `controls.cameras.read`. Raises `InputError` for unreadable files and other forms."""
    where, number = choice(path)
    data = user_input.load(where, FILE_TYPES)
    if isinstance(data, dict) and isinstance(data.get("frame0"), dict):
        return _multicam(data, number, where)
    if number is not None:
        raise InputError(f"{where}: has no cameras to choose from; leave out what follows the file's name")
    if isinstance(data, np.ndarray):
        if "extrinsics" in Path(where).stem.lower():
            return CameraFile(where, data, to_c2w=np.linalg.inv, motion_only=True)
        return CameraFile(where, data)
    if isinstance(data, dict) and "c2w" in data:
        return CameraFile(where, data["c2w"], data.get("intrinsics"))
    if isinstance(data, dict) and data.get("convention") == GRID_CONVENTION:
        poses = _by_name(data, "extrinsic", where)
        lenses = _by_name(data, "intrinsic", where) if "intrinsic" in data["cameras"] else None
        return CameraFile(where, poses, lenses, np.linalg.inv)
    if isinstance(data, dict) and "cameras" in data and "convention" not in data:
        poses = _by_name(data, "extrinsic", where)
        return CameraFile(where, poses, to_c2w=_blender_to_c2w, motion_only=True)
    raise InputError(f"{where}: no camera path in it; {_EXPECTED}")


def _by_name(data: dict, what: str, where: str) -> list:
    """The poses or the lenses of a camera_data.json, in the order of the cameras' names."""
    try:
        names = sorted(data["cameras"]["extrinsic"].keys(), key=_by_numbers)
        return [data["cameras"][what][name] for name in names]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{where}: "cameras" must have "extrinsic" and "intrinsic", each with an entry for every camera'
        ) from error


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts camera_2 before camera_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _blender_to_c2w(w2c: np.ndarray) -> np.ndarray:
    return _MIRROR_WORLD @ np.linalg.inv(w2c) @ _FLIP_CAMERA


def _multicam(data: dict, number: int | None, where: str) -> CameraFile:
    """One camera of MultiCamVideo's camera_extrinsics.json."""
    names = {int(name[3:]): name for name in data["frame0"] if re.fullmatch(r"cam\d+", name)}
    if number not in names:
        wrong = "which of its cameras?" if number is None else f"it has no camera {number}."
        example = next(iter(names.values()), "cam01")
        raise InputError(f"{where}: {wrong} It has {', '.join(names.values())}; write {where}:{example}")
    poses = []
    for frame in range(len(data)):
        try:
            rows = data[f"frame{frame}"][names[number]].strip("[] ").split("] [")
            poses.append(np.array([row.split() for row in rows], np.float64).T)
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f'{where}: frame {frame}: expected {{"{names[number]}": "[4 numbers] [...] [...] [...]"}} '
                f'under "frame{frame}"'
            ) from error
    return CameraFile(where, poses, to_c2w=_unreal_to_c2w, motion_only=True)


def _unreal_to_c2w(poses: np.ndarray) -> np.ndarray:
    c2w = poses[..., [1, 2, 0, 3]]  # the camera's forward, right, up -> right, up, forward
    c2w[:, :3, 1] *= -1  # up -> down
    c2w[:, :3, 3] /= 100
    return c2w
