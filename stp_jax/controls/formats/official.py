"""Camera files of the official releases: SpaceTimePilot's, Cam x Time's and MultiCamVideo's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from stp_jax.controls import lenses
from stp_jax.controls.formats.base import (
    FLIP_CAMERA,
    CameraFile,
    Content,
    Format,
    Reading,
    by_numbers,
    of_opengl,
    plain,
    stated,
)
from stp_jax.errors import InputError

_MIRROR_WORLD = np.diag([-1.0, 1, 1, 1])  # as SpaceTimePilot mirrors the world


def is_named_extrinsics(where: str) -> bool:
    return Path(where).stem.endswith("_extrinsics") and Path(where).suffix.lower() == ".npy"


def read_extrinsics(file: CameraFile, reading: Reading) -> CameraFile:
    """A <video>_extrinsics.npy: world-to-camera only for SpaceTimePilot's weights, a name says nothing."""
    if reading.official and reading.poses is None and reading.axes is None:
        form = "SpaceTimePilot's _extrinsics.npy: world-to-camera, OpenCV axes"
        return file._replace(form=form, to_c2w=np.linalg.inv, motion_only=True, pose_per_frame=True)
    file = plain(file, reading)
    if reading.poses is None:
        form = (
            f"{file.form} (SpaceTimePilot's files of such names are world-to-camera: say so if this is one)"
        )
        return file._replace(form=form)
    return file


def by_name(data: dict, what: str, where: str) -> list:
    """The poses or the lenses of a camera_data.json, in the order of the cameras' names."""
    try:
        names = sorted(data["cameras"]["extrinsic"].keys(), key=by_numbers)
        return [data["cameras"][what][name] for name in names]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{where}: "cameras" must have "extrinsic" and "intrinsic", each with an entry for every camera'
        ) from error


def _is_blender_rig(content: Content) -> bool:
    data = content.data
    return isinstance(data, dict) and "cameras" in data and "convention" not in data


def _read_blender_rig(content: Content, reading: Reading) -> CameraFile:
    poses = by_name(content.data, "extrinsic", content.where)
    form = "SpaceTimePilot's camera_data.json: world-to-camera, Blender's axes, mirrored world"
    file = CameraFile(
        content.where, poses, form, to_c2w=_blender_to_c2w, motion_only=True, pose_per_frame=True
    )
    return stated(file, reading)


def _blender_to_c2w(w2c: np.ndarray) -> np.ndarray:
    return _MIRROR_WORLD @ np.linalg.inv(w2c) @ FLIP_CAMERA


def _entries(data: Any) -> list[tuple[int, Any]]:
    """The numbered cameras of a Cam x Time grid, in their order; none in other files."""
    listed = data.get("trajectory", data.get("cameras")) if isinstance(data, dict) else None
    if isinstance(listed, list):
        listed = {str(number): entry for number, entry in enumerate(listed)}
    if not isinstance(listed, dict) or not all(re.fullmatch(r"\d{1,9}", name) for name in listed):
        return []
    entries = sorted(((int(name), entry) for name, entry in listed.items()), key=lambda one: one[0])
    return entries if any(isinstance(entry, dict) and "c2w" in entry for _, entry in entries) else []


def _is_grid_path(content: Content) -> bool:
    return bool(_entries(content.data))


def _read_grid_path(content: Content, reading: Reading) -> CameraFile:
    """The cameras of one grid: {"trajectory": {"0": {"c2w": 4 x 4}, ...}, "intrinsics": {"K": 3 x 3}}.

    The evaluation set's have "cameras" for "trajectory". A lens may be fx, fy, cx and cy, too.
    """
    where, entries = content.where, _entries(content.data)
    for number, entry in entries:
        if not isinstance(entry, dict) or "c2w" not in entry:
            raise InputError(f'{where}: camera {number}: has no "c2w"')
    given = content.data.get("intrinsics")
    given = given if isinstance(given, dict) else {}
    numbers = [given.get(name) for name in ("fx", "fy", "cx", "cy")]
    lens = given["K"] if "K" in given else None if None in numbers else numbers
    form = "Cam x Time's camera.json: camera-to-world, OpenGL axes (Blender's)"
    size = lenses.stated_size(given, where) or lenses.stated_size(content.data, where)
    poses = [entry["c2w"] for _, entry in entries]
    return stated(CameraFile(where, poses, form, lens, size, of_opengl), reading)


def _is_multicam(content: Content) -> bool:
    return isinstance(content.data, dict) and isinstance(content.data.get("frame0"), dict)


def _read_multicam(content: Content, reading: Reading) -> CameraFile:
    """One camera of MultiCamVideo's camera_extrinsics.json."""
    data, number, where = content.data, content.camera, content.where
    names = {int(name[3:]): name for name in data["frame0"] if re.fullmatch(r"cam\d{1,4}", name)}
    if number not in names:
        wrong = "which of its cameras?" if number is None else f"it has no camera {number}."
        example = next(iter(names.values()), "cam01")
        raise InputError(
            f"{where}: {wrong} It has {', '.join([*names.values()][:20])}; write {where}:{example}"
        )
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
    form = f"{names[number]} of MultiCamVideo's camera_extrinsics.json: Unreal's axes, centimetres"
    return stated(
        CameraFile(where, poses, form, to_c2w=_unreal_to_c2w, motion_only=True, pose_per_frame=True), reading
    )


def _unreal_to_c2w(poses: np.ndarray) -> np.ndarray:
    c2w = poses[..., [1, 2, 0, 3]]  # the camera's forward, right, up -> right, up, forward
    c2w[:, :3, 1] *= -1  # up -> down
    c2w[:, :3, 3] /= 100
    return c2w


BLENDER_RIG = Format(
    "camera_data.json, official",
    "SpaceTimePilot's: Blender's axes, a mirrored world; with its weights also <video>_extrinsics.npy (w2c)",
    _is_blender_rig,
    _read_blender_rig,
)
GRID_PATH = Format(
    "Cam x Time's grids",
    "the cameras of a grid by their numbers: camera-to-world, OpenGL axes (Blender's)",
    _is_grid_path,
    _read_grid_path,
)
MULTICAM = Format(
    "camera_extrinsics.json",
    "MultiCamVideo's: FILE.json:cam05 chooses a camera; Unreal's axes, centimetres",
    _is_multicam,
    _read_multicam,
    chooses=True,
)
