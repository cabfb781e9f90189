"""The figures of scenes by their cameras alone, and which scenes stand out by them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.ndimage import median_filter

from input_pipeline.inspect.scenes import LATENTS, Known

Row = dict[str, Any]  # the figures of a scene, by the names of the columns of scenes.csv

_JUMP = 10.0  # times the median of the steps around it
_SMALL = 5e-3  # of the extent of all cameras: steps below are none
_TURN = 30.0  # degrees between two frames
_FIELD = (15.0, 120.0)  # degrees: fields of view outside are rare
_OFF_MIDDLE = 0.1  # of the picture: principal points farther from its middle are rare
_SQUARE = 0.02  # by which pixels may differ from squares
_APART = 90.0  # degrees between the directions of cameras that are to film one thing
_TOGETHER = 10.0  # the same: cameras that look in one direction, whose axes meet nowhere
_ROLL = 45.0  # degrees from the mean up
_UNUSUAL = 5.0  # times the median of all scenes
_WIDER = 1.6  # the same for fields of view


def of_scene(scene: Known) -> Row:
    """The figures of a scene; lengths are in metres or the scene's own unit, angles in degrees."""
    positions, paths = scene.c2w[..., :3, 3], _paths(scene)
    steps = np.linalg.norm(np.diff(paths[..., :3, 3], axis=1), axis=-1)
    turns = _angles(paths[:, 1:, :3, :3], paths[:, :-1, :3, :3])
    extent = float(np.linalg.norm(np.ptp(positions.reshape(-1, 3), axis=0)))
    fields = np.degrees(2 * np.arctan(0.5 / scene.intrinsics[..., :2]))
    point, spread, in_front = look_at(scene.c2w.reshape(-1, 4, 4))
    fastest = float(steps.max(initial=0))
    widths = sorted({f"{width} x {height}" for height, width in scene.sizes})
    return {
        "number": scene.number,
        "scene": scene.name,
        "kind": scene.kind,
        "unit": scene.unit,
        "cameras": scene.cameras,
        "frames": scene.frames,
        "fps": scene.fps,
        "seconds": scene.frames / scene.fps,
        "size": ", ".join(widths),
        "bytes": scene.size,
        "captions": len(scene.captions),
        "extent": extent,
        "step_median": float(np.median(steps)) if steps.size else 0.0,
        "step_max": fastest,
        "step_max_extents": fastest / extent if extent else 0.0,
        "jump": _jump(steps, extent)[0],
        "turn_max": float(turns.max(initial=0)),
        "fov_x_min": float(fields[..., 0].min()),
        "fov_x_max": float(fields[..., 0].max()),
        "fov_y_min": float(fields[..., 1].min()),
        "fov_y_max": float(fields[..., 1].max()),
        "principal_point_off": float(np.abs(scene.intrinsics[..., 2:] - 0.5).max()),
        "directions_apart": _apart(scene),
        "look_at_x": float(point[0]),
        "look_at_y": float(point[1]),
        "look_at_z": float(point[2]),
        "look_at_spread": spread,
        "look_at_in_front": in_front,
        "roll_max": _roll(scene.c2w),
        "animation_time_first": float(scene.animation_time.min()),
        "animation_time_last": float(scene.animation_time.max()),
    }


def _paths(scene: Known) -> np.ndarray:
    """The paths [N, F, 4, 4] that cameras run along; of a grid, whose cameras stand still, from one to the
    next."""
    return scene.c2w[None, :, 0] if scene.kind == "grid" else scene.c2w


