"""Cameras, lenses and animation times for each frame of a video, from keyframes.

Each of the three is a track of its own: it is interpolated through the keys that have it, and held before the
first and after the last of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stp_jax.controls import interpolation, times
from stp_jax.controls.animation_time import in_source
from stp_jax.controls.keyframes import (
    Camera,
    Keyframe,
    Keyframes,
    LookAt,
    Orbit,
    Pose,
    Turned,
    check_later,
    impossible_look_at,
)
from stp_jax.controls.lenses import default_intrinsics
from stp_jax.controls.times import Rates
from stp_jax.errors import InputError

SENSOR = 36.0  # millimetres across the longer side of the picture, for focal lengths
_UP = np.array([0.0, -1, 0])


class Filmed(NamedTuple):
    """What keyframes are relative to."""

    first: np.ndarray  # [4, 4], c2w of the source's first camera in the world of its file
    distance: float  # metres from it to the pivot
    aspect: float  # width over height of the source's picture
    rates: Rates | None = None  # what seconds are counted by
    frames: int | None = None  # of the source's clip; None: as many as the new video has


class Track(NamedTuple):
    """The keys of one track."""

    where: list[str]  # names them in errors
    frames: np.ndarray  # float64 [K], increasing
    keys: list[Keyframe]
    kinds: list[str]  # [K], how to get to the next


class Tracks(NamedTuple):
    """What keyframes say of F frames; None for a track without keys."""

    c2w: np.ndarray | None  # float32 [F, 4, 4], in the frame of the source's first camera
    intrinsics: np.ndarray | None  # float32 [F, 4], of the source's whole picture
    animation_time: np.ndarray | None  # float32 [F]
    marks: Marks


class Marks(NamedTuple):
    """Where the keys are, for a picture."""

    positions: np.ndarray  # [K, 3], metres, in the frame of the source's first camera
    clock: np.ndarray  # [K, 2], frame and animation time


def resolve(keyframes: Keyframes, frames: int, filmed: Filmed, where: str) -> Tracks:
    """Cameras, lenses and animation times of F frames.

    Args:
      frames: F, of the new video.
      where: names the file in errors.

    Raises:
      InputError: times outside the videos or out of order, seconds without rates, a mirrored world, a camera
        that looks straight along up or at itself between two keys.
    """
    at = _key_frames(keyframes, frames, filmed.rates, where)
    grid = np.arange(frames, dtype=np.float64)
    camera, lens, clock = (
        _track(keyframes, at, name, where) for name in ("camera", "lens", "animation_time")
    )
    c2w = positions = intrinsics = animation_time = None
    shown = np.zeros((0, 2))
    if camera.keys:
        c2w, positions = (
            _cameras(camera, keyframes, filmed, places, where) for places in (grid, camera.frames)
        )
        c2w, positions = c2w.astype(np.float32), positions[:, :3, 3]
    if lens.keys:
        keys = np.stack([_lens(key, filmed.aspect) for key in lens.keys])
        logs = np.concatenate([np.log(keys[:, :2]), keys[:, 2:]], axis=1)  # zooms are even in the logarithm
        curve = interpolation.numbers(lens.frames, logs, lens.kinds, grid)
        intrinsics = np.concatenate([np.exp(curve[:, :2]), curve[:, 2:]], axis=1).astype(np.float32)
    if clock.keys:
        last = (filmed.frames or frames) - 1
        values = np.array(
            [
                _moment(key, last, filmed.rates, name)
                for key, name in zip(clock.keys, clock.where, strict=True)
            ]
        )
        animation_time = interpolation.numbers(clock.frames, values, clock.kinds, grid)
        animation_time = in_source(animation_time, where, last)
        shown = np.stack([clock.frames, values], axis=1)
    marks = Marks(np.zeros((0, 3)) if positions is None else positions, shown)
    return Tracks(c2w, intrinsics, animation_time, marks)


def _key_frames(keyframes: Keyframes, frames: int, rates: Rates | None, where: str) -> np.ndarray:
    """The frame of each keyframe, float64 [K]."""
    at: list[float] = []
    for i, key in enumerate(keyframes.keyframes):
        name = f"{where}: keyframes[{i}]"
        frame = times.in_frames(key.time, frames - 1, rates and rates.new, name)
        if not 0 <= frame <= frames - 1:
            seconds = f" (0 to {frames / rates.new:.4g} s)" if rates and key.time.unit == "s" else ""
            raise InputError(
                f"{name}: time {key.time} is outside the new video, frames 0 to {frames - 1}{seconds}"
            )
        if at:
            check_later(frame, at[-1], (key.time, keyframes.keyframes[i - 1].time), name)
        at.append(frame)
    return np.array(at)


def _moment(key: Keyframe, last: int, rates: Rates | None, where: str) -> float:
    """The source frame that a key of the clock shows."""
    assert key.animation_time is not None
    frame = times.in_frames(key.animation_time, last, rates and rates.source, where)
    if not 0 <= frame <= last:
        seconds = f" ({last / rates.source:.4g} s)" if rates and key.animation_time.unit == "s" else ""
        raise InputError(
            f"{where}: animation_time {key.animation_time} is outside the source's clip, frames 0 to "
            f"{last}{seconds}"
        )
    return frame


def _track(keyframes: Keyframes, at: np.ndarray, track: str, where: str) -> Track:
    chosen = [i for i, key in enumerate(keyframes.keyframes) if key.has(track)]
    keys = [keyframes.keyframes[i] for i in chosen]
    named = [f"{where}: keyframes[{i}]" for i in chosen]
    return Track(named, at[chosen], keys, [key.way(track) for key in keys])


def _lens(key: Keyframe, aspect: float) -> np.ndarray:
    """The intrinsics [4] of a key, float64."""
    if key.intrinsics is not None:
        return np.array(key.intrinsics, np.float64)
    if key.fov is not None:
        return default_intrinsics(key.fov, aspect).astype(np.float64)
    assert key.focal_length is not None
    longer = key.focal_length / SENSOR
    return np.array([longer * max(1 / aspect, 1), longer * max(aspect, 1), 0.5, 0.5])


# Cameras --------------------------------------------------------------------------------------------------


def _cameras(track: Track, keyframes: Keyframes, filmed: Filmed, at: np.ndarray, where: str) -> np.ndarray:
    """Poses [n, 4, 4] at the frames `at`, in the frame of the source's first camera.

    Where all keys are orbits, angles, distance and centre are interpolated, so that the camera goes in arcs;
    where all look at a point, positions and points, so that these stay in the middle of the picture; else
    positions and rotations.
    """
    from scipy.spatial.transform import Rotation  # takes a while to import

    to_first = np.eye(4)
    if keyframes.world == "source_cameras":
        if np.linalg.det(filmed.first[:3, :3]) < 0:
            raise InputError(f"{where}: cannot be in the mirrored world of the source's cameras")
        to_first = np.linalg.inv(np.asarray(filmed.first, np.float64))
    cameras = [key.camera for key in track.keys]
    if all(isinstance(camera, Orbit) for camera in cameras):
        return _orbits(track, to_first, filmed.distance, at)
    if all(isinstance(camera, LookAt) for camera in cameras):
        return _look_ats(track, to_first, at, where)
    keys = [
        _pose(camera, to_first, filmed.distance, name)
        for camera, name in zip(cameras, track.where, strict=True)
    ]
    rotations = Rotation.from_matrix(np.stack([key[:3, :3] for key in keys]))
    return _poses(
        interpolation.points(track.frames, np.stack([key[:3, 3] for key in keys]), track.kinds, at),
        interpolation.rotations(track.frames, rotations, track.kinds, at).as_matrix(),
    )


def _poses(positions: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    c2w = np.tile(np.eye(4), (len(positions), 1, 1))
    c2w[:, :3, :3], c2w[:, :3, 3] = rotations, positions
    return c2w


def _point(matrix: np.ndarray, point: object) -> np.ndarray:
    return matrix[:3, :3] @ np.array(point, np.float64) + matrix[:3, 3]


def _pose(camera: Camera | None, to_first: np.ndarray, distance: float, where: str) -> np.ndarray:
    """The pose [4, 4] of one key."""
    if isinstance(camera, Pose):
        return to_first @ np.array(camera.c2w, np.float64)
    if isinstance(camera, Turned):
        from scipy.spatial.transform import Rotation  # takes a while to import

        rotation = Rotation.from_quat(camera.quaternion_wxyz, scalar_first=True).as_matrix()
        return to_first @ _poses(np.array([camera.position], np.float64), rotation[None])[0]
    once = np.zeros(1)
    alone = Track([where], once, [Keyframe(times.Time(0), camera)], ["linear"])
    if isinstance(camera, Orbit):
        return _orbits(alone, to_first, distance, once)[0]
    return _look_ats(alone, to_first, once, where)[0]


def _orbits(track: Track, to_first: np.ndarray, distance: float, at: np.ndarray) -> np.ndarray:
    """Poses on spheres; the angles are of the source's first camera's axes."""
    from scipy.spatial.transform import Rotation  # takes a while to import

    angles, distances, centres = [], [], []
    for key in track.keys:
        orbit = key.camera
        assert isinstance(orbit, Orbit)
        centre = np.array([0, 0, distance]) if orbit.around is None else _point(to_first, orbit.around)
        angles.append([orbit.left or 0.0, orbit.up or 0.0, orbit.roll or 0.0])
        distances.append(np.linalg.norm(centre) if orbit.distance is None else orbit.distance)
        centres.append(centre)
    ways = track.frames, track.kinds, at
    left, up, roll = _along(np.array(angles), *ways).T
    rotation = Rotation.from_euler("YXZ", np.stack([left, -up, roll], axis=1), degrees=True).as_matrix()
    away = interpolation.numbers(track.frames, np.array(distances), track.kinds, at)
    return _poses(_along(np.array(centres), *ways) - away[:, None] * rotation[:, :, 2], rotation)


def _along(values: np.ndarray, frames: np.ndarray, kinds: list[str], at: np.ndarray) -> np.ndarray:
    return interpolation.points(frames, values, kinds, at)


def _look_ats(track: Track, to_first: np.ndarray, at: np.ndarray, where: str) -> np.ndarray:
    """Poses that look at points."""
    from scipy.spatial.transform import Rotation  # takes a while to import

    looks = [key.camera for key in track.keys]
    positions, points, ups, rolls = [], [], [], []
    for look, name in zip(looks, track.where, strict=True):
        assert isinstance(look, LookAt)
        position, point = _point(to_first, look.position), _point(to_first, look.look_at)
        up = _UP if look.up is None else to_first[:3, :3] @ np.array(look.up, np.float64)
        if problem := impossible_look_at(position, point, up):
            raise InputError(f"{name}: camera: {problem}")
        positions.append(position)
        points.append(point)
        ups.append(up / np.linalg.norm(up))
        rolls.append(look.roll or 0.0)
    ways = track.frames, track.kinds, at
    place, target, up = (_along(np.array(values), *ways) for values in (positions, points, ups))
    for i, frame in enumerate(at):
        if problem := impossible_look_at(place[i], target[i], up[i]):
            raise InputError(f"{where}: between keyframes, at frame {frame:g}: {problem}")
    forward = target - place
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    level = np.stack([right, np.cross(forward, right), forward], axis=-1)
    roll = interpolation.numbers(track.frames, np.array(rolls), track.kinds, at)
    return _poses(place, level @ Rotation.from_euler("z", roll[:, None], degrees=True).as_matrix())
