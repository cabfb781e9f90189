"""Depth, object numbers and clocks of rendered scenes: geometry, files, GPUs."""

import dataclasses
import itertools
import json
import multiprocessing
import os

import numpy as np
import pytest

from input_pipeline.render import clocks, grid, layers, opengl, views
from stp_jax import media
from stp_jax.errors import InputError
from tests.input_pipeline.test_views import lifted
from tests.opengl import needs_opengl

pytestmark = needs_opengl


@pytest.fixture(scope="module")
def busy():
    """A scene with two figures and three bodies, with what MuJoCo knows of it."""
    from input_pipeline.render import scene

    with views.SceneViews(BUSY, grid.GridSettings(cameras=3, times=33, size=96)) as opened:
        yield opened, scene.draw(BUSY, 3, 33)


BUSY = 12


def number_of(scene, name):
    return next(one["id"] for one in scene.objects if one["name"] == name)


def moving(scene):
    return [one["name"] for one in scene.objects if one["moves"]]


def test_depth_of_the_ground_is_where_rays_meet_the_plane(busy):
    scene, _ = busy
    seen = scene.at(scene.c2w, scene.intrinsics, 8.0)
    v, u = (np.indices(seen.depth.shape[1:]) + 0.5) / 96
    for c, (c2w, (fx, fy, cx, cy)) in enumerate(zip(scene.c2w, scene.intrinsics, strict=True)):
        rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1) @ c2w[:3, :3].T
        expected = -c2w[2, 3] / rays[..., 2]  # z of the camera: the rays' is 1
        ground = seen.ids[c] == number_of(scene, "ground")
        near = ground & (expected < 15)
        error = np.abs(seen.depth[c][near] / expected[near] - 1)
        assert near.sum() > 2000
        assert np.quantile(error, 0.9) < 2e-5
        assert error.max() < 0.05  # in pixels that are partly others', the samples lie to one side
        assert np.isinf(seen.depth[c][seen.ids[c] == number_of(scene, "sky")]).all()
        assert np.isfinite(seen.depth[c][seen.ids[c] != number_of(scene, "sky")]).all()


def test_pixels_of_an_object_lie_on_its_parts(busy):
    """By the bounding spheres of MuJoCo's geoms, moved to where the simulation has the objects."""
    scene, drawn = busy
    drawn.show(20)
    seen = scene.at(scene.c2w, scene.intrinsics, 10.0)
    parts = np.cumsum([0, *(len(figure.parts) for figure in drawn.figures)])
    found = set()
    for number, one in enumerate(scene.objects[2:], 2):
        if one["name"].startswith("figure"):
            k = int(one["name"][-1])
            bodies = np.flatnonzero(
                (drawn.model.body_mocapid >= parts[k]) & (drawn.model.body_mocapid < parts[k + 1])
            )
            assert one["kind"] == drawn.figures[k].kind
        elif one["name"].startswith("body"):
            bodies = np.flatnonzero(drawn.model.body_dofnum)[[int(one["name"][-1])]]
        else:
            continue
        geoms = np.isin(drawn.model.geom_bodyid, bodies)
        centres, radii = drawn.data.geom_xpos[geoms], drawn.model.geom_rbound[geoms]
        for c in range(3):
            mask = seen.ids[c] == number
            points = lifted(seen.depth[c], scene.c2w[c], scene.intrinsics[c])[mask]
            if one["kind"] in ("swinging", "spinning"):  # the post stands in the world
                continue
            if len(points) > 20:
                outside = (np.linalg.norm(points[:, None] - centres, axis=-1) - radii).min(1)
                # A pixel is 3 cm wide; where an arm ends before the chest, its depth is a mean of the two.
                assert np.quantile(outside, 0.98) < 0.03 and outside.max() < 0.3
                found.add(one["name"])
    assert {"figure_0", "figure_1"} < found and any(name.startswith("body") for name in found)


def test_depth_takes_a_pixel_to_the_same_object_in_another_camera(busy):
    scene, _ = busy
    seen = scene.at(scene.c2w, scene.intrinsics, 8.0)
    same = seen_in_both = 0
    for a, b in ((0, 1), (1, 2), (2, 1)):
        near = np.isfinite(seen.depth[a]) & (seen.depth[a] < 12)
        points = lifted(seen.depth[a], scene.c2w[a], scene.intrinsics[a])[near]
        local = (points - scene.c2w[b][:3, 3]) @ scene.c2w[b][:3, :3]
        xy = local[:, :2] / local[:, 2:] * scene.intrinsics[b, :2] + scene.intrinsics[b, 2:]
        inside = ((xy > 0.01) & (xy < 0.99)).all(1) & (local[:, 2] > 0)
        column, row = np.floor(xy[inside] * 96).astype(int).T
        visible = np.abs(seen.depth[b][row, column] / local[inside, 2] - 1) < 0.02
        ids = seen.ids[a][near][inside][visible], seen.ids[b][row, column][visible]
        same, seen_in_both = same + (ids[0] == ids[1]).sum(), seen_in_both + len(ids[0])
        # Nothing is in front of what the first camera sees in most of the picture.
        assert visible.mean() > 0.6
    assert seen_in_both > 5000 and same / seen_in_both > 0.985


