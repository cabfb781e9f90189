"""Camera paths of a request: which pose of a file belongs to which frame, and what looks wrong about them.

The rule, for source and target alike; frames are those of the video file that the clip shows:

- A file with as many poses as the video has frames has one for each of them.
- A file with as many poses as the model has frames has one for each frame of the clip and of the new video.
- A file that says which frames of the video its poses are of (ViPE's; cameras that were estimated) has them
  at these. One that says that its poses are of a new video (those of results) has them at the new video's.
- Any other number is spread evenly: of the source's over the whole video, of the target's over the new video.
  Fewer than the model has frames are key poses: a smooth path leads through them. In forms that have a pose
  for each frame (`CameraPath.pose_per_frame`) that must be said.

A target with as many poses as the source's file has them at the same frames as the source. For the official
models, which take consecutive frames, pose j of the source is that of frame j, as in the official code,
wherever there are enough, and of that release's files that say only how a camera moves the first F are taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from stp_jax import media
from stp_jax.controls import cameras, lenses, presets
from stp_jax.controls.cameras import CameraPath, Cameras
from stp_jax.controls.keyframe_tracks import Filmed, Marks
from stp_jax.controls.times import Rates
from stp_jax.controls.view import View
from stp_jax.errors import InputError
from stp_jax.rerender import camera_warnings, estimated_cameras
from stp_jax.rerender.direction import Direction
from stp_jax.rerender.readings import readings
from stp_jax.rerender.takes import SAME_CAMERA, Asked, Takes

_AS_SOURCE = "at the same frames as the source's"


class Shown(NamedTuple):
    """The frames of a video file that a clip shows."""

    numbers: np.ndarray  # int [F], counted from 0
    of: int  # the number of frames of the file
    consecutive: bool  # whether they follow each other, as the official code takes them


class Placed(NamedTuple):
    """A path with a pose for each frame of the clip, in the world of its file."""

    path: CameraPath
    places: np.ndarray  # float64 [F], on the file's path, counted in poses
    cameras: Cameras
    summary: str
    keyed: bool = False  # whether its poses are key poses


class CameraPaths:
    """The cameras of source and target, with lenses of the picture as filmed.

    Attributes:
      lines: how they were read, to print.
      unit: metres for a unit of length in the source's file.
      same_camera: whether the target has the source's camera path.
    """

    def __init__(
        self,
        asked: Asked,
        model: Takes,
        shown: Shown,
        video: tuple[int, int],
        official: bool,
        direction: Direction | None = None,
        frames: int | None = None,
    ):
        """`asked` is that of `Asked.of`; `video` is the height and width of its picture; `frames` are those
        of the new video, by default as many as are shown."""
        self._frames = frames or len(shown.numbers)
        self._direction = direction
        own_lens = direction is not None and direction.lens
        self.same_camera = (
            asked.camera == SAME_CAMERA and not own_lens and not (direction and direction.camera)
        )
        self.unit = 1.0
        self.estimated = False  # whether the source's cameras are
        self.lines: list[str] = []
        self._asked, self._model, self._shown, self._video = asked, model, shown, video
        self._source_reading, self._reading = readings(asked, official, self._frames, video, shown.of)
        self._file: Placed | None = None  # of the source
        self._from_file = False  # whether the target is in the world of a file
        self._keyed = False  # whether a file has key poses
        self._own_convention = False  # whether the target's file states axes and poses

    def source(self) -> Cameras:
        """In the world of its file. Raises `InputError` for a file that cannot be used."""
        asked, (height, width) = self._asked, self._video
        fov = lenses.FOV if asked.fov is None else asked.fov
        lens = cameras.default_intrinsics(fov, aspect=width / height)
        view = f"a field of view of {fov:g} degrees"
        if estimated_cameras.is_asked(asked.source_cameras):
            return self._estimate()
        if not asked.source_cameras:
            view = f", with {view}" if self._model.lens else ""
            self.lines.append(f"Its camera: taken to stand still{view}")
            return cameras.preset("static", len(self._shown.numbers), intrinsics=lens)
        path = cameras.load(asked.source_cameras, intrinsics=lens, reading=self._source_reading)
        if path.lens and asked.fov is not None:
            raise InputError(f"--fov {fov:g}: {path.where} has the intrinsics: leave it out.")
        self.unit = self._unit_of(path)
        path = self._cropped(cameras.scaled(path, self.unit))
        self._file = source_path(path, self._shown, asked.key_poses)
        self._keyed |= self._file.keyed
        self.lines += [f"Its camera: {self._file.summary}", *self._about_unit(path, self.unit)]
        self.lines += self._about_lens(path, view)
        if len(path.cameras.c2w) > self._shown.of:
            self.lines.append(
                f"WARNING: {Path(path.where).name}: has {len(path.cameras.c2w)} poses, and the video "
                f"{self._shown.of} frames. Is it of another, longer video?"
            )
        return self._file.cameras

    def _estimate(self) -> Cameras:
        """Of the source, in the frame of the first camera; by pictures of the clip as filmed."""
        numbers, side = self._shown.numbers, estimated_cameras.LONGEST_SIDE
        pictures = media.read_frames(self._asked.video, numbers.tolist(), side)
        found = estimated_cameras.estimate(
            pictures, numbers, fov=self._asked.fov, distance=self._asked.distance
        )
        self.estimated = True
        self.lines += found.lines
        return found.cameras

    def target(self, source: Cameras) -> Cameras:
        """In the frame of the source's first camera. Raises `InputError` for a file that cannot be used."""
        asked, text, world = self._asked, str(self._asked.camera), source.c2w[0]
        if cameras.is_preset(text):
            metres = cameras.DISTANCE if asked.distance is None else asked.distance
            lens, frames = source.intrinsics[0], self._frames
            path = cameras.preset(text, frames, intrinsics=lens, distance=metres)
            self.lines += [f"New camera: {text}", *presets.describe(text, frames)]
        else:
            whole = cameras.load(text, intrinsics=source.intrinsics[0], reading=self._reading)
            unit = self._unit_of(whole)
            whole = cameras.scaled(whole, unit)
            self._own_convention = whole.own_convention
            file = target_path(whole, self._shown, self._file, asked.key_poses, self._frames)
            self._keyed |= file.keyed
            self._from_file = not whole.motion_only
            reference = None if self._file is None else world
            path = cameras.seen_from(whole, file.cameras, reference, asked.source_cameras)
            self.lines += [f"New camera: {file.summary}", *self._about_unit(whole, unit)]
            self.lines += self._about_lens(whole, "the source's")
        return path

    def own(self, source: Cameras) -> Cameras:
        """The source's own, in the frame of its first camera. Raises `InputError` where it is too short."""
        if self._frames > len(source.c2w) and self._file is None and not self.estimated:
            source = Cameras(*(array[:1].repeat(self._frames, 0) for array in source))  # it stands still
        if self._frames > len(source.c2w):
            raise InputError(
                f"the source's own camera path ends after {len(source.c2w)} frames, and the new video has "
                f"{self._frames}: give another --camera, or fewer --frames."
            )
        path = Cameras(*(array[: self._frames] for array in source))
        return path._replace(c2w=cameras.relative_to(path.c2w, path.c2w[0]))

    def directed(
        self, direction: Direction, source: Cameras, rates: Rates
    ) -> tuple[Cameras, np.ndarray | None, Marks]:
        """Of keyframes: cameras as `target` gives them, animation times [F] if there are any, and marks."""
        height, width = self._video
        metres = cameras.DISTANCE if self._asked.distance is None else self._asked.distance
        filmed = Filmed(source.c2w[0], metres, width / height, rates, len(self._shown.numbers))
        made = direction.resolve(self._frames, filmed)
        if made.c2w is not None:
            lens = np.broadcast_to(source.intrinsics[:1], (self._frames, 4))
            path = Cameras(made.c2w, np.array(lens))
        elif str(self._asked.camera) != SAME_CAMERA:
            path = self.target(source)
        else:
            path = self.own(source)
        if made.intrinsics is not None:
            path = path._replace(intrinsics=made.intrinsics)
        return path, made.animation_time, made.marks

    def _cropped(self, path: CameraPath) -> CameraPath:
        """With the lens of a result, which is cut out of the picture that its cameras' file is of."""
        if not (path.of_new_video and path.size and path.lens):
            return path
        width, height = map(round, path.size)
        lens = media.fit_intrinsics(path.cameras.intrinsics, (height, width), *self._video)
        return path._replace(cameras=path.cameras._replace(intrinsics=lens))

    def _unit_of(self, path: CameraPath) -> float:
        """Metres for a unit of length in a file: as asked for, or by the distance of what it shows.

        A target in the world of the source's file has the unit of that; one that says only how the camera
        moves has its own.
        """
        if self._file is not None:
            return 1.0 if path.motion_only else self.unit
        if self._asked.camera_scale is not None:
            return self._asked.camera_scale
        if self._asked.distance is None or path.depth is None:
            return 1.0
        return self._asked.distance / path.depth

    def _about_unit(self, path: CameraPath, unit: float) -> list[str]:
        """How lengths of a file were scaled; of a path that is in metres."""
        if unit == 1 and path.depth is None:
            return []
        line = f"  its lengths: {'as in the file' if unit == 1 else f'times {unit:.4g}'}"
        if path.depth is not None:
            away = f"{path.depth:.3g} away" if unit == 1 else f"{path.depth:.3g} m away"
            line += f"; its first camera has something {away} in the middle, by its depths"
            line += "; --distance says how many metres that is" if unit == 1 else ""
        return [line]

    def _about_lens(self, path: CameraPath, otherwise: str) -> list[str]:
        """How the lens of a file was read; `otherwise` is what is taken where it has none."""
        if not self._model.lens:
            return [f"  its lens: not used, {self._model.title} is given poses alone"] if path.lens else []
        if not path.lens:
            return [f"  its lens: not in the file, {otherwise}"]
        lines, (height, width) = [f"  its lens: {path.lens}"], self._video
        fx, fy = path.cameras.intrinsics[0, :2]
        if not 0.98 < fx * width / (fy * height) < 1.02:
            lines.append(
                f"WARNING: {Path(path.where).name}: by its lens the pixels of this video, "
                f"{width} x {height}, are not square: fx is {fx:.4g} of the width, fy {fy:.4g} of the height."
                "\n  Are its intrinsics those of a picture of another shape?"
            )
        return lines

    def remarks(self, source: View, target: View) -> list[str]:
        """The rest of the lines to print: animation time, lenses, and what looks wrong.

        Args:
          source, target: relative to the source's first camera, their lenses those of the cropped picture.

        Raises:
          InputError: `--key_poses` to no effect.
        """
        if self._asked.key_poses and not self._keyed:
            raise InputError("--key_poses: no camera file has fewer poses than frames: leave it out.")
        directed = self._direction
        by_keys = directed is not None and directed.camera
        lines = [] if directed is None else directed.lines()
        if str(self._asked.camera) == SAME_CAMERA and not by_keys:
            lines.insert(0, "New camera: the source's own")
        clock = f"New animation time: {self._asked.animation_time}"
        if not self._model.animation_time:
            clock += f" ({self._model.title} is given no animation time)"
        if directed is None or not directed.clock:
            lines.append(clock)
        if self._from_file or by_keys:
            metres = cameras.DISTANCE
            given = self._file is not None or self.estimated
            found = camera_warnings.warnings(Cameras(*source[:2]), Cameras(*target[:2]), metres)
            lines += found
            if found and not by_keys:
                lines.append(camera_warnings.reason(given, self._own_convention))
        return lines


