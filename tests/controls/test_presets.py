"""Chains of moves, roll, dolly zoom and the names of other programs, against geometry."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from stp_jax.controls import cameras, presets
from stp_jax.controls.moves import MOVES, RECAMMASTER, rig_at_start
from stp_jax.errors import InputError
from tests.environment import environment

F = 17


def project(points, c2w, intrinsics):
    """Pinhole projection of world points [N, 3] -> [N, 2]."""
    seen = (np.asarray(points, np.float64) - c2w[:3, 3]) @ c2w[:3, :3].astype(np.float64)
    return seen[:, :2] / seen[:, 2:] * intrinsics[:2] + intrinsics[2:]


def angle_left(c2w, pivot):
    x, _, z = (c2w[:, :3, 3].astype(np.float64) - pivot).T
    return np.degrees(np.arctan2(-x, -z))


def test_a_head_turns_as_scipy_s_euler_angles_do():
    angles = np.random.default_rng(0).uniform(-400, 400, (1000, 3))
    angles[:5] = [[0, 0, 0], [90, 0, 0], [0, -90, 0], [0, 0, 180], [45, 90, -45]]
    rig = rig_at_start(1.0)._replace(yaw=angles[:, 0], pitch=angles[:, 1], roll=angles[:, 2])
    expected = Rotation.from_euler("YXZ", angles, degrees=True).as_matrix()
    np.testing.assert_allclose(rig.rotations(), expected, atol=1e-15)
    assert not np.signbit(rig_at_start(1.0).rotations()).any()


def test_a_preset_does_not_wait_for_scipy_s_rotations():
    code = """
import sys
from stp_jax.rerender import runs
from stp_jax.rerender.flags import parse_flags
flags = parse_flags(["--dry_run"], description="")
notes, takes = runs.notes_of(flags)
runs.set_defaults(flags, takes)
runs.plan(flags, notes, takes)
assert "scipy.spatial" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], env=environment(1), check=True)


# Chains ---------------------------------------------------------------------------------------------------


def test_moves_follow_each_other_with_their_shares_of_the_video():
    path = cameras.preset("orbit_left:30 50% linear, hold, zoom_in:2 25% linear", F)
    angles = angle_left(path.c2w, [0, 0, 4])
    np.testing.assert_allclose(angles, np.interp(np.arange(F), [0, 8, 16], [0, 30, 30]), atol=1e-4)
    zoom = path.intrinsics[:, 0] / cameras.default_intrinsics()[0]
    np.testing.assert_allclose(zoom, [*[1.0] * 12, *2 ** np.linspace(0, 1, 5)], rtol=1e-6)


def test_moves_without_shares_have_equal_parts_and_ease():
    path = cameras.preset("truck_right:1, truck_right:2", F)
    half = np.linspace(0, 1, 9)
    eased = 3 * half**2 - 2 * half**3
    np.testing.assert_allclose(path.c2w[:, 0, 3], [*eased[:-1], *(1 + 2 * eased)], atol=1e-6)
    one = cameras.preset("truck_right:1", F).c2w[:, 0, 3]
    np.testing.assert_allclose(one, np.linspace(0, 1, F), atol=1e-6)  # a single one is even


@pytest.mark.parametrize(
    ("ease", "way"),
    [
        ("linear", lambda q: q),
        ("ease", lambda q: 3 * q**2 - 2 * q**3),
        ("ease_in", lambda q: q**2),
        ("ease_out", lambda q: 1 - (1 - q) ** 2),
    ],
)
def test_eases(ease, way):
    q = np.linspace(0, 1, F)
    np.testing.assert_allclose(cameras.preset(f"crane_up:2 {ease}", F).c2w[:, 1, 3], -2 * way(q), atol=1e-6)
    pan = cameras.preset(f"orbit_left:40:-20 100% {ease}", F)
    np.testing.assert_allclose(angle_left(pan.c2w, [0, 0, 4]), 40 * way(q) - 20, atol=1e-4)


@pytest.mark.parametrize(
    "spec", ["dolly_in:1, orbit_left:50, orbit_up:20", "orbit_up:25, orbit_left:40", "rise:1, spiral_right"]
)
def test_the_pivot_stays_in_the_middle_and_the_horizon_level(spec):
    path = cameras.preset(spec, F)
    for c2w, lens in zip(*path, strict=True):
        np.testing.assert_allclose(project([[0, 0, 4.0]], c2w, lens), [[0.5, 0.5]], atol=1e-6)
        assert abs(c2w[1, 0]) < 1e-6