def test_one_time_for_all_is_the_grids_picture(busy):
    scene, _ = busy
    seen = scene.at(scene.c2w, scene.intrinsics, 8.0)
    np.testing.assert_array_equal(seen.pictures, scene.pictures(np.full(3, 16), scene.c2w, scene.intrinsics))
    depth, _ = scene.geometry(np.full(3, 16), scene.c2w, scene.intrinsics)
    same = np.isclose(depth, seen.depth, rtol=1e-4) | (np.isinf(depth) & np.isinf(seen.depth))
    assert same.mean() > 0.85  # elsewhere that depth is a mean over two objects


def test_each_object_is_as_in_the_plain_picture_of_its_own_time(busy):
    scene, _ = busy
    names = moving(scene)
    clocks = dict(zip(names, [2.0, 13.5, 7.25, 16.0, 0.0], strict=False))
    mixed = scene.at(scene.c2w, scene.intrinsics, clocks)
    nearest = np.full(
        mixed.depth.shape, np.inf, np.float32
    )  # of the objects, each from its own plain picture
    exact = shared = 0
    for name, time in clocks.items():
        number, plain = number_of(scene, name), scene.at(scene.c2w, scene.intrinsics, time)
        both = (mixed.ids == number) & (plain.ids == number)
        same = np.isclose(mixed.depth[both], plain.depth[both], rtol=1e-4)
        assert same.mean() > 0.9  # others share their pixel with another object now
        difference = np.abs(mixed.pictures[both].astype(int) - plain.pictures[both]).max(-1)
        exact, shared = exact + (difference <= 2).sum(), shared + len(difference)
        nearest = np.where(plain.ids == number, np.fmin(nearest, plain.depth), nearest)
        # Where it is not seen now, something else is in front of it.
        hidden = (plain.ids == number) & (mixed.ids != number)
        assert (mixed.depth[hidden] < plain.depth[hidden] + 0.01).mean() > 0.9 if hidden.sum() > 20 else True
    assert shared > 1500 and exact / shared > 0.85  # others have another shadow, or share their edge
    assert (mixed.depth <= nearest * 1.01).mean() > 0.99


def test_an_object_that_stands_still_has_the_same_pixels_at_all_times(busy):
    scene, _ = busy
    camera = scene.c2w[:1], scene.intrinsics[:1]
    others = moving(scene)[1:]
    still = [scene.at(*camera, {"figure_0": 5.0} | dict.fromkeys(others, time)) for time in (0.0, 6.0, 12.0)]
    mask = np.all([seen.ids == number_of(scene, "figure_0") for seen in still], 0)
    assert mask.sum() > 100
    for seen in still[1:]:
        assert np.isclose(seen.depth[mask], still[0].depth[mask], rtol=1e-4).mean() > 0.9
    change = [np.abs(1 / seen.depth - 1 / still[0].depth) for seen in still[1:]]
    assert np.max(change) > 0.05


def test_wrong_clocks_are_named(busy):
    scene, _ = busy
    camera = scene.c2w[:1], scene.intrinsics[:1]
    with pytest.raises(ValueError, match="no object ghost"):
        scene.at(*camera, {"ghost": 1.0})
    with pytest.raises(ValueError, match="16.5 is not from 0 to 16"):
        scene.at(*camera, 16.5)


# ---------------------------------------------------------------- files

