"""Space-time keyframes: where the camera is and which moment it shows, at some times of the new video.

They are a small JSON file that people write by hand and tools read and write: docs/keyframes.md explains it,
`SCHEMA` is its JSON Schema. `keyframe_tracks.resolve` makes cameras and animation times of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stp_jax import user_input
from stp_jax.controls import interpolation, paths
from stp_jax.controls.times import Time
from stp_jax.errors import InputError
from stp_jax.files import new_file

SCHEMA = Path(__file__).parents[1] / "assets" / "keyframes.schema.json"
VERSION = 1
FILE_BYTES = 4 << 20
MOST_KEYS = 10_000
ROUNDED = 0.01  # of the length of a quaternion that is written with few digits
FAR = 1e6  # metres, and degrees: no number is larger
WORLDS = ("first_camera", "source_cameras")
TRACKS = ("camera", "lens", "animation_time")
_TIME = re.compile(r"(\d+|\d+\.\d*|\.\d+)\s*(s|%)", re.ASCII)

Numbers = tuple[float, ...]


class Pose(NamedTuple):
    """A pose as a matrix."""

    c2w: tuple[Numbers, ...]  # 4 x 4, OpenCV axes


class Turned(NamedTuple):
    """A pose as a position and a unit quaternion, camera to world."""

    position: Numbers
    quaternion_wxyz: Numbers


class LookAt(NamedTuple):
    """A position, and a point that is in the middle of the picture."""

    position: Numbers
    look_at: Numbers
    up: Numbers | None = None  # a direction; None: that of the source's first camera
    roll: float | None = None  # degrees, the camera's right side down; None: 0


class Orbit(NamedTuple):
    """On a sphere about a point, looking at it; at 0 degrees the camera looks as the source's first one."""

    left: float | None = None  # degrees; None: 0
    up: float | None = None  # degrees; None: 0
    distance: float | None = None  # metres; None: from the source's first camera to the point
    around: Numbers | None = None  # the point; None: straight ahead of the source's first camera
    roll: float | None = None  # as for `LookAt`


Camera = Pose | Turned | LookAt | Orbit


class Keyframe(NamedTuple):
    """One key; None for what it does not say. At most one of the three lenses is given."""

    time: Time  # in the new video
    camera: Camera | None = None
    fov: float | None = None  # degrees across the shorter side of the picture
    focal_length: float | None = None  # millimetres, of a sensor 36 mm across the longer side
    intrinsics: Numbers | None = None  # (fx, fy, cx, cy) over (width, height, width, height)
    animation_time: Time | None = None  # in the source's clip
    to_next: str | Mapping[str, str] | None = None  # of `interpolation.KINDS`, for all tracks or by track
    comment: str | None = None

    @property
    def has_lens(self) -> bool:
        return any(lens is not None for lens in (self.fov, self.focal_length, self.intrinsics))

    def has(self, track: str) -> bool:
        """Whether it is a key of one of `TRACKS`."""
        return self.has_lens if track == "lens" else getattr(self, track) is not None

    def way(self, track: str) -> str:
        """How to get to the next key of a track."""
        ways = self.to_next or "smooth"
        return ways if isinstance(ways, str) else ways.get(track, "smooth")


class Keyframes(NamedTuple):
    """The contents of a file. Every field is as it is there, so that `write` loses nothing."""

    keyframes: tuple[Keyframe, ...]
    world: str | None = None  # of WORLDS; None: the frame of the source's first camera
    comment: str | None = None
    schema: str | None = None  # "$schema", for editors

    def has(self, track: str) -> bool:
        """Whether there are keys of one of `TRACKS`."""
        return any(key.has(track) for key in self.keyframes)

    @property
    def uses_distance(self) -> bool:
        """Whether a camera depends on the distance to the pivot."""
        return any(isinstance(key.camera, Orbit) and key.camera.around is None for key in self.keyframes)


def read(path: str | os.PathLike) -> Keyframes:
    """Reads and checks a file.

    Raises:
      InputError: unreadable, not of this form, impossible values, or times that are out of order; it names
        the keyframe, counted from 0, and the field.
    """
    data = user_input.load(path, (".json",), text_bytes=FILE_BYTES)
    return parse(data, user_input.shown(path))


def parse(data: Any, where: str = "keyframes") -> Keyframes:
    """Checks the value of a JSON file; `where` names it in errors. Raises `InputError` as `read`."""
    if isinstance(data, dict) and "keyframes" not in data:
        raise InputError(
            f'{where}: is not a file of keyframes, which has "version" and "keyframes"; camera paths are '
            "given as --camera, clocks as --animation_time"
        )
    fields = _fields(data, where, ("version", "keyframes"), ("world", "comment", "$schema"))
    if fields["version"] != VERSION or isinstance(fields["version"], bool):
        raise InputError(f'{where}: "version" is {_brief(fields["version"])}; {VERSION} is read')
    listed = fields["keyframes"]
    if not isinstance(listed, list) or not listed:
        raise InputError(f'{where}: "keyframes" must be a list with at least one keyframe')
    if len(listed) > MOST_KEYS:
        raise InputError(f"{where}: {len(listed):,} keyframes are too many; at most {MOST_KEYS:,}")
    keys = tuple(_keyframe(one, f"{where}: keyframes[{i}]") for i, one in enumerate(listed))
    world = _choice(fields.get("world"), WORLDS, f'{where}: "world"')
    made = Keyframes(keys, world, *(_text(fields.get(name), where, name) for name in ("comment", "$schema")))
    if not any(made.has(track) for track in TRACKS):
        raise InputError(f"{where}: no keyframe has a camera, a lens or an animation time")
    _check_order(made, where)
    return made


