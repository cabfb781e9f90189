"""The part of a video that is re-rendered; of a long one it is read when it is asked for. Without JAX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stp_jax import media
from stp_jax.errors import InputError
from stp_jax.media import sources, stills
from stp_jax.media.colour import Notes
from stp_jax.media.lazy import FilePictures, Pictures
from stp_jax.official.clip import consecutive_times, official_fit, rate_of, read_official_clip
from stp_jax.rerender.camera_paths import Shown
from stp_jax.rerender.takes import Asked
from stp_jax.weights.native import SamplingNotes

LONGEST = 3.0  # seconds of a video used by default: a model has few frames to spread over them


class Part(NamedTuple):
    """The part of a video that is re-rendered."""

    clip: media.Clip
    span: tuple[float, float]  # seconds of the video, where the clip begins and ends
    summary: str
    shown: Shown  # the video's frames that the clip shows


def read_part(wish: Asked, notes: SamplingNotes, consecutive: bool) -> Part:
    if sources.is_still(wish.video):
        return _still_part(wish.video, notes, wish.fps, consecutive)
    if consecutive:
        return _consecutive_part(wish.video, notes, wish.start)
    return _spread_part(wish.video, notes, wish.start, wish.duration)


def _still_part(
    picture: str | os.PathLike, notes: SamplingNotes, fps: float | None, consecutive: bool
) -> Part:
    """A picture for all frames; brought to size as the frames of a video are."""
    fit = official_fit if consecutive else media.fit_image
    fps = fps or min(stills.FPS, notes.frames)
    clip = stills.read_still(picture, notes.frames, notes.height, notes.width, fps=fps, fit=fit)
    h, w = clip.source_size
    cut = "" if h * notes.width == w * notes.height else "middle cut out, "
    summary = [
        f"{Path(picture).name}: a still picture, {w} x {h} -> {notes.frames} frames, "
        f"{cut}{notes.width} x {notes.height}",
        "  (the scene stands still, whatever the animation time)",
        *_remarks(clip),
    ]
    shown = Shown(np.array(clip.source_frames), 1, consecutive)
    return Part(clip, (0.0, (notes.frames - 1) / fps), "\n".join(summary), shown)


def _spread_part(
    video: str | os.PathLike, notes: SamplingNotes, start: float, duration: float | None
) -> Part:
    """Frames spread evenly over a range of seconds."""
    count, last = sources.times(video)
    end = start + duration if duration else min(start + LONGEST, last)
    clip = media.read_clip(video, notes.frames, notes.height, notes.width, start=start, end=max(end, start))
    summary = [_describe(video, count, last, clip, (start, end)), *_remarks(clip)]
    if end < last - 0.05 and not duration:
        summary.append(f"  (of its {last:.1f} s; choose others with --start and --duration)")
    return Part(clip, (start, end), "\n".join(summary), Shown(np.array(clip.source_frames), count, False))


def _consecutive_part(video: str | os.PathLike, notes: SamplingNotes, start: float) -> Part:
    """Consecutive frames, as in the official code; the last is repeated where the video ends early."""
    frames = notes.frames
    count, last = sources.times(video)
    clip = read_official_clip(video, frames, notes.height, notes.width, start=start)
    end = min(start + (frames - 1) / clip.fps, last)
    summary = [
        _describe(video, count, last, clip, (start, end)),
        "  (consecutive frames, as the official code takes them: --duration spreads them evenly)",
        *_remarks(clip),
    ]
    final = clip.source_frames[-1]
    taken = frames - clip.source_frames.count(final) + 1 if final == count - 1 else frames
    if taken < frames:
        summary.append(f"  ({taken} from there to its end; the last is repeated {frames - taken} times)")
    return Part(clip, (start, end), "\n".join(summary), Shown(np.array(clip.source_frames), count, True))


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


def long_part(wish: Asked, notes: SamplingNotes, length: int, official: bool) -> Part:
    """Consecutive frames of a video, as many at most as a new one of `length` frames has.

    They are read when they are asked for. Raises `InputError` for a range that is not in the video.
    """
    fit = official_fit if official else media.fit_image
    if sources.is_still(wish.video):
        part = _still_part(wish.video, notes, wish.fps, official)
        frames = Pictures(
            lambda numbers: part.clip.frames[:1].repeat(len(numbers), 0), part.clip.frames.shape
        )
        clip = part.clip._replace(frames=frames.of_length(length), source_frames=(0,) * length)
        return part._replace(clip=clip, shown=Shown(np.zeros(length, int), 1, official))
    video, end = wish.video, wish.start + (wish.duration or 0)
    stamps = sources.stamps(video)
    times, remarks = consecutive_times(video, stamps, max(length, 2), wish.start)
    if wish.duration is not None:
        if end > stamps[-1] + 1e-3:
            raise InputError(
                f"{video}: the range {wish.start:g} to {end:g} s must lie within its 0 to {stamps[-1]:.3f} s."
            )
        times = times[times <= end + 1e-6]
    said: Notes = {}
    read = FilePictures(video, times, lambda image: fit(image, notes.height, notes.width), said)
    frames = Pictures(read, (len(times), notes.height, notes.width, 3))
    size = media.read_frames(video, [0], 1 << 20).shape[1:3]
    frames[:1]  # for what is to be said of the file
    numbers = np.searchsorted(stamps, times + 1e-6, side="right") - 1
    rate = rate_of(times if len(times) > 1 else stamps)
    clip = media.Clip(frames, rate, size, (*said, *remarks), tuple(numbers.tolist()))
    span = float(times[0]), float(times[-1])
    summary = [_describe(video, len(stamps), float(stamps[-1]), clip, span)]
    summary += ["  (consecutive frames, which are read as they are needed)", *_remarks(clip)]
    return Part(clip, span, "\n".join(summary), Shown(numbers, len(stamps), True))
