"""Turns a user's request (files, presets, numbers) into arrays that a model takes; without JAX."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stp_jax import media
from stp_jax.controls import cameras
from stp_jax.controls.view import View
from stp_jax.errors import InputError
from stp_jax.media import decode
from stp_jax.official import time_patterns
from stp_jax.official.clip import read_official_clip
from stp_jax.weights import native
from stp_jax.weights.native import SamplingNotes

SAME_CAMERA = "source"  # a camera path beside the presets: the source's own
LONGEST = 3.0  # seconds of a video used by default: a model has few frames to spread over them


class Request(NamedTuple):
    """One video to re-render, and how."""

    clip: media.Clip
    seconds: tuple[float, float]  # of the video, where the clip begins and ends
    source: View  # cameras in the frame of the source's first camera
    target: View  # cameras in that frame, too
    world: np.ndarray  # [4, 4], the pose of the source's first camera in the world of its file
    summary: str  # how the files were read, to print
    same_camera: bool = False  # whether the target is to have the source's camera path

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
) -> tuple[SamplingNotes, bool]:
    """How to sample from weights, and whether they are official ones. No parameter is read.

    Args:
      weights: see `Rerenderer`.
      frames: of the videos to make; default: as the weights' notes say.
      size: their width and height; default: as the weights' notes say.

    Raises:
      InputError: there are no such weights.
    """
    if not Path(weights).exists():
        raise InputError(f"--weights {weights} does not exist. Give a weights file or a folder.")
    if (Path(weights) / "dit.json").is_file():
        notes = native.read_sampling_notes(weights)
        camera = str(native.read_index(weights, "dit")["config"].get("camera"))
    else:
        from stp_jax.weights import reading, recognition  # which import JAX

        found = recognition.recognise(weights, "dit")
        notes, camera = reading.sampling_notes(found), found.config.camera
    width, height = size or (notes.width, notes.height)
    notes = notes._replace(frames=frames or notes.frames, height=height, width=width)
    return notes, camera.startswith("pose12")


def read_request(
    notes: SamplingNotes,
    *,
    video: str | os.PathLike,
    camera: str,
    animation_time: str,
    source_cameras: str | os.PathLike | None = None,
    fov: float = 50.0,
    distance: float = cameras.DISTANCE,
    start: float = 0.0,
    duration: float | None = None,
    official: bool = False,
) -> Request:
    """Reads and checks the video, the cameras and the animation time.

    Args:
      notes: sampling notes of the weights; they state the size of the model's videos.
      video: any file that FFmpeg reads.
      camera: a preset or a file, see `cameras.parse`; a file is in the world of `source_cameras`, or without
        them in the frame of the source's first camera. `SAME_CAMERA`: the path of the source.
      animation_time: of the target, see `stp_jax.official.time_patterns.curve`.
      source_cameras: file with poses spread evenly over the whole video, its first frame to its last; without
        it the camera stands still.
      fov: degrees across the shorter side of the picture, where no file has the intrinsics.
      distance: metres from the source's first camera to the point that presets circle.
      start: seconds into the video.
      duration: seconds; without it to the end, but `LONGEST` at most.
      official: without a duration, take consecutive frames, and a pose for each, as SpaceTimePilot does.

    Raises:
      InputError: a video, a camera path or an animation time that cannot be used.
    """
    target_time = time_patterns.curve(animation_time, notes.frames)
    consecutive = official and duration is None
    same_camera = camera == SAME_CAMERA
    if not same_camera:
        # The lens is not known yet. This finds mistakes before the video is read, which may take long.
        cameras.parse(camera, notes.frames)
    part = _read_part(video, notes, start, duration, consecutive)
    source = _source_view(source_cameras, part, notes, fov)
    world = source.c2w[0]
    relative = source._replace(c2w=cameras.relative_to(source.c2w, world))
    target = relative._replace(animation_time=target_time)
    if not same_camera:
        path = cameras.parse(
            camera,
            notes.frames,
            intrinsics=source.intrinsics[0],
            distance=distance,
            reference=world if source_cameras else None,
            source=source_cameras,
            consecutive=consecutive,
        )
        target = View(*path, target_time)
    still = f"taken to stand still, with a field of view of {fov:g} degrees"
    summary = (
        f"{part.summary}\nIts camera: {source_cameras or still}\n"
        f"New camera: {camera}. New animation time: {animation_time}"
    )
    return Request(part.clip, part.span, relative, target, world, summary, same_camera)


class _Part(NamedTuple):
    """The part of a video that is re-rendered."""

    clip: media.Clip
    span: tuple[float, float]  # seconds of the video, where the clip begins and ends
    last: float  # the second of the video's last frame
    summary: str
    #: number of the first frame in the video, and how many follow each other; None: spread over the span
    consecutive: tuple[int, int] | None = None


def _read_part(
    video: str | os.PathLike, notes: SamplingNotes, start: float, duration: float | None, consecutive: bool
) -> _Part:
    if consecutive:
        return _consecutive_part(video, notes, start)
    return _spread_part(video, notes, start, duration)


def _spread_part(
    video: str | os.PathLike, notes: SamplingNotes, start: float, duration: float | None
) -> _Part:
    """Frames spread evenly over a range of seconds."""
    count, last = decode.times(video)
    end = start + duration if duration else min(start + LONGEST, last)
    clip = media.read_clip(video, notes.frames, notes.height, notes.width, start=start, end=max(end, start))
    summary = [_describe(video, count, last, clip, (start, end)), *_remarks(clip)]
    if end < last - 0.05 and not duration:
        summary.append(f"  (of its {last:.1f} s; choose others with --start and --duration)")
    return _Part(clip, (start, end), last, "\n".join(summary))


def _consecutive_part(video: str | os.PathLike, notes: SamplingNotes, start: float) -> _Part:
    """Consecutive frames, as in the official code; the last is repeated where the video ends early."""
    frames = notes.frames
    count, last = decode.times(video)
    clip = read_official_clip(video, frames, notes.height, notes.width, start=start)
    end = min(start + (frames - 1) / clip.fps, last)
    summary = [
        _describe(video, count, last, clip, (start, end)),
        "  (consecutive frames, as the official code takes them: --duration spreads them evenly)",
        *_remarks(clip),
    ]
    first, final = clip.source_frames[0], clip.source_frames[-1]
    taken = frames - clip.source_frames.count(final) + 1 if final == count - 1 else frames
    if taken < frames:
        summary.append(f"  ({taken} from there to its end; the last is repeated {frames - taken} times)")
    return _Part(clip, (start, end), last, "\n".join(summary), (first, taken))


def _remarks(clip: media.Clip) -> list[str]:
    return [f"  ({note})" for note in clip.notes]


def _describe(
    video: str | os.PathLike, count: int, last: float, clip: media.Clip, span: tuple[float, float]
) -> str:
    """One line on a video file and on the clip that is taken from it."""
    (h, w), (frames, height, width, _) = clip.source_size, clip.frames.shape
    cut = "" if h * width == w * height else "middle cut out, "
    return (
        f"{Path(video).name}: {count} frames at {(count - 1) / last:.3g} fps, {w} x {h} "
        f"-> {frames} frames from {span[0]:.4g} to {span[1]:.4g} s, {cut}{width} x {height}"
    )


def _source_view(
    source_cameras: str | os.PathLike | None, part: _Part, notes: SamplingNotes, fov: float
) -> View:
    """The source's cameras in the world of their file, with the lens of the cropped picture; time forward."""
    frames, (h, w) = notes.frames, part.clip.source_size
    lens = cameras.default_intrinsics(fov, aspect=w / h)
    if not source_cameras:
        view = View(*cameras.preset("static", frames, intrinsics=lens))
    elif part.consecutive is None:
        start, end = part.span
        span = (start / part.last, min(end / part.last, 1.0))
        view = View(*cameras.read(source_cameras, frames, intrinsics=lens, span=span))
    else:
        whole = View(*cameras.read(source_cameras, intrinsics=lens))
        shown = np.array(part.clip.source_frames)  # with the last one repeated where the video ends early
        if len(whole.c2w) <= shown[-1]:
            raise InputError(
                f"{source_cameras}: {len(whole.c2w)} poses; frames {shown[0]} to {shown[-1]} need one "
                "each. With --duration, poses are spread evenly over the video."
            )
        view = whole.at(shown)
    return view._replace(
        intrinsics=media.fit_intrinsics(view.intrinsics, (h, w), notes.height, notes.width),
        animation_time=np.arange(frames, dtype=np.float32),
    )
