"""Scenes rendered again from any camera."""

import numpy as np
import pytest

from input_pipeline.render import grid, views
from stp_jax.controls import cameras
from stp_jax.errors import InputError
from tests.opengl import needs_opengl

SMALL = grid.GridSettings(cameras=3, times=9, size=64)


@pytest.fixture(scope="module")
def scene():
    with views.SceneViews(1, SMALL) as opened:
        yield opened


def lifted(depth, c2w, intrinsics):
    """World points [H, W, 3] of a picture's pixels."""
    height, width = depth.shape
    x = ((np.arange(width) + 0.5) / width - intrinsics[2]) / intrinsics[0]
    y = ((np.arange(height) + 0.5) / height - intrinsics[3]) / intrinsics[1]
    rays = np.stack(np.broadcast_arrays(x, y[:, None], 1.0), -1)
    with np.errstate(invalid="ignore"):  # the sky is infinitely far
        return (rays * depth[..., None]) @ c2w[:3, :3].T + c2w[:3, 3]


def from_aside(scene):
    """A camera that is not on the rig: higher and turned."""
    c2w = scene.c2w[1].copy()
    c2w[:3, 3] += [0.2, -0.1, 0.4]
    turn = np.array([[0.995, 0, 0.0998749], [0, 1, 0], [-0.0998749, 0, 0.995]])
    c2w[:3, :3] = c2w[:3, :3] @ turn
    return c2w


@needs_opengl
def test_the_rigs_cameras_give_the_grids_pictures(scene):
    pictures, data = grid.render_grid(1, SMALL)
    for time in (0, 5):
        again = scene.pictures(np.full(3, time), scene.c2w, scene.intrinsics)
        np.testing.assert_array_equal(again, pictures[:, time])
    np.testing.assert_array_equal(scene.all_times(scene.c2w, scene.intrinsics), pictures)
    # Drawn elsewhere in the buffer, the rasterizer's rounding differs in a few pixels.
    order, times = np.array([2, 0, 1, 2]), np.array([8, 3, 0, 0])
    again = scene.pictures(times, scene.c2w[order], scene.intrinsics[order])
    difference = np.abs(again.astype(int) - pictures[order, times])
    assert difference.max() <= 2 and (difference > 0).mean() < 0.01
    c2w = np.linalg.inv([data["cameras"]["extrinsic"][f"camera_{c:03d}"] for c in range(3)])
    np.testing.assert_allclose(c2w, scene.c2w, atol=1e-12)


@needs_opengl
def test_depth_is_metric_and_infinite_in_the_sky(scene):
    c2w = np.stack([scene.c2w[0], from_aside(scene)])
    depth, moving = scene.geometry(np.array([4, 4]), c2w, scene.intrinsics[:2])
    assert depth.shape == moving.shape == (2, 64, 64)
    points = lifted(depth[1], c2w[1], scene.intrinsics[1])
    lowest = points[-8:][~moving[1, -8:]]
    assert np.median(np.abs(lowest[:, 2])) < 1e-3  # the ground is at height 0
    assert np.isinf(depth).any() and np.isfinite(depth[:, -8:]).all()
    # What one camera sees lies on what the other sees, or is hidden there.
    visible = np.isfinite(depth[1]) & (depth[1] < 20)
    local = (points[visible] - c2w[0][:3, 3]) @ c2w[0][:3, :3]
    xy = local[:, :2] / local[:, 2:] * scene.intrinsics[0, :2] + scene.intrinsics[0, 2:]
    inside = ((xy > 0.02) & (xy < 0.98)).all(1) & (local[:, 2] > 0)
    column, row = np.floor(xy[inside] * 64).astype(int).T
    ratio = depth[0][row, column] / local[inside, 2]
    assert inside.sum() > 500
    assert 0.95 < np.median(ratio) < 1.05 and (ratio > 1.2).mean() < 0.08


@needs_opengl
def test_depth_changes_over_time_only_where_something_moves(scene):
    times = np.arange(9)
    c2w, lens = np.tile(from_aside(scene), (9, 1, 1)), np.tile(scene.intrinsics[0], (9, 1))
    depth, moving = scene.geometry(times, c2w, lens)
    changed = ~np.isclose(depth[1:], depth[:-1], rtol=1e-4)
    assert 0.005 < changed.mean() < 0.3
    assert not (changed & ~(moving[1:] | moving[:-1])).any()
    # Scenery in front of what moves does not count: over most of the mask the depth does change.
    assert (np.ptp(np.minimum(depth, 99), axis=0)[moving.any(0)] > 0.01).mean() > 0.9


@needs_opengl
def test_the_principal_point_shifts_the_picture(scene):
    lens = scene.intrinsics[0] + [0, 0, 8 / 64, -4 / 64]
    straight, shifted = scene.pictures(
        np.zeros(2, int), scene.c2w[[0, 0]], np.stack([scene.intrinsics[0], lens])
    )
    difference = np.abs(shifted[:-4, 8:].astype(int) - straight[4:, :-8])
    assert np.percentile(difference, 98) <= 2


@needs_opengl
def test_smaller_pictures_are_the_same_ones(scene):
    arguments = np.zeros(1, int), from_aside(scene)[None], scene.intrinsics[:1]
    whole, small = scene.pictures(*arguments), scene.pictures(*arguments, stride=2)
    means = whole.reshape(1, 32, 2, 32, 2, 3).mean((2, 4))
    assert small.shape == (1, 32, 32, 3) and np.abs(means - small).mean() < 3


def test_poses_come_back_to_the_scenes_world():
    rng = np.random.default_rng(0)
    c2w = np.tile(np.eye(4), (5, 1, 1))
    c2w[:, :3, :3] = np.linalg.qr(rng.normal(size=(5, 3, 3)))[0]
    c2w[:, :3, 3] = rng.normal(size=(5, 3))
    np.testing.assert_allclose(views.in_world(cameras.relative_to(c2w, c2w[2]), c2w[2]), c2w, atol=1e-6)


def test_the_seed_is_in_a_scenes_name():
    assert views.seed_of("scene_1000000") == 1000000 and views.seed_of("scene_000012") == 12
    with pytest.raises(InputError, match="Scene001"):
        views.seed_of("Scene001")
