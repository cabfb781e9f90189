"""Decodes any video file, one frame at a time."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from array import array
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from stp_jax.errors import InputError
from stp_jax.media import exr, linear
from stp_jax.media.animations import canvas_of_webp, webp_frames, webp_stamps
from stp_jax.media.colour import Notes
from stp_jax.media.interlaced import Deinterlacer
from stp_jax.media.key_frames import KeyFrame, KeyFrames, packets_from
from stp_jax.media.orientation import frame_picture

TimedFrames = Generator[tuple[float, Callable[[], np.ndarray]], None, None]
MOST_PIXELS = 1 << 26  # of a picture: twice 8K
MOST_FRAMES = 1 << 22  # of a video: 19 hours at 60 a second
_TEXT_ART = {"ansi", "bintext", "xbin", "idf"}  # FFmpeg would draw any text file as a film of letters
# Before PyAV 19 metadata that is not UTF-8 would be an error.
_OLD = int(av.__version__.split(".")[0]) < 19
ANY_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if _OLD else {}
_HEIF = (".avif", ".heic", ".heif")  # pictures in the container of MP4
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders drop the transparency


def frames(
    path: str | os.PathLike,
    end: float = np.inf,
    notes: Notes | None = None,
    *,
    keys: KeyFrames | None = None,
    begin: float = 0.0,
) -> TimedFrames:
    """Yields (seconds after the first frame, function that makes the picture) until `end` seconds.

    Pictures are uint8 RGB `[H, W, 3]` in SDR of BT.709: display matrices are applied, pixels are made square,
    interlaced frames are deinterlaced, HDR is tone-mapped, grey is repeated in all channels, transparent
    parts are white. Making a picture costs more than decoding its frame, so callers make only what they need.

    Args:
      notes: gets remarks on how the video was read, also while pictures are made.
      keys: of this file; learns more of them. Decoding begins at the last one until `begin`, which changes no
        frame; where there is none, or the file does not lead there, at the beginning.
      begin: seconds; the frame on screen then is the first one that is needed.

    Raises:
      InputError: as `stp_jax.media.read_video`; the functions raise it for colours that are not read.
    """
    notes = {} if notes is None else notes
    canvas = canvas_of_webp(path)
    if canvas:
        yield from webp_frames(path, canvas, end, notes)
        return
    exr.check(path)
    progress, key = _Progress(), None if keys is None else keys.before(begin)
    if keys is not None and key is not None:
        for seconds, picture in _from_key(path, keys, key, notes, progress):
            yield seconds, picture
            if seconds > end:
                return
        if progress.ended:
            return
    done, progress = progress.count, _Progress()
    with _open(path) as video:
        damaged = True
        with contextlib.suppress(av.error.FFmpegError):  # whose kind may be "no memory", where a file lies
            for number, (seconds, frame) in enumerate(_decoded(video, path, notes, progress, keys)):
                if number >= done:
                    yield seconds, functools.partial(_picture, path, frame, video.pixel, notes)
                if seconds > end:
                    return
            damaged = False
        if damaged:
            raise _damaged(path, progress)
        if not progress.count:
            raise InputError(f"{path}: not one frame of its video can be decoded.")
        _check_end(video, path, progress)


def _from_key(
    path: str | os.PathLike, keys: KeyFrames, key: KeyFrame, notes: Notes, progress: _Progress
) -> TimedFrames:
    """As `frames`, from a key frame on; ends early where frames are not those that they must be."""
    progress.first, progress.count = keys.first, key.number
    with contextlib.suppress(av.error.FFmpegError), _open(path) as video:
        video.container.seek(key.decoding_stamp, stream=video.stream, backward=True)
        for packet in packets_from(video.container.demux(video.stream), key.stamp):
            if packet.is_corrupt:
                break
            keys.put_packet(packet)
            for frame in video.decode(packet):
                if frame.pts is not None and frame.pts < key.stamp:
                    continue  # a leading frame: it refers to what was not decoded
                seconds = (frame.time or 0.0) - progress.first
                if not keys.put_frame(progress.count, seconds, frame, video.codec):
                    return
                progress.put(seconds, frame)
                yield seconds, functools.partial(_picture, path, frame, video.pixel, notes)
        else:
            if progress.count >= keys.count:
                _check_end(video, path, progress)
                progress.ended = True
                return
    keys.give_up()


def _check_end(video: _Video, path: str | os.PathLike, progress: _Progress) -> None:
    """Raises `InputError` where a file ends long before it says."""
    declared = _declared_end(video.stream)
    last = progress.first + progress.now + progress.shown
    # Files round, and may end later than their video; one that is cut off loses more than that.
    if declared is not None and declared - last > max(0.5, 0.1 * declared):
        raise _damaged(path, progress)


def stamps(path: str | os.PathLike) -> np.ndarray:
    """Seconds of every frame after the first one, float64 [F], ascending, without decoding them all.

    Packets are counted from the first frame that decodes: a stream that was cut between key frames begins
    with some that do not.

    Raises:
      InputError: as `stp_jax.media.read_video`.
    """
    canvas = canvas_of_webp(path)
    if canvas:
        return webp_stamps(path)
    seconds = _packets(path)
    if seconds is None:
        return np.array([now for now, _ in frames(path)])
    if len(seconds) < 2:
        for _ in frames(path):  # says so if the file is broken rather than short
            pass
    return seconds


def times(path: str | os.PathLike) -> tuple[int, float]:
    """The number of frames and the seconds from the first to the last, see `stamps`."""
    seconds = stamps(path)
    return len(seconds), float(seconds[-1]) if len(seconds) else 0.0


def is_picture(path: str | os.PathLike) -> bool:
    """Whether a file is of a format for pictures rather than for videos."""
    if canvas_of_webp(path):
        return True
    with _open(path) as video:
        form = video.container.format.name
    return form.endswith("_pipe") or form in ("image2", "gif", "apng") or Path(path).suffix.lower() in _HEIF


def rate(path: str | os.PathLike) -> float:
    """Frames per second as the file declares them."""
    if canvas_of_webp(path):
        return 25.0
    with _open(path) as video:
        return video.rate


class _Video(NamedTuple):
    container: Any
    stream: Any
    decode: Callable[[Any], list[av.VideoFrame]]  # of a packet; one without data makes it give out the rest

    @property
    def rate(self) -> float:
        return _rate(self.stream)

    @property
    def codec(self) -> str:
        """The decoder's name. Transparency has key frames of its own, so that makes it another one."""
        return self.stream.codec_context.name + (" with alpha" if _has_alpha(self.stream) else "")

    @property
    def pixel(self) -> Fraction:
        """Width of a pixel divided by its height."""
        return self.stream.sample_aspect_ratio or Fraction(1)