def _angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees between rotations [..., 3, 3]."""
    cosine = ((first * second).sum((-1, -2)) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _jump(steps: np.ndarray, extent: float) -> tuple[float, int, int]:
    """The largest step [N, F - 1] beside its neighbours', which path, and the frame that it leads to.

    A step is divided by the median of nine around it, and at least by a small part of the extent, so that a
    path may stand still and move off.
    """
    if steps.shape[1] < 3 or not extent:
        return 0.0, 0, 0
    usual: np.ndarray = np.maximum(median_filter(steps, size=(1, 9), mode="nearest"), _SMALL * extent)
    ratio = steps / usual
    path, step = np.unravel_index(ratio.argmax(), ratio.shape)
    return float(ratio[path, step]), int(path), int(step) + 1


def look_at(c2w: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The point that cameras [N, 4, 4] look at most.

    Returns:
      The point [3] with the least squared distance from all optical axes; the root of the mean squared angle
      between the axes and the direction to it, in degrees; the share of cameras that have it in front.
    """
    position, forward = c2w[:, :3, 3], c2w[:, :3, 2]
    across = np.eye(3) - forward[:, :, None] * forward[:, None]
    matrix = across.sum(0) + 1e-9 * len(c2w) * np.eye(3)
    origin = position.mean(0)
    point = origin + np.linalg.solve(matrix, (across @ (position - origin)[..., None]).sum(0)[:, 0])
    offset = point - position
    distance = np.maximum(np.linalg.norm(offset, axis=1), 1e-12)
    cosine = np.clip((offset * forward).sum(1) / distance, -1, 1)
    angle = np.degrees(np.arccos(cosine))
    return point, float(np.sqrt((angle**2).mean())), float((cosine > 0).mean())


def _apart(scene: Known) -> float:
    """The largest angle in degrees between the directions of two cameras at one moment; of a static world at
    any."""
    if scene.kind == LATENTS:
        return float("nan")  # clips of one scene are not of one moment
    moments = scene.c2w.reshape(-1, 1, 4, 4) if scene.kind == "static" else scene.c2w[:, [0, -1]]
    forward = moments[..., :3, 2].swapaxes(0, 1)
    return float(np.degrees(np.arccos(np.clip(forward @ forward.swapaxes(1, 2), -1, 1))).max())


def _roll(c2w: np.ndarray) -> float:
    """The largest angle in degrees of a camera's up from the mean of all, about its own direction."""
    frames = c2w.reshape(-1, 4, 4)
    up, forward = -frames[:, :3, 1], frames[:, :3, 2]
    mean = up.mean(0)
    across = mean - (forward @ mean)[:, None] * forward
    length = np.linalg.norm(across, axis=1)
    seen = length > 0.3 * max(
        float(np.linalg.norm(mean)), 1e-9
    )  # not of cameras that look straight up or down
    if np.linalg.norm(mean) < 0.1 or not seen.any():
        return 180.0
    cosine = (across * up).sum(1)[seen] / length[seen]
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).max())


# What stands out --------------------------------------------------------------------------------------------


def of_its_own(scene: Known, row: Row) -> list[str]:
    """What is unusual in a scene, whatever the others are."""
    found = []
    if len(set(scene.sizes)) > 1:
        found.append(f"its videos differ in size: {row['size']}")
    if short := [c for c, length in enumerate(scene.lengths) if length and length != scene.frames]:
        found.append(
            f"the video of camera {short[0]} says it has {scene.lengths[short[0]]} frames, not {scene.frames}"
        )
    found += _of_motion(scene, row)
    low, high = (row["fov_x_min"], row["fov_x_max"])
    if low < _FIELD[0] or high > _FIELD[1]:
        found.append(f"a field of view of {(low if low < _FIELD[0] else high):.3g} degrees across")
    if row["principal_point_off"] > _OFF_MIDDLE:
        found.append(
            f"a principal point {row['principal_point_off']:.0%} of the picture away from its middle"
        )
    for (height, width), lens in zip(scene.sizes, scene.intrinsics[:, 0], strict=False):
        shape = lens[1] * height / (lens[0] * width)
        turned = lens[1] * width / (lens[0] * height)  # headers have the sides before a display matrix
        if min(abs(shape - 1), abs(turned - 1)) > _SQUARE:
            found.append(f"pixels that are no squares: fy is {shape:.3g} times fx")
            break
    return found


