"""What the new camera sees of the source's pictures: a warp by their depth, at once and without a model."""

from __future__ import annotations

import numpy as np

from stp_jax.controls.view import View
from stp_jax.edit.clips import Source

_FINER = 2  # points for each pixel and axis, so that few holes open
_SKY = 1e3  # metres: as far away as the sky is put
UNSEEN = np.array([40, 40, 46], np.uint8)  # what no picture shows
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


def warped(source: Source, view: View, frame: int) -> np.ndarray:
    """The source frame nearest in time, from the new camera, uint8 [h, w, 3]; grey where it shows nothing.

    Large pictures are made smaller by a whole number, so that an edit is answered at once.
    """
    shown = nearest_frame(view, frame)
    step = _coarser(source.clip.frames.shape[1:3])
    picture = source.clip.frames[shown][step // 2 :: step, step // 2 :: step]
    depth = depth_of(source, shown)[step // 2 :: step, step // 2 :: step]
    height, width = picture.shape[:2]
    depth, colours = (np.repeat(np.repeat(one, _FINER, 0), _FINER, 1) for one in (depth, picture))
    to_new = np.linalg.inv(np.asarray(view.c2w[frame], np.float64)) @ source.cameras.c2w[shown]
    points = _rays(source.lenses[shown], height, width, _FINER) * depth[..., None]
    points = points.reshape(-1, 3) @ to_new[:3, :3].T + to_new[:3, 3]
    ahead = points[:, 2] > 1e-2
    points, colours = points[ahead], colours.reshape(-1, 3)[ahead]
    fx, fy, cx, cy = view.intrinsics[frame]
    column = np.floor((points[:, 0] / points[:, 2] * fx + cx) * width).astype(int)
    row = np.floor((points[:, 1] / points[:, 2] * fy + cy) * height).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column, colours, z = row[inside], column[inside], colours[inside], points[inside, 2]
    made = np.broadcast_to(UNSEEN, picture.shape).copy()
    seen = np.zeros((height, width), bool)
    order = np.argsort(-z, kind="stable")  # the nearest are written last
    made[row[order], column[order]] = colours[order]
    seen[row, column] = True
    return _closed(_closed(made, seen), seen)


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