def source_path(path: CameraPath, shown: Shown, key_poses: bool = False) -> Placed:
    """Of the source. Raises `InputError` as `cameras.check_key_poses`, and for too few in official use."""
    poses, frames, video = len(path.cameras.c2w), len(shown.numbers), shown.of
    last = int(shown.numbers.max())
    keyed = False
    final = -1 if path.frame_numbers is None else path.frame_numbers[-1]
    if final >= video:
        raise InputError(
            f"{path.where}: has a pose of frame {final:g}, and the video has {video} frames: "
            "is it of another video?"
        )
    if video == 1:
        places, which = shown.numbers, "the first, of the still picture"
    elif path.frame_numbers is not None:
        places, which = _by_numbers(path, path.frame_numbers, shown)
    elif poses == video or (shown.consecutive and poses > last):
        places = shown.numbers
        which = f"one for each frame of the video, which has {video}{_part(shown)}"
    elif poses == frames:
        places = np.arange(frames)
        which = f"one for each of the {frames} frames taken of the video's {video}"
    elif shown.consecutive and (poses > frames or (path.pose_per_frame and not key_poses)):
        other = "With --duration, poses are spread evenly over the video."
        other = other if poses > frames else "If they are key poses, say so with --key_poses."
        raise InputError(
            f"{path.where}: {poses} poses; frames {shown.numbers[0]} to {last} need one each. {other}"
        )
    elif cameras.check_key_poses(path, frames, key_poses):
        keyed = True
        places = shown.numbers * ((poses - 1) / (video - 1))
        which = f"key poses, spread evenly over the video's {video} frames, and a smooth path through them"
    else:
        places = shown.numbers * ((poses - 1) / (video - 1))
        which = f"spread evenly over the video's {video} frames"
    return _placed(path, places, which, keyed)


