"""The warp of the source's pictures, and their depth."""

import numpy as np
import pytest

from stp_jax.controls import cameras
from stp_jax.controls.view import View
from stp_jax.edit import clips, geometry
from stp_jax.errors import InputError
from stp_jax.media.metrics import psnr
from stp_jax.rerender import runs
from stp_jax.rerender.flags import parse_flags
from stp_jax.rerender.request import read_notes


@pytest.fixture(scope="module")
def source():
    flags = parse_flags([])
    return clips.read(flags, *read_notes(flags.weights))


def view_of(source, camera, clock=None):
    path = cameras.preset(camera, 17, intrinsics=source.lenses[0])
    return View(path.c2w, path.intrinsics, np.arange(17.0) if clock is None else clock)


def test_from_the_sources_camera_it_is_the_source(source):
    view = view_of(source, "static", np.linspace(16, 0, 17))
    for frame in (0, 5, 16):
        assert np.array_equal(geometry.Warp(source)(view, frame), source.clip.frames[16 - frame])


def test_depth_makes_it_nearer_to_another_cameras_pictures(source):
    """What is rendered of the scene by another camera is better met than without depth."""
    from input_pipeline.render.grid import GridSettings
    from input_pipeline.render.views import SceneViews
    from tests.opengl import _missing

    if _missing:
        pytest.skip(_missing)
    view = view_of(source, "orbit_left:20")
    flat = source._replace(depth=None)
    with SceneViews(1000118, GridSettings()) as scene:
        lens = scene.intrinsics[8:9]
        c2w = source.world @ np.asarray(view.c2w[16], np.float64)
        truth = scene.at(c2w[None], lens, 16.0).pictures[0]
    made, without = (geometry.Warp(one)(view, 16) for one in (source, flat))
    seen = (made != geometry.UNSEEN).any(-1)
    assert seen.mean() > 0.65
    assert psnr(made[seen], truth[seen]) > 18
    assert psnr(made[seen], truth[seen]) > psnr(without[seen], truth[seen]) + 3


def test_large_pictures_are_answered_at_a_smaller_size(source):
    large = source._replace(
        clip=source.clip._replace(frames=np.repeat(np.repeat(source.clip.frames, 6, 1), 6, 2)),
        depth=np.repeat(np.repeat(source.depth, 6, 1), 6, 2),
    )
    view = view_of(source, "static")
    made = geometry.Warp(large)(view, 8)
    assert 100 <= min(made.shape[:2]) and made.shape[0] * made.shape[1] <= 40_000
    assert psnr(made[:120, :120], np.asarray(large.clip.frames[8][2::4, 2::4][:120, :120])) > 15
    assert len(geometry.cloud(large, 8)[0]) <= 40_000


def test_points_of_the_scene_are_where_its_pixels_are(source):
    points, colours = geometry.cloud(source, 8)
    assert points.shape == colours.shape and len(points) > 5000
    fx, fy, cx, cy = source.lenses[0]
    column = np.floor((points[:, 0] / points[:, 2] * fx + cx) * 128).astype(int)
    row = np.floor((points[:, 1] / points[:, 2] * fy + cy) * 128).astype(int)
    assert np.array_equal(source.clip.frames[8][row, column], colours)


def test_depth_follows_a_trim(source):
    part = source.trimmed(0.8, 0.8)
    assert np.array_equal(part.depth[-1], source.depth[-1])
    assert np.array_equal(part.depth[0], source.depth[8])


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"inverse_depth": np.zeros((17, 8, 8), np.uint16)}, "nearest"),
        ({"inverse_depth": np.zeros((17, 8, 8)), "nearest": 0.2}, "uint16"),
        ({"inverse_depth": np.zeros((3, 8, 8), np.uint16), "nearest": 0.2}, "depth of 3 frames"),
    ],
)
def test_files_of_other_depths_are_refused(source, tmp_path, arrays, message):
    np.savez(tmp_path / "depth.npz", **arrays)
    with pytest.raises(InputError, match=message):
        clips.read_depth(tmp_path / "depth.npz", source.clip)


def test_depth_of_the_whole_picture_is_cut_as_the_picture_is(tmp_path, source):
    inverse = np.tile(np.arange(1, 33, dtype=np.uint16), (17, 16, 1))  # 16 x 32: its middle square is kept
    np.savez(tmp_path / "wide.npz", inverse_depth=inverse, nearest=1.0)
    depth = clips.read_depth(tmp_path / "wide.npz", source.clip)
    assert depth.shape == (17, 128, 128)
    assert np.allclose(65535 / depth[0, 0, [0, -1]], [9, 24])


def test_the_bundled_depth_is_small():
    assert clips.EXAMPLE_DEPTH.stat().st_size < 1 << 20
    assert runs.EXAMPLE.exists()
