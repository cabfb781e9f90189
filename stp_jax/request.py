"""From what a user asks for (files, presets, numbers) to arrays that a model takes; without JAX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stp_jax import animation_time, cameras, decode, media
from stp_jax.cameras import Cameras
from stp_jax.errors import InputError
from stp_jax.weights import SamplingNotes

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
        them in the frame of the source's first camera.
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
    moments = animation_time.curve(clock, frames)
    cameras.parse(camera, frames)  # the lens is not known yet, but mistakes can be told before a long read

    count, last = decode.times(video)
    if consecutive := official and duration is None:
        clip = media.read_official_clip(video, frames, height, width, start=start)
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
    elif end < last - 0.05 and not duration:
        summary.append(f"  (its {last:.1f} s are too many: choose with --start and --duration)")

    lens = cameras.default_intrinsics(fov, aspect=w / h)
    if source_cameras and consecutive:
        path = cameras.read(source_cameras, intrinsics=lens)
        first = round(start * clip.fps)
        if len(path.c2w) < first + frames:
            raise InputError(
                f"{source_cameras}: {len(path.c2w)} poses; frames {first} to {first + frames - 1} need one "
                "each. With --duration, poses are spread evenly over the video."
            )
        source = Cameras(*(array[first : first + frames] for array in path))
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
    target = cameras.parse(
        camera,
        frames,
        intrinsics=source.intrinsics[0],
        distance=distance,
        reference=source.c2w[0] if source_cameras else None,
        source=source_cameras,
    )
    world = source.c2w[0]
    source = source._replace(c2w=cameras.relative_to(source.c2w, source.c2w[0]))
    summary.append(f"New camera: {camera}. New clock: {clock}")
    own_clock = np.arange(frames, dtype=np.float32)
    return Request(clip, (start, end), source, target, world, own_clock, moments, "\n".join(summary))
