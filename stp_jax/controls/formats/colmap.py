"""COLMAP's models: a folder with cameras and images, as text or binary.

World-to-camera quaternions (w x y z) and translations in OpenCV axes; the scale is arbitrary. By COLMAP's
"Output format" (https://colmap.github.io/format.html) and the tables of its src/colmap/sensor/models.h.
Points are read for the depth of what the first picture shows.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from stp_jax import user_input
from stp_jax.controls.formats.base import (
    CameraFile,
    Content,
    Format,
    Reading,
    by_numbers,
    frame_numbers,
    refuse_twice,
    rigid,
    rotations,
    stated,
)
from stp_jax.controls.formats.colmap_points import depth_of
from stp_jax.errors import InputError

SUBFOLDERS = ("", "sparse/0", "sparse", "0")  # where a model lies in a project's folder
_MOST_BYTES = 1 << 31  # of a file; nearly all of them are points, which are skipped
_MOST_LINE = 1 << 26  # bytes of a line of points in a text
_NAME_BYTES = 4096


class _Model(NamedTuple):
    """A camera model: how many parameters it has, how many of them are focal lengths (f, or fx and fy)."""

    name: str
    parameters: int
    focal: int
    fisheye: bool = False


_MODELS = (
    _Model("SIMPLE_PINHOLE", 3, 1),
    _Model("PINHOLE", 4, 2),
    _Model("SIMPLE_RADIAL", 4, 1),
    _Model("RADIAL", 5, 1),
    _Model("OPENCV", 8, 2),
    _Model("OPENCV_FISHEYE", 8, 2, True),
    _Model("FULL_OPENCV", 12, 2),
    _Model("FOV", 5, 2, True),
    _Model("SIMPLE_RADIAL_FISHEYE", 4, 1, True),
    _Model("RADIAL_FISHEYE", 5, 1, True),
    _Model("THIN_PRISM_FISHEYE", 12, 2, True),
    _Model("RAD_TAN_THIN_PRISM_FISHEYE", 16, 2, True),
    _Model("SIMPLE_DIVISION", 4, 1),
    _Model("DIVISION", 5, 2),
    _Model("SIMPLE_FISHEYE", 3, 1, True),
    _Model("FISHEYE", 4, 2, True),
    _Model("EUCM", 6, 2, True),
    _Model("EQUIRECTANGULAR", 2, 0, True),
)


class _Camera(NamedTuple):
    model: _Model
    size: tuple[int, int]
    parameters: np.ndarray

    def intrinsics(self) -> np.ndarray:
        """fx, fy, cx, cy divided by width and height."""
        focal = self.parameters[[0, 0]] if self.model.focal == 1 else self.parameters[:2]
        centre = self.parameters[self.model.focal : self.model.focal + 2]
        return np.concatenate([focal, centre]) / [*self.size, *self.size]

    def distorted(self) -> bool:
        return bool(np.any(self.parameters[self.model.focal + 2 :]))


class _Image(NamedTuple):
    name: str
    camera: int
    quaternion: tuple[float, ...]  # w x y z
    translation: tuple[float, ...]


# Finding a model ------------------------------------------------------------------------------------------


def find(path: Path) -> Path | None:
    """The file of a model's images in a folder, or the file itself if it is one; None: there is none."""
    if path.is_dir():
        for folder in (path / name for name in SUBFOLDERS):
            for name in ("images.bin", "images.txt"):
                if (folder / name).is_file():
                    return folder / name
        return None
    if path.suffix.lower() == ".bin":
        return path
    if path.suffix.lower() != ".txt" or not path.is_file():
        return None
    with path.open("rb") as file:
        for line in file.read(1 << 16).splitlines():
            text = line.decode("utf-8", "replace").strip()
            if text and not text.startswith("#"):
                return path if _image_line(text) is not None else None
    return None


def _is_model(content: Content) -> bool:
    return isinstance(content.data, Path)


