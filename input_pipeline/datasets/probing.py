"""What a record's videos are, by their packets: frames, size, rate, and what makes them unusable."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from input_pipeline.decoding import ffmpeg, opened
from stp_jax.errors import InputError
from stp_jax.media.decode import is_shown
from stp_jax.media.orientation import is_turned

UNEVEN = 1.5  # times the median distance of frames: a rate that varies


class Probe(NamedTuple):
    """A video file.

    Attributes:
      frames: how many it shows.
      size: height, width.
    """

    frames: int
    size: tuple[int, int]


def probe(data: bytes, where: str, *, even: bool = True, decode: bool = False) -> Probe:
    """Looks at a video file: its packets are counted and its first frame is decoded.

    Args:
      data: the file.
      where: names it in errors.
      even: whether its frame rate must be constant.
      decode: decodes all frames, which finds damage within packets.

    Raises:
      InputError: it is no video, truncated or damaged, its rate varies, or it has a display matrix that turns
        or mirrors it: it is not known whether its cameras are those of the stored or of the turned picture.
    """
    found = ffmpeg(where, lambda: _probe(data, even))
    if decode:
        ffmpeg(where, lambda: _decode(data, found))
    return found


def _probe(data: bytes, even: bool) -> Probe:
    with opened(data) as (container, stream):
        stamps, stored, first = [], 0, None
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise InputError(f"truncated or damaged after {stored} frames")
            if first is None:
                first = next(iter(packet.decode()), None)
            if not packet.size:
                continue
            stored += 1
            if not packet.is_discard and is_shown(packet, stream):
                stamps.append(packet.dts if packet.pts is None else packet.pts)
        if first is None:
            raise InputError("the video has no frames")
        if stream.frames and stored != stream.frames:
            raise InputError(f"truncated: {stored} frames of the {stream.frames} that it declares")
        size = (first.height, first.width)
        if is_turned(first):
            raise InputError(
                "is to be turned or mirrored when shown (its display matrix): convert it to one "
                "that is stored as it is seen"
            )
        if even and None not in stamps:
            _check_even(np.sort(np.array(stamps, np.float64)) * float(stream.time_base or 1))
    return Probe(len(stamps), size)


def _decode(data: bytes, found: Probe) -> None:
    """Decodes all frames; FFmpeg would conceal what is damaged, and a broken one may be left out."""
    count = 0
    with opened(data) as (container, stream):
        stream.codec_context.options = stream.codec_context.options | {"err_detect": "explode"}
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise InputError(f"frame {count} is damaged")
            if (frame.height, frame.width) != found.size:
                raise InputError(f"frame {count} has another size")
            count += 1
    if count != found.frames:
        raise InputError(f"{count} frames can be decoded, but it has {found.frames}")


def _check_even(seconds: np.ndarray) -> None:
    steps = np.diff(seconds)
    if not len(steps):
        return
    usual, at = float(np.median(steps)), int(np.argmax(steps))
    if steps[at] > UNEVEN * usual:
        raise InputError(
            f"its frame rate varies (frame {at + 1} comes after {steps[at]:.3g} s, most after "
            f"{usual:.3g} s): convert it to a constant one"
        )
