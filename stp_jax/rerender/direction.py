"""Keyframes of a request: what they direct and what is left to other flags; without JAX."""

from __future__ import annotations

from pathlib import Path

from stp_jax.controls import cameras, keyframes
from stp_jax.controls.keyframe_tracks import Filmed, Tracks, resolve
from stp_jax.controls.keyframes import Keyframes, LookAt, Orbit
from stp_jax.errors import InputError
from stp_jax.rerender.takes import SAME_CAMERA, Asked, Takes


class Direction:
    """A file of keyframes, read and checked against the other flags and the model.

    A track that the file has is directed by it alone; the others by `--camera` and `--animation_time`, which
    are then the source's own camera and `forward` by default.
    """

    def __init__(self, asked: Asked, model: Takes):
        """`asked` has keyframes, and no defaults yet. Raises `InputError`."""
        self._where = str(asked.keyframes)
        self._asked = asked
        self.keys: Keyframes = keyframes.read(self._where)
        self.camera, self.lens, self.clock = map(self.keys.has, keyframes.TRACKS)
        self._refuse_conflicts()
        self._refuse_idle(model)

    def others(self) -> Asked:
        """What is asked for beside the keyframes: what they use is not idle."""
        by_distance = self.camera and self.keys.uses_distance
        return self._asked._replace(distance=None) if by_distance else self._asked

    def _refuse_conflicts(self) -> None:
        asked = self._asked
        for has, what, flag in (
            (self.camera, "cameras", asked.camera and "--camera"),
            (self.clock, "animation times", asked.animation_time and "--animation_time"),
        ):
            if has and flag:
                raise InputError(f"{flag}: {self._where} has {what}: leave one of them out.")
        preset = asked.camera not in (None, SAME_CAMERA) and cameras.is_preset(str(asked.camera))
        if self.lens and preset and cameras.changes_lens(str(asked.camera)):
            raise InputError(f"--camera {asked.camera}: it changes the lens, and so does {self._where}.")

    def _refuse_idle(self, model: Takes) -> None:
        where, title = f"--keyframes {self._where}", model.title
        if self.camera and model.camera == "none":
            raise InputError(f"{where}: {title} is given no cameras: leave the cameras out.")
        if self.lens and not model.lens:
            raise InputError(f"{where}: {title} is given no lens: leave fov, focal_length, intrinsics out.")
        if self.clock and not model.animation_time:
            raise InputError(
                f"{where}: {title} is given no animation time, its videos always run forward: leave "
                "animation_time out."
            )
        in_source = self.keys.world == "source_cameras"
        if in_source and not self.camera:
            raise InputError(f'{where}: no keyframe has a camera, so "world" has no effect: leave it out.')
        if in_source and self._asked.source_cameras is None:
            raise InputError(
                f'{where}: "world" is "source_cameras", and there are none: --source_cameras FILE.'
            )
        if (
            self._asked.source_cameras is not None
            and self.camera
            and not in_source
            and model.camera == "pose12_target"
        ):
            raise InputError(
                f"--source_cameras: {title} is given the new camera alone, and these keyframes start at the "
                "source's first camera wherever that is: leave it out."
            )

    def resolve(self, frames: int, filmed: Filmed) -> Tracks:
        """See `keyframe_tracks.resolve`; positions are checked as those of files are."""
        made = resolve(self.keys, frames, filmed, self._where)
        if made.c2w is not None:
            lens = cameras.default_intrinsics()[None].repeat(frames, 0)
            cameras.check(made.c2w, lens, frames, self._where)
        return made

    def lines(self) -> list[str]:
        """Which keys there are, to print."""
        lines = []
        if self.camera:
            world = "the source's first camera"
            world = "the world of --source_cameras" if self.keys.world == "source_cameras" else world
            lines.append(f"New camera: {self._track('camera')}, {self._kind()}, relative to {world}")
        if self.lens:
            lines.append(f"New lens: {self._track('lens')}")
        if self.clock:
            lines.append(f"New animation time: {self._track('animation_time')}")
        return lines

    def _track(self, track: str) -> str:
        keys = [key for key in self.keys.keyframes if key.has(track)]
        listed = [f"{key.time} {key.way(track)}" for key in keys[:-1]] + [str(keys[-1].time)]
        if len(listed) > 12:
            listed = [*listed[:6], "...", *listed[-5:]]
        return f"{Path(self._where).name}: {_count(len(keys), 'keyframe')} at {', '.join(listed)}"

    def _kind(self) -> str:
        made = [key.camera for key in self.keys.keyframes if key.camera is not None]
        if all(isinstance(camera, Orbit) for camera in made):
            return "in arcs about a point"
        if all(isinstance(camera, LookAt) for camera in made):
            return "looking at a point"
        return "positions and rotations"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)
