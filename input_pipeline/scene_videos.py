"""The videos of a scene, of which only those pictures are decoded that are asked for."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import av
import numpy as np

from input_pipeline.decoding import Size, VideoFrames, picture_size


class SceneVideos:
    """Stands for an array uint8 [C, T, H, W, 3], as far as clips are cut from it.

    `videos[cameras, times]`, with two arrays int [F], gives new pictures [F, H, W, 3]; `videos[:, a:b]` gives
    a view of some times. With `keep` frames are decoded once, from a key frame to the next, and are kept.
    Otherwise those asked for are decoded each time; only where the pictures given last are still in use, as
    a source while its target is cut, they are taken from these.

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
        return self._store.pictures(cameras, times + self._first)

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
        self._videos = videos
        self._locks = [threading.Lock() for _ in videos]
        # By camera and time: pictures, or frames that are converted when needed.
        self._parts: list[dict[int, np.ndarray | av.VideoFrame]] = [{} for _ in videos]
        self._given: tuple[dict[tuple[int, int], int], weakref.ref[np.ndarray]] | None = None

    def pictures(self, cameras: np.ndarray, times: np.ndarray) -> np.ndarray:
        made = np.empty((len(times), *self.shape[2:]), np.uint8)
        rows: dict[tuple[int, int], list[int]] = {}
        for row, cell in enumerate(zip(cameras.tolist(), times.tolist(), strict=True)):
            rows.setdefault(cell, []).append(row)
        if self.keep:
            for camera in sorted({camera for camera, _ in rows}):
                self._from_parts(camera, made, rows)
            return made
        left = self._from_last(made, rows)
        for camera in sorted({camera for camera, _ in left}):
            for time, picture in self._videos[camera].pictures([t for c, t in left if c == camera]):
                for row in rows[camera, time]:
                    made[row] = picture
        self._given = ({cell: places[0] for cell, places in rows.items()}, weakref.ref(made))
        return made

    def _from_last(self, made: np.ndarray, rows: dict[tuple[int, int], list[int]]) -> list[tuple[int, int]]:
        """Fills in what the pictures given last have, and returns the cells that they lack."""
        places, reference = self._given or ({}, lambda: None)
        last = reference()
        if last is None:
            return list(rows)
        for cell in rows.keys() & places.keys():
            made[rows[cell]] = last[places[cell]]
        return [cell for cell in rows if cell not in places]

    def _from_parts(self, camera: int, made: np.ndarray, rows: dict[tuple[int, int], list[int]]) -> None:
        video, parts = self._videos[camera], self._parts[camera]
        late = video.size == video.source_size  # then frames in YUV of 8 bits take no more memory
        with self._locks[camera]:
            for (where, time), places in rows.items():
                if where != camera:
                    continue
                if time not in parts:
                    part = video.part(time)
                    parts |= part if late else {t: video.picture(frame) for t, frame in part.items()}
                picture = parts[time]
                if isinstance(picture, av.VideoFrame):
                    picture = parts[time] = video.picture(picture)
                made[places] = picture