def _of_motion(scene: Known, row: Row) -> list[str]:
    found = []
    paths = _paths(scene)
    steps = np.linalg.norm(np.diff(paths[..., :3, 3], axis=1), axis=-1)
    ratio, path, frame = _jump(steps, row["extent"])
    grid = scene.kind == "grid"
    if ratio > _JUMP:
        place = f"camera {frame}, beside the one before," if grid else f"camera {path}, at frame {frame},"
        found.append(f"{place} jumps: {ratio:.3g} times the steps around it")
    turns = _angles(paths[:, 1:, :3, :3], paths[:, :-1, :3, :3])
    if not grid and row["turn_max"] > _TURN:
        path, frame = (int(i) for i in np.unravel_index(turns.argmax(), turns.shape))
        found.append(f"camera {path} turns by {row['turn_max']:.3g} degrees at frame {frame + 1}")
    if scene.kind in ("grid", "synchronised"):
        if row["directions_apart"] > _APART:
            found.append(f"cameras look away from each other, by up to {row['directions_apart']:.3g} degrees")
        elif row["look_at_in_front"] < 0.5 and row["directions_apart"] > _TOGETHER:
            found.append("most cameras look away from the point where their axes meet")
        if scene.cameras > 1 and not np.ptp(scene.c2w, axis=0).any():
            found.append("all cameras have the same poses")
    if row["roll_max"] > _ROLL:
        found.append(f"cameras are rolled, by up to {row['roll_max']:.3g} degrees from the mean up")
    return found


def among_all(rows: Sequence[Row]) -> list[list[str]]:
    """What is unusual in each scene beside the others of the data set."""
    found: list[list[str]] = [[] for _ in rows]
    units = {"m": "step_max", "units": "step_max_extents"}
    for unit, column in units.items():
        chosen = [i for i, row in enumerate(rows) if row["unit"] == unit and row[column] > 0]
        for i, ratio in _ratios(rows, chosen, column):
            if ratio > _UNUSUAL:
                found[i].append(f"its fastest step is {ratio:.3g} times that of most scenes")
    for i, ratio in _ratios(rows, range(len(rows)), "fov_x_max"):
        if not 1 / _WIDER < ratio < _WIDER:
            found[i].append(f"its field of view is {ratio:.3g} times that of most scenes")
    for column, what in (("size", "pictures of"), ("fps", "frames in a second:")):
        values = Counter(_shown(row[column]) for row in rows if row[column] == row[column])
        usual = values.most_common(1)[0] if values else ("", 0)
        if usual[1] > 0.9 * len(rows):
            for i, row in enumerate(rows):
                if row[column] == row[column] and _shown(row[column]) != usual[0]:
                    found[i].append(f"{what} {_shown(row[column])}, where most have {usual[0]}")
    names = Counter(row["scene"] for row in rows)
    for i, row in enumerate(rows):
        if names[row["scene"]] > 1:
            found[i].append("another scene has the same name")
    return found


def _ratios(rows: Sequence[Row], chosen: Sequence[int], column: str) -> list[tuple[int, float]]:
    """Values of a column by their median; none of fewer than five scenes."""
    values = np.array([rows[i][column] for i in chosen], float)
    if len(values) < 5 or not np.median(values) > 0:
        return []
    return list(zip(chosen, (values / np.median(values)).tolist(), strict=True))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# All scenes -------------------------------------------------------------------------------------------------


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of all scenes together: counts, and least, median and most of numbers."""
    counted = {
        name: dict(Counter(_shown(row[column]) for row in rows).most_common(20))
        for name, column in (("kinds", "kind"), ("sizes", "size"), ("rates", "fps"), ("units", "unit"))
    }
    spread = {}
    columns = "cameras frames seconds extent step_median step_max step_max_extents jump turn_max fov_x_max "
    columns += "fov_y_max principal_point_off directions_apart look_at_spread roll_max captions bytes"
    for column in columns.split():
        values = np.array([row[column] for row in rows], float)
        values = values[np.isfinite(values)]
        if len(values):
            spread[column] = [float(values.min()), float(np.median(values)), float(values.max())]
    return {
        "scenes": len(rows),
        "videos": sum(row["cameras"] for row in rows),
        "bytes": sum(row["bytes"] for row in rows),
        "scenes_with_captions": sum(row["captions"] > 0 for row in rows),
        **counted,
        "least_median_most": spread,
    }
