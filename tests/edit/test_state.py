"""The editor's state, without a page."""

import json
import shlex

import numpy as np
import pytest

from stp_jax.controls import cameras, keyframes
from stp_jax.controls.keyframes import Keyframe, Keyframes, LookAt, Orbit, Turned
from stp_jax.controls.times import Time
from stp_jax.edit import clips, poses
from stp_jax.edit.state import State
from stp_jax.errors import InputError
from stp_jax.rerender import runs
from stp_jax.rerender.flags import parse_flags
from stp_jax.rerender.request import read_notes
from tests.environment import ROOT


@pytest.fixture(scope="module")
def source():
    flags = parse_flags([])
    return clips.read(flags, *read_notes(flags.weights))


@pytest.fixture
def state(source):
    return State(source)


def planned(state, path):
    """What sample.py makes of the command that the state shows."""
    path.write_text(state.text())
    words = shlex.split(state.command(path))
    assert words[:2] == ["python", "sample.py"]
    flags = parse_flags(words[2:])
    notes, takes = read_notes(flags.weights)
    runs.set_defaults(flags, takes)
    return runs.plan(flags, notes, takes).request


def test_it_begins_with_the_source_as_it_is(state):
    view = state.view()
    assert np.abs(view.c2w - np.eye(4)).max() < 1e-6
    assert np.array_equal(view.animation_time, np.arange(17))
    assert np.allclose(view.intrinsics, state.source.lenses, atol=1e-4)


@pytest.mark.parametrize(
    "spec, form",
    [
        ("orbit_left:30:-15", Orbit),
        ("orbit_left:360", Orbit),
        ("dolly_in", Orbit),
        ("zoom_in:2", Orbit),
        ("spiral_right", Orbit),
        ("crane_up", Turned),
        ("roll_left", Turned),
        ("orbit_left:30, hold 20%, zoom_in:1.5 ease_out", Orbit),
    ],
)
def test_presets_become_keyframes_that_give_the_same_path(state, spec, form):
    state.use_camera(spec)
    wanted = cameras.preset(spec, 17, intrinsics=state.source.cameras.intrinsics[0])
    path, _ = state.path()
    assert np.abs(path.c2w - wanted.c2w).max() < 2e-3
    assert np.abs(path.intrinsics / wanted.intrinsics - 1).max() < 2e-3
    assert isinstance(state.keys.keyframes[0].camera, form)


@pytest.mark.parametrize(
    "spec", ["forward", "reverse", "bullet_time", "ramp", "loop", "stutter", "0:0, 6:8, 16:16"]
)
def test_clocks_become_keys_that_give_each_frame_its_moment(state, spec):
    from stp_jax.controls.animation_time import curve

    state.use_clock(spec)
    assert np.abs(state.path()[1] - curve(spec, 17)).max() < 2e-3


def test_a_preset_of_the_camera_leaves_the_clock_alone_and_the_other_way_round(state):
    state.use_clock("0:0, 6:8, 11:8, 16:16")
    clock = state.path()[1]
    state.use_camera("spiral_right")
    assert np.array_equal(state.path()[1], clock)
    path = state.path()[0]
    state.use_clock("reverse")
    assert np.array_equal(state.path()[0].c2w, path.c2w)


def test_a_new_keyframe_changes_nothing_where_ways_are_straight(state):
    state.use_camera("orbit_left:30:-15")
    before = state.view()
    assert state.add(8) == 1
    after = state.view()
    for one, other in zip(before, after, strict=True):
        assert np.abs(one - other).max() < 1e-4
    key = state.keys.keyframes[1]
    assert key.camera is not None and key.has_lens and key.animation_time == Time(8)


