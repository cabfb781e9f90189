"""Camera files of radiance fields: nerfstudio's, instant-ngp's and Blender's (NeRF's synthetic scenes).

All are camera-to-world in OpenGL axes (x right, y up, z back): nerfstudio's "Data conventions"
(https://docs.nerf.studio/quickstart/data_conventions.html), and for `camera_path.json` its
`nerfstudio/cameras/camera_paths.py`, by which "fov" are degrees across the height of "render_height".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stp_jax import user_input
from stp_jax.controls import lenses
from stp_jax.controls.formats.base import (
    CameraFile,
    Content,
    Format,
    Reading,
    by_numbers,
    frame_numbers,
    is_of_new_video,
    of_opengl,
    refuse_twice,
    stated,
)
from stp_jax.errors import InputError

_PINHOLE = ("", "PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def _frames(content: Content) -> list[dict]:
    """The frames of a transforms.json; none in other files."""
    frames = content.data.get("frames") if isinstance(content.data, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(one, dict) for one in frames):
        return []
    return frames if "transform_matrix" in frames[0] else []


def _is_transforms(content: Content) -> bool:
    return bool(_frames(content))


def _read_transforms(content: Content, reading: Reading) -> CameraFile:
    where, data, frames = content.where, content.data, _frames(content)
    _check_camera(data.get("camera_model"), where)
    names = [one.get("file_path") for one in frames]
    numbers, order = None, ""
    if all(isinstance(name, str) for name in names):
        refuse_twice([str(name) for name in names], where)
        frames = [frames[i] for i in sorted(range(len(frames)), key=lambda i: by_numbers(str(names[i])))]
        numbers, order = frame_numbers(sorted(map(str, names), key=by_numbers)), ", by file name"
    entries = [_entry(one.get("file_path"), i) for i, one in enumerate(frames)]
    _refuse_missing(frames, "transform_matrix", where, entries)
    fields = [data | one for one in frames]
    lens, lens_form = _lens(fields, where, reading, entries)
    given = {name: [user_input.numbers(one.get(name, 0)) for one in fields] for name in _DISTORTION}
    distorted = any(value is not None and value.any() for values in given.values() for value in values)
    if lens_form and distorted:
        lens_form += "; its distortion is not used"
    form = f"transforms.json of nerfstudio or instant-ngp: camera-to-world, OpenGL axes{order}"
    poses = [one["transform_matrix"] for one in frames]
    file = CameraFile(where, poses, form, lens, to_c2w=of_opengl, lens_form=lens_form, numbers=numbers)
    return stated(file, reading)


def _entry(name: Any, number: int) -> str:
    """What a frame is called in messages: by its file, where that has a name."""
    named = isinstance(name, str) and name.isprintable() and 0 < len(name) <= 80
    return name if named else f"frame {number}"


def _refuse_missing(frames: list[dict], name: str, where: str, entries: Sequence[str] = ()) -> None:
    for i, one in enumerate(frames):
        if name not in one:
            raise InputError(f'{where}: {entries[i] if entries else f"frame {i}"}: has no "{name}"')


def _check_camera(model: Any, where: str) -> None:
    if model is not None and str(model).upper() not in _PINHOLE:
        raise InputError(
            f"{where}: a camera of type {user_input.short(str(model), 40)} is not supported: undistort the "
            "pictures, so that it is a pinhole camera"
        )


def _lens(
    fields: list[dict], where: str, reading: Reading, entries: Sequence[str]
) -> tuple[list | None, str | None]:
    """Intrinsics divided by width and height, of each frame, and how they were read."""
    if not any(name in fields[0] for name in ("fl_x", "camera_angle_x", "camera_angle_y")):
        return None, None
    rows, forms = [], []
    for entry, one in zip(entries, fields, strict=True):
        size = lenses.stated_size(one, where)
        focal = one.get("fl_x")
        if focal is not None:
            row, form = _of_pixels(one, size, f"{where}: {entry}")
        else:
            row, form = _of_angles(one, size, reading, f"{where}: {entry}")
        rows.append(row)
        forms.append(form)
    return rows, forms[0]


def _number(one: dict, name: str, where: str, default: float | None = None) -> float:
    value = user_input.numbers(one.get(name, default))
    if value is None or value.size != 1 or not np.isfinite(value).all():
        raise InputError(f'{where}: "{name}" must be a number')
    return float(value.item())


def _of_pixels(one: dict, size: tuple[float, float] | None, where: str) -> tuple[list[float], str]:
    fx = _number(one, "fl_x", where)
    fy = _number(one, "fl_y", where, fx)
    if size is None and not ("cx" in one and "cy" in one):
        raise InputError(f'{where}: "fl_x" is in pixels, and the picture\'s "w" and "h" are missing')
    if size is None:
        size = 2 * _number(one, "cx", where), 2 * _number(one, "cy", where)
        whence = "twice the principal point"
        if not min(size) > 0:
            raise InputError(f'{where}: the picture\'s "w" and "h" are missing')
    else:
        whence = "the file's size"
    cx = _number(one, "cx", where, size[0] / 2)
    cy = _number(one, "cy", where, size[1] / 2)
    form = f"focal lengths in pixels of {size[0]:g} x {size[1]:g} ({whence})"
    return [fx / size[0], fy / size[1], cx / size[0], cy / size[1]], form


def _of_angles(
    one: dict, size: tuple[float, float] | None, reading: Reading, where: str
) -> tuple[list[float], str]:
    """From angles of view in radians; one alone means square pixels."""
    angles = {name: one[name] for name in ("camera_angle_x", "camera_angle_y") if name in one}
    if not angles:
        raise InputError(f'{where}: has no "fl_x" and no "camera_angle_x", unlike other frames')
    focal = {}
    for name in angles:
        angle = _number(one, name, where)
        if not 0 < angle < np.pi:
            raise InputError(f'{where}: "{name}" of {angle:g}: must be between 0 and pi, in radians')
        focal[name[-1]] = 0.5 / np.tan(angle / 2)
    if size is None and reading.video is not None:
        size = reading.video[1], reading.video[0]
    aspect = size[0] / size[1] if size else 1.0  # only a first look, before the video is known
    fx = focal["x"] if "x" in focal else focal["y"] / aspect
    fy = focal["y"] if "y" in focal else fx * aspect
    centre = [0.5, 0.5]
    if size and "w" in one and "cx" in one and "cy" in one:
        centre = [_number(one, "cx", where) / size[0], _number(one, "cy", where) / size[1]]
    form = "a field of view, pixels taken as square" if len(focal) == 1 else "fields of view"
    return [fx, fy, *centre], form


def _is_camera_path(content: Content) -> bool:
    data = content.data
    path = data.get("camera_path") if isinstance(data, dict) else None
    return isinstance(path, list) and bool(path) and all(isinstance(one, dict) for one in path)


def _read_camera_path(content: Content, reading: Reading) -> CameraFile:
    where, data, path = content.where, content.data, content.data["camera_path"]
    _check_camera(data.get("camera_type"), where)
    _refuse_missing(path, "camera_to_world", where)
    lens, lens_form = None, None
    if any("fov" in one for one in path):
        size = [_number(data, name, where) for name in ("render_width", "render_height")]
        if not min(size) > 0:
            raise InputError(f'{where}: "render_width" and "render_height" must be a picture\'s size')
        lens = []
        for i, one in enumerate(path):
            fov = _number(one, "fov", f"{where}: frame {i}")
            if not 0 < fov < 180:
                raise InputError(f'{where}: frame {i}: "fov" of {fov:g} degrees: must be between 0 and 180')
            fy = 0.5 / np.tan(np.radians(fov) / 2)
            lens.append([fy * size[1] / size[0], fy, 0.5, 0.5])
        lens_form = f"fields of view across the height of {size[0]:g} x {size[1]:g}"
    form = "nerfstudio's camera_path.json: camera-to-world, OpenGL axes"
    poses = [one["camera_to_world"] for one in path]
    file = CameraFile(where, poses, form, lens, to_c2w=of_opengl, lens_form=lens_form)
    return stated(file._replace(of_new_video=is_of_new_video(data)), reading)


TRANSFORMS = Format(
    "transforms.json",
    "nerfstudio, instant-ngp, Blender's transforms_train.json: camera-to-world, OpenGL axes, by file name",
    _is_transforms,
    _read_transforms,
)
CAMERA_PATH = Format(
    "camera_path.json",
    "nerfstudio's viewer: camera-to-world, OpenGL axes, fields of view",
    _is_camera_path,
    _read_camera_path,
)
