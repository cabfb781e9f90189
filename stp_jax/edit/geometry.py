"""What the new camera sees of the source's pictures: a warp by their depth, at once and without a model."""

from __future__ import annotations

import numpy as np

from stp_jax.controls.view import View
from stp_jax.edit.clips import Source

_FINER = 2  # points for each pixel and axis, so that few holes open
_SKY = 1e3  # metres: as far away as the sky is put
_UNSEEN = np.array([40, 40, 46], np.uint8)  # what no picture shows
_STEP = 4  # pixels between the points of a cloud


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
    """The source frame nearest in time, from the new camera, uint8 [H, W, 3]; grey where it shows nothing."""
    shown = nearest_frame(view, frame)
    picture = source.clip.frames[shown]
    height, width = picture.shape[:2]
    depth = np.repeat(np.repeat(depth_of(source, shown), _FINER, 0), _FINER, 1)
    to_new = np.linalg.inv(np.asarray(view.c2w[frame], np.float64)) @ source.cameras.c2w[shown]
    points = _rays(source.lenses[shown], height, width, _FINER) * depth[..., None]
    points = points.reshape(-1, 3) @ to_new[:3, :3].T + to_new[:3, 3]
    colours = np.repeat(np.repeat(picture, _FINER, 0), _FINER, 1).reshape(-1, 3)
    ahead = points[:, 2] > 1e-2
    points, colours = points[ahead], colours[ahead]
    fx, fy, cx, cy = view.intrinsics[frame]
    column = np.floor((points[:, 0] / points[:, 2] * fx + cx) * width).astype(int)
    row = np.floor((points[:, 1] / points[:, 2] * fy + cy) * height).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column, colours, z = row[inside], column[inside], colours[inside], points[inside, 2]
    made = np.broadcast_to(_UNSEEN, picture.shape).copy()
    order = np.argsort(-z, kind="stable")  # the nearest are written last
    made[row[order], column[order]] = colours[order]
    return _closed(made, row, column)


def _closed(picture: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Fills single pixels that no point fell on from the pixel beside them."""
    height, width = picture.shape[:2]
    seen = np.zeros((height, width), bool)
    seen[row, column] = True
    for axis, step in ((1, 1), (1, -1), (0, 1), (0, -1)):
        beside, there = np.roll(picture, step, axis), np.roll(seen, step, axis)
        fill = ~seen & there
        picture = np.where(fill[..., None], beside, picture)
        seen |= fill & np.roll(there, step, axis)  # only next to two: holes, not borders
    return picture


def cloud(source: Source, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] of a source frame, relative to the first camera, without sky; colours uint8 [N, 3]."""
    picture = source.clip.frames[frame]
    step = max(1, round(picture.shape[0] / 128 * _STEP / 4))
    depth = depth_of(source, frame)
    c2w = np.asarray(source.cameras.c2w[frame], np.float64)
    points = (_rays(source.lenses[frame], *picture.shape[:2]) * depth[..., None])[::step, ::step]
    points = points.reshape(-1, 3)
    known = depth[::step, ::step].reshape(-1) < _SKY
    return (points @ c2w[:3, :3].T + c2w[:3, 3])[known], picture[::step, ::step].reshape(-1, 3)[known]