def to_json(keyframes: Keyframes) -> dict[str, Any]:
    """The value of a JSON file, of which `parse` makes equal keyframes."""
    head = {"$schema": keyframes.schema, "version": VERSION, "world": keyframes.world}
    keys = [_key_to_json(key) for key in keyframes.keyframes]
    return _given(head | {"comment": keyframes.comment}) | {"keyframes": keys}


def to_text(keyframes: Keyframes) -> str:
    """The text of a file, a line for each keyframe."""
    data = to_json(keyframes)
    keys = ",\n".join(f"    {json.dumps(key)}" for key in data.pop("keyframes"))
    head = "".join(f"  {json.dumps(name)}: {json.dumps(value)},\n" for name, value in data.items())
    return f'{{\n{head}  "keyframes": [\n{keys}\n  ]\n}}\n'


def write(path: str | os.PathLike, keyframes: Keyframes) -> None:
    """Writes a new file. Raises `InputError` where it exists or is not writable."""
    with new_file(path) as partial:
        partial.write_text(to_text(keyframes), encoding="utf-8")


def _key_to_json(key: Keyframe) -> dict[str, Any]:
    made = _given(key._asdict())
    for name in ("time", "animation_time"):
        if name in made:
            time = made[name]
            made[name] = f"{time.value!r}{time.unit}" if time.unit else time.value
    if key.camera is not None:
        camera = _given(key.camera._asdict())
        made["camera"] = {"orbit": camera} if isinstance(key.camera, Orbit) else camera
    return made


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


# Checks ---------------------------------------------------------------------------------------------------


def _keyframe(data: Any, where: str) -> Keyframe:
    fields = _fields(data, where, ("time",), Keyframe._fields[1:])
    time = _time(fields["time"], f'{where}: "time"')
    where = f"{where} at {time if time.unit else f'frame {time}'}"
    lenses = [name for name in ("fov", "focal_length", "intrinsics") if name in fields]
    if len(lenses) > 1:
        raise InputError(f"{where}: {' and '.join(lenses)} are both lenses; give one")
    camera = _camera(fields["camera"], f"{where}: camera") if "camera" in fields else None
    shown = fields.get("animation_time")
    return Keyframe(
        time,
        camera,
        _number(fields.get("fov"), f"{where}: fov", 1, 179),
        _number(fields.get("focal_length"), f"{where}: focal_length", 1, 1000),
        _intrinsics(fields.get("intrinsics"), f"{where}: intrinsics"),
        None if shown is None else _time(shown, f'{where}: "animation_time"'),
        _to_next(fields.get("to_next"), f"{where}: to_next"),
        _text(fields.get("comment"), where, "comment"),
    )


def _camera(data: Any, where: str) -> Camera:
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected an object with c2w, position or orbit, found {_brief(data)}")
    if "orbit" in data:
        _fields(data, where, ("orbit",), ())
        fields = _fields(data["orbit"], f"{where}: orbit", (), Orbit._fields)
        return _orbit(fields, f"{where}: orbit")
    if "c2w" in data:
        _fields(data, where, ("c2w",), ())
        matrix = _numbers(data["c2w"], (4, 4), f"{where}: c2w")
        try:
            paths.check(np.array(matrix)[None], np.ones((1, 4)), 1, "")
        except InputError as error:
            raise InputError(f"{where}: c2w: {str(error).split(': ', 2)[-1]}") from None
        return Pose(matrix)
    if "quaternion_wxyz" in data:
        fields = _fields(data, where, Turned._fields, ())
        quaternion = _numbers(fields["quaternion_wxyz"], (4,), f"{where}: quaternion_wxyz")
        length = float(np.linalg.norm(quaternion))
        if abs(length - 1) > ROUNDED:
            raise InputError(
                f"{where}: quaternion_wxyz has length {length:.4g}, not 1: divide its numbers by it"
            )
        return Turned(_numbers(fields["position"], (3,), f"{where}: position"), quaternion)
    fields = _fields(data, where, ("position", "look_at"), LookAt._fields)
    vectors = {
        name: _numbers(fields[name], (3,), f"{where}: {name}")
        for name in ("position", "look_at", "up")
        if fields.get(name) is not None
    }
    made = LookAt(**vectors, roll=_number(fields.get("roll"), f"{where}: roll", -FAR, FAR))
    problem = impossible_look_at(np.array(made.position), np.array(made.look_at), np.array(made.up or 0.0))
    if problem:
        raise InputError(f"{where}: {problem}")
    return made