def _read_model(content: Content, reading: Reading) -> CameraFile:
    path, where = content.data, content.where
    cameras_path = path.with_name("cameras" + path.suffix)
    if not cameras_path.is_file():
        raise InputError(f"{path}: a COLMAP model needs {cameras_path.name} in the same folder")
    images = _loaded(path, _images_of_text, _images_of_binary)
    cameras = dict(_loaded(cameras_path, _cameras_of_text, _cameras_of_binary))
    if not images:
        raise InputError(f"{path}: has no images")
    images = sorted(_chosen(images, content), key=lambda image: by_numbers(image.name))
    refuse_twice([image.name for image in images], str(path))
    for image in images:
        if image.camera not in cameras:
            raise InputError(f"{path}: image {_named(image)} is of camera {image.camera}, which is not there")
    used = [cameras[image.camera] for image in images]
    lens, lens_form = _lens(used, str(cameras_path))
    quaternions = np.array([image.quaternion for image in images])[:, [1, 2, 3, 0]]
    rotation = rotations(quaternions, str(path), [f"image {_named(image)}" for image in images])
    poses = rigid(rotation, np.array([image.translation for image in images]))
    form = "a COLMAP model: world-to-camera, OpenCV axes, any scale, by file name"
    numbers = frame_numbers([image.name for image in images])
    depth = depth_of(path, images[0].name, used[0].size, poses[0])
    file = CameraFile(where, poses, form, lens, to_c2w=np.linalg.inv, lens_form=lens_form, numbers=numbers)
    return stated(file._replace(depth=depth), reading)


def _chosen(images: list[_Image], content: Content) -> list[_Image]:
    """The images of one camera of a model."""
    of_camera = Counter(image.camera for image in images)
    if content.camera is not None:
        if content.camera not in of_camera:
            raise InputError(f"{content.where}: has no images of camera {content.camera}; {_list(of_camera)}")
        return [image for image in images if image.camera == content.camera]
    folders = {str(PurePosixPath(image.name).parent) for image in images}
    one = len(of_camera) == 1 or len(of_camera) == len(images)  # COLMAP may give each image a camera
    if not one or len(folders) > 1:
        what = "cameras" if not one else "folders, all of one camera"
        number = min(of_camera)
        choose = f"write {content.where}:{number} for one" if not one else "make a model of one of them"
        raise InputError(
            f"{content.where}: has images of several {what}, which are no path: {_list(of_camera)}; {choose}"
        )
    return images


def _named(image: _Image) -> str:
    return image.name if image.name.isprintable() and len(image.name) < 80 else user_input.short(image.name)


def _list(of_camera: Counter) -> str:
    some = [f"{count} of camera {camera}" for camera, count in sorted(of_camera.items())[:5]]
    return ", ".join(some) + (", ..." if len(of_camera) > 5 else "")


def _lens(used: list[_Camera], where: str) -> tuple[np.ndarray, str]:
    for camera in used:
        if camera.model.fisheye:
            raise InputError(
                f"{where}: a camera of type {camera.model.name} is not supported: make a pinhole model of it "
                "with `colmap image_undistorter`"
            )
    names = sorted({camera.model.name for camera in used})
    sizes = sorted({camera.size for camera in used})
    form = f"{', '.join(names)} of {', '.join(f'{w} x {h}' for w, h in sizes[:3])} (the model's cameras)"
    if any(camera.distorted() for camera in used):
        form += "; distortion is not used"
    return np.stack([camera.intrinsics() for camera in used]), form


# Files ----------------------------------------------------------------------------------------------------


