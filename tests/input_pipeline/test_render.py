"""Rendered scenes: geometry, physics and figures, files. Nearly all need an OpenGL library."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from input_pipeline.decoding import decode_video
from input_pipeline.render import grid
from stp_jax import media
from stp_jax.controls import cameras
from stp_jax.errors import InputError
from tests.opengl import needs_opengl

pytestmark = needs_opengl
SMALL = grid.GridSettings(cameras=3, times=9, size=64)
SECONDS = np.arange(321) * 0.005


def rotation_angle(a, b):
    """Degrees between rotations [..., 3, 3]."""
    trace = np.trace(np.swapaxes(a, -1, -2) @ b, axis1=-2, axis2=-1)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Scenes 0 and 1, written by the command line with two processes."""
    out = tmp_path_factory.mktemp("scenes")
    grid.main(f"--out {out} --seeds 0:2 --workers 2 --cameras 3 --times 9 --size 64 --crf 8".split())
    return out


# ---------------------------------------------------------------- geometry


def test_known_points_are_where_the_written_cameras_say():
    """A small glowing sphere is put at known places, and found in the pictures of random rigs."""
    import mujoco

    from input_pipeline.render import film, rig, scene

    width, height, radius = 160, 96, 0.05  # not square, so that width and height cannot be confused
    spec = mujoco.MjSpec()
    spec.visual.quality.numslices = spec.visual.quality.numstacks = 24
    spec.visual.headlight.active = 0
    plane = mujoco.mjtGeom.mjGEOM_PLANE
    spec.worldbody.add_geom(name="ground", type=plane, size=[1, 1, 1], rgba=[0, 0, 0, 1])
    spec.add_material(name="glow", emission=1)
    spec.worldbody.add_body(mocap=True).add_geom(size=[radius, 0, 0], material="glow")
    model = spec.compile()
    found = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        points = rng.uniform([-1.2, -1.2, 0.1], [1.2, 1.2, 1.7], (8, 3))
        states = [scene.State(np.zeros(0), p[None], np.array([[1.0, 0, 0, 0]])) for p in points]
        path = rig.draw(rng, 5, np.array([0, 0, 0.8]), 1.7)
        path.intrinsics[:, 0] *= height / width  # square pixels
        with film.Film(
            scene.Scene(model, mujoco.MjData(model), states, path, [], []), width, height
        ) as camera:
            pictures = np.stack([camera.shoot(i) for i in range(8)], 1)[..., 0] / 255.0  # [C, 8, H, W]
        data = json.loads(json.dumps(rig.camera_data(path)))
        for c, i in np.ndindex(5, 8):
            w2c = np.array(data["extrinsic"][f"camera_{c:03d}"])
            fx, fy, cx, cy = data["intrinsic"][f"camera_{c:03d}"]
            x, y, z = w2c[:3, :3] @ points[i] + w2c[:3, 3]
            expected = np.array([(fx * x / z + cx) * width, (fy * y / z + cy) * height])
            picture = pictures[c, i]
            if not ((expected > 4) & (expected < (width - 4, height - 4))).all():
                continue
            rows, columns = np.nonzero(picture)
            centre = [np.average(v + 0.5, weights=picture[rows, columns]) for v in (columns, rows)]
            assert np.hypot(*(centre - expected)) < 0.2
            size = np.pi * radius**2 * (fx * width / z) * (fy * height / z)
            assert picture.sum() == pytest.approx(size, rel=0.25)
            found += 1
    assert found > 100


def test_cameras_are_right_handed_opencv_level_and_upright(written):
    path = written / "scene_000000" / "camera_data.json"
    rig = cameras.read(path, 3)
    cameras.check(rig.c2w, rig.intrinsics, 3, "the rig")
    data = json.loads(path.read_text())["cameras"]["extrinsic"]
    c2w = np.stack([np.linalg.inv(data[f"camera_{c:03d}"]) for c in range(3)])
    np.testing.assert_allclose(c2w[:, 2, 0], 0, atol=1e-9)  # the x axis is level (the world's z is up)
    assert (c2w[:, 2, 1] < 0).all()  # the y axis points down
    assert (c2w[:, 2, 3] > 0.3).all()  # over the ground


