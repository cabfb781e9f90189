"""Video files in and out. Videos are uint8 RGB `[F, H, W, 3]`; a user's mistake raises `InputError`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from stp_jax.errors import InputError
from stp_jax.files import new_file
from stp_jax.media import decode


class Clip(NamedTuple):
    """A video cropped and sampled to the size that a model takes."""

    frames: np.ndarray  # uint8 [F, H, W, 3]
    fps: float  # frames per second at which `frames` plays at the speed of the file
    source_size: tuple[int, int]  # (height, width) of the upright picture before the cut
    notes: tuple[str, ...] = ()  # remarks on how the file was read, to print
    source_frames: tuple[int, ...] = ()  # the file's frame that each of `frames` shows, counted from 0


def write_video(
    path: str | os.PathLike, frames: np.ndarray, fps: float, *, crf: int = 12, pixel_format: str = "yuv420p"
) -> None:
    """Writes uint8 `[F, H, W, 3]` as H.264, whole or not at all.

    Args:
      path: a new file; its suffix names the container (.mp4, .mkv, .mov).
      crf: x264's quality, 0 (lossless in YUV) to 51.
      pixel_format: `yuv420p` plays everywhere (odd sizes get their last row or column doubled); `yuv444p`
        keeps the colour resolution of small training videos; halving it costs 10 dB at 128 pixels.

    Raises:
      InputError: `path` exists or cannot be written.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        raise ValueError(f"frames must be uint8 [F, H, W, 3], F > 0, not {frames.dtype} {list(frames.shape)}")
    if pixel_format == "yuv420p":
        height, width = frames.shape[1:3]
        frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with new_file(path) as partial, av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(60_000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.options = {"crf": str(crf)}
        # Unlabelled, players guess the colour matrix from the picture's size.
        context = stream.codec_context
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.SMPTE170M
        context.color_primaries = context.color_trc = 6  # also SMPTE 170M
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            yuv = picture.reformat(
                format=pixel_format, dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(yuv))
        container.mux(stream.encode())


def read_video(path: str | os.PathLike, max_frames: int | None = None) -> tuple[np.ndarray, float]:
    """Reads any video that FFmpeg reads, and animated GIF and WebP, frame by frame.

    Rotation tags are applied, pixels are made square, grey becomes RGB, transparent parts become white. With
    a variable frame rate, frames are taken as they come. The whole video is held in memory: for a user's file
    of unknown length use `read_clip`.

    Returns:
      uint8 `[F, H, W, 3]`, and the mean frames per second.

    Raises:
      InputError: no such file; empty, truncated, damaged, not a video; no video stream, no decodable frame;
        the picture size changes on the way.
    """
    pictures: list[np.ndarray] = []
    last = 0.0
    with contextlib.closing(decode.frames(path)) as timed:
        for seconds, picture in timed:
            pictures.append(picture())
            last = seconds
            if len(pictures) == max_frames:
                break
    if len({picture.shape for picture in pictures}) > 1:
        raise InputError(f"{path} changes its picture size on the way: convert it to one size.")
    return np.stack(pictures), (len(pictures) - 1) / last if last > 0 else decode.rate(path)


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
    are held in memory. Rotation, grey and transparency are treated as in `read_video`.

    Args:
      start, end: seconds after the first frame; `end` None is the last frame.

    Raises:
      InputError: as `read_video`; a video of a single frame; a range that is empty or outside the video.
    """
    count, last = decode.times(path)
    times = _sampling_times(str(path), count, last, frames, start, end)
    with contextlib.closing(decode.frames(path, times[-1])) as timed:
        return _clip(timed, times, height, width, fps=(count - 1) / last)


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
    return _clip(timed, times, height, width, fps=fps)


def _sampling_times(
    name: str, count: int, last: float, frames: int, start: float, end: float | None
) -> list[float]:
    if count < 2 or last <= 0:
        raise InputError(f"{name} has {'one frame' if count else 'no frame'}: a video needs at least two.")
    stop = last if end is None else end
    if not 0 <= start < stop <= last + 1e-3:
        raise InputError(f"{name}: the range {start:g} to {stop:g} s must lie within its 0 to {last:.3f} s.")
    return np.linspace(start, min(stop, last), frames).tolist()


def _clip(
    timed: Iterable[tuple[float, Callable[[], np.ndarray]]],
    times: list[float],
    height: int,
    width: int,
    *,
    fps: float,
) -> Clip:
    """Makes the picture on screen at each of the ascending `times`, and no other.

    `fps` is used for a clip of a single picture.
    """
    pictures: list[np.ndarray] = []
    shown: Callable[[], np.ndarray] | None = None
    size = (0, 0)
    source_frames: list[int] = []

    def show_until(seconds: float, number: int) -> None:
        nonlocal size
        due = sum(time < seconds - 1e-6 for time in times) - len(pictures)
        if shown is not None and due > 0:
            picture = shown()
            size = picture.shape[:2]
            pictures.extend([fit_image(picture, height, width)] * due)
            source_frames.extend([number] * due)

    number = -1
    for number, (seconds, picture) in enumerate(timed):
        show_until(seconds, number - 1)
        shown = picture
    show_until(np.inf, number)
    span = times[-1] - times[0]
    return Clip(np.stack(pictures), (len(times) - 1) / span if span else fps, size, (), tuple(source_frames))


def fit_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes until the size is covered, and crops the centre: uint8 `[h, w, 3]` -> `[height, width, 3]`."""
    h, w = image.shape[:2]
    scale = min(h / height, w / width)
    top, left = (h - height * scale) / 2, (w - width * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box))


def fit_intrinsics(
    intrinsics: np.ndarray, source_size: tuple[int, int], height: int, width: int
) -> np.ndarray:
    """Intrinsics `[..., 4]` (fx, fy, cx, cy over width, height) after `fit_image`: cropping changes them."""
    h, w = source_size
    scale = min(h / height, w / width)
    kept = np.array([width * scale / w, height * scale / h], np.float32)  # of the width, of the height
    focal, centre = intrinsics[..., :2] / kept, (intrinsics[..., 2:] - (1 - kept) / 2) / kept
    return np.concatenate([focal, centre], axis=-1)
