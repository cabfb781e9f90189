"""Worlds of a few coloured dots, filmed by known cameras: where each must be in every picture is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from input_pipeline.decoding import decode_video
from stp_jax.errors import InputError
from stp_jax.media.writing import write_pictures

SIZE = (96, 160)  # height, width
SQUARE = (128, 128)
LENS = np.array([0.8, 0.8 * 160 / 96, 0.52, 0.47])  # square pixels of SIZE

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]])
POINTS = np.array(
    [[-1, -0.6, 4], [0.9, -0.5, 5], [1.1, 0.7, 4.5], [-0.8, 0.6, 5.5], [0, 0, 5], [0.2, -0.9, 6]]
)
RADIUS = 4.0  # pixels
OFF = 60  # of a colour, by which coding may change it


def path(frames: int, seed: int = 0) -> np.ndarray:
    """c2w float64 [F, 4, 4]: a camera that moves and turns in all directions, in a world that is turned."""
    from scipy.spatial.transform import Rotation

    draw = np.random.default_rng(seed)
    part = np.linspace(0, 1, frames)[:, None]
    turns = part * draw.uniform(4, 9, 3) * draw.choice([-1, 1], 3) + draw.uniform(-3, 3, 3)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = Rotation.from_euler("xyz", turns, degrees=True).as_matrix()
    c2w[:, :3, 3] = part * draw.uniform(0.2, 0.5, 3) * draw.choice([-1, 1], 3) + draw.uniform(-0.1, 0.1, 3)
    return WORLD @ c2w


def _world() -> np.ndarray:
    world = np.eye(4)
    world[:3] = [[0.36, 0.48, -0.8, 5], [-0.8, 0.6, 0, 2], [0.48, 0.64, 0.6, 1]]
    return world


WORLD = _world()  # of the paths; POINTS are in front of a camera that is not turned in it


def pixels(
    c2w: np.ndarray,
    lens: np.ndarray,
    size: tuple[int, int],
    points: np.ndarray,
    distort: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Where points [N, 3] of the world are seen, in pixels x, y [N, 2] from the upper left corner.

    Args:
      lens: fx, fy, cx, cy by width and height.
      size: height and width.
      distort: moves points [N, 2] of the plane at distance 1.
    """
    seen = (points - c2w[:3, 3]) @ c2w[:3, :3]
    plane = seen[:, :2] / seen[:, 2:]
    plane = plane if distort is None else distort(plane)
    return (plane * lens[:2] + lens[2:]) * [size[1], size[0]]


def points_of(c2w: np.ndarray = WORLD) -> np.ndarray:
    """POINTS in the world of `path`, or as a camera at `c2w` has them before it."""
    return POINTS @ c2w[:3, :3].T + c2w[:3, 3]


def film(
    c2w: np.ndarray,
    lens: np.ndarray,
    size: tuple[int, int],
    distort: Callable[[np.ndarray], np.ndarray] | None = None,
    movement: Callable[[int], np.ndarray] = lambda frame: np.zeros(3),
) -> np.ndarray:
    """A video uint8 [F, H, W, 3] of the dots; `movement` shifts them all at a frame."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    video = np.full((len(c2w), *size, 3), 40, np.uint8)
    for frame, pose in enumerate(c2w):
        at = pixels(pose, lens, size, points_of() + movement(frame), distort)
        for colour, (u, v) in zip(COLOURS, at, strict=True):
            video[frame][np.hypot(x - u, y - v) < RADIUS] = colour
    return video


def seen_at(image: np.ndarray) -> np.ndarray:
    """Where the dots are in a picture, pixels [N, 2]; NaN where one is not wholly in it, or covered."""
    found = np.full((len(COLOURS), 2), np.nan)
    for i, colour in enumerate(COLOURS):
        rows, columns = np.nonzero((np.abs(image.astype(int) - colour) < OFF).all(-1))
        inside = len(rows) and min(rows.min(), columns.min()) > 0
        if not inside or rows.max() == image.shape[0] - 1 or columns.max() == image.shape[1] - 1:
            continue
        if len(rows) > 0.6 * np.pi * RADIUS**2:
            found[i] = columns.mean() + 0.5, rows.mean() + 0.5
    return found


def check(
    record: Mapping[str, Any],
    c2w: np.ndarray,
    lenses: np.ndarray,
    *,
    scale: float = 1.0,
    tolerance: float = 1e-6,
    movement: Callable[[int], np.ndarray] = lambda frame: np.zeros(3),
) -> None:
    """Asserts that a record has these cameras, and that its videos show the dots where its cameras see them.

    Args:
      c2w: [C, T, 4, 4] as the cameras were; the record's world is the first of them.
      lenses: [C, 4].
      scale: the record's unit, in that of `c2w`.
    """
    relative = np.linalg.inv(c2w[0, 0]) @ c2w
    relative[..., :3, 3] /= scale
    cameras, frames = c2w.shape[:2]
    assert record["c2w"].dtype == record["intrinsics"].dtype == np.float32
    poses = np.broadcast_to(record["c2w"], c2w.shape)
    np.testing.assert_allclose(poses, relative, atol=tolerance)
    found = np.broadcast_to(record["intrinsics"], (cameras, *record["intrinsics"].shape[1:]))
    np.testing.assert_allclose(found, np.broadcast_to(lenses[:, None], found.shape), atol=tolerance)
    assert len(record["videos"]) == cameras and len(record["animation_time"]) == frames
    world = (points_of() - c2w[0, 0, :3, 3]) @ c2w[0, 0, :3, :3] / scale  # of the record
    off = []
    for camera in range(cameras):
        video = decode_video(record["videos"][camera], "video")
        assert len(video) == frames
        for frame in range(frames):
            moved = world + movement(frame) @ c2w[0, 0, :3, :3] / scale
            at = pixels(
                poses[camera, frame], found[camera, min(frame, found.shape[1] - 1)], video.shape[1:3], moved
            )
            seen = seen_at(video[frame])
            off.append((seen - at)[np.isfinite(seen[:, 0])])
    offsets = np.concatenate(off)
    assert len(offsets) >= 3 * cameras * frames
    assert np.hypot(*offsets.T).max() < 0.8  # coding halves the resolution of colours
    assert np.abs(offsets.mean(0)).max() < 0.15


def write(path, video, fps=15):
    """Writes the pictures of `film` as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pictures(path, iter(video), fps, crf=8)


def refused(read, *args) -> str:
    """What a reader says of a mistake, in one line."""
    with pytest.raises(InputError) as error:
        read(*args)
    assert "\n" not in str(error.value)
    return str(error.value)
