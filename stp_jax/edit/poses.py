"""Forms of one camera: a pose as each of the forms that a file of keyframes has, and poses as keyframes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from stp_jax.controls.keyframe_tracks import Filmed, resolve
from stp_jax.controls.keyframes import TRACKS, Camera, Keyframe, Keyframes, LookAt, Orbit, Pose, Turned
from stp_jax.controls.lenses import default_intrinsics
from stp_jax.controls.times import Time
from stp_jax.errors import InputError

FORMS = {Orbit: "around a point", LookAt: "looks at a point", Turned: "position and turn", Pose: "matrix"}
EDITED = (Orbit, LookAt, Turned)  # of which the page has fields
TURNING = (Turned, Pose)  # which have a turn of their own
_METRES, _TURN, _LENS, _FRAMES = (
    1e-3,
    1e-3,
    1e-4,
    1e-3,
)  # how near keys must come to a path: radians, lens as fx


def rounded(values: Any, digits: int = 5) -> tuple[float, ...]:
    """Numbers as a file shall have them; no negative zeros."""
    return tuple(float(round(float(value), digits)) + 0.0 for value in np.ravel(values))


def whole(value: float) -> float:
    """Whole numbers as int, as people write them."""
    return int(value) if float(value).is_integer() else float(value)


def as_form(kind: type, pose: np.ndarray, pivot: np.ndarray, usual: np.ndarray | None = None) -> Camera:
    """A pose [4, 4] in a form. An orbit looks at the pivot [3], whatever the pose does.

    An orbit about the `usual` pivot [3], that of `--distance`, does not name it.

    A `LookAt` looks at the point straight ahead that is nearest to the pivot, half a metre away at least.
    """
    position = pose[:3, 3]
    if kind is Orbit:
        away = pivot - position
        distance = max(float(np.linalg.norm(away)), 1e-2)
        x, y, z = away / distance
        angles = np.degrees([np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))])
        left, up, distance = rounded((*angles, distance))
        unnamed = usual is not None and np.allclose(pivot, usual, atol=1e-5)
        return Orbit(left, up, distance, None if unnamed else rounded(pivot))
    if kind is LookAt:
        ahead = max(float((pivot - position) @ pose[:3, 2]), 0.5)
        level = np.cross(np.cross(pose[:3, 2], [0.0, -1, 0]), pose[:3, 2])  # up in the picture, without roll
        roll = np.degrees(np.arctan2(level @ pose[:3, 0], -(level @ pose[:3, 1])))
        roll = -float(roll)
        return LookAt(
            rounded(position), rounded(position + ahead * pose[:3, 2]), roll=round(roll, 4) + 0.0 or None
        )
    quaternion = Rotation.from_matrix(pose[:3, :3]).as_quat(scalar_first=True, canonical=True)
    return Turned(rounded(position), rounded(quaternion, 7))


def moved(camera: Camera, pose: np.ndarray, pivot: np.ndarray) -> Camera:
    """A camera that was dragged to a pose: it keeps its form, and what it looks at."""
    if isinstance(camera, LookAt):
        return camera._replace(position=rounded(pose[:3, 3]))
    if isinstance(camera, Orbit):
        centre = pivot if camera.around is None else np.array(camera.around)
        made = as_form(Orbit, pose, centre)
        assert isinstance(made, Orbit)
        return made._replace(around=camera.around, roll=camera.roll)
    return as_form(Turned, pose, pivot)


def pivot_of(camera: Camera | None, pivot: np.ndarray) -> np.ndarray:
    """What a camera circles or looks at, [3]; else the pivot itself."""
    if isinstance(camera, Orbit) and camera.around is not None:
        return np.array(camera.around, np.float64)
    if isinstance(camera, LookAt):
        return np.array(camera.look_at, np.float64)
    return pivot


def field_of_view(lens: np.ndarray, aspect: float) -> float:
    """Degrees across the shorter side of a picture, of intrinsics [4]."""
    half = 0.5 / (lens[0] if aspect <= 1 else lens[1])
    return float(np.degrees(2 * np.arctan(half)))


def lens_fields(lens: np.ndarray, aspect: float) -> dict[str, Any]:
    """The fields of a keyframe for a lens [4]: field of view, or, if that does not say all, intrinsics."""
    fov = round(field_of_view(lens, aspect), 4)
    if 1 <= fov <= 179 and np.allclose(default_intrinsics(fov, aspect), lens, atol=_LENS):
        return {"fov": fov}
    return {"intrinsics": rounded(lens, 6)}


def in_first_camera(keys: Keyframes, first: np.ndarray) -> Keyframes:
    """Keyframes in the frame of the source's first camera, whose pose in the world of its file is `first`."""
    if keys.world != "source_cameras":
        return keys
    if np.linalg.det(first[:3, :3]) < 0:
        raise InputError("keyframes: cannot be in the mirrored world of the source's cameras")
    to_first = np.linalg.inv(np.asarray(first, np.float64))

    def point(values: Any) -> tuple[float, ...]:
        return rounded(to_first[:3, :3] @ np.array(values, np.float64) + to_first[:3, 3])

    def brought(camera: Camera | None) -> Camera | None:
        if isinstance(camera, Pose):
            matrix = to_first @ np.array(camera.c2w, np.float64)
            return Pose(tuple(tuple(map(float, row)) for row in matrix))
        if isinstance(camera, Turned):
            turn = Rotation.from_matrix(to_first[:3, :3])
            turn = turn * Rotation.from_quat(camera.quaternion_wxyz, scalar_first=True)
            return Turned(point(camera.position), rounded(turn.as_quat(scalar_first=True, canonical=True), 7))
        if isinstance(camera, LookAt):
            up = None if camera.up is None else rounded(to_first[:3, :3] @ np.array(camera.up, np.float64))
            return LookAt(point(camera.position), point(camera.look_at), up, camera.roll)
        if isinstance(camera, Orbit) and camera.around is not None:
            return camera._replace(around=point(camera.around))
        return camera

    made = tuple(key._replace(camera=brought(key.camera)) for key in keys.keyframes)
    return keys._replace(keyframes=made, world=None)


