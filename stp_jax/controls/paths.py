"""Camera paths: poses and lenses along time, and what makes them valid; see `cameras` for the convention."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stp_jax.controls import interpolation
from stp_jax.errors import InputError


class Cameras(NamedTuple):
    """A camera path: one pose and one lens for each of F frames."""

    c2w: np.ndarray  # float32 [F, 4, 4]; float64 in the world of a file, which may be far from its origin
    intrinsics: np.ndarray  # float32 [F, 4]


def check(c2w: np.ndarray, intrinsics: np.ndarray, frames: int, where: str) -> None:
    """Raises `InputError`, naming `where` and the frame, unless all cameras are valid.

    Presets and files go through it alike. Valid are c2w [F, 4, 4] with right-handed orthonormal rotations and
    last rows 0 0 0 1, and intrinsics [F, 4] with positive focal lengths, divided by width and height (not in
    pixels). All numbers are finite.
    """
    if c2w.shape != (frames, 4, 4):
        raise InputError(f"{where}: poses of shape {list(c2w.shape)}; expected [{frames}, 4, 4]")
    if intrinsics.shape != (frames, 4):
        raise InputError(f"{where}: intrinsics of shape {list(intrinsics.shape)}; expected [{frames}, 4]")

    def refuse(bad: Any, message: str) -> None:
        if bad.any():
            raise InputError(f"{where}: frame {int(np.argmax(bad))}: {message}")

    refuse(~(np.abs(c2w) < 1e9).all((1, 2)), "the pose has NaN, infinite or huge numbers")
    refuse(
        (np.abs(c2w[:, 3] - [0, 0, 0, 1]) > 1e-3).any(1),
        "the pose's last row is not 0 0 0 1; is it transposed?",
    )
    rotation = c2w[:, :3, :3].astype(np.float64)
    refuse(
        (np.abs(rotation.swapaxes(1, 2) @ rotation - np.eye(3)) > 5e-3).any((1, 2)),
        "the rotation is not orthonormal; it must be free of scale and shear",
    )
    refuse(
        np.linalg.det(rotation) < 0,
        "the rotation is left-handed; OpenCV axes are x right, y down, z forward",
    )
    refuse(~np.isfinite(intrinsics).all(1), "the intrinsics have NaN or infinite numbers")
    refuse((intrinsics[:, :2] <= 0).any(1), "the focal lengths must be positive")
    refuse(
        (np.abs(intrinsics) > 30).any(1),
        "intrinsics in pixels? Divide fx, fy, cx, cy by width, height, width, height",
    )


def at(cameras: Cameras, places: np.ndarray) -> Cameras:
    """The path at some places on it [F], counted in poses from 0; beyond its ends the first and last pose.

    Between two poses, positions and lenses are interpolated linearly, and rotations along the shortest arc at
    constant speed (slerp: K. Shoemake, "Animating rotation with quaternion curves", 1985). Poses themselves
    are not touched: the official weights see rotations as they are rounded in files. Poses keep their dtype.
    """
    dtype = np.asarray(cameras.c2w).dtype
    c2w, lens = (np.asarray(array, np.float64) for array in cameras)
    place = np.clip(np.asarray(places, np.float64), 0, len(c2w) - 1)
    nearest = np.round(place)
    place = np.where(np.abs(place - nearest) < 1e-6, nearest, place)
    before, after = np.floor(place).astype(int), np.ceil(place).astype(int)
    part = (place - before)[:, None]
    lens = (1 - part) * lens[before] + part * lens[after]
    mixed = (1 - part[:, None]) * c2w[before] + part[:, None] * c2w[after]
    between = part[:, 0] > 0
    if between.any():
        from scipy.spatial.transform import Rotation  # takes a while to import

        hand = np.sign(np.linalg.det(c2w[0, :3, :3]))  # -1 in the mirrored worlds of some files
        one, other = (Rotation.from_matrix(hand * c2w[i[between], :3, :3]) for i in (before, after))
        turn = Rotation.from_rotvec(part[between] * (one.inv() * other).as_rotvec())
        mixed[between, :3, :3] = hand * (one * turn).as_matrix()
    return Cameras(mixed.astype(dtype), lens.astype(np.float32))


def through(cameras: Cameras, places: np.ndarray) -> Cameras:
    """A smooth path through key poses at some places on it [F], counted in poses from 0.

    Positions and rotations as `interpolation.points` and `rotations`, lenses as `interpolation.numbers`. Key
    poses themselves are not touched.
    """
    from scipy.spatial.transform import Rotation  # takes a while to import

    keys, lens = (np.asarray(array, np.float64) for array in cameras)
    count = len(keys)
    place = np.clip(np.asarray(places, np.float64), 0, count - 1)
    nearest = np.round(place).astype(int)
    at_key = np.abs(place - nearest) < 1e-6
    times, kinds = np.arange(count, dtype=np.float64), ["smooth"] * (count - 1)
    hand = np.sign(np.linalg.det(keys[0, :3, :3]))  # -1 in the mirrored worlds of some files
    c2w = np.tile(np.eye(4), (len(place), 1, 1))
    c2w[:, :3, 3] = interpolation.points(times, keys[:, :3, 3], kinds, place)
    turned = interpolation.rotations(times, Rotation.from_matrix(hand * keys[:, :3, :3]), kinds, place)
    c2w[:, :3, :3] = hand * turned.as_matrix()
    lens = interpolation.numbers(times, lens, kinds, place)
    c2w[at_key] = keys[nearest[at_key]]
    return Cameras(c2w.astype(cameras.c2w.dtype), lens.astype(np.float32))


def resample(cameras: Cameras, frames: int, span: tuple[float, float] = (0.0, 1.0)) -> Cameras:
    """The same path with another number of frames, evenly spaced.

    `span` is the part of the path to follow: 0 is its first pose, 1 its last. See `at`.
    """
    return at(cameras, np.linspace(*span, frames) * (len(cameras.c2w) - 1))


def relative_to(c2w: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Poses seen from another camera: `inv(reference) @ c2w`, float32.

    With the source's first camera [..., 1, 4, 4] or [4, 4] as `reference`, its frame becomes the world.
    """
    return (np.linalg.inv(np.asarray(reference, np.float64)) @ np.asarray(c2w, np.float64)).astype(np.float32)
