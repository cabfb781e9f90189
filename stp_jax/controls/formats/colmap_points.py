"""How far away what a picture of a COLMAP model shows is, by the points that were reconstructed in it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stp_jax.controls.formats.base import MIDDLE
from stp_jax.errors import InputError

_FEW = 10  # points in the middle; where there are fewer, all of the picture count
_POINT = struct.Struct("<Q3d3BdQ")  # number, place, colour, error, length of its track


def depth_of(images: Path, name: str, size: tuple[int, int], w2c: np.ndarray) -> float | None:
    """The median depth of the points in the middle of a picture, in the model's unit; None: has hardly any.

    Args:
      images: the model's images.bin or images.txt.
      name: of the picture.
      size: its width and height.
      w2c: [4, 4], its pose.

    Raises:
      InputError: the files of images or points are damaged.
    """
    points = images.with_name("points3D" + images.suffix)
    if not points.is_file():
        return None
    binary = images.suffix.lower() == ".bin"
    path = images
    try:
        with images.open("rb") as file:
            seen = _seen_in_binary(file, name) if binary else _seen_in_text(file, name)
        seen = seen[seen[:, 2] >= 0]
        middle = (np.abs(seen[:, :2] / size - 0.5) < MIDDLE).all(1)
        wanted = set((seen[middle] if middle.sum() >= _FEW else seen)[:, 2].astype(np.int64).tolist())
        if len(wanted) < _FEW:
            return None
        path = points
        with points.open("rb") as file:
            places = _places(_binary_points(file) if binary else _text_points(file), wanted)
    except (OSError, ValueError, IndexError, struct.error, OverflowError) as error:
        what = str(error)[:120]
        raise InputError(
            f"{path}: is not COLMAP's file of that name ({what}); it may be truncated"
        ) from error
    depths = places @ w2c[2, :3] + w2c[2, 3]
    depths = depths[np.isfinite(depths) & (depths > 0)]
    return float(np.median(depths)) if len(depths) >= _FEW else None


def _places(points: Iterator[tuple[int, tuple[float, ...]]], wanted: set[int]) -> np.ndarray:
    """The points [N, 3] of some numbers."""
    found = []
    for number, place in points:
        if number in wanted:
            found.append(place)
            if len(found) == len(wanted):
                break
    return np.array(found, np.float64).reshape(-1, 3)


def _seen_in_binary(file: BinaryIO, name: str) -> np.ndarray:
    """x, y and the point's number, or -1, of the features of a picture, float64 [N, 3]."""
    (count,) = struct.unpack("<Q", file.read(8))
    for _ in range(count):
        file.seek(64, 1)  # number, pose, camera
        found = bytearray()
        while (letter := file.read(1)) != b"\0":
            found += letter
            if not letter:
                raise ValueError("it ends early")
        (features,) = struct.unpack("<Q", file.read(8))
        if found.decode("utf-8") != name:
            file.seek(24 * features, 1)
            continue
        data = file.read(24 * min(features, os.fstat(file.fileno()).st_size // 24))
        rows = np.frombuffer(data, [("x", "<f8"), ("y", "<f8"), ("point", "<i8")])
        return np.stack([rows["x"], rows["y"], rows["point"].astype(np.float64)], 1)
    raise ValueError("its pictures changed")


def _seen_in_text(file: BinaryIO, name: str) -> np.ndarray:
    lines = (line.decode("utf-8").strip() for line in file if not line.startswith(b"#"))
    for line in lines:
        parts = line.split(maxsplit=9)
        if not parts:
            continue
        features = next(lines, "")
        if parts[9].strip() == name:
            return np.array(features.split(), np.float64).reshape(-1, 3)
    raise ValueError("its pictures changed")


def _binary_points(file: BinaryIO) -> Iterator[tuple[int, tuple[float, ...]]]:
    (count,) = struct.unpack("<Q", file.read(8))
    for _ in range(count):
        number, x, y, z, *_, track = _POINT.unpack(file.read(_POINT.size))
        yield number, (x, y, z)
        file.seek(8 * track, 1)


def _text_points(file: BinaryIO) -> Iterator[tuple[int, tuple[float, ...]]]:
    for line in file:
        if line.strip() and not line.startswith(b"#"):
            number, x, y, z = line.split(maxsplit=4)[:4]
            yield int(number), (float(x), float(y), float(z))