def target_path(
    path: CameraPath,
    shown: Shown,
    source: Placed | None,
    key_poses: bool = False,
    frames: int | None = None,
) -> Placed:
    """Of the target; `source`: the source's file, if there is one; `frames`: of the new video.

    Raises `InputError` as `source_path`, and where the path ends with the source and the video does not.
    """
    poses, frames = len(path.cameras.c2w), frames or len(shown.numbers)
    keyed = False
    places: np.ndarray
    if path.of_new_video and poses >= frames:
        places = np.linspace(0, poses - 1, frames)
        which = f"of the new video's {poses} frames, by what the file says"
        which += f", followed evenly over the {frames} of this one" if poses > frames else ""
    elif source is not None and not path.of_new_video and poses == len(source.path.cameras.c2w):
        places, which, keyed = _first(source.places, frames, path), _AS_SOURCE, source.keyed
        which += ", key poses of a smooth path" if keyed else ""
    elif poses >= frames and shown.consecutive and path.motion_only:
        places, which = np.arange(frames), f"the first {frames} are taken, one for each frame"
    elif poses == shown.of and not path.of_new_video:
        places = _first(shown.numbers, frames, path)
        which = f"one for each frame of the video, which has {shown.of}{_part(shown)}"
    elif poses == frames:
        places, which = np.arange(frames), f"one for each of the {frames} frames of the new video"
    elif cameras.check_key_poses(path, frames, key_poses):
        keyed = True
        places = _evenly_over(path, frames)
        which = f"key poses, and a smooth path through them over the {frames} frames of the new video"
    else:
        places = _evenly_over(path, frames)
        which = f"followed evenly over the {frames} frames of the new video"
    return _placed(path, places, which, keyed)