SMALL = grid.GridSettings(cameras=3, times=5, size=64, crf=8)
LAYERED = dataclasses.replace(SMALL, depth=True, ids=True, object_clocks=1, depth_stride=8)


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    """Scene 1 with all that there is."""
    out = tmp_path_factory.mktemp("layered")
    grid.write_grid(out, 1, LAYERED)
    return out / "scene_000001"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Scene 1 without."""
    out = tmp_path_factory.mktemp("plain")
    grid.write_grid(out, 1, SMALL)
    return out / "scene_000001"


def test_the_plain_pictures_are_the_same_with_depth_and_clocks(plain, layered):
    """Not the files: of small pictures x264 writes other bytes when its memory held something else before."""
    pictures = []
    for settings in (SMALL, LAYERED):
        with grid.open_scene(1, settings) as (_, strips):
            plain_ones = [strip.moments for strip in strips if not strip.folder]
            pictures.append([moment["videos"] for moment in itertools.chain(*plain_ones)])
    np.testing.assert_array_equal(*pictures)
    before = json.loads((plain / "camera_data.json").read_text())
    data = json.loads((layered / "camera_data.json").read_text())
    assert {name: data[name] for name in before} == before
    assert set(data) - set(before) == {"depth", "ids", "objects", "object_clocks", "coarse_depth"}


def test_coarse_depth_is_the_mean_of_inverse_depth_over_its_squares(layered):
    """Against the pixels of a drawing of its own. At edges those are of one object, not of all samples; so
    are some within a square of pixels of one object."""
    coarse = np.load(layered / "coarse_depth.npy")
    assert coarse.shape == (3, 5, 8, 8) and coarse.dtype == np.float16

    def squares(pixels):
        return pixels.reshape(3, 8, 8, 8, 8).swapaxes(2, 3).reshape(3, 8, 8, 64)

    with views.SceneViews(1, SMALL) as scene:
        for t in (0, 3):
            seen = scene.at(scene.c2w, scene.intrinsics, t / 2)
            wanted, ids = squares(1 / seen.depth).mean(-1), squares(seen.ids)
            inside = (ids == ids[..., :1]).all(-1)
            assert 20 < inside.sum() < inside.size and wanted.max() > 0.2
            assert np.isclose(coarse[:, t], wanted, rtol=2e-3, atol=2e-4)[inside].mean() > 0.9
            np.testing.assert_allclose(coarse[:, t][inside], wanted[inside], rtol=5e-3, atol=0.02)
            assert np.abs(coarse[:, t] - wanted).max() < 0.1
            assert (coarse[:, t][(ids == 0).all(-1)] == 0).sum() >= 3


def test_depth_and_ids_of_files_are_what_the_views_are(layered):
    data = json.loads((layered / "camera_data.json").read_text())
    clip = data["object_clocks"][0]
    with views.SceneViews(1, SMALL) as scene:
        assert scene.objects == data["objects"]
        for folder, time in (
            ("", 1.5),
            (clip["folder"], {n: t[3] for n, t in clip["animation_time"].items()}),
        ):
            seen = scene.at(scene.c2w, scene.intrinsics, time)
            for c in range(3):
                depth = layers.read_depth(layered / folder / "depth" / f"camera_{c:03d}.mkv")
                ids = layers.read_ids(layered / folder / "ids" / f"camera_{c:03d}.mkv")
                assert depth.shape == ids.shape == (5, 64, 64)
                np.testing.assert_array_equal(ids[3], seen.ids[c])
                sky = ids[3] == 0
                assert np.isinf(depth[3][sky]).all() and np.isinf(seen.depth[c][sky]).all()
                error = np.abs(depth[3][~sky] - seen.depth[c][~sky])
                z = seen.depth[c][~sky].astype(float)
                assert (error <= 1.02 * z**2 / (2 * 65535 * data["depth"]["nearest"]) + 1e-6 * z).all()
                video, _ = media.read_video(layered / folder / "videos" / f"camera_{c:03d}.mp4")
                mse = np.mean((video[3].astype(float) - seen.pictures[c]) ** 2)
                assert 10 * np.log10(255**2 / mse) > 36


def test_equal_seeds_are_equal_files_and_other_flags_are_refused(layered, tmp_path, capsys):
    grid.write_grid(tmp_path, 1, LAYERED)
    files = sorted(path.relative_to(layered) for path in layered.rglob("*") if path.is_file())
    assert len(files) == 2 + 2 * 3 * 3
    for name in files:
        if name.suffix != ".mp4":  # see above
            assert (tmp_path / "scene_000001" / name).read_bytes() == (layered / name).read_bytes()
    assert grid.write_grids(tmp_path, range(1, 2), LAYERED, 1) == 0
    for changes in (
        {"depth": False},
        {"depth_stride": 0},
        {"object_clocks": 0},
        {"object_clocks": 2},
        {"object_clocks": CLIPS},
    ):
        with pytest.raises(
            InputError, match="--size 64 --depth --ids --object_clocks, 1 clips --depth_stride 8; give"
        ):
            grid.check_scene(tmp_path / "scene_000001", dataclasses.replace(LAYERED, **changes))


CLIPS = ({"figure_0": [2.0] * 5},)


def test_more_cameras_than_the_buffer_takes_are_drawn_in_turn(monkeypatch):
    from input_pipeline.render import film

    whole, _ = grid.render_grid(1, SMALL)
    monkeypatch.setattr(film, "MAX_STRIP", 2 * 64 * film.OVERSAMPLE)
    again, order = np.empty_like(whole), []
    with grid.open_scene(1, dataclasses.replace(SMALL, object_clocks=CLIPS)) as (_, strips):
        for strip in strips:
            order.append((strip.folder, strip.cameras))
            for t, frames in enumerate(strip.moments if not strip.folder else ()):
                again[strip.cameras, t] = frames["videos"]
    assert order == [(folder, part) for folder in ("", "clocks_000") for part in (range(2), range(2, 3))]
    # Rounding depends on the place in the buffer.
    assert np.abs(whole.astype(int) - again).max() <= 4 and (whole != again).mean() < 0.02


def test_nothing_is_nearer_than_depth_can_say():
    with views.SceneViews(1, SMALL) as scene:
        assert scene.at(scene.c2w, scene.intrinsics, 1.0).depth.min() > 2 * layers.NEAREST
    assert layers.to_depth(layers.to_code(np.float32([0, 1 / 5, 10]))).tolist() == [
        np.inf,
        pytest.approx(5, abs=0.001),
        pytest.approx(0.2),
    ]


def test_a_video_is_not_taken_for_depth(layered):
    for read, path in (
        (layers.read_depth, "ids/camera_000.mkv"),
        (layers.read_ids, "depth/camera_000.mkv"),
        (layers.read_depth, "camera_data.json"),
        (layers.read_ids, "missing.mkv"),
    ):
        with pytest.raises(InputError, match=path):
            read(layered / path)


def test_drawn_clocks_have_one_object_still_and_one_running():
    names, last = ["figure_0", "body_0", "body_1"], 16.0
    for number in range(20):
        clip = clocks.drawn(7, number, names, 33)
        assert clip == clocks.drawn(7, number, names, 33) != clocks.drawn(8, number, names, 33)
        curves = np.array([clip[name] for name in names])
        assert curves.shape == (3, 33) and curves.min() >= 0 and curves.max() <= last
        np.testing.assert_allclose(curves * 20, np.rint(curves * 20), atol=1e-9)
        spans = np.ptp(curves, axis=1)
        assert spans.min() == 0 and spans.max() >= last / 4
        assert np.abs(np.diff(curves, axis=1)).max() <= 0.5 + 1e-9  # never faster than the scene
    assert clocks.drawn(7, 0, names, 33) != clocks.drawn(7, 1, names, 33)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"figure_0": [1, 2]}, "figure_0 must have one number, or 9"),
        ({"figure_0": "x"}, "figure_0 must have one number"),
        ({"figure_0": 4.5}, "figure_0 must be from 0 to 4 "),
        ({"body_0": float("nan")}, "body_0 must be from 0 to 4 "),
        ({"structure_0": 1}, "no clock of 'structure_0'; there are figure_0"),
        ([], "holds 0 clips"),
        ([{}], "give animation times by object"),
        (5, "give animation times by object"),
    ],
)
def test_wrong_clocks_are_refused_in_one_line(given, message, tmp_path, capsys):
    (tmp_path / "clocks.json").write_text(json.dumps(given))
    argv = ["--out", str(tmp_path / "s"), "--seeds", "1", "--times", "9"]
    with pytest.raises(SystemExit) as stop:
        grid.main([*argv, "--object_clocks", str(tmp_path / "clocks.json")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_clocks_of_a_file_are_those_of_the_scenes_objects(tmp_path):
    (tmp_path / "clocks.json").write_text(json.dumps([{"figure_0": 1.52, "body_2": [0] * 9}, {"body_0": 2}]))
    clips = clocks.parse(str(tmp_path / "clocks.json"), 9)
    assert clocks.of_scene(clips, 0, ["figure_0", "body_0"], 9) == [
        {"figure_0": [1.5] * 9},
        {"body_0": [2.0] * 9},
    ]
    assert clocks.parse("3", 9) == 3
    with pytest.raises(InputError, match="nosuch.json"):
        clocks.parse(str(tmp_path / "nosuch.json"), 9)
    with pytest.raises(InputError, match="from 0 to 100"):
        clocks.parse("101", 9)


# ---------------------------------------------------------------- GPUs


def test_workers_take_the_gpus_in_turn(monkeypatch):
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    monkeypatch.setattr(grid.signal, "signal", lambda *_: None)
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "5")
    for number, expected in ((3, "3"), (None, "3"), (0, "0")):
        queue.put(number)
        grid._start_worker(queue)
        assert os.environ["MUJOCO_EGL_DEVICE_ID"] == expected


def test_more_gpus_than_there_are_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "0")  # chosen already
    assert opengl.gpus_to_draw_with() == []
    with pytest.raises(SystemExit) as stop:
        grid.main(["--out", str(tmp_path / "s"), "--seeds", "1", "--gpus", "2"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "--gpus 2: " in error and not (tmp_path / "s").exists()
