"""Decodes any video file, one frame at a time."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from stp_jax.errors import InputError

TimedFrames = Generator[tuple[float, Callable[[], np.ndarray]], None, None]
_TEXT_ART = {"ansi", "bintext", "xbin", "idf"}  # FFmpeg would draw any text file as a film of letters


def frames(path: str | os.PathLike, end: float = np.inf) -> TimedFrames:
    """Yields (seconds after the first frame, function that makes the picture) until `end` seconds.

    Pictures are uint8 RGB `[H, W, 3]`: rotation tags are applied, pixels are made square, grey is repeated in
    all channels, transparent parts are white. Making a picture costs more than decoding its frame, so callers
    make only those that they need.

    Raises:
      InputError: as `stp_jax.media.read_video`.
    """
    if _is_animated_webp(path):
        yield from _webp_frames(path)
        return
    with _open(path) as (container, stream):
        count, first, now = 0, 0.0, 0.0
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise _damaged(path, count, now)
                for frame in packet.decode():
                    seconds = count / _rate(stream) if frame.time is None else frame.time
                    first = first if count else seconds
                    now = seconds - first
                    yield now, functools.partial(_rgb, frame, stream.sample_aspect_ratio or Fraction(1))
                    count += 1
                    if now > end:
                        return
        except av.error.FFmpegError as error:
            raise _damaged(path, count, now) from error
        if not count:
            raise InputError(f"{path}: not one frame of its video can be decoded.")
        declared = _declared_end(stream)
        # The last frame may last long; a file cut off loses more than that.
        if declared is not None and declared - (first + now) > max(0.5, 0.1 * declared):
            raise _damaged(path, count, now)


def times(path: str | os.PathLike) -> tuple[int, float]:
    """The number of frames and the seconds from the first to the last, without decoding them."""
    if _is_animated_webp(path):
        seconds = [now for now, _ in _webp_frames(path)]
        return len(seconds), seconds[-1]
    count, last = _packets(path)
    if count < 2:
        for _ in frames(path):  # says so if the file is broken rather than short
            pass
    return count, last


def _packets(path: str | os.PathLike) -> tuple[int, float]:
    with _open(path) as (container, stream):
        try:
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        except av.error.FFmpegError as error:
            raise _damaged(path, 0, 0) from error
        stamps = [packet.dts if packet.pts is None else packet.pts for packet in packets]
        if not stamps or None in stamps:
            return len(stamps), max(len(stamps) - 1, 0) / _rate(stream)
        return len(stamps), float((max(stamps) - min(stamps)) * stream.time_base)


def rate(path: str | os.PathLike) -> float:
    """Frames per second as the file declares them."""
    with _open(path) as (_, stream):
        return _rate(stream)


@contextlib.contextmanager
def _open(path: str | os.PathLike) -> Iterator[tuple]:
    """Yields (container, stream) of the first real video stream of a file."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file.")
    if not path.is_file():
        raise InputError(f"{path} is not a file: give a video file.")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty (0 bytes): give a video file.")
    try:
        container = av.open(str(path))
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: permission denied.") from error
    except (av.error.FFmpegError, UnicodeError) as error:
        raise InputError(f"{path} is not a video that FFmpeg can read, or it is truncated.") from error
    with container:
        cover = av.stream.Disposition.attached_pic  # a music file's cover
        for stream in container.streams.video:
            if not stream.disposition & cover and stream.codec_context.name not in _TEXT_ART:
                break
        else:
            raise InputError(f"{path} has no video stream: give a video file.")
        stream.codec_context.thread_type = "AUTO"
        yield container, stream


def _rate(stream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _declared_end(stream) -> float | None:
    """Seconds at which the file says that this stream ends, if it does."""
    if stream.duration is not None:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    try:  # Matroska keeps it as a tag "hours:minutes:seconds"
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _damaged(path: str | os.PathLike, count: int, seconds: float) -> InputError:
    return InputError(
        f"{path} is truncated or damaged after {count} frames ({seconds:.2f} s): give a whole file, "
        "or an end before the damage."
    )


def _rgb(frame: av.VideoFrame, pixel: Fraction) -> np.ndarray:
    """uint8 [H, W, 3]; `pixel` is the width of a pixel divided by its height."""
    width = max(1, round(frame.width * pixel))
    if any(component.is_alpha for component in frame.format.components) or frame.format.has_palette:
        image = _on_white(np.asarray(frame.reformat(width=width, format="rgba").to_ndarray()))
    else:
        image = np.asarray(frame.reformat(width=width, format="rgb24").to_ndarray(), np.uint8)
    return np.rot90(image, round(frame.rotation / 90) % 4)


def _on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


# FFmpeg shows only the first picture of an animated WebP; Pillow reads them all.


def _is_animated_webp(path: str | os.PathLike) -> bool:
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            return getattr(image, "is_animated", False)
    except (OSError, UnidentifiedImageError):
        return False


def _webp_frames(path: str | os.PathLike) -> TimedFrames:
    seconds = 0.0
    with Image.open(path) as image:
        try:
            for frame in ImageSequence.Iterator(image):
                rgba = np.asarray(frame.convert("RGBA"))
                yield seconds, functools.partial(_on_white, rgba)
                seconds += frame.info["duration"] / 1000
        except (OSError, EOFError) as error:
            raise InputError(f"{path} is truncated or damaged: give a whole file.") from error