def _first(places: np.ndarray, frames: int, path: CameraPath) -> np.ndarray:
    """The places of the first frames; raises `InputError` where there are not as many."""
    if frames > len(places):
        raise InputError(
            f"{path.where}: its poses are those of the source's {len(places)} frames, and the new video has "
            f"{frames}: give a path of {frames} poses, or fewer --frames."
        )
    return places[:frames]


def _part(shown: Shown) -> str:
    """Which frames of the video a clip shows, where these are not all from the first to the last."""
    first, last = int(shown.numbers.min()), int(shown.numbers.max())
    return "" if (first, last) == (0, shown.of - 1) else f"; the clip shows {first} to {last}"


def _by_numbers(path: CameraPath, at: np.ndarray, shown: Shown) -> tuple[np.ndarray, str]:
    """Places of the source's frames on a path that says which frames `at` [poses] its poses are of.

    Raises:
      InputError: the clip shows frames before its first pose, or after its last, by more than poses are
        apart.
    """
    gap = np.diff(at).max() if len(at) > 1 else 1
    first, last = int(shown.numbers.min()), int(shown.numbers.max())
    if first < at[0] - gap or last > at[-1] + gap:
        raise InputError(
            f"{path.where}: has poses of the video's frames {at[0]:g} to {at[-1]:g}, and the clip shows "
            f"{first} to {last}: choose others with --start and --duration, or give another file."
        )
    which = f"of frames {at[0]:g} to {at[-1]:g} of the video, by the numbers in the file"
    which += f", up to {gap:g} apart" if gap > 1 else ""
    return np.interp(shown.numbers, at, np.arange(len(at))), which


def _evenly_over(path: CameraPath, frames: int) -> np.ndarray:
    """Places of the frames of a new video on a path, by its numbers of frames where it has them."""
    poses, at = len(path.cameras.c2w), path.frame_numbers
    if at is None:
        return np.linspace(0, poses - 1, frames)
    return np.interp(np.linspace(at[0], at[-1], frames), at, np.arange(poses))


def _placed(path: CameraPath, places: np.ndarray, which: str, keyed: bool) -> Placed:
    summary = f"{Path(path.where).name}: {path.form}\n  its {len(path.cameras.c2w)} poses: {which}"
    places = np.asarray(places, np.float64)
    between = cameras.through if keyed else cameras.at
    return Placed(path, places, between(path.cameras, places), summary, keyed)