class _Progress:
    """How far a file has been decoded."""

    count = 0
    first = now = 0.0  # seconds of the first frame in the file; of the last one after it
    shown = 0.0  # seconds that the last one is shown, if the file says so
    ended = False  # whether it has been read to its end, from a key frame on

    def put(self, seconds: float, frame: av.VideoFrame) -> None:
        """Call it with each frame, before it is deinterlaced, and its seconds after the first one."""
        self.now = seconds
        self.shown = float((frame.duration or 0) * (frame.time_base or 0))
        self.count += 1


def _decoded(
    video: _Video, path: str | os.PathLike, notes: Notes, progress: _Progress, keys: KeyFrames | None
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yields (seconds after the first frame, frame), deinterlaced."""
    fields = Deinterlacer(notes)
    for packet in video.container.demux(video.stream):
        if packet.is_corrupt:
            raise _damaged(path, progress)
        if keys is not None:
            keys.put_packet(packet)
        for frame in video.decode(packet):
            seconds = progress.count / video.rate if frame.time is None else frame.time
            if not progress.count:
                progress.first = seconds
                _note_lost_alpha(video.stream, frame, notes)
            seconds -= progress.first
            if keys is not None:
                keys.first = progress.first
                keys.put_frame(progress.count, seconds, frame, video.codec)
            progress.put(seconds, frame)
            yield from fields.put(progress.now, frame)
    yield from fields.finish()


def _packets(path: str | os.PathLike) -> np.ndarray | None:
    """As `stamps`, from packets; None where they have no times, as in a raw stream."""
    found, first, all_have_pts = array("q"), None, True
    with _open(path) as video:
        with contextlib.suppress(av.error.FFmpegError):  # `frames` says where a file is damaged
            for packet in video.container.demux(video.stream):
                if first is None:
                    first = next(iter(video.decode(packet)), None)
                if not packet.size or packet.is_discard or not is_shown(packet, video.stream):
                    continue
                all_have_pts = all_have_pts and packet.pts is not None
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is None:
                    return None
                if len(found) == MOST_FRAMES:
                    raise InputError(f"{path} has more than {MOST_FRAMES:,} frames: cut it first.")
                found.append(stamp)
        if first is None:
            return np.zeros(0)
        if first.pts is None:
            return None
        ticks = np.sort(np.array(found))
        if all_have_pts:
            ticks = ticks[ticks >= first.pts]
        return (ticks - ticks[:1]) * float(video.stream.time_base)


def is_shown(packet: Any, stream: Any) -> bool:
    """Whether a packet's frame is shown: not VP8's that only others refer to (RFC 6386, 9.1: tag, bit 4)."""
    return stream.codec_context.name not in ("vp8", "libvpx") or bool(bytes(packet)[0] & 16)


@contextlib.contextmanager
def _open(path: str | os.PathLike) -> Iterator[_Video]:
    """Yields the first real video stream of a file."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", os.fspath(path)):
        raise InputError(f"{path} is a URL: download it first, and give the file.")
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file.")
    if not path.is_file():
        raise InputError(f"{path} is not a file: give a video file.")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty (0 bytes): give a video file.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: permission denied.")
    limits = {"max_pixels": str(MOST_PIXELS)}
    container: Any = None
    # FFmpeg's error is not kept: a header that lies makes it refuse to allocate, which is no lack of memory.
    with contextlib.suppress(av.error.FFmpegError, UnicodeError):
        # A colon in a name is no protocol, and a playlist does not reach into the net.
        options = limits | {"protocol_whitelist": "file"}
        container = av.open(f"file:{path}", options=options, **ANY_METADATA)
    if container is None:
        raise InputError(f"{path} is not a video that FFmpeg can read, or it is truncated.")
    with container:
        stream = _stream(path, container)
        # Of a JPEG that is cut off FFmpeg would show the upper part.
        strict = {"err_detect": "explode"} if container.format.name in ("jpeg_pipe", "image2") else {}
        video = _Video(container, stream, _decoder(stream, limits | strict))
        _check_size(path, stream.codec_context.width, stream.codec_context.height, video.pixel)
        yield video