def test_rigs_are_smooth_and_wide():
    from input_pipeline.render import rig

    kinds = set()
    for seed in range(40):
        path = rig.draw(np.random.default_rng(seed), 17, np.array([0, 0, 0.8]), 1.7)
        kinds.add(path.kind)
        turned = rotation_angle(path.c2w[0, :3, :3], path.c2w[-1, :3, :3])
        assert 20 < turned < 110
        steps = np.linalg.norm(np.diff(path.c2w[:, :3, 3], axis=0), axis=-1)
        assert steps.max() < 2 * steps.min() and steps.sum() > 1.0
    assert kinds == set(rig.KINDS)


# ---------------------------------------------------------------- figures and physics


@pytest.mark.parametrize("family", ["biped", "quadruped", "bird"])
def test_feet_that_stand_do_not_slide_and_none_is_in_the_ground(family):
    from input_pipeline.render import figures

    for seed in range(8):
        figure = getattr(figures, family)(np.random.default_rng(seed), SECONDS, np.zeros(2))
        feet = figure.landmarks[: 4 if family == "quadruped" else 2]
        for foot in feet:
            lowest = foot[:, 2].min()
            assert lowest > 0.02 * figure.height
            speed = np.linalg.norm(np.diff(foot, axis=0), axis=-1) / 0.005
            standing = (foot[1:, 2] < lowest + 1e-4) & (foot[:-1, 2] < lowest + 1e-4)
            assert standing.mean() > 0.2
            assert np.quantile(speed[standing], 0.95) < 0.05


