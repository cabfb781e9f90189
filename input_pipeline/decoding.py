"""Encoded videos in memory, and the pictures of them that are asked for.

A picture is the same, bit for bit, however it is reached: `VideoFrames.pictures` begins at the last key frame
before it, leaves out frames that no other one refers to, and stops after the last picture that is wanted.
Where a file does not allow that, it is decoded from its beginning.
"""

from __future__ import annotations

import bisect
import contextlib
import io
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import av
import numpy as np

from input_pipeline import fitting
from stp_jax.errors import InputError
from stp_jax.media.decode import ANY_METADATA, MOST_PIXELS, is_shown
from stp_jax.media.key_frames import packets_from
from stp_jax.media.orientation import frame_picture, seen_size

T = TypeVar("T")
Size = tuple[int, int]  # height, width
_Frames = Generator[tuple[int, av.VideoFrame], None, None]


@contextlib.contextmanager
def opened(data: bytes, *, probe: bool = True) -> Iterator[tuple[Any, Any]]:
    """Yields container and first video stream of an encoded video, decoded by this thread alone.

    Args:
      probe: whether FFmpeg decodes some frames to learn in which order they will come, which takes as long
        as 10 frames or so. Otherwise frames may come in another order, and some not at all.

    Raises:
      av.FFmpegError: FFmpeg cannot read it, or its pictures would be larger than MOST_PIXELS.
      IndexError: it has no video that FFmpeg can decode.
    """
    limits = {"max_pixels": str(MOST_PIXELS)}
    # It holds for probing alone: decoders of streams have a list of their own.
    options = limits if probe else limits | {"codec_whitelist": "none"}
    # FFmpeg asks all of its readers otherwise, which takes as long as opening does.
    known = "mp4" if data[4:8] == b"ftyp" else None
    with av.open(io.BytesIO(data), "r", format=known, options=options, **ANY_METADATA) as container:
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise IndexError("no video that this FFmpeg can decode")
        stream.codec_context.options = limits
        stream.thread_type = "NONE"  # others work on other videos
        yield container, stream


def ffmpeg(where: str | Path, work: Callable[[], T]) -> T:
    """The result of `work`, which uses `opened`.

    Raises:
      InputError: `work` did, or FFmpeg failed; the message begins with `where`. FFmpeg's error is not kept: a
        header that lies makes it refuse to allocate, which is no lack of memory.
    """
    try:
        return work()
    except InputError as error:
        reason = str(error)
    except av.FFmpegError as error:
        reason = f"not a readable video ({error.strerror})"
    except IndexError:
        reason = "holds no video"
    raise InputError(f"{where}: {reason}")


def decode_video(data: bytes, where: str, size: Size | None = None) -> np.ndarray:
    """Decodes an encoded video to uint8 RGB [T, H, W, 3], as it is seen; `where` names it in the error.

    With a `size` (height, width) its pictures are brought to that, see `fitting.fit_frames`.
    """
    return decode_with_size(data, where, size)[0]


def decode_with_size(data: bytes, where: str, size: Size | None) -> tuple[np.ndarray, Size]:
    """A decoded video, and the height and width that it had in its file."""

    def work() -> tuple[np.ndarray, Size]:
        with opened(data) as (container, stream):
            return fitting.fit_frames(container.decode(stream), size)

    return ffmpeg(where, work)


def picture_size(data: bytes, where: str) -> Size:
    """Height and width of an encoded video, as it is seen."""

    def first(probe: bool) -> Size | None:
        with opened(data, probe=probe) as (container, stream):
            for frame in container.decode(stream):
                picture = frame_picture(frame)
                return picture.shape[0], picture.shape[1]
        return None

    def either() -> Size:
        with contextlib.suppress(av.FFmpegError, IndexError):
            if size := first(probe=False):
                return size
        if size := first(probe=True):
            return size
        raise InputError("the video has no frames")

    return ffmpeg(where, either)


class _Index(NamedTuple):
    """Where the frames of a video are.

    Attributes:
      stamps: of all frames in the order in which they are shown.
      starts: the numbers of those at which decoding may begin.
    """

    stamps: list[int]
    starts: list[int]