def _loaded(path: Path, of_text: Any, of_binary: Any) -> list:
    """All entries of a file; damage becomes an `InputError`."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes are too many")
        entries = []
        with path.open("rb") as file:
            for entry in of_binary(file) if path.suffix.lower() == ".bin" else of_text(file):
                entries.append(entry)
                if len(entries) > user_input.MOST_ROWS:
                    raise InputError(
                        f"{path}: more than {user_input.MOST_ROWS:,} entries; at most as many are read"
                    )
        return entries
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, IndexError, KeyError, struct.error, OverflowError) as error:
        raise InputError(
            f"{path}: is not COLMAP's file of that name ({str(error)[:120]}); it may be truncated"
        ) from error


def _lines(file: BinaryIO, keep_empty: bool = False) -> Iterator[str]:
    """Lines without comments."""
    while line := file.readline(_MOST_LINE):
        if not line.endswith(b"\n") and len(line) == _MOST_LINE:
            raise ValueError("a line that is too long")
        if not line.startswith(b"#") and (keep_empty or line.strip()):
            yield line[: 1 << 16].decode("utf-8")


def _image_line(text: str) -> _Image | None:
    parts = text.split(maxsplit=9)
    if len(parts) != 10 or not (parts[0].isdecimal() and parts[8].isdecimal()):
        return None
    values = [user_input.number(part) for part in parts[1:8]]
    if any(value is None for value in values) or user_input.number(parts[9].split()[0]) is not None:
        return None
    given = [float(value or 0) for value in values]
    return _Image(parts[9].strip(), int(parts[8]), tuple(given[:4]), tuple(given[4:]))


def _images_of_text(file: BinaryIO) -> Iterator[_Image]:
    """Every image has a line of its own and one of points, which may be empty."""
    lines = _lines(file, keep_empty=True)
    for line in lines:
        if not line.strip():
            continue
        image = _image_line(line)
        if image is None:
            raise ValueError(f"{user_input.short(line.strip(), 60)} is no line of an image")
        yield image
        next(lines, None)


def _cameras_of_text(file: BinaryIO) -> Iterator[tuple[int, _Camera]]:
    known = {model.name: model for model in _MODELS}
    for line in _lines(file):
        number, name, width, height, *parameters = line.split()
        if name not in known:
            raise ValueError(f"an unknown camera model {user_input.short(name, 40)}")
        yield int(number), _camera(known[name], int(width), int(height), [float(p) for p in parameters])


def _camera(model: _Model, width: int, height: int, parameters: list[float]) -> _Camera:
    values = np.array(parameters, np.float64)
    if len(values) != model.parameters or not np.isfinite(values).all():
        raise ValueError(f"a {model.name} camera has {model.parameters} finite parameters")
    if not (0 < width < 1_000_000 and 0 < height < 1_000_000):
        raise ValueError(f"a picture of {width} x {height}")
    return _Camera(model, (width, height), values)


def _take(file: BinaryIO, form: str) -> tuple:
    size = struct.calcsize(form)
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it ends early")
    return struct.unpack(form, data)


def _images_of_binary(file: BinaryIO) -> Iterator[_Image]:
    (count,) = _take(file, "<Q")
    for _ in range(count):
        _, *pose, camera = _take(file, "<I7dI")
        name = bytearray()
        while (letter := _take(file, "<c")[0]) != b"\0":
            name += letter
            if len(name) > _NAME_BYTES:
                raise ValueError("a name that is too long")
        (points,) = _take(file, "<Q")
        if points > _MOST_BYTES // 24:
            raise ValueError(f"an image of {points:,} points")
        file.seek(24 * points, 1)
        if not np.isfinite(pose).all():
            raise ValueError("a pose that is not finite")
        yield _Image(name.decode("utf-8"), camera, tuple(pose[:4]), tuple(pose[4:]))


def _cameras_of_binary(file: BinaryIO) -> Iterator[tuple[int, _Camera]]:
    (count,) = _take(file, "<Q")
    for _ in range(count):
        number, model, width, height = _take(file, "<IiQQ")
        if not 0 <= model < len(_MODELS):
            raise ValueError(f"an unknown camera model {model}")
        parameters = _take(file, f"<{_MODELS[model].parameters}d")
        yield number, _camera(_MODELS[model], width, height, list(parameters))


COLMAP = Format(
    "COLMAP models",
    "a folder with cameras and images, .txt or .bin, or that file: world-to-camera, OpenCV axes",
    _is_model,
    _read_model,
    chooses=True,
)
