"""Where the decoding of a video file may begin, other than at its beginning."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import av
from av.video.frame import PictureType

# Codecs of which nothing after a key frame refers to what is before it, but for leading frames: B-frames that
# are shown before the key frame and come after it in the file.
_CODECS = {"ffv1", "h264", "hevc", "libdav1d", "mjpeg", "mpeg2video", "mpeg4", "prores", "vp8", "vp9"}


class KeyFrame(NamedTuple):
    """A frame at which decoding may begin."""

    number: int  # of all frames, from 0
    stamp: int  # of presentation
    decoding_stamp: int  # of its packet


class KeyFrames:
    """The frames of a file, learned while it is decoded from its beginning, and which are key frames.

    Both the packet and the decoded frame must say so: tables of containers are wrong at times, and with
    intra refresh the picture is whole only some frames after the place where decoding may begin. Nothing is
    found in interlaced videos, whose pictures depend on their neighbours, nor where frames lack time stamps.
    """

    def __init__(self) -> None:
        self.first = 0.0  # seconds of the first frame in the file
        self._stamps, self._seconds = array("q"), array("d")
        self._found: list[KeyFrame] = []
        self._decoding_stamps: dict[int, int] = {}  # of key frames, by their stamps
        self._usable = True

    @property
    def count(self) -> int:
        """The frames that are known."""
        return len(self._stamps)

    def before(self, seconds: float) -> KeyFrame | None:
        """The last key frame until `seconds` after the first frame; None: begin at the beginning."""
        shown = bisect.bisect_right(self._seconds, seconds + 1e-6) - 1
        place = bisect.bisect_right(self._found, shown, key=lambda key: key.number)
        key = self._found[place - 1] if place and self._usable else None
        return key if key and key.number else None

    def put_packet(self, packet: av.Packet) -> None:
        """Call it before the packet is decoded."""
        if packet.is_keyframe and packet.pts is not None and packet.dts is not None:
            self._decoding_stamps[packet.pts] = packet.dts

    def put_frame(self, number: int, seconds: float, frame: av.VideoFrame, codec: str) -> bool:
        """Whether a frame is the one that has this number, as far as that is known; a new one is added.

        Args:
          seconds: after the first frame.
          codec: the decoder's name.
        """
        if frame.pts is None or frame.is_corrupt or frame.interlaced_frame or codec not in _CODECS:
            self.give_up()
        elif number < self.count:
            self._usable = self._usable and self._stamps[number] == frame.pts
        elif number > self.count or (number and frame.pts <= self._stamps[-1]):
            self.give_up()
        else:
            self._stamps.append(frame.pts)
            self._seconds.append(seconds)
            decoding_stamp = self._decoding_stamps.pop(frame.pts, None)
            if decoding_stamp is not None and frame.key_frame and frame.pict_type == PictureType.I:
                self._found.append(KeyFrame(number, frame.pts, decoding_stamp))
        return self._usable

    def give_up(self) -> None:
        """The file is always decoded from its beginning."""
        self._usable = False


def packets_from(packets: Iterable[Any], stamp: int) -> Iterator[Any]:
    """The packet of the key frame with this stamp, and those after it; none where it is not among them."""
    coming = iter(packets)
    for packet in coming:
        if packet.is_keyframe and packet.pts == stamp:
            yield packet
            yield from coming
            return
        past = packet.dts is not None and packet.dts > stamp
        if past or packet.has_sidedata("new_extradata"):  # which the decoder would need
            return