@pytest.mark.parametrize("family", ["quadruped", "bird", "biped"])
def test_walkers_face_the_way_they_go_and_go_a_body_length(family):
    from input_pipeline.render import figures

    walked = []
    for seed in range(8):
        figure = getattr(figures, family)(np.random.default_rng(seed), SECONDS, np.zeros(2))
        np.testing.assert_allclose(figure.chest[len(SECONDS) // 2, :2], 0, atol=0.35)
        trunk = next(part for part in figure.parts if part.position is figure.chest)
        velocity = np.gradient(figure.chest[:, :2], 0.005, axis=0)
        way = np.linalg.norm(velocity, axis=-1).sum() * 0.005
        walked.append(way)
        if way > 1:  # others stand and gesture
            forward = trunk.rotation[:, :2, 0]
            cosine = (forward * velocity).sum(-1) / np.linalg.norm(velocity, axis=-1)
            assert np.median(cosine) > 0.85
    assert np.median(walked) > 1.0


@pytest.mark.parametrize("family", ["biped", "quadruped", "bird"])
def test_motion_is_smooth_and_rotations_are_proper(family):
    from input_pipeline.render import figures

    for seed in range(4):
        figure = getattr(figures, family)(np.random.default_rng(seed), SECONDS, np.zeros(2))
        for part in figure.parts:
            identity = np.swapaxes(part.rotation, -1, -2) @ part.rotation
            np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-9)
            assert np.linalg.det(part.rotation).min() > 0
            assert np.linalg.norm(np.diff(part.position, axis=0), axis=-1).max() < 0.06  # 12 m/s
            assert rotation_angle(part.rotation[1:], part.rotation[:-1]).max() < 15


def test_quaternions_are_mujocos():
    import mujoco

    from input_pipeline.render.geometry import quaternion

    rng = np.random.default_rng(0)
    matrices = np.linalg.qr(rng.normal(size=(50, 3, 3)))[0]
    matrices *= np.linalg.det(matrices)[:, None, None]
    half_turns = [np.diag(d).astype(float) for d in ([1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1])]
    for matrix in [*matrices, *half_turns]:
        back = np.zeros(9)
        mujoco.mju_quat2Mat(back, quaternion(matrix))
        np.testing.assert_allclose(back.reshape(3, 3), matrix, atol=1e-9)


def test_scenes_differ_move_and_keep_the_main_figure_in_view():
    from input_pipeline.render import scene

    seen = set()
    for seed in range(6):
        drawn = scene.draw(seed, 5, 33)
        assert not drawn.data.warning.number.any()
        seen.add((drawn.model.ngeom, round(float(drawn.figures[0].height), 6), drawn.rig.kind))
        assert len(drawn.states) == 33 and drawn.model.ngeom < 75
        # Bodies fall, roll or swing, and none falls through the ground.
        first, last = drawn.states[0].qpos, drawn.states[-1].qpos
        assert np.abs(first - last).max() > 0.1
        for index in (0, 16, 32):
            drawn.show(index)
            assert drawn.data.geom_xpos[1:, 2].min() > -0.05
        figure = drawn.figures[0]
        points = np.stack(figure.landmarks, 1)[40:-40:40].reshape(-1, 3)
        for c2w, intrinsics in zip(drawn.rig.c2w, drawn.rig.intrinsics, strict=True):
            local = (points - c2w[:3, 3]) @ c2w[:3, :3]
            xy = local[:, :2] / local[:, 2:] * intrinsics[:2] + intrinsics[2:]
            assert (local[:, 2] > 1).all() and (xy > 0).all() and (xy < 1).all()
    assert len(seen) == 6


def test_grid_times_are_half_source_frames_of_one_motion():
    """A falling sphere of the physics obeys g t^2 / 2 at grid times 1/20 s apart."""
    from input_pipeline.render import bodies, scene, world

    rng = np.random.default_rng(0)
    built = world.World(rng)
    velocity = bodies._free(
        built, rng, world.Shape("sphere", (0.2,), np.ones(3)), np.array([0, 0, 9.0]), np.zeros(3), np.zeros(3)
    )
    built.spec.worldbody.add_body(mocap=True).add_geom(size=[0.1, 0, 0], pos=[5, 5, 5])
    model = built.spec.compile()
    part = SimpleNamespace(position=np.zeros((81, 3)), quaternion=np.tile([1.0, 0, 0, 0], (81, 1)))
    data = scene.mujoco.MjData(model)
    states = scene._simulate(model, data, velocity, [SimpleNamespace(parts=[part])])[::10]
    seconds = np.arange(9) * 0.05
    fallen = [9.0 - state.qpos[2] for state in states]
    np.testing.assert_allclose(fallen, 9.81 * seconds**2 / 2, atol=0.01)


# ---------------------------------------------------------------- files


def test_same_seed_gives_the_same_bytes_in_another_process(written):
    """Videos nearly so: of small pictures x264's bytes depend on what its memory held before."""
    pictures, data = grid.render_grid(0, SMALL)
    again, _ = grid.render_grid(0, SMALL)
    np.testing.assert_array_equal(pictures, again)
    assert data == json.loads((written / "scene_000000" / "camera_data.json").read_text())
    other = written.parent / "again"
    grid.write_grid(other, 0, grid.GridSettings(3, 9, 64, crf=8))
    for path in sorted((written / "scene_000000" / "videos").iterdir()):
        first, second = (
            decode_video(file.read_bytes(), str(file)).astype(int)
            for file in (path, other / "scene_000000" / "videos" / path.name)
        )
        assert np.abs(first - second).mean() < 0.5


def test_films_that_are_open_at_the_same_time_draw_what_each_draws_alone():
    """Two of them in one OpenGL context, a third of another size in one of its own."""
    from input_pipeline.render import film, scene

    sizes = [(0, 64, 64), (1, 64, 64), (2, 96, 32)]
    drawn = [scene.draw(seed, 2, 9) for seed, *_ in sizes]
    alone = []
    for one, (_, *size) in zip(drawn, sizes, strict=True):
        with film.Film(one, *size) as camera:
            alone.append([camera.shoot(t) for t in (0, 8)])
    films = [film.Film(one, *size) for one, (_, *size) in zip(drawn, sizes, strict=True)]
    assert films[0]._gl is films[1]._gl is not films[2]._gl
    for camera, expected in zip(films, alone, strict=True):
        np.testing.assert_array_equal(camera.shoot(0), expected[0])
    films[2].__exit__()
    films[1].__exit__()  # frees its pictures' textures, not those of the first
    np.testing.assert_array_equal(films[0].shoot(8), alone[0][1])
    films[0].__exit__()
    with film.Film(drawn[1], 64, 64) as again:
        np.testing.assert_array_equal(again.shoot(8), alone[1][1])


def test_videos_hold_all_grid_times_of_each_camera_with_their_colours(written):
    pictures, data = grid.render_grid(1, SMALL)
    folder = written / "scene_000001"
    assert data["animation_time"] == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert sorted(p.name for p in (folder / "videos").iterdir()) == [f"camera_{c:03d}.mp4" for c in range(3)]
    for c, expected in enumerate(pictures):
        video, fps = media.read_video(folder / "videos" / f"camera_{c:03d}.mp4")
        assert video.shape == (9, 64, 64, 3) and fps == pytest.approx(20)
        mse = np.mean((video.astype(float) - expected) ** 2)
        assert 10 * np.log10(255**2 / mse) > 36  # yuv420p would stay under 30


def test_far_cameras_and_times_differ():
    pictures, _ = grid.render_grid(2, grid.GridSettings(cameras=3, times=33, size=64))
    assert pictures.std() > 20
    difference = (pictures[0].astype(float) - pictures[-1]) ** 2
    assert 10 * np.log10(255**2 / difference.mean()) < 18
    assert (np.abs(pictures[:, 0].astype(int) - pictures[:, -1]).max(-1) > 30).mean() > 0.03


def test_a_second_run_renders_only_what_is_missing(written, tmp_path, capsys):
    out, settings = tmp_path / "scenes", dataclasses.replace(SMALL, crf=8)
    shutil.copytree(written / "scene_000000", out / "scene_000000")
    whole = out / "scene_000000" / "camera_data.json"
    before = whole.stat().st_mtime_ns
    half = out / "scene_000001.tmp" / "videos"  # as left behind by a killed process
    half.mkdir(parents=True)
    (half / "camera_000.mp4").write_bytes(b"half")
    (half / "camera_007.mp4").write_bytes(b"of another rig")
    assert grid.write_grids(out, range(0, 2), settings, 1) == 1
    assert whole.stat().st_mtime_ns == before
    assert sorted(path.name for path in out.iterdir()) == ["scene_000000", "scene_000001"]
    assert len(list((out / "scene_000001" / "videos").iterdir())) == 3
    assert grid.write_grids(out, range(0, 2), settings, 1) == 0


@contextlib.contextmanager
def workers_killed(when):
    """Kills the processes that there are once `when()` is true."""

    def kill():
        while not (children := multiprocessing.active_children()) or not when():
            time.sleep(0.005)
        for child in children:
            child.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()


def test_rendering_goes_on_after_a_process_that_died(tmp_path, capfd):
    small = grid.GridSettings(2, 3, 16)
    with workers_killed((tmp_path / "scene_000000").exists):
        assert grid.write_grids(tmp_path, range(0, 3), small, 1) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"scene_00000{i}" for i in range(3)]
    assert "A rendering process died; " in capfd.readouterr().err
    with workers_killed(lambda: True), pytest.raises(InputError, match="was killed, .* fewer --workers"):
        grid.write_grids(tmp_path / "other", range(0, 1), small, 1)