def test_undo_and_redo_go_through_all_edits(state):
    seen = [state.keys]
    for edit in (
        lambda: state.use_camera("orbit_left:30:-15"),
        lambda: state.add(4),
        lambda: state.set_moment(1, 9.4),
        lambda: state.set_fov(1, 40),
        lambda: state.move(1, 6),
        lambda: state.trim(0.2, 1.0),
        lambda: state.remove(1),
    ):
        edit()
        seen.append(state.keys)
    trimmed = state.source
    while state.undo():
        seen.pop()
        assert state.keys == seen[-1]
    assert len(seen) == 1 and state.source.start == 0
    while state.redo():
        pass
    assert len(state.keys.keyframes) == 2
    assert np.array_equal(state.source.clip.frames, trimmed.clip.frames) and state.source.start == 0.2


def test_edits_of_one_field_that_follow_quickly_are_one_step(state):
    before = state.keys
    for fov in (45, 46, 47):
        state.set_fov(0, fov)
    state.undo()
    assert state.keys == before


def test_a_redo_is_gone_after_another_edit(state):
    state.set_fov(0, 40)
    state.undo()
    state.add(5)
    assert not state.redo()


@pytest.mark.parametrize("file", ["examples/bullet_time.json"])
def test_what_is_opened_is_saved_as_it_was(state, file):
    keys = keyframes.read(ROOT / file)
    state.open(keys)
    assert state.keys == keys
    assert keyframes.parse(json.loads(state.text())) == keys


def test_the_command_gives_the_same_cameras_and_clock(state, tmp_path):
    state.use_camera("orbit_left:30:-15")
    state.add(8)
    state.set_moment(1, 3)
    state.set_camera(1, Orbit(left=5.0, up=10.0, distance=3.0))
    state.set_fov(1, 42)
    request = planned(state, tmp_path / "keys.json")
    for ours, theirs in zip(state.view(), request.target, strict=True):
        assert np.array_equal(ours, theirs)


def test_the_command_has_the_flags_that_were_given_and_the_trim(tmp_path):
    flags = parse_flags(["--seed=3", "--distance=5.0", "--video", str(runs.EXAMPLE), "--steps=2"])
    state = State(clips.read(flags, *read_notes(flags.weights)))
    state.trim(0.3, 1.0)
    words = shlex.split(state.command("k.json"))
    assert set(words[2:]) == {
        *("--seed=3", "--distance=5.0", f"--video={runs.EXAMPLE}", "--steps=2"),
        *("--start=0.3", "--duration=1.0", "--keyframes=k.json"),
    }
    state.set_form(Turned)  # nothing depends on the distance, which sample.py would refuse
    assert "--distance=5.0" not in shlex.split(state.command("k.json"))
    request = planned(state, tmp_path / "keys.json")
    assert np.allclose(request.target.c2w, state.view().c2w, atol=1e-6)


def test_moments_snap_to_frames_and_stay_within_the_clip(state):
    state.set_moment(0, 3.4, snap=True)
    assert state.keys.keyframes[0].animation_time == Time(3)
    state.set_moment(0, 99.0)
    assert state.keys.keyframes[0].animation_time == Time(16)
    state.bend([(0, 1.3), (15.6, 4.4)], snap=True)
    assert [state.moment_of(key) for key in state.keys.keyframes] == [1, 4]
    assert [state.frame_of(key) for key in state.keys.keyframes] == [0, 16]


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda s: s.add(0), "already"),
        (lambda s: s.move(0, 16), "already"),
        (lambda s: s.use_camera("orbit_lefft"), "did you mean"),
        (lambda s: s.use_clock("0:0, 99:3"), "outside"),
        (lambda s: s.bend([(0, 0)]), "2 keys"),
        (lambda s: s.set_camera(0, LookAt((0, 0, 0), (0, 0, 0))), "look_at is where the camera is"),
        (lambda s: s.trim(5.0, None), "must lie within"),
        (lambda s: s.use_camera_file("no.json"), "no.json"),
        (lambda s: s.set_fov(0, 500), "1 to 179"),
    ],
)
def test_impossible_edits_say_why_and_change_nothing(state, edit, message):
    before, view = state.keys, state.view()
    with pytest.raises(InputError, match=message):
        edit(state)
    assert state.keys == before and not state.undo()
    assert np.array_equal(state.view().c2w, view.c2w)


