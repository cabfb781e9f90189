"""Animated WebP, of which FFmpeg shows the first picture alone; Pillow reads them all."""

from __future__ import annotations

import functools
import os
import struct
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageSequence

from stp_jax.errors import InputError
from stp_jax.media.colour import Notes, on_white

_MOST_PIXELS = 1 << 25  # 8K UHD; libwebp holds several whole pictures of 4 bytes a pixel
_ANIMATED = 0x02


def canvas_of_webp(path: str | os.PathLike) -> tuple[int, int] | None:
    """(width, height) if the file is an animated WebP, else None. Reads 30 bytes.

    As in https://developers.google.com/speed/webp/docs/riff_container: "RIFF", size, "WEBP", then a chunk
    "VP8X" with flags and, from byte 24 on, width - 1 and height - 1 in three bytes each.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        return None
    try:
        with open(path, "rb") as file:
            head = file.read(30)
    except OSError:
        return None
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:16] != b"WEBPVP8X" or not head[20] & _ANIMATED:
        return None
    (width,), (height,) = (struct.unpack("<I", head[at : at + 3] + b"\0") for at in (24, 27))
    return width + 1, height + 1


def webp_stamps(path: str | os.PathLike) -> np.ndarray:
    """Seconds of every frame after the first one, float64 [F], from the file's chunks "ANMF"."""
    durations, at = [], 12
    with open(path, "rb") as file:
        while len(head := _read_at(file, at, 24)) == 24:
            if head[:4] == b"ANMF":  # and its size, x, y, width, height, duration
                durations.append(_seconds(int.from_bytes(head[20:23], "little")))
            size = int.from_bytes(head[4:8], "little")
            at += 8 + size + size % 2
    return np.concatenate([[0.0], np.cumsum(durations[:-1])]) if durations else np.zeros(0)


def _read_at(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def _seconds(milliseconds: int) -> float:
    """How long browsers show a frame of this duration."""
    return milliseconds / 1000 if milliseconds > 10 else 0.1


def webp_frames(
    path: str | os.PathLike, canvas: tuple[int, int], end: float, notes: Notes
) -> Generator[tuple[float, Callable[[], np.ndarray]], None, None]:
    """As `stp_jax.media.decode.frames`, for an animated WebP with this canvas."""
    width, height = canvas
    if width * height > _MOST_PIXELS:
        raise InputError(
            f"{path}: pictures of {width} x {height} are too large; {_MOST_PIXELS:,} pixels are read."
        )
    seconds = 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of pictures that it finds large
            image = Image.open(Path(path), formats=["WEBP"])
        with image:
            for frame in ImageSequence.Iterator(image):
                rgba = np.asarray(frame.convert("RGBA"))
                yield seconds, functools.partial(on_white, rgba[..., :3], rgba[..., 3:], notes)
                if seconds > end:
                    return
                seconds += _seconds(frame.info.get("duration", 0))
    except (OSError, EOFError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is truncated or damaged: give a whole file.") from error