class VideoFrames:
    """The frames of one encoded video.

    Args:
      data: the file.
      where: names it in errors.
      frames: how many it must have.
      source_size: height and width that its pictures must have.
      size: to which they are brought, see `fitting.fit_frames`.
    """

    def __init__(self, data: bytes, where: str, frames: int, source_size: Size, size: Size | None):
        self._data, self._where, self._frames = data, where, frames
        self.source_size, self.size = source_size, size or source_size
        self._found: _Index | None = None
        self._looked = False

    def pictures(self, wanted: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, uint8 [H, W, 3]) of each of the frames `wanted`, in some order.

        Raises:
          InputError: the video cannot be decoded, or has another number or size of frames.
        """
        for number, frame in self.decoded(wanted):
            yield number, self.picture(frame)

    def decoded(self, wanted: Iterable[int]) -> _Frames:
        """As `pictures`, before the conversion by `picture`."""
        return self._steps(lambda: set(wanted))

    def part(self, number: int) -> _Frames:
        """Frame `number` and all others from the key frame before it to the next, in order, as `decoded`.

        They are decoded one by one as they are asked for; until then the decoder stays where it is.
        """
        return self._steps(lambda: set(self.around(number)))

    @property
    def indexed(self) -> bool:
        """Whether it is known where its frames are, and that they are as many as they must be."""
        return self._found is not None

    def around(self, number: int) -> range:
        """The numbers of the frames of `part`. They are not known before a frame has been decoded."""
        starts = self._found.starts if self._found else [0]
        place = bisect.bisect_right(starts, number)
        return range(starts[place - 1], [*starts, self._frames][place])

    def _steps(self, choose: Callable[[], set[int]]) -> _Frames:
        steps = self._decoded(choose)
        while (step := ffmpeg(self._where, lambda: next(steps, None))) is not None:
            yield step

    def picture(self, frame: av.VideoFrame) -> np.ndarray:
        """The picture of a frame of `decoded`, uint8 [H, W, 3].

        Raises:
          InputError: its colours cannot be read, or it has another size than the scene's first.
        """
        return ffmpeg(self._where, lambda: self._fitted(frame))

    def _look(self, container, stream) -> list[av.Packet]:
        """Finds the index, or none, where packets are not what the frames will be; returns the packets."""
        packets = list(container.demux(stream))
        shown = [p for p in packets if p.size and not p.is_discard and is_shown(p, stream)]
        stamps = [packet.pts for packet in shown]
        if None not in stamps and len(set(stamps)) == len(stamps) == self._frames:
            stamps.sort()
            starts = sorted(bisect.bisect_left(stamps, packet.pts) for packet in shown if packet.is_keyframe)
            self._found = _Index(stamps, starts) if starts[:1] == [0] else None
        self._looked = True
        return packets

    def _decoded(self, choose: Callable[[], set[int]]) -> _Frames:
        """The frames that `choose` names, once it is known where key frames are."""
        wanted: set[int] | None = None
        # What is broken is found once more from the beginning, and is an error there.
        with (
            contextlib.suppress(av.FFmpegError, IndexError),
            opened(self._data, probe=False) as (container, stream),
        ):
            packets = None if self._looked else self._look(container, stream)
            wanted = choose()
            for number, frame in self._from_keys(container, stream, packets, wanted):
                wanted.discard(number)
                yield number, frame
        wanted = choose() if wanted is None else wanted
        if wanted:
            yield from self._from_beginning(wanted)

    def _from_keys(self, container, stream, packets: list[av.Packet] | None, wanted: set[int]) -> _Frames:
        """As `decoded`; fewer where a frame is none at which decoding may begin, after all.

        `packets` are all of the video, if they have been read.
        """
        starts = self._found.starts if self._found else []
        for first, end in zip(starts, [*starts[1:], self._frames], strict=False):
            part = {number for number in wanted if first <= number < end}
            if part:
                ahead = self._packets(container, stream, packets, first)
                yield from self._from_key(ahead, stream, first, part)
            if wanted & part:
                return

    def _packets(self, container, stream, packets: list[av.Packet] | None, first: int) -> Iterable[av.Packet]:
        """Those of key frame `first` and after it; the decoder expects no others any more."""
        assert self._found is not None
        stamp = self._found.stamps[first]
        if packets is None:
            container.seek(stamp, stream=stream, backward=True)
            return packets_from(container.demux(stream), stamp)
        stream.codec_context.flush_buffers()
        return packets_from(packets, stamp)

    def _from_key(self, packets: Iterable[av.Packet], stream, first: int, wanted: set[int]) -> _Frames:
        """As `decoded`, of frames between a key frame and the next; fewer where that does not work out."""
        assert self._found is not None
        stamps, left = self._found.stamps, set(wanted)
        numbers: dict[int | None, int] = {stamps[number]: number for number in wanted}
        context, needed = stream.codec_context, None
        for packet in packets:
            if needed is not (packet.pts in numbers):
                needed = packet.pts in numbers
                # Others may not refer to it, so that leaving it out changes no other one.
                context.skip_frame = "DEFAULT" if needed else "NONREF"
            for frame in packet.decode():
                number = numbers.get(frame.pts)
                if number in left and not frame.is_corrupt:
                    left.discard(number)
                    yield number, frame
            if not left:
                return

    def _from_beginning(self, wanted: set[int]) -> _Frames:
        count = 0
        with opened(self._data) as (container, stream):
            for frame in container.decode(stream):
                if count in wanted:
                    yield count, frame
                count += 1
        if count != self._frames:
            raise InputError(f"{count} frames instead of {self._frames}; build the data set again")

    def _fitted(self, frame: av.VideoFrame) -> np.ndarray:
        if seen_size(frame) != self.source_size:
            (height, width), (h, w) = seen_size(frame), self.source_size
            raise InputError(f"a picture of {width} x {height}, where the scene's first is of {w} x {h}")
        return fitting.fit_frame(frame, self.size)