def test_the_last_keyframe_stays(state):
    state.remove(1)
    with pytest.raises(InputError, match="at least one"):
        state.remove(0)


def test_a_file_of_cameras_becomes_keyframes(state, tmp_path):
    wanted = cameras.preset("spiral_left", 17)
    c2w = state.source.world @ wanted.c2w  # it is in the world of the source's cameras
    (tmp_path / "path.json").write_text(json.dumps({"c2w": c2w.tolist()}))
    state.use_camera_file(tmp_path / "path.json")
    assert np.abs(state.path()[0].c2w - wanted.c2w).max() < 3e-3


# One camera -----------------------------------------------------------------------------------------------


def random_pose(rng):
    from scipy.spatial.transform import Rotation

    pose = np.eye(4)
    turn = rng.uniform([-150, -60, -40], [150, 60, 40])
    pose[:3, :3] = Rotation.from_euler("YXZ", turn, degrees=True).as_matrix()
    pose[:3, 3] = rng.uniform(-2, 2, 3)
    return pose


@pytest.mark.parametrize("form", [LookAt, Turned])
def test_any_pose_has_these_forms(state, form):
    rng = np.random.default_rng(0)
    for _ in range(20):
        pose = random_pose(rng)
        state.open(Keyframes((Keyframe(Time(0), poses.as_form(form, pose, state.pivot)),)))
        assert np.abs(state.pose_of(0) - pose).max() < 1e-4


def test_a_pose_that_looks_at_a_point_is_an_orbit_about_it(state):
    for around in ((0.0, 0.0, 7.0), (1.0, -0.5, 3.0), (0.0, 0.0, 4.0)):
        orbit = Orbit(100.0, 20.0, 2.5, around)
        state.open(Keyframes((Keyframe(Time(0), orbit),)))
        pose = state.pose_of(0)
        again = poses.as_form(Orbit, pose, np.array(around), state.pivot)
        assert (again.around is None) == (around == (0.0, 0.0, 4.0))
        state.open(Keyframes((Keyframe(Time(0), again),)))
        assert np.abs(state.pose_of(0) - pose).max() < 1e-4


def test_what_is_dragged_keeps_its_form_and_what_it_looks_at(state):
    pose = np.eye(4)
    pose[:3, 3] = 1.0, 0.5, 0.2
    state.drag(0, pose)
    camera = state.keys.keyframes[0].camera
    assert isinstance(camera, Orbit)
    assert np.allclose(state.pose_of(0)[:3, 3], pose[:3, 3], atol=1e-4)
    state.set_form(LookAt)
    point = state.keys.keyframes[0].camera.look_at
    pose[:3, 3] = -1.0, 0.0, 0.0
    state.drag(0, pose)
    assert state.keys.keyframes[0].camera == LookAt((-1.0, 0.0, 0.0), point)


def test_a_view_is_taken_as_it_is(state):
    pose = random_pose(np.random.default_rng(3))
    state.take_view(1, pose)
    assert np.abs(state.view().c2w[16] - pose).max() < 1e-5
    assert np.abs(state.view().c2w[0] - np.eye(4)).max() < 1e-5


def test_keyframes_in_the_world_of_the_sources_file_are_brought_to_its_first_camera(state):
    world = state.source.world
    pose = random_pose(np.random.default_rng(4))
    there = world @ pose
    forms = [
        keyframes.Pose(tuple(map(tuple, there.tolist()))),
        poses.as_form(Turned, there, np.zeros(3)),
        LookAt(tuple(there[:3, 3]), tuple(there[:3, 3] + there[:3, 2]), tuple(-there[:3, 1])),
    ]
    for camera in forms:
        state.open(Keyframes((Keyframe(Time(0), camera),), "source_cameras"))
        assert state.keys.world is None
        assert np.abs(state.pose_of(0) - pose).max() < 1e-4
