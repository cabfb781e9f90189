"""From what a user asks for (files, presets, numbers) to arrays that a model takes; without JAX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stp_jax import media
from stp_jax.controls import cameras
from stp_jax.controls.cameras import Cameras
from stp_jax.errors import InputError
from stp_jax.media import decode
from stp_jax.official import time_patterns
from stp_jax.official.clip import read_official_clip
from stp_jax.weights.native import SamplingNotes

SAME_CAMERA = "source"  # a camera path beside the presets: the source's own
LONGEST = 3.0  # seconds of a video used by default: a model has few frames to spread over them


class Request(NamedTuple):
    """One video to re-render, and how."""

    clip: media.Clip
    seconds: tuple[float, float]  # of the video, where the clip begins and ends
    source: Cameras  # in the frame of its first camera, as is `target`
    target: Cameras
    world: np.ndarray  # [4, 4], the pose of that camera in the world of the file that told it
    source_animation_time: np.ndarray  # [F]
    target_animation_time: np.ndarray
    summary: str  # what was made of the files, for people
    same_camera: bool = False  # whether the target's path was asked to be the source's

    def in_world(self, cameras: Cameras) -> Cameras:
        """`source` or `target` in the world of the source's file, which the official weights depend on."""
        return cameras._replace(c2w=(self.world @ cameras.c2w.astype(np.float64)).astype(np.float32))


def read_request(
    notes: SamplingNotes,
    *,
    video: str | os.PathLike,
    camera: str,
    clock: str,
    source_cameras: str | os.PathLike | None = None,
    fov: float = 50.0,
    distance: float = cameras.DISTANCE,
    start: float = 0.0,
    duration: float | None = None,
    official: bool = False,
) -> Request:
    """Reads and checks everything.

    Args:
      notes: the size of the model's videos.
      video: any file that FFmpeg reads.
      camera: a preset or a file, see `cameras.parse`; a file is in the world of `source_cameras`, or without
        them in the frame of the source's first camera. `SAME_CAMERA`: the path of the source.
      clock: of the target, see `animation_time.curve`.
      source_cameras: file with poses spread evenly over the whole video, its first frame to its last; without
        it the camera stands still.
      fov: degrees across the shorter side of the picture, where no file tells the intrinsics.
      distance: metres from the source's first camera to the point that presets circle.
      start: seconds into the video.
      duration: seconds; without it to the end, but `LONGEST` at most.
      official: without a duration, take consecutive frames, and a pose for each, as SpaceTimePilot does.

    Raises:
      InputError: a video, a camera path or a clock that cannot be used.
    """
    frames, height, width = notes.frames, notes.height, notes.width
    moments = time_patterns.curve(clock, frames)
    same_camera = camera == SAME_CAMERA
    if not same_camera:
        cameras.parse(camera, frames)  # the lens is not known yet, but mistakes are told before a long read

    count, last = decode.times(video)
    if consecutive := official and duration is None:
        clip = read_official_clip(video, frames, height, width, start=start)
        end = min(start + (frames - 1) / clip.fps, last)
    else:
        end = start + duration if duration else min(start + LONGEST, last)
        clip = media.read_clip(video, frames, height, width, start=start, end=max(end, start))
    h, w = clip.source_size
    cut = "" if h * width == w * height else "middle cut out, "
    summary = [
        f"{Path(video).name}: {count} frames at {(count - 1) / last:.3g} fps, {w} x {h} "
        f"-> {frames} frames from {start:.4g} to {end:.4g} s, {cut}{width} x {height}"
    ]
    if consecutive:
        summary.append(
            "  (consecutive frames, as the official code takes them: --duration spreads them evenly)"
        )
        taken = min(frames, count - round(start * clip.fps))
        if taken < frames:
            summary.append(f"  (it has {taken} from there on; the last is repeated {frames - taken} times)")
    elif end < last - 0.05 and not duration:
        summary.append(f"  (its {last:.1f} s are too many: choose with --start and --duration)")

    lens = cameras.default_intrinsics(fov, aspect=w / h)
    if source_cameras and consecutive:
        path = cameras.read(source_cameras, intrinsics=lens)
        first = round(start * clip.fps)
        if len(path.c2w) < first + taken:
            raise InputError(
                f"{source_cameras}: {len(path.c2w)} poses; frames {first} to {first + taken - 1} need one "
                "each. With --duration, poses are spread evenly over the video."
            )
        places = np.minimum(np.arange(first, first + frames), len(path.c2w) - 1)  # repeats, as the frames do
        source = Cameras(*(array[places] for array in path))
    elif source_cameras:
        span = (start / last, min(end / last, 1.0))
        source = cameras.read(source_cameras, frames, intrinsics=lens, span=span)
    else:
        source = cameras.preset("static", frames, intrinsics=lens)
    summary.append(
        f"Its camera: {source_cameras}"
        if source_cameras
        else f"Its camera: taken to stand still, with a field of view of {fov:g} degrees"
    )
    source = source._replace(intrinsics=media.fit_intrinsics(source.intrinsics, (h, w), height, width))
    world = source.c2w[0]
    relative = source._replace(c2w=cameras.relative_to(source.c2w, world))
    target = relative
    if not same_camera:
        target = cameras.parse(
            camera,
            frames,
            intrinsics=source.intrinsics[0],
            distance=distance,
            reference=world if source_cameras else None,
            source=source_cameras,
            consecutive=consecutive,
        )
    summary.append(f"New camera: {camera}. New clock: {clock}")
    own_clock = np.arange(frames, dtype=np.float32)
    told = "\n".join(summary)
    return Request(clip, (start, end), relative, target, world, own_clock, moments, told, same_camera)
