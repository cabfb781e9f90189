"""What the new camera sees of the source's pictures: a warp by their depth, at once and without a model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stp_jax.controls.view import View
from stp_jax.edit.clips import Source

_FINER = 2  # points for each pixel and axis, so that few holes open
_SKY = 1e3  # metres: as far away as the sky is put
_TOO_NEAR = 1e-2  # metres: what is nearer to the camera is left out
UNSEEN = np.array([40, 40, 46], np.uint8)  # what no picture shows
_MOST_KEPT = 40  # source frames as points, 1 MB each
_MOST_PIXELS = 40_000  # of a warped picture, and points of a cloud


def _rays(lens: np.ndarray, height: int, width: int, finer: int = 1) -> np.ndarray:
    """Directions [rows, columns, 3] through a picture, with z = 1, in the camera's frame."""
    x = ((np.arange(width * finer) + 0.5) / (width * finer) - lens[2]) / lens[0]
    y = ((np.arange(height * finer) + 0.5) / (height * finer) - lens[3]) / lens[1]
    return np.stack(np.broadcast_arrays(x[None], y[:, None], 1.0), axis=-1)


def nearest_frame(view: View, frame: int) -> int:
    """The source frame that is nearest to what a frame of the new video shows."""
    return round(float(view.animation_time[frame]))


def depth_of(source: Source, frame: int) -> np.ndarray:
    """Metres [H, W] of a source frame; unknown, a wall through the pivot that faces the first camera."""
    if source.depth is not None:
        return np.minimum(source.depth[frame], _SKY)
    height, width = source.clip.frames.shape[1:3]
    c2w = np.asarray(source.cameras.c2w[frame], np.float64)
    rays = _rays(source.lenses[frame], height, width) @ c2w[:3, :3].T
    away = (source.distance - c2w[2, 3]) / np.where(np.abs(rays[..., 2]) < 1e-3, 1e-3, rays[..., 2])
    return np.where((away > 0) & (away < _SKY), away, _SKY)


class _Points(NamedTuple):
    """A source frame as points, in the frame of the first camera."""

    places: np.ndarray  # float32 [3, N]
    colours: np.ndarray  # uint8 [N, 3]
    size: tuple[int, int]  # of a warped picture


class Warp:
    """Source frames nearest in time, seen from a new camera. Their points are kept between calls.

    Large pictures are made smaller by a whole number, so that an edit is answered at once.
    """

    def __init__(self, source: Source):
        self.source = source
        self._points: dict[int, _Points] = {}

    def _of(self, shown: int) -> _Points:
        if shown not in self._points:
            source = self.source
            step = _coarser(source.clip.frames.shape[1:3])
            picture = source.clip.frames[shown][step // 2 :: step, step // 2 :: step]
            depth = depth_of(source, shown)[step // 2 :: step, step // 2 :: step]
            height, width = picture.shape[:2]
            depth, colours = (np.repeat(np.repeat(one, _FINER, 0), _FINER, 1) for one in (depth, picture))
            rays = _rays(source.lenses[shown], height, width, _FINER).astype(np.float32)
            points = (rays * depth[..., None].astype(np.float32)).reshape(-1, 3)
            if len(self._points) >= _MOST_KEPT:
                self._points.pop(next(iter(self._points)))
            places = _moved(np.ascontiguousarray(points.T), source.cameras.c2w[shown])
            made = _Points(places, colours.reshape(-1, 3), (height, width))
            self._points[shown] = made
        return self._points[shown]

    def __call__(self, view: View, frame: int) -> np.ndarray:
        """What a frame of the new video sees: uint8 [h, w, 3], grey where the source shows nothing."""
        points, colours, (height, width) = self._of(nearest_frame(view, frame))
        x, y, z = _moved(points, np.linalg.inv(np.asarray(view.c2w[frame], np.float64)))
        fx, fy, cx, cy = np.asarray(view.intrinsics[frame], np.float32)
        with np.errstate(all="ignore"):  # what is behind the camera is left out next
            column = (x / z * fx + cx) * width
            row = (y / z * fy + cy) * height
        inside = (z > _TOO_NEAR) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        inside = np.flatnonzero(inside)
        place = row[inside].astype(np.int32) * width + column[inside].astype(np.int32)
        order = np.argsort(_steps_of(z[inside]), kind="stable")[::-1]  # the nearest are written last
        nearest = np.full(height * width, -1, np.int64)
        nearest[place[order]] = inside[order]
        seen = nearest >= 0
        made = np.where(seen[:, None], colours[nearest], UNSEEN).reshape(height, width, 3)
        seen = seen.reshape(height, width)
        return _closed(_closed(made, seen), seen)


def _moved(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points float32 [3, N] by a pose [4, 4].

    A product of matrices would use threads, which wait for the processors that sample.
    """
    rows = np.asarray(pose, np.float32)[:3]
    return np.stack([a * points[0] + b * points[1] + c * points[2] + d for a, b, c, d in rows])


def _steps_of(depth: np.ndarray) -> np.ndarray:
    """Depths of `_TOO_NEAR` and more as whole numbers in the same order, 2048 for each doubling.

    16 bits are sorted many times as quickly as floats. The bits of a float are in the order of its values.
    """
    first = int(np.float32(_TOO_NEAR).view(np.int32))
    return np.minimum((depth.astype(np.float32).view(np.int32) - first) >> 12, 65535).astype(np.uint16)


def _coarser(size: tuple[int, ...]) -> int:
    return max(1, int(np.ceil(np.sqrt(size[0] * size[1] / _MOST_PIXELS))))


def _closed(picture: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Fills pixels that nothing fell on, from one beside them, where most around them are seen.

    These are holes of a surface that came nearer; `seen` [H, W] is brought up to date.
    """
    height, width = seen.shape
    there = np.pad(seen, 1)
    around = [(0, 1), (2, 1), (1, 0), (1, 2), (0, 0), (0, 2), (2, 0), (2, 2)]
    count = sum(there[y : y + height, x : x + width].astype(int) for y, x in around)
    fill = ~seen & (count >= 5)
    wide = np.pad(picture, ((1, 1), (1, 1), (0, 0)))
    made = picture.copy()
    left = fill.copy()
    for y, x in around:
        now = left & there[y : y + height, x : x + width]
        made[now] = wide[y : y + height, x : x + width][now]
        left &= ~now
    seen |= fill
    return made


def cloud(source: Source, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] of a source frame, relative to the first camera, without sky; colours uint8 [N, 3]."""
    picture = source.clip.frames[frame]
    step = _coarser(picture.shape)
    depth = depth_of(source, frame)
    c2w = np.asarray(source.cameras.c2w[frame], np.float64)
    points = (_rays(source.lenses[frame], *picture.shape[:2]) * depth[..., None])[::step, ::step]
    points = points.reshape(-1, 3)
    known = depth[::step, ::step].reshape(-1) < _SKY
    return (points @ c2w[:3, :3].T + c2w[:3, 3])[known], picture[::step, ::step].reshape(-1, 3)[known]