def impossible_look_at(position: np.ndarray, look_at: np.ndarray, up: np.ndarray) -> str | None:
    """What is wrong about a position, a point to look at and a direction that is up ([3]; 0: not known)."""
    ahead = look_at - position
    distance = np.linalg.norm(ahead)
    if distance < 1e-6:
        return "look_at is where the camera is: move one of them"
    if up.ndim and np.linalg.norm(up) < 1e-6:
        return "up has no direction: give one, as [0, -1, 0]"
    if up.ndim and np.linalg.norm(np.cross(ahead / distance, up / np.linalg.norm(up))) < 1e-4:
        return "it looks straight along up, so that its horizon has no direction: give another up"
    return None


def _orbit(fields: Mapping[str, Any], where: str) -> Orbit:
    left, up, roll = (
        _number(fields.get(name), f"{where}: {name}", -FAR, FAR) for name in ("left", "up", "roll")
    )
    distance = _number(fields.get("distance"), f"{where}: distance", 1e-3, FAR)
    around = fields.get("around")
    if around is not None:
        around = _numbers(around, (3,), f"{where}: around")
    return Orbit(left, up, distance, around, roll)


def _intrinsics(value: Any, where: str) -> Numbers | None:
    if value is None:
        return None
    lens = _numbers(value, (4,), where)
    if min(lens[:2]) <= 0 or max(map(abs, lens)) > 30:
        raise InputError(f"{where}: expected fx, fy, cx, cy divided by width, height, width, height")
    return lens


def _to_next(value: Any, where: str) -> str | Mapping[str, str] | None:
    if isinstance(value, dict):
        _fields(value, where, (), TRACKS)
        return {
            track: str(_choice(way, interpolation.KINDS, f"{where}: {track}")) for track, way in value.items()
        }
    return _choice(value, interpolation.KINDS, where)


def _fields(data: Any, where: str, needed: tuple[str, ...], others: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a JSON object; raises `InputError` for missing, unknown and null ones."""
    if not isinstance(data, dict):
        raise InputError(
            f"{where}: expected an object with {', '.join(needed or others)}, found {_brief(data)}"
        )
    known = tuple(dict.fromkeys((*needed, *others)))
    for name, value in data.items():
        if name not in known:
            raise InputError(f"{where}: {user_input.unknown('field', name, known)}")
        if value is None:
            raise InputError(f"{where}: {name} is null: leave it out")
    for name in needed:
        if name not in data:
            raise InputError(f'{where}: "{name}" is missing')
    return data


def _brief(value: Any) -> str:
    return user_input.short(json.dumps(value, default=str)[:200], 40)[1:-1]


def _number(value: Any, where: str, least: float, most: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise InputError(f"{where}: expected a number from {least:g} to {most:g}, found {_brief(value)}")
    return value


def _numbers(value: Any, shape: tuple[int, ...], where: str) -> Any:
    """Nested lists of numbers as nested tuples of these."""
    array = user_input.numbers(value)
    if array is None or array.shape != shape or not (np.abs(array) <= FAR).all():
        wanted = " x ".join(map(str, shape))
        raise InputError(f"{where}: expected {wanted} numbers up to {FAR:g}, found {_brief(value)}")
    return tuple(tuple(row) if len(shape) > 1 else row for row in value)


def _time(value: Any, where: str) -> Time:
    if isinstance(value, str) and (found := _TIME.fullmatch(value[:50])):
        text = found[1]
        made = Time(int(text) if text.isdecimal() else float(text), found[2])
    else:
        made = Time(value)
    number = made.value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= FAR:
        raise InputError(
            f'{where}: expected a frame as 8, seconds as "1.5s" or per cent as "50%", found {_brief(value)}'
        )
    return made


def _choice(value: Any, choices: tuple[str, ...], where: str) -> str | None:
    if value is not None and value not in choices:
        raise InputError(f"{where}: {_brief(value)} is not one of {', '.join(choices)}")
    return value


def _text(value: Any, where: str, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: {name} must be a text, found {_brief(value)}")
    return value


def _check_order(keyframes: Keyframes, where: str) -> None:
    """Raises `InputError` for times of one unit that do not increase."""
    before: dict[str, Time] = {}
    for i, key in enumerate(keyframes.keyframes):
        earlier = before.get(key.time.unit)
        if earlier is not None:
            check_later(key.time.value, earlier.value, (key.time, earlier), f"{where}: keyframes[{i}]")
        before[key.time.unit] = key.time


def check_later(time: float, earlier: float, named: tuple[Time, Time], where: str) -> None:
    """Raises `InputError` unless a time comes after the one before it; `named` is how they are written."""
    this, other = (str(one) if one.unit else f"frame {one}" for one in named)
    if time == earlier:
        raise InputError(f"{where}: two keyframes at {this}: join them, or move one")
    if time < earlier:
        raise InputError(f"{where}: out of order: {this} comes after {other}: sort the keyframes by time")
