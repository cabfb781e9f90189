"""Deinterlaces frames that are marked as interlaced, one picture for each frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction

import av

from stp_jax.media.colour import Notes

_RATE = Fraction(1, 25)  # time stamps inside the filter: it only needs them to ascend


class Deinterlacer:
    """Passes frames through, from the first interlaced one on by FFmpeg's filter bwdif.

    It gives frames out late, and as many as it gets; progressive ones are not changed.
    """

    def __init__(self, notes: Notes):
        self._notes = notes
        self._times: deque[float] = deque()
        self._shape: tuple | None = None
        self._graph: av.filter.Graph | None = None
        self._count = 0

    def put(self, seconds: float, frame: av.VideoFrame) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yields (seconds, frame) of the frames that are ready."""
        shape = (frame.width, frame.height, frame.format.name)
        if self._graph is not None and shape != self._shape:
            yield from self.finish()
        if self._graph is None:
            if not frame.interlaced_frame:
                yield seconds, frame
                return
            self._graph, self._shape = _graph(frame), shape
            self._notes["interlaced: deinterlaced (bwdif)"] = None
        frame.pts, frame.time_base = self._count, _RATE
        self._count += 1
        self._times.append(seconds)
        self._graph.vpush(frame)
        yield from self._ready()

    def finish(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yields what is left."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready()
        self._graph = None
        self._times.clear()

    def _ready(self) -> Iterator[tuple[float, av.VideoFrame]]:
        assert self._graph is not None
        while self._times:
            try:
                frame = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield self._times.popleft(), frame


def _graph(frame: av.VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_RATE)
    nodes = [source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    return graph