def without(track: str, keys: Sequence[Keyframe]) -> list[Keyframe]:
    """Keyframes without one of `TRACKS`; those that have no other are left out."""
    fields = ("fov", "focal_length", "intrinsics") if track == "lens" else (track,)
    none: dict[str, Any] = dict.fromkeys(fields)
    left = [key._replace(**none) for key in keys]
    return [key for key in left if any(key.has(name) for name in TRACKS)]


# Paths as keyframes ---------------------------------------------------------------------------------------


def _spread(frames: int) -> Iterator[np.ndarray]:
    """Frames of keys: two, then more, at last one for each frame."""
    counts = [count for count in (2, 3, 5, 7, 9, 13, 17, 25, 33) if count < frames]
    for count in [*counts, frames]:
        yield np.unique(np.round(np.linspace(0, frames - 1, count)).astype(int))


def camera_keys(c2w: np.ndarray, filmed: Filmed) -> list[Keyframe]:
    """The fewest keys of those tried that give a path [F, 4, 4] to a millimetre: arcs, else turns.

    A path that no few keys give has one for each frame.
    """
    frames, pivot = len(c2w), np.array([0.0, 0, filmed.distance])
    c2w = np.asarray(c2w, np.float64)
    keys: list[Keyframe] = []
    if np.allclose(c2w, c2w[:1], atol=1e-6):
        kind = Orbit if np.allclose(_looks_at(c2w[0], pivot), 0, atol=_TURN) else Turned
        return [Keyframe(Time(0), as_form(kind, c2w[0], pivot, pivot))]
    for at in _spread(frames):
        for kind in (Orbit, Turned):
            for way in ("linear", "smooth"):
                forms = [as_form(kind, c2w[frame], pivot, pivot) for frame in at]
                if kind is Orbit:
                    forms = _unwrapped(forms)
                keys = [
                    Keyframe(Time(int(frame)), form, to_next={"camera": way})
                    for frame, form in zip(at, forms, strict=True)
                ]
                made = resolve(Keyframes(tuple(keys)), frames, filmed, "camera").c2w
                if made is not None and _near(made, c2w):
                    return keys
    return keys


def _looks_at(pose: np.ndarray, point: np.ndarray) -> np.ndarray:
    """How far off the middle of the picture a point is, and the roll, both as sines."""
    towards = point - pose[:3, 3]
    towards = towards / max(float(np.linalg.norm(towards)), 1e-9)
    return np.array([*np.cross(towards, pose[:3, 2]), pose[1, 0]])


def _unwrapped(orbits: list[Any]) -> list[Any]:
    """Orbits whose angle goes on past 180 degrees."""
    left = np.unwrap([orbit.left for orbit in orbits], period=360)
    return [orbit._replace(left=round(float(value), 5)) for orbit, value in zip(orbits, left, strict=True)]


def _near(made: np.ndarray, wanted: np.ndarray) -> bool:
    shift = np.abs(made[:, :3, 3] - wanted[:, :3, 3]).max()
    return bool(shift < _METRES and np.abs(made[:, :3, :3] - wanted[:, :3, :3]).max() < _TURN)


def lens_keys(lenses: np.ndarray, filmed: Filmed) -> list[Keyframe]:
    """Keys of lenses [F, 4], as `camera_keys`."""
    frames = len(lenses)
    keys: list[Keyframe] = []
    if np.allclose(lenses, lenses[:1], atol=_LENS):
        return [Keyframe(Time(0), **lens_fields(lenses[0], filmed.aspect))]
    for at in _spread(frames):
        for way in ("linear", "smooth"):
            keys = [
                Keyframe(Time(int(f)), **lens_fields(lenses[f], filmed.aspect), to_next={"lens": way})
                for f in at
            ]
            made = resolve(Keyframes(tuple(keys)), frames, filmed, "lens").intrinsics
            if made is not None and np.abs(made / lenses - 1)[:, :2].max() < _METRES:
                return keys
    return keys


def clock_keys(times: np.ndarray) -> list[Keyframe]:
    """Keys of a clock [F] with straight lines between them, as few as give each frame its moment."""
    at = [0]
    while at[-1] < len(times) - 1:
        first = at[-1]
        last = first + 1
        while last + 1 < len(times) and _straight(times[first : last + 2]):
            last += 1
        at.append(last)
    shown = rounded(times, 4)
    return [
        Keyframe(Time(f), animation_time=Time(whole(shown[f])), to_next={"animation_time": "linear"})
        for f in at
    ]


def _straight(times: np.ndarray) -> bool:
    return bool(np.abs(np.linspace(times[0], times[-1], len(times)) - times).max() < _FRAMES)
