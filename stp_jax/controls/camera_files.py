"""Camera paths in files of any supported form; `stp_jax.controls.cameras.read` explains the forms."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stp_jax import user_input
from stp_jax.controls import lenses
from stp_jax.errors import InputError

FILE_TYPES = (".json", ".npz", ".npy")
GRID_CONVENTION = "opencv w2c, metres"  # of the renderer's camera_data.json
AXES, POSES = ("opencv", "opengl"), ("c2w", "w2c")  # what a user may say of a file
_EXPECTED = (
    'expected "c2w" [F x 4 x 4] (camera-to-world, OpenCV axes) and, optional, "intrinsics" [F x 4]; '
    f'a camera_data.json with "convention": "{GRID_CONVENTION}"; or a camera file of an official release'
)
_ARRAYS = ("c2w", "intrinsics", *(name for names in lenses.SIZE_NAMES for name in names))  # of a .npz
# From OpenGL's camera (x right, y up, z back), as Blender has it, to OpenCV's or back; and the world mirrored
# as SpaceTimePilot mirrors it.
_FLIP_CAMERA, _MIRROR_WORLD = np.diag([1.0, -1, -1, 1]), np.diag([-1.0, 1, 1, 1])


class Reading(NamedTuple):
    """What is known about a camera file beside its contents.

    Attributes:
      axes: of the camera, `opencv` (x right, y down, z forward) or `opengl` (x right, y up, z back). None: as
        the form of the file says, else `opencv`.
      poses: `c2w` (camera to world) or `w2c`. None: as the form of the file says, else `c2w`.
      video: height and width of the video that it belongs to, for intrinsics in pixels.
      official: the file is read for SpaceTimePilot's weights, whose `<video>_extrinsics.npy` have w2c. A name
        alone says nothing.
      inherited: axes and poses are those of another file, so that a form that states its own keeps them.
    """

    axes: str | None = None
    poses: str | None = None
    video: tuple[int, int] | None = None
    official: bool = False
    inherited: bool = False


class CameraFile(NamedTuple):
    """The contents of a camera file, not yet checked."""

    where: str  # names it in errors
    poses: Any  # F matrices, 4 x 4
    form: str  # how the poses are read, to print
    intrinsics: Any = None  # see `lenses.read`
    size: tuple[float, float] | None = (
        None  # width and height of the picture that intrinsics in pixels are of
    )
    to_c2w: Callable[[np.ndarray], np.ndarray] = np.asarray  # float64 [F, 4, 4], of such poses
    motion_only: bool = False  # it says how the camera moves, not where it starts
    pose_per_frame: bool = False  # files of its form have a pose for each frame of a video, never key poses


def choice(text: str | os.PathLike) -> tuple[str, int | None]:
    """The file's name, and the camera's number if one is chosen, as in `FILE.json:cam05` or `FILE.json:5`."""
    chosen = re.fullmatch(r"(.+\.json):(?:cam)?(\d{1,4})", str(text), re.IGNORECASE | re.DOTALL)
    return (chosen[1], int(chosen[2])) if chosen else (str(text), None)


def load(path: str | os.PathLike, reading: Reading = Reading()) -> CameraFile:  # noqa: B008 (immutable)
    """Reads any form of `controls.cameras.read`. Raises `InputError` for unreadable files and other forms."""
    where, number = choice(path)
    data = user_input.load(where, FILE_TYPES, names=_ARRAYS)
    if isinstance(data, dict) and isinstance(data.get("frame0"), dict):
        return _stated(_multicam(data, number, where), reading)
    if number is not None:
        raise InputError(f"{where}: has no cameras to choose from; leave out what follows the file's name")
    if isinstance(data, np.ndarray):
        return _array(data, where, reading)
    if isinstance(data, dict) and "c2w" in data:
        size = lenses.stated_size(data, where)
        file = CameraFile(where, data["c2w"], "", data.get("intrinsics"), size)
        return _plain(file, reading)
    if isinstance(data, dict) and data.get("convention") == GRID_CONVENTION:
        poses = _by_name(data, "extrinsic", where)
        intrinsics = _by_name(data, "intrinsic", where) if "intrinsic" in data["cameras"] else None
        form = "a scene's camera_data.json: world-to-camera, OpenCV axes, metres"
        return _stated(CameraFile(where, poses, form, intrinsics, to_c2w=np.linalg.inv), reading)
    if isinstance(data, dict) and "cameras" in data and "convention" not in data:
        poses = _by_name(data, "extrinsic", where)
        form = "SpaceTimePilot's camera_data.json: world-to-camera, Blender's axes, mirrored world"
        return _stated(
            CameraFile(where, poses, form, to_c2w=_blender_to_c2w, motion_only=True, pose_per_frame=True),
            reading,
        )
    if isinstance(data, dict) and {"version", "keyframes"} <= set(data):
        raise InputError(f"{where}: is a file of keyframes: give it as --keyframes")
    raise InputError(f"{where}: no camera path in it; {_EXPECTED}")


def _array(data: np.ndarray, where: str, reading: Reading) -> CameraFile:
    """Poses alone; of SpaceTimePilot's release, if they are named as there and read for its weights."""
    named = Path(where).stem.endswith("_extrinsics")
    if named and reading.official and reading.poses is None and reading.axes is None:
        form = "SpaceTimePilot's _extrinsics.npy: world-to-camera, OpenCV axes"
        return CameraFile(where, data, form, to_c2w=np.linalg.inv, motion_only=True, pose_per_frame=True)
    file = _plain(CameraFile(where, data, ""), reading)
    if named and reading.poses is None:
        form = (
            f"{file.form} (SpaceTimePilot's files of such names are world-to-camera: say so if this is one)"
        )
        return file._replace(form=form)
    return file


def _plain(file: CameraFile, reading: Reading) -> CameraFile:
    """A file that does not state its convention: ours, or what the user says."""
    axes, poses = reading.axes or AXES[0], reading.poses or POSES[0]

    def to_c2w(matrices: np.ndarray) -> np.ndarray:
        c2w = matrices if poses == "c2w" else np.linalg.inv(matrices)
        return c2w if axes == "opencv" else c2w @ _FLIP_CAMERA

    order = "camera-to-world" if poses == "c2w" else "world-to-camera"
    name = {"opencv": "OpenCV", "opengl": "OpenGL"}[axes]
    return file._replace(form=f"{order}, {name} axes, metres", to_c2w=to_c2w)


def _stated(file: CameraFile, reading: Reading) -> CameraFile:
    """A file whose form has a convention of its own, which cannot be another."""
    for name, said in (("axes", reading.axes), ("poses", reading.poses)):
        if said is not None and not reading.inherited:
            raise InputError(f"{file.where}: is {file.form}; leave out the option that its {name} are {said}")
    return file


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
    parts = re.split(r"([0-9]+)", name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (-1, part) for part in parts]


def _blender_to_c2w(w2c: np.ndarray) -> np.ndarray:
    return _MIRROR_WORLD @ np.linalg.inv(w2c) @ _FLIP_CAMERA


def _multicam(data: dict, number: int | None, where: str) -> CameraFile:
    """One camera of MultiCamVideo's camera_extrinsics.json."""
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
    return CameraFile(where, poses, form, to_c2w=_unreal_to_c2w, motion_only=True, pose_per_frame=True)


def _unreal_to_c2w(poses: np.ndarray) -> np.ndarray:
    c2w = poses[..., [1, 2, 0, 3]]  # the camera's forward, right, up -> right, up, forward
    c2w[:, :3, 1] *= -1  # up -> down
    c2w[:, :3, 3] /= 100
    return c2w