def test_left_and_forward_are_the_camera_s_own_after_a_pan():
    last = cameras.preset("pan_right:90, dolly_in:1, truck_left:2, crane_up:3", F).c2w[-1]
    np.testing.assert_allclose(last[:3, 3], [1, -3, 2], atol=1e-6)
    np.testing.assert_allclose(last[:3, 2], [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize("name", MOVES)
def test_moves_join_without_a_jump(name):
    path = cameras.preset(f"pan_left linear, {name} linear, orbit_up linear", 301)
    np.testing.assert_allclose(np.diff(path.c2w, axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.diff(path.intrinsics, axis=0), 0, atol=0.05)


# Roll, dolly zoom -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "sign"), [("roll_right", -1), ("roll_left", 1)])
def test_a_roll_turns_the_picture_the_other_way(name, sign):
    path = cameras.preset(f"{name}:30", F)
    to_the_right = project([[1.0, 0, 2]], path.c2w[-1], path.intrinsics[-1])[0] - 0.5
    np.testing.assert_allclose(np.degrees(np.arctan2(*to_the_right[::-1])), sign * 30, atol=1e-4)  # y is down
    np.testing.assert_allclose(path.c2w[-1, :3, 2], [0, 0, 1], atol=1e-7)


@pytest.mark.parametrize(("spec", "z"), [("dolly_zoom_in:2", 2), ("dolly_zoom_out:3", -3)])
def test_a_dolly_zoom_keeps_the_size_of_what_is_at_the_pivot(spec, z):
    path = cameras.preset(spec, F)
    points = np.array([[0.3, -0.2, 4.0], [-0.5, 0.4, 4.0]])
    for c2w, lens in zip(*path, strict=True):
        np.testing.assert_allclose(
            project(points, c2w, lens), project(points, np.eye(4), path.intrinsics[0]), atol=1e-6
        )
    assert path.c2w[-1, 2, 3] == pytest.approx(z)


def test_rise_looks_at_the_pivot_from_straight_above():
    path = cameras.preset("rise:1", F)
    np.testing.assert_allclose(path.c2w[-1, :3, 3], [0, -1, 0], atol=1e-7)
    pitch = np.degrees(np.arcsin(path.c2w[-1, 1, 2]))
    np.testing.assert_allclose(pitch, np.degrees(np.arctan(1 / 4)), atol=1e-4)


# Names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "ours"),
    [
        ("arc_left:30", "orbit_left:30"),
        ("Pan Right:20", "pan_right:20"),
        ("translate-up", "crane_up"),
        ("push_in:1 ease", "dolly_in:1 ease"),
        ("arc right:20 40%, hold", "orbit_right:20 40%, static"),
        ("vertigo:1", "dolly_zoom_in:1"),
        ("recammaster:9", "orbit_left:30"),
    ],
)
def test_names_of_other_programs_mean_ours(spec, ours):
    for theirs, mine in zip(cameras.parse(spec, F), cameras.parse(ours, F), strict=True):
        np.testing.assert_array_equal(theirs, mine)


# The last frames of cam01 to cam10 in ReCamMaster's example camera file (facts of that file): position in
# OpenCV axes and metres; degrees to the right and upwards.
RECAMMASTER_ENDS = [
    (0, 0, 0, 19.88, 0),
    (0, 0, 0, -19.88, 0),
    (0, 0, 0, 0, 9.94),
    (0, 0, 0, 0, -9.94),
    (0, 0, 1.988, 0, 0),
    (0, 0, -1.988, 0, 0),
    (0, -0.994, 0, 0, -13.95),
    (0, 0.994, 0, 0, 13.95),
    (-1.988, 0, 0.533, 29.82, 0),
    (1.988, 0, 0.533, -29.82, 0),
]


@pytest.mark.parametrize("number", range(1, 11))
def test_recammaster_s_ten_end_where_its_file_has_them(number):
    last = cameras.preset(f"recammaster:{number}", 81).c2w[-1].astype(np.float64)
    right, _, forward = last[:3, 2]
    angles = np.degrees([np.arctan2(right, forward), np.arcsin(-last[1, 2])])
    expected = np.array(RECAMMASTER_ENDS[number - 1]) / 0.9938  # its 81 frames end 0.6 % short
    np.testing.assert_allclose([*last[:3, 3], *angles], expected, rtol=2e-2, atol=1e-6)
    assert RECAMMASTER[number - 1] in presets.describe(f"recammaster:{number}", 81)[0]


def test_what_a_chain_means_is_said():
    assert presets.describe("orbit_left:30 ease", F) == []
    assert presets.describe("arc_left:30", F) == ["  here orbit_left:30"]
    assert presets.describe("arc_left:30, hold 25%, zoom_in:1.5 linear", F) == [
        "  by frames: orbit_left:30 0-6 (ease), static 6-10 (ease), zoom_in:1.5 10-16 (linear)"
    ]


# Mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("orbit_left:30, orbit_lift", "move 2: .*did you mean orbit_left"),
        ("orbit_left:30,, hold", "move 2: "),
        ("orbit_left:30, pan_left:x", "move 2: 'x' is not a number"),
        ("orbit_left:30, pan_left:10:5", "move 2: begins where the move before it ends: leave its start, 5"),
        ("orbit_left 60%, hold 60%", "the shares are 120 % in all"),
        ("orbit_left 60%, hold 30%", "the shares are 90 % in all, not 100 %; add a hold"),
        ("orbit_left 100%, hold", "the shares are 100 % in all, and each move needs one"),
        ("orbit_left 0%, hold", "each move needs one"),
        ("orbit_left 50%", "the shares are 50 % in all, not 100 %"),
        ("orbit_left ease linear", "linear and ease; give one|ease and linear; give one"),
        ("orbit_left:30 2s, hold", "move 1: '2s' is neither a share of the video, as 50%, nor one of linear"),
        ("orbit_left slowly", "unknown camera preset 'orbit_left slowly': did you mean orbit_left"),
        ("dolly_zoom_in:4", "the pivot is 4 m away, and a lens cannot keep its size"),
        ("recammaster:11", "write recammaster:1 to recammaster:10: 1 pan_right:20"),
        ("recammaster", "write recammaster:1"),
        (", ".join(["hold"] * 101), "more than 100 moves"),
    ],
)
def test_a_bad_chain_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        cameras.parse(spec, F)