def test_scenes_of_other_settings_are_not_taken_for_done(written, capsys):
    with pytest.raises(SystemExit) as stop:
        grid.main(f"--out {written} --seeds 0:2 --cameras 3 --times 9 --size 128".split())
    assert stop.value.code == 2
    assert "scene_00000" in (error := capsys.readouterr().err) and "--cameras 3 --times 9 --size 64" in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--seeds 5:5", "--seeds 5:5"),
        ("--seeds some", "first:end"),
        ("--seeds 3 --workers 0", "--workers 0"),
        ("--seeds 3 --times 1", "--times 1"),
        ("--seeds 3 --times 2", "--times 2"),
        ("--seeds 3 --crf 60", "--crf 60"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        grid.main(["--out", str(tmp_path / "scenes"), *arguments.split()])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "scenes").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "scenes").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        grid.main(["--out", str(tmp_path / "scenes"), "--seeds", "0:1"])
    assert stop.value.code == 2
    assert "scenes" in capsys.readouterr().err
    assert (tmp_path / "scenes").read_text() == "mine"


def test_without_a_working_opengl_library_it_says_what_to_install(tmp_path):
    command = [sys.executable, "-m", "input_pipeline.render", "--out", str(tmp_path / "s"), "--seeds", "0:1"]
    environment = os.environ | {"MUJOCO_GL": "nosuch"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "apt-get install" in run.stderr and "Traceback" not in run.stderr