def _stream(path: Path, container: Any) -> Any:
    cover = av.stream.Disposition.attached_pic  # a music file's cover
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    for stream in streams:
        if stream.codec_context is not None and stream.codec_context.name not in _TEXT_ART:
            return stream
    if any(stream.codec_context is None for stream in streams):
        raise InputError(f"{path}: this FFmpeg cannot decode its video: convert it, to H.264 for example.")
    raise InputError(f"{path} has no video stream: give a video file.")


def _decoder(stream: Any, options: dict[str, str]) -> Callable[[Any], list[av.VideoFrame]]:
    context = stream.codec_context
    library = _WITH_ALPHA.get(context.name)
    context.options = options
    if not _has_alpha(stream) or library not in av.codecs_available:
        context.thread_type = "AUTO"
        return lambda packet: packet.decode()
    context.thread_type = "NONE"
    own, alpha = (_new_decoder(name, options) for name in (library, context.name))
    own.extradata = context.extradata

    def decode(packet: Any) -> list[av.VideoFrame]:
        # FFmpeg's own decoders refuse pictures that are too large; libvpx would allocate them.
        packet.decode()
        if packet.has_sidedata("matroska_block_additional"):
            number_and_data = bytes(packet.get_sidedata("matroska_block_additional"))
            alpha.decode(av.Packet(number_and_data[8:]))
        return own.decode(packet if packet.size else None)

    return decode


def _new_decoder(name: str, options: dict[str, str]) -> Any:
    context: Any = av.CodecContext.create(name, "r")
    context.options, context.thread_type = options, "NONE"
    return context


def _has_alpha(stream: Any) -> bool:
    """Whether a WebM file declares transparency, which it keeps beside the pictures of VP8 and VP9."""
    return stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in _WITH_ALPHA


def _note_lost_alpha(stream: Any, frame: av.VideoFrame, notes: Notes) -> None:
    if _has_alpha(stream) and not any(part.is_alpha for part in frame.format.components):
        notes["its transparency is not read (this FFmpeg has no libvpx)"] = None


def _check_size(path: str | os.PathLike, width: int, height: int, pixel: Fraction) -> None:
    if width * height * max(float(pixel), 1.0) > MOST_PIXELS:
        shape = "" if pixel == 1 else f" with pixels {float(pixel):.3g} times as wide as high"
        raise InputError(
            f"{path}: pictures of {width} x {height}{shape} are too large; {MOST_PIXELS:,} pixels are read."
        )


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _declared_end(stream: Any) -> float | None:
    """Seconds at which the file says that this stream ends, if it does."""
    if stream.duration is not None:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    try:  # Matroska keeps it as a tag "hours:minutes:seconds"
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _damaged(path: str | os.PathLike, progress: _Progress) -> InputError:
    if not progress.count:
        return InputError(
            f"{path} is truncated or damaged, or its pictures have more than {MOST_PIXELS:,} pixels: "
            "not one frame of its video can be decoded."
        )
    return InputError(
        f"{path} is truncated or damaged after {progress.count} frames ({progress.now:.2f} s): "
        "give a whole file, or an end before the damage."
    )


def _picture(path: str | os.PathLike, frame: av.VideoFrame, pixel: Fraction, notes: Notes) -> np.ndarray:
    """uint8 [H, W, 3]; `pixel` is the width of a pixel divided by its height."""
    width = max(1, round(frame.width * pixel))
    _check_size(path, frame.width, frame.height, pixel)
    try:
        if linear.is_linear(frame):
            return linear.picture(frame, exr.to_bt709(path), width, notes)
        return frame_picture(frame, notes, width=width)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except av.error.FFmpegError as error:
        raise InputError(
            f"{path}: its pictures ({frame.format.name}) cannot be converted to RGB: {error.strerror}."
        ) from error
