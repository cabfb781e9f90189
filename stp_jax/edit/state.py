"""What is edited, in one object without a page: a clip, keyframes, and what was done and undone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from stp_jax import media, user_input
from stp_jax.controls import animation_time, cameras, keyframe_tracks, keyframes, times
from stp_jax.controls.keyframe_tracks import Filmed, Tracks
from stp_jax.controls.keyframes import Camera, Keyframe, Keyframes
from stp_jax.controls.paths import Cameras
from stp_jax.controls.times import Time
from stp_jax.controls.view import View
from stp_jax.edit import poses
from stp_jax.edit.clips import Source
from stp_jax.errors import InputError
from stp_jax.rerender.takes import SAME_CAMERA

TOGETHER = 1.0  # seconds within which edits of one field are one step to undo
MOST_STEPS = 200


class Moment(NamedTuple):
    """One state of everything that undo goes back to."""

    keys: Keyframes
    start: float
    duration: float | None


class State:
    """Keyframes over a clip, and what they give. An impossible edit raises `InputError`, and changes nothing.

    All positions are in the frame of the source's first camera.

    Attributes:
      source: the clip and its cameras, see `clips.Source`.
      keys: the keyframes as they are saved.
      tracks: cameras, lenses and animation times of the F frames.
      changed: is called after each edit.
    """

    def __init__(self, source: Source, keys: Keyframes | None = None):
        self.source = source
        self.changed: list[Callable[[], None]] = []
        self._undone: list[Moment] = []
        self._done: list[Moment] = []
        self._last: tuple[str, float] = ("", 0.0)
        self.keys = keys or self._first_keys()
        self.tracks = self._resolve(self.keys)

    # What there is ----------------------------------------------------------------------------------------

    @property
    def frames(self) -> int:
        return len(self.source.clip.frames)

    @property
    def touched(self) -> bool:
        """Whether something was edited."""
        return bool(self._done or self._undone)

    @property
    def filmed(self) -> Filmed:
        """What keyframes are relative to."""
        height, width = self.source.clip.source_size
        source = self.source
        first = source.world
        return Filmed(first, source.distance, width / height, source.rates)

    @property
    def pivot(self) -> np.ndarray:
        return np.array([0.0, 0, self.source.distance])

    def view(self) -> View:
        """Cameras, lenses of the model's picture, and animation times of the new video, as it is sampled."""
        path, clock = self.path()
        height, width = self.source.clip.frames.shape[1:3]
        lens = media.fit_intrinsics(path.intrinsics, self.source.clip.source_size, height, width)
        return View(path.c2w, lens, clock)

    def path(self) -> tuple[Cameras, np.ndarray]:
        """Cameras with lenses of the whole picture as filmed, and animation times [F]."""
        made, source = self.tracks, self.source.cameras
        if made.c2w is None:
            c2w, lens = source.c2w, source.intrinsics
        else:
            c2w, lens = made.c2w, np.repeat(source.intrinsics[:1], self.frames, axis=0)
        lens = lens if made.intrinsics is None else made.intrinsics
        clock = made.animation_time
        return Cameras(c2w, lens), np.arange(self.frames, dtype=np.float32) if clock is None else clock

    def frame_of(self, key: Keyframe) -> float:
        """The frame of the new video that a keyframe is at."""
        return times.in_frames(key.time, self.frames - 1, self.source.rates.new, "keyframe")

    def moment_of(self, key: Keyframe) -> float | None:
        """The source frame that a keyframe shows; None: it leaves that to others."""
        if key.animation_time is None:
            return None
        return times.in_frames(key.animation_time, self.frames - 1, self.source.rates.source, "keyframe")

    def pose_of(self, index: int) -> np.ndarray:
        """The pose [4, 4] at a keyframe, its own or that of the path there."""
        key = self.keys.keyframes[index]
        if key.camera is None:
            return np.array(self.path()[0].c2w[round(self.frame_of(key))], np.float64)
        alone = Keyframes((Keyframe(Time(0), key.camera),), self.keys.world)
        made = keyframe_tracks.resolve(alone, 1, self.filmed, "keyframe").c2w
        assert made is not None
        return np.array(made[0], np.float64)

    def fov_of(self, index: int) -> float:
        """Degrees across the shorter side of the picture, at a keyframe."""
        frame = round(self.frame_of(self.keys.keyframes[index]))
        return poses.field_of_view(self.path()[0].intrinsics[frame], self.filmed.aspect)

    def _first_keys(self) -> Keyframes:
        """The source as it is: its own first camera and lens, forward."""
        lens = poses.lens_keys(self.source.cameras.intrinsics[:1], self.filmed)[0]
        first = Keyframe(Time(0), poses.as_form(keyframes.Orbit, np.eye(4), self.pivot, self.pivot))
        first = first._replace(fov=lens.fov, intrinsics=lens.intrinsics, animation_time=Time(0))
        last = first._replace(time=Time(self.frames - 1), animation_time=Time(self.frames - 1))
        linear = first._replace(to_next={"animation_time": "linear"})
        return Keyframes(tuple(map(self._given, (linear, last))))

    def _given(self, key: Keyframe) -> Keyframe:
        """A keyframe without what the model is not given."""
        takes = self.source.takes
        if takes.camera == "none":
            key = key._replace(camera=None)
        if not takes.lens:
            key = key._replace(fov=None, focal_length=None, intrinsics=None)
        return key if takes.animation_time else key._replace(animation_time=None)

    # Edits ------------------------------------------------------------------------------------------------

    def _resolve(self, keys: Keyframes) -> Tracks:
        made = keyframe_tracks.resolve(keys, self.frames, self.filmed, "keyframes")
        if made.c2w is not None:
            lens = cameras.default_intrinsics()[None].repeat(self.frames, 0)
            cameras.check(made.c2w, lens, self.frames, "keyframes")
        return made

    def change(self, keys: Sequence[Keyframe], field: str = "") -> None:
        """Takes other keyframes. Edits of one `field` that follow each other quickly are undone together."""
        ordered = sorted(keys, key=self.frame_of)
        self._take(self.keys._replace(keyframes=tuple(ordered)), field)

    def _take(self, keys: Keyframes, field: str = "") -> None:
        made = keyframes.parse(keyframes.to_json(keys))
        if made == self.keys:
            return
        tracks = self._resolve(made)  # an impossible edit ends here
        now = time.monotonic()
        if not (field and field == self._last[0] and now - self._last[1] < TOGETHER):
            self._remember()
        self._last = (field, now)
        self._undone.clear()
        self.keys, self.tracks = made, tracks
        self._tell()

    def _remember(self) -> None:
        self._done = [*self._done[-MOST_STEPS:], self._now()]

    def _now(self) -> Moment:
        return Moment(self.keys, self.source.start, self.source.duration)

    def _tell(self) -> None:
        for listener in self.changed:
            listener()

    def undo(self) -> bool:
        """Goes back one step; False: there is none."""
        return self._step(self._done, self._undone)

    def redo(self) -> bool:
        """Takes the last undo back; False: there is none."""
        return self._step(self._undone, self._done)

    def _step(self, taken: list[Moment], kept: list[Moment]) -> bool:
        if not taken:
            return False
        there = taken[-1]
        source = self.source.trimmed(there.start, there.duration)  # may fail: the file has gone
        kept.append(self._now())
        taken.pop()
        self.source, self.keys, self._last = source, there.keys, ("", 0.0)
        self.tracks = self._resolve(self.keys)
        self._tell()
        return True

    def trim(self, start: float, duration: float | None) -> None:
        """Takes another part of the video, seconds, as `--start` and `--duration` do."""
        if (start, duration) == (self.source.start, self.source.duration):
            return
        source = self.source.trimmed(start, duration)
        before, moment = self.source, self._now()
        self.source = source
        try:
            self.tracks = self._resolve(self.keys)
        except InputError:
            self.source = before
            raise
        self._done = [*self._done[-MOST_STEPS:], moment]
        self._undone.clear()
        self._tell()

    def replace(self, index: int, field: str = "", **fields: Any) -> None:
        """Changes fields of one keyframe."""
        keys = list(self.keys.keyframes)
        keys[index] = keys[index]._replace(**fields)
        self.change(keys, field and f"{field} {index}")

    def add(self, frame: float) -> int:
        """Adds a keyframe with camera, lens and moment as they are there; returns its number."""
        frame = min(max(float(frame), 0.0), self.frames - 1)
        if any(abs(self.frame_of(key) - frame) < 1e-6 for key in self.keys.keyframes):
            raise InputError(f"There is a keyframe at frame {frame:g} already.")
        path, clock = self.path()
        near = round(frame)
        before = [key for key in self.keys.keyframes if self.frame_of(key) < frame]
        made = Keyframe(
            Time(poses.whole(frame)),
            self._usual(np.asarray(path.c2w[near], np.float64)),
            animation_time=Time(
                poses.whole(round(float(np.interp(frame, np.arange(self.frames), clock)), 3))
            ),
            to_next=before[-1].to_next if before else None,
            **poses.lens_fields(path.intrinsics[near], self.filmed.aspect),
        )
        made = self._given(made)
        self.change([*self.keys.keyframes, made])
        return self._at(frame)

    @property
    def form(self) -> type:
        """The form of the keyframes' cameras: paths between keys depend on that of all."""
        first = next((key.camera for key in self.keys.keyframes if key.camera is not None), None)
        return type(first) if isinstance(first, poses.EDITED) else keyframes.Turned

    def _usual(self, pose: np.ndarray) -> Camera:
        """A pose [4, 4] as the keyframes have theirs."""
        cameras_of = [key.camera for key in self.keys.keyframes if key.camera is not None]
        pivot = poses.pivot_of(cameras_of[0] if cameras_of else None, self.pivot)
        return poses.as_form(self.form, pose, pivot, self.pivot)

    def camera_of(self, index: int) -> Camera:
        """The camera of a keyframe; of one that has none, that of the path there."""
        return self.keys.keyframes[index].camera or self._usual(self.pose_of(index))

    def remove(self, index: int) -> None:
        if len(self.keys.keyframes) == 1:
            raise InputError("The last keyframe stays: a file has at least one.")
        self.change([key for i, key in enumerate(self.keys.keyframes) if i != index])

    def move(self, index: int, frame: float) -> int:
        """Moves a keyframe to another frame; returns its number there."""
        frame = min(max(float(frame), 0.0), self.frames - 1)
        keys = list(self.keys.keyframes)
        others = [self.frame_of(key) for i, key in enumerate(keys) if i != index]
        if any(abs(other - frame) < 1e-6 for other in others):
            raise InputError(f"There is a keyframe at frame {frame:g} already.")
        keys[index] = keys[index]._replace(time=Time(poses.whole(frame)))
        self.change(keys, "time")
        return self._at(frame)

    def _at(self, frame: float) -> int:
        """The number of the keyframe at a frame."""
        away = [abs(self.frame_of(key) - frame) for key in self.keys.keyframes]
        return int(np.argmin(away))

    def set_camera(self, index: int, camera: Camera, field: str = "camera") -> None:
        self.replace(index, field, camera=camera)

    def set_form(self, kind: type) -> None:
        """Gives all keyframes that have a camera a form: the path between keys depends on that of all."""
        keys = []
        for i, key in enumerate(self.keys.keyframes):
            if key.camera is not None and not isinstance(key.camera, kind):
                pivot = poses.pivot_of(key.camera, self.pivot)
                key = key._replace(camera=poses.as_form(kind, self.pose_of(i), pivot, self.pivot))
            keys.append(key)
        self.change(keys)

    def drag(self, index: int, pose: np.ndarray) -> None:
        """A keyframe's gizmo was moved to a pose [4, 4]."""
        self.set_camera(index, poses.moved(self.camera_of(index), pose, self.pivot), "drag")

    def take_view(self, index: int, pose: np.ndarray, fov: float | None = None) -> None:
        """A keyframe gets the pose that someone looks from; all keyframes then have turns of their own."""
        keys = list(self.keys.keyframes)
        for i, key in enumerate(keys):
            if i == index or key.camera is not None:
                where = pose if i == index else self.pose_of(i)
                keys[i] = key._replace(camera=poses.as_form(keyframes.Turned, where, self.pivot))
        if fov is not None:
            keys[index] = keys[index]._replace(fov=round(fov, 3), focal_length=None, intrinsics=None)
        self.change(keys)

    def set_fov(self, index: int, fov: float) -> None:
        self.replace(index, "fov", fov=float(fov), focal_length=None, intrinsics=None)

    def set_moment(self, index: int, moment: float | None, snap: bool = False) -> None:
        if moment is None:
            return self.replace(index, "moment", animation_time=None)
        moment = min(max(float(moment), 0.0), self.frames - 1)
        moment = float(round(moment)) if snap else round(moment, 3)
        return self.replace(index, "moment", animation_time=Time(poses.whole(moment)))

    def set_way(self, index: int, track: str, way: str) -> None:
        """How a track goes from a keyframe to the next."""
        key = self.keys.keyframes[index]
        ways = {name: key.way(name) for name in keyframes.TRACKS} | {track: way}
        self.replace(index, to_next=ways)

    def bend(self, points: Sequence[tuple[float, float]], snap: bool = False) -> None:
        """Moves the keys of the clock to points (frame, source frame): as many, in their order."""
        last = self.frames - 1
        chosen = [i for i, key in enumerate(self.keys.keyframes) if key.animation_time is not None]
        if len(points) != len(chosen):
            raise InputError(f"The clock has {len(chosen)} keys, and {len(points)} points are given.")
        keys = list(self.keys.keyframes)
        for i, (frame, moment) in zip(chosen, points, strict=True):
            frame, moment = (min(max(value, 0.0), last) for value in (frame, moment))
            if snap:
                frame, moment = round(frame), round(moment)
            if abs(frame - self.frame_of(keys[i])) > 1e-3:
                keys[i] = keys[i]._replace(time=Time(poses.whole(round(frame, 3))))
            if abs(moment - (self.moment_of(keys[i]) or 0.0)) > 1e-3:
                keys[i] = keys[i]._replace(animation_time=Time(poses.whole(round(moment, 3))))
        self.change(keys)

    # Presets and files ------------------------------------------------------------------------------------

    def use_camera(self, spec: str) -> None:
        """Directs cameras and lenses by a preset of `--camera`, or `source`; clocks stay."""
        source = self.source.cameras
        if spec == SAME_CAMERA:
            path = source
        elif not cameras.is_preset(spec):
            raise InputError(f"camera {user_input.short(spec)}: give a move; files are opened with a button.")
        else:
            path = cameras.preset(
                spec, self.frames, intrinsics=source.intrinsics[0], distance=self.source.distance
            )
        self._use_path(path)

    def use_camera_file(self, path: str | os.PathLike) -> None:
        """Directs cameras by a file of `--camera`, read as the command line reads it."""
        request = self.source.directed(str(path))
        lens = request.target.intrinsics if request.lenses is None else request.lenses[1]
        self._use_path(Cameras(request.target.c2w, lens))

    def _use_path(self, path: Cameras) -> None:
        keys = poses.without("camera", self.keys.keyframes)
        keys = self._merged(keys, "camera", poses.camera_keys(path.c2w, self.filmed))
        if self.source.takes.lens:
            keys = poses.without("lens", keys)
            keys = self._merged(keys, "lens", poses.lens_keys(path.intrinsics, self.filmed))
        self.change(keys)

    def use_clock(self, spec: str) -> None:
        """Directs animation times by anything that `--animation_time` takes but files; cameras stay."""
        if user_input.is_file_name(spec, animation_time.FILE_TYPES):
            raise InputError(f"animation time {user_input.short(spec)}: give a preset or keyframes.")
        curve = animation_time.curve(spec, self.frames, self.source.rates)
        keys = poses.without("animation_time", self.keys.keyframes)
        self.change(self._merged(keys, "animation_time", poses.clock_keys(curve)))

    def _merged(self, keys: Sequence[Keyframe], track: str, made: Sequence[Keyframe]) -> list[Keyframe]:
        """Keyframes with a track of others, one for each frame."""
        merged = {round(self.frame_of(key), 6): key for key in keys}
        fields = ("fov", "focal_length", "intrinsics") if track == "lens" else (track,)
        for key in made:
            at = round(self.frame_of(key), 6)
            there = merged.get(at, Keyframe(key.time))
            ways = {name: there.way(name) for name in keyframes.TRACKS if there.has(name)}
            ways[track] = key.way(track)
            merged[at] = there._replace(**{f: getattr(key, f) for f in fields}, to_next=ways)
        return list(merged.values())

    # Files ------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """The file of these keyframes."""
        return keyframes.to_text(self.keys)

    def open(self, keys: Keyframes) -> None:
        """Takes the keyframes of a file. Those in another world are brought to the first camera's."""
        self._take(poses.in_first_camera(keys, self.source.world))

    def command(self, path: str | os.PathLike) -> str:
        """The sample.py command that makes this video, where the keyframes are in a file."""
        return self.source.command(path, self.keys.uses_distance)
