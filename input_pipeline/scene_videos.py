"""The videos of a scene, of which only those pictures are decoded that are asked for."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import av
import numpy as np

from input_pipeline.decoding import Size, VideoFrames, picture_size

_OPEN = 8  # decoders of a video that stay open at most, each in its part
# Frames at the end of a part for which no decoder is kept open: many open decoders, each in a short part,
# take longer than decoding these (grids of 17 cameras x 33 times, 35 %).
_FEW = 40


class SceneVideos:
    """Stands for an array uint8 [C, T, H, W, 3], as far as clips are cut from it.

    `videos[cameras, times]`, with two arrays int [F], gives new pictures [F, H, W, 3]; `videos[:, a:b]` gives
    a view of some times. `pictures` decodes several clips together, which costs less: a video is opened once
    and decoded as far as any of them needs it. With `keep` frames are kept and decoded once, from a key
    frame on as far as they are needed; otherwise those asked for are decoded each time.

    Args:
      encoded: C encoded videos.
      name: of the scene, for errors.
      times: T.
      size: height and width to bring pictures to; None: they are left as they are.

    Raises:
      InputError: the first video cannot be decoded; on access, another one.
    """

    def __init__(self, encoded: Sequence[bytes], name: str, times: int, size: Size | None):
        self.source_size = picture_size(encoded[0], f"scene {name}, camera 0")
        videos = [
            VideoFrames(data, f"scene {name}, camera {camera}", times, self.source_size, size)
            for camera, data in enumerate(encoded)
        ]
        self.shape = (len(videos), times, *videos[0].size, 3)
        self._store = _Store(videos, self.shape)
        self._first = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all pictures, decoded."""
        return int(np.prod(self._store.shape))

    @property
    def keeps(self) -> bool:
        """Whether what is decoded is kept."""
        return self._store.keep

    def keep(self) -> None:
        """Keeps what is decoded from now on."""
        self._store.keep = True

    def __getitem__(self, key: tuple[Any, Any]) -> np.ndarray | SceneVideos:
        cameras, times = key
        if isinstance(times, slice):
            return self._view(cameras, times)
        return self.pictures([np.stack([cameras, times], -1)])[0]

    def cells(self) -> np.ndarray:
        """(camera, time) in the place of each picture, int [C, T, 2]: cut into clips, for `pictures`."""
        return np.moveaxis(np.indices(self.shape[:2]), 0, -1)

    def pictures(self, cells: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The pictures uint8 [..., H, W, 3] of clips of `cells`, int [..., 2] each."""
        return self._store.pictures([one + (0, self._first) for one in cells])

    def _view(self, cameras: slice, times: slice) -> SceneVideos:
        first, end, step = times.indices(self.shape[1])
        if cameras != slice(None) or step != 1:
            raise TypeError("a view is of all cameras and of successive times")
        view = SceneVideos.__new__(SceneVideos)
        view.source_size, view._store, view._first = self.source_size, self._store, self._first + first
        view.shape = (self.shape[0], end - first, *self.shape[2:])
        return view


class _Store:
    """The videos, and what of them has been decoded."""

    def __init__(self, videos: list[VideoFrames], shape: tuple[int, ...]):
        self.shape, self.keep = shape, False
        self._videos, self._picture_bytes = videos, int(np.prod(shape[2:]))
        self._locks = [threading.Lock() for _ in videos]
        # By camera and time: pictures, or frames that are converted when needed.
        self._parts: list[dict[int, np.ndarray | av.VideoFrame]] = [{} for _ in videos]
        # By camera and the first frame of a part, from a key frame to the next: its decoder, if it goes on.
        self._decoders: list[dict[int, Generator[tuple[int, av.VideoFrame], None, None]]] = [
            {} for _ in videos
        ]

    def pictures(self, cells: Sequence[np.ndarray]) -> list[np.ndarray]:
        made = [np.empty((*one.shape[:-1], *self.shape[2:]), np.uint8) for one in cells]
        # By camera and time: where its pictures go.
        places: dict[int, dict[int, list[np.ndarray]]] = {}
        for pictures, one in zip(made, cells, strict=True):
            flat = pictures.reshape(-1, *self.shape[2:])
            for place, (camera, time) in zip(flat, one.reshape(-1, 2).tolist(), strict=True):
                places.setdefault(camera, {}).setdefault(time, []).append(place)
        for camera, wanted in sorted(places.items()):
            found = self._kept(camera, wanted) if self.keep else self._videos[camera].pictures(wanted)
            for time, picture in found:
                for place in wanted[time]:
                    place[:] = picture
        return made

    def _kept(self, camera: int, wanted: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        video, parts = self._videos[camera], self._parts[camera]
        with self._locks[camera]:
            for time in sorted(wanted):
                if time not in parts:
                    self._decode(camera, time)
                picture = parts[time]
                if isinstance(picture, av.VideoFrame):
                    picture = parts[time] = video.picture(picture)
                yield time, picture

    def _decode(self, camera: int, time: int) -> None:
        """Decodes on to `time` from where the decoder of that part of the video stands."""
        video, parts, decoders = self._videos[camera], self._parts[camera], self._decoders[camera]
        decoder = decoders.pop(video.around(time).start, None) or video.part(time)
        while time not in parts:
            self._take(camera, *next(decoder))
        part = video.around(time)
        decoders[part.start] = decoder
        if not video.indexed or sum(number not in parts for number in part) <= _FEW:
            self._finish(camera, part.start)
        elif len(decoders) > _OPEN:
            self._finish(camera, next(iter(decoders)))

    def _finish(self, camera: int, start: int) -> None:
        """Decodes the rest of a part, so that its decoder is not needed any more."""
        for number, frame in self._decoders[camera].pop(start):
            self._take(camera, number, frame)

    def _take(self, camera: int, number: int, frame: av.VideoFrame) -> None:
        # It may never be asked for: a frame in YUV waits for that where it takes no more memory.
        small = sum(plane.buffer_size for plane in frame.planes) <= self._picture_bytes
        self._parts[camera][number] = frame if small else self._videos[camera].picture(frame)
