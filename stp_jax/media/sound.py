"""The sound of a video: reading a part of it, and stretching it without a change of pitch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np

from stp_jax.media import decode

RATE = 48_000  # samples per second of everything that is read
_LOST = RATE // 20  # samples; where a file's stamps jump further than this, it has a gap


class Sound(NamedTuple):
    """Samples float32 [N, C], C = 1 or 2, of `RATE` a second; 1 is full scale."""

    samples: np.ndarray


def has_sound(path: str | os.PathLike) -> bool:
    """Whether a file has a track of sound that FFmpeg decodes."""
    with contextlib.suppress(av.error.FFmpegError, OSError, UnicodeError), _open(path) as container:
        return _track(container) is not None
    return False


def read_sound(path: str | os.PathLike, start: float, seconds: float) -> Sound | None:
    """A part of the first track; None: there is none, or nothing of it can be decoded.

    Args:
      path: of a video.
      start: seconds after the first frame of the video.
      seconds: how much; what the file has no sound for is silent.
    """
    with contextlib.suppress(av.error.FFmpegError, OSError, UnicodeError), _open(path) as container:
        track = _track(container)
        if track is not None:
            return _read(container, track, _first_frame(container) + start, round(seconds * RATE))
    return None


def _open(path: str | os.PathLike) -> Any:
    options = {"protocol_whitelist": "file"}
    return av.open(f"file:{os.fspath(path)}", options=options, **decode.ANY_METADATA)


def _track(container: Any) -> Any:
    tracks = [track for track in container.streams.audio if track.codec_context is not None]
    return tracks[0] if tracks else None


def _first_frame(container: Any) -> float:
    """Seconds of the first frame in the file."""
    for stream in container.streams.video:
        if stream.start_time is not None:
            return float(stream.start_time * stream.time_base)
    return 0.0


def _read(container: Any, track: Any, start: float, count: int) -> Sound | None:
    """`count` samples from `start` seconds of the file on."""
    channels = min(track.codec_context.layout.nb_channels, 2)
    resampler = av.AudioResampler("fltp", "mono" if channels == 1 else "stereo", RATE)
    samples = np.zeros((count, channels), np.float32)
    at, found = None, False
    if start > 2:
        container.seek(int((start - 1) / track.time_base), stream=track)
    with contextlib.suppress(av.error.FFmpegError):  # what is whole before the damage is taken
        for frame in container.decode(track):
            if frame.time is not None:
                stamped = round((frame.time - start) * RATE)
                at = stamped if at is None or abs(stamped - at) > _LOST else at
            at = at or 0
            for made in resampler.resample(frame):
                part = made.to_ndarray().T[: made.samples]
                low, high = max(at, 0), min(at + len(part), count)
                if low < high:
                    samples[low:high] = part[low - at : high - at]
                    found = True
                at += len(part)
            if at >= count:
                break
    return Sound(samples) if found else None


def stretch(sound: Sound, speed: float, count: int) -> Sound:
    """`speed` times faster at the same pitch, by FFmpeg's atempo; cut, or silent at the end, to `count`."""
    graph: Any = av.filter.Graph()
    layout = "mono" if sound.samples.shape[1] == 1 else "stereo"
    source = graph.add(
        "abuffer", f"sample_rate={RATE}:sample_fmt=flt:channel_layout={layout}:time_base=1/{RATE}"
    )
    factors = _factors(speed)
    chain = [source, *(graph.add("atempo", f"{factor:.9f}") for factor in factors), graph.add("abuffersink")]
    for one, following in zip(chain, chain[1:], strict=False):
        one.link_to(following)
    graph.configure()
    source.push(_frame(sound))
    source.push(None)
    parts = []
    with contextlib.suppress(av.error.EOFError, av.error.BlockingIOError):
        while True:
            made = chain[-1].pull()
            parts.append(made.to_ndarray().reshape(-1, sound.samples.shape[1]))
    whole = np.concatenate(parts)[:count] if parts else sound.samples[:0]
    return Sound(np.pad(whole, ((0, count - len(whole)), (0, 0))).astype(np.float32))


def _factors(speed: float) -> list[float]:
    """Factors of at least 0.5 and at most 2, in which atempo works well, whose product is `speed`."""
    number = max(1, int(np.ceil(abs(np.log2(speed)) - 1e-9)))
    return [speed ** (1 / number)] * number


def _layout(sound: Sound) -> str:
    return "mono" if sound.samples.shape[1] == 1 else "stereo"


def _frame(sound: Sound, form: str = "flt") -> av.AudioFrame:
    samples = sound.samples
    if form == "s16":
        samples = np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)
    flat = np.ascontiguousarray(samples).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(flat, format=form, layout=_layout(sound))
    frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    return frame


def encode(container: Any, sound: Sound, codec: str) -> Iterator[Any]:
    """Adds a track to a container that is written, and returns an iterator of its packets."""
    layout = _layout(sound)
    track = container.add_stream(codec, rate=RATE, layout=layout)
    form = "fltp" if codec == "aac" else "s16"
    track.codec_context.format = form
    if codec == "aac":
        track.bit_rate = 96_000 * sound.samples.shape[1]

    def packets() -> Iterator[Any]:
        resampler = av.AudioResampler(form, layout, RATE, track.frame_size or 1024)
        for whole in (_frame(sound, "flt" if form == "fltp" else form), None):
            for frame in resampler.resample(whole):
                yield from track.encode(frame)
        yield from track.encode(None)

    return packets()
