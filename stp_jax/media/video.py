"""Reads video files. Videos are uint8 RGB `[F, H, W, 3]`; a user's mistake raises `InputError`."""

from __future__ import annotations

import bisect
import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from stp_jax.errors import InputError
from stp_jax.media import sources
from stp_jax.media.colour import Notes
from stp_jax.media.fit import fit_image

_MOST_PIXELS = 1 << 32  # of a whole video, 12 GiB


class Clip(NamedTuple):
    """A video cropped and sampled to the size that a model takes."""

    frames: Any  # uint8 [F, H, W, 3]; of a long clip `stp_jax.media.lazy.Pictures`
    fps: float  # frames per second at which `frames` plays at the speed of the file
    source_size: tuple[int, int]  # (height, width) of the upright picture before the cut
    notes: tuple[str, ...] = ()  # remarks on how the file was read, to print
    source_frames: tuple[int, ...] = ()  # the file's frame that each of `frames` shows, counted from 0


def read_video(path: str | os.PathLike, max_frames: int | None = None) -> tuple[np.ndarray, float]:
    """Reads any video that FFmpeg reads, and animated GIF and WebP, frame by frame.

    Display matrices are applied, pixels are made square, interlaced frames are deinterlaced. HDR and wide
    gamuts become SDR of BT.709, grey becomes RGB, transparent parts become white. With a variable frame rate,
    frames are taken as they come. The whole video is held in memory: for a user's file of unknown length use
    `read_clip`.

    Returns:
      uint8 `[F, H, W, 3]`, and the mean frames per second.

    Raises:
      InputError: no such file, a URL; empty, truncated, damaged, not a video; no video stream, no decodable
        frame; pictures of more than 2^26 pixels, more than 2^32 pixels in all; colours that are not read; the
        picture size changes on the way.
    """
    pictures: list[np.ndarray] = []
    last, pixels = 0.0, 0
    with contextlib.closing(sources.frames(path)) as timed:
        for seconds, picture in timed:
            pictures.append(picture())
            last = seconds
            pixels += pictures[-1].shape[0] * pictures[-1].shape[1]
            if pixels > _MOST_PIXELS:
                raise InputError(f"{path} is too long to be held in memory: cut it, or use read_clip.")
            if len(pictures) == max_frames:
                break
    if len({picture.shape for picture in pictures}) > 1:
        raise InputError(f"{path} changes its picture size on the way: convert it to one size.")
    return np.stack(pictures), (len(pictures) - 1) / last if last > 0 else sources.rate(path)


def read_clip(
    path: str | os.PathLike,
    frames: int,
    height: int,
    width: int,
    *,
    start: float = 0.0,
    end: float | None = None,
) -> Clip:
    """Takes `frames` pictures of a video file, evenly spaced in seconds from `start` to `end`.

    Each is the frame that is on screen at its time. So any frame rate will do, also a variable one, and a
    short video repeats frames. By default the clip spans the whole video, first and last frame included.
    Pictures are resized until they cover `height` x `width`, then cropped at the centre. Only these pictures
    are held in memory. Orientation, colours, fields and transparency are treated as in `read_video`.

    Args:
      start, end: seconds after the first frame; `end` None is the last frame.

    Raises:
      InputError: as `read_video`; a video of a single frame; a range that is empty or outside the video.
    """
    count, last = sources.times(path)
    times = _sampling_times(str(path), count, last, frames, start, end)
    notes: Notes = {}
    with contextlib.closing(sources.frames(path, times[-1], notes)) as timed:
        clip = take_pictures(timed, times, lambda image: fit_image(image, height, width), (count - 1) / last)
    return clip._replace(notes=(*notes, *clip.notes))


def read_frames(path: str | os.PathLike, numbers: Sequence[int], longest_side: int) -> np.ndarray:
    """Some frames of a video file by their numbers, uncropped.

    Args:
      numbers: counted from 0, in any order; each frame is read once, and they come in ascending order.
      longest_side: pixels; larger pictures are made smaller.

    Returns:
      uint8 [N, H, W, 3].

    Raises:
      InputError: as `read_video`; the file has not as many frames.
    """
    wanted, pictures = set(map(int, numbers)), []
    with contextlib.closing(sources.frames(path)) as timed:
        for number, (_, picture) in enumerate(timed):
            if number in wanted:
                image = picture()
                scale = min(1.0, longest_side / max(image.shape[:2]))
                height, width = (max(1, round(side * scale)) for side in image.shape[:2])
                pictures.append(fit_image(image, height, width) if scale < 1 else image)
            if len(pictures) == len(wanted):
                break
    if len(pictures) < len(wanted) or len({picture.shape for picture in pictures}) > 1:
        raise InputError(f"{path}: its frames cannot be read again, or change their size on the way.")
    return np.stack(pictures)


def fit_clip(
    video: np.ndarray,
    fps: float,
    frames: int,
    height: int,
    width: int,
    *,
    start: float = 0.0,
    end: float | None = None,
) -> Clip:
    """Does the same as `read_clip` for a video in memory: uint8 `[any, h, w, 3]` at a constant `fps`."""
    times = _sampling_times("the video", len(video), (len(video) - 1) / fps, frames, start, end)
    timed = ((i / fps, lambda image=image: image) for i, image in enumerate(video))
    return take_pictures(timed, times, lambda image: fit_image(image, height, width), fps)


def _sampling_times(
    name: str, count: int, last: float, frames: int, start: float, end: float | None
) -> list[float]:
    if count < 2 or last <= 0:
        has = f"{count} frames at one time" if count > 1 else "one frame" if count else "no frame"
        raise InputError(f"{name} has {has}: a video needs at least two, one after the other.")
    stop = last if end is None else end
    if not 0 <= start < stop <= last + 1e-3:
        raise InputError(f"{name}: the range {start:g} to {stop:g} s must lie within its 0 to {last:.3f} s.")
    return np.linspace(start, min(stop, last), frames).tolist()


def take_pictures(
    timed: Iterable[tuple[float, Callable[[], np.ndarray]]],
    times: Sequence[float],
    fit: Callable[[np.ndarray], np.ndarray],
    fps: float,
) -> Clip:
    """Makes the picture on screen at each of the ascending `times`, and no other.

    Args:
      timed: as `stp_jax.media.decode.frames` yields them.
      times: seconds after the first frame.
      fit: brings a picture to size.
      fps: of a clip of a single picture.
    """
    pictures: list[np.ndarray] = []
    source_frames: list[int] = []
    shown: Callable[[], np.ndarray] | None = None
    size = (0, 0)

    def show_until(seconds: float, number: int) -> None:
        nonlocal size
        due = bisect.bisect_left(times, seconds - 1e-6) - len(pictures)
        if shown is not None and due > 0:
            picture = shown()
            size = picture.shape[:2]
            pictures.extend([fit(picture)] * due)
            source_frames.extend([number] * due)

    number = -1
    for number, (seconds, picture) in enumerate(timed):
        show_until(seconds, number - 1)
        shown = picture
    show_until(np.inf, number)
    span = times[-1] - times[0]
    distinct = len(set(source_frames))
    notes: tuple[str, ...] = ()
    if distinct < len(times):
        notes = (f"the source has {distinct} frames there for {len(times)}: frames repeat",)
    rate = (len(times) - 1) / span if span else fps
    return Clip(np.stack(pictures), rate, size, notes, tuple(source_frames))
