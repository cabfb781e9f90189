"""Turns a user's request (files, presets, numbers) into arrays that a model takes; without JAX."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stp_jax import media
from stp_jax.controls import animation_time, cameras
from stp_jax.controls.keyframe_tracks import Marks
from stp_jax.controls.paths import Cameras
from stp_jax.controls.times import Rates
from stp_jax.controls.view import View
from stp_jax.errors import InputError
from stp_jax.media import sequences, sources
from stp_jax.models.video_size import check_video_size
from stp_jax.official import time_patterns
from stp_jax.rerender import estimated_cameras
from stp_jax.rerender.camera_paths import CameraPaths
from stp_jax.rerender.direction import Direction
from stp_jax.rerender.readings import readings
from stp_jax.rerender.source_parts import long_part, read_part
from stp_jax.rerender.takes import SAME_CAMERA, Asked, Takes, refuse_idle_controls, takes
from stp_jax.weights import native
from stp_jax.weights.native import SamplingNotes

MOST_PIXELS = 2**30  # of a new video; 3 GB before the model has begun


class Request(NamedTuple):
    """One video to re-render, and how."""

    clip: media.Clip
    seconds: tuple[float, float]  # of the video, where the clip begins and ends
    source: View  # cameras in the frame of the source's first camera
    target: View  # cameras in that frame, too
    world: np.ndarray  # [4, 4], the pose of the source's first camera in the world of its file
    summary: str  # how the files were read, to print
    same_camera: bool = False  # whether the target is to have the source's camera path
    marks: Marks | None = None  # where keyframes are
    lenses: tuple[np.ndarray, np.ndarray] | None = None  # of source and target, [F, 4], of the whole picture
    estimated: bool = False  # whether the source's cameras are
    fps: float | None = None  # of the new video, where they were asked for
    unit: float = 1.0  # metres for a unit of length in the source's file

    def cameras_in_world(self) -> tuple[Cameras, Cameras]:
        """Of source and target as filmed, in world and unit of the source's file: what files of cameras hold.

        In mirrored worlds, which some official files have, they are relative to the source's first camera.
        """
        lenses = self.lenses or (self.source.intrinsics, self.target.intrinsics)
        world = self.world if np.linalg.det(self.world[:3, :3]) > 0 else np.eye(4)
        source, target = (
            Cameras(world @ view.c2w.astype(np.float64), lens)
            for view, lens in zip((self.source, self.target), lenses, strict=True)
        )
        for path in (source, target):
            path.c2w[:, :3, 3] /= self.unit
        return source, target

    def in_world(self) -> tuple[View, View]:
        """Source and target as a `Rerenderer` takes them.

        Cameras are in the world of the source's file: the official weights depend on it. A target with the
        source's camera path has no cameras.
        """
        source, target = (
            view._replace(c2w=(self.world @ view.c2w.astype(np.float64)).astype(np.float32))
            for view in (self.source, self.target)
        )
        return source, View(animation_time=target.animation_time) if self.same_camera else target


def read_notes(
    weights: str | os.PathLike, *, frames: int | None = None, size: Sequence[int] | None = None
) -> tuple[SamplingNotes, Takes]:
    """How to sample from weights, and what their model takes. No parameter is read.

    Args:
      weights: see `Rerenderer`.
      frames: of the videos to make; default: as the weights' notes say.
      size: their width and height; default: as the weights' notes say.

    Raises:
      InputError: there are no such weights; the model does not take videos of this size, or it is huge.
    """
    if not Path(weights).exists():
        raise InputError(f"--weights {weights} does not exist. Give a weights file or a folder.")
    if (Path(weights) / "dit.json").is_file():
        notes = native.read_sampling_notes(weights)
        config = native.read_index(weights, "dit")["config"]
        model = takes(config, f"the model of {weights}")
    else:
        from stp_jax.weights import reading, recognition  # which import JAX

        found = recognition.recognise(weights, "dit")
        config = vars(found.config)
        notes, model = reading.sampling_notes(found), takes(config, found.title)
    width, height = size or (notes.width, notes.height)
    notes = notes._replace(frames=frames or notes.frames, height=height, width=width)
    _check_size(notes, weights, config.get("patch", 2))
    return notes, model


def _check_size(notes: SamplingNotes, weights: str | os.PathLike, patch: int) -> None:
    """Refuses sizes that a model does not take, before the video is read in that size."""
    strides = [False, True, True]  # Wan2.1's
    if (Path(weights) / "vae.json").is_file():
        strides = native.read_index(weights, "vae")["config"].get("temporal_downsample", strides)
    cell = 2 ** len(strides) * patch
    check_video_size(notes.frames, notes.height, notes.width, frame_stride=2 ** sum(strides), cell=cell)
    pixels = notes.frames * notes.height * notes.width
    if pixels > MOST_PIXELS:
        raise InputError(
            f"{notes.frames} frames of {notes.width} x {notes.height} are {pixels:,} pixels; at most "
            f"{MOST_PIXELS:,} are made."
        )


def read_request(
    notes: SamplingNotes,
    *,
    official: bool = False,
    model: Takes = Takes(),  # noqa: B008 (immutable)
    length: int | None = None,
    **asked: Any,
) -> Request:
    """Reads and checks the video, the cameras and the animation time.

    Args:
      notes: sampling notes of the weights; they state the size of the model's videos.
      official: without a duration, take consecutive frames, and a pose for each, as SpaceTimePilot does.
      model: what the model takes.
      length: frames of a long video, which is made window by window. Its source is consecutive frames, which
        are read when they are asked for. None: the new video is one window.
      asked: the fields of `Asked`, by name; `video` is needed.

    Raises:
      InputError: a video, a camera path or an animation time that cannot be used, or that is asked for to no
        effect on this model.
    """
    given = Asked(**asked)
    direction = None if given.keyframes is None else Direction(given, model)
    wish = given.of(model)
    clock = str(wish.animation_time)
    frames = length or notes.frames
    directed = direction is not None and direction.clock
    late = length is not None or animation_time.needs_rates(clock)  # needs what is known with the video
    target_time = None if late or directed else time_patterns.curve(clock, frames)
    _check_before_reading(wish, frames, official, model, direction)
    wish = _found(wish)
    consecutive = official and wish.duration is None
    part = long_part(wish, notes, length, official) if length else read_part(wish, notes, consecutive)
    rates = Rates(playing_rate(part.clip, wish.fps), part.clip.fps)
    if late and not directed:
        target_time = time_patterns.curve(clock, frames, rates, len(part.clip.frames))
    paths = CameraPaths(wish, model, part.shown, part.clip.source_size, official, direction, frames)
    filmed = paths.source()
    world, size = filmed.c2w[0], part.clip.source_size
    relative = filmed._replace(c2w=cameras.relative_to(filmed.c2w, world))
    path, directed_time, marks = _path(paths, direction, wish, filmed, rates)
    own_time = np.arange(len(part.clip.frames), dtype=np.float32)
    times = own_time, target_time if directed_time is None else directed_time
    source, target = (
        View(one.c2w, media.fit_intrinsics(one.intrinsics, size, notes.height, notes.width), time)
        for one, time in zip((relative, path), times, strict=True)
    )
    summary = "\n".join([part.summary, *paths.lines, *paths.remarks(source, target)])
    return Request(
        *(part.clip, part.span, source, target),
        world.astype(np.float64),
        summary,
        paths.same_camera,
        marks,
        (relative.intrinsics, path.intrinsics),
        paths.estimated,
        wish.fps,
        paths.unit,
    )


def _path(
    paths: CameraPaths, direction: Direction | None, wish: Asked, filmed: Cameras, rates: Rates
) -> tuple[Cameras, np.ndarray | None, Marks | None]:
    """Cameras of the new video; with keyframes also their animation times, and where they are."""
    if direction is not None:
        return paths.directed(direction, filmed, rates)
    return (paths.own(filmed) if wish.camera == SAME_CAMERA else paths.target(filmed)), None, None


def _check_before_reading(
    wish: Asked, frames: int, official: bool, model: Takes, direction: Direction | None
) -> None:
    """Finds mistakes before the video is read, which may take long."""
    by_distance = _first_look(wish, frames, official)
    others = wish if direction is None else direction.others().of(model)
    refuse_idle_controls(model, frames, others, by_distance=by_distance)


def playing_rate(clip: media.Clip, fps: float | None = None) -> float:
    """Frames per second of the new video.

    It plays at the source's own speed, but for at least a second, and at 0.1 to 240 frames per second.

    Args:
      clip: the source.
      fps: what the user chose.
    """
    return fps or min(max(clip.fps, 0.1), len(clip.frames), 240)


def _first_look(wish: Asked, frames: int, official: bool) -> bool:
    """Whether a camera file measures in the distance.

    Raises:
      InputError: the camera path cannot be used with any video, or cameras cannot be estimated.
    """
    of_source, of_target = readings(wish, official, frames)
    by_distance, in_world = False, False
    if estimated_cameras.is_asked(wish.source_cameras):
        if not sources.is_still(wish.video):  # of which nothing can be estimated, as is said later
            estimated_cameras.check_installed()
    elif wish.source_cameras is not None:
        in_world = True
        by_distance = wish.distance is not None and _by_distance(
            cameras.load(wish.source_cameras, reading=of_source), wish
        )
    if wish.camera == SAME_CAMERA:
        return by_distance
    if cameras.is_preset(str(wish.camera)):
        cameras.preset(str(wish.camera), frames, distance=of_target.distance)
        return by_distance
    path = cameras.load(str(wish.camera), reading=of_target)
    # A file of fewer poses than the model has frames may still have one for each frame of a short video.
    if len(path.cameras.c2w) < 2 <= frames:
        raise InputError(f"{path.where}: one pose is too few; {frames} frames need one each")
    return by_distance or path.uses_distance or (not in_world and _by_distance(path, wish))


def _by_distance(path: cameras.CameraPath, wish: Asked) -> bool:
    """Whether a camera file measures in the distance, or is scaled by it."""
    return path.uses_distance or (path.depth is not None and wish.camera_scale is None)


def _found(wish: Asked) -> Asked:
    """With the sequence that a folder or a pattern means; its fps are those of its pictures."""
    video = sequences.find(wish.video, wish.fps)
    if not sources.is_still(video):
        return wish._replace(video=video, fps=None) if video is not wish.video else wish
    for name, value in (("start", wish.start), ("duration", wish.duration)):
        if value:
            raise InputError(f"--{name} {value:g}: {wish.video} is a still picture: leave it out.")
    if estimated_cameras.is_asked(wish.source_cameras):
        raise InputError(f"--source_cameras estimate: {wish.video} is a still picture: leave it out.")
    return wish._replace(video=video)
