"""Space-time keyframes: cameras and animation times against float64 geometry and scipy."""

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation, Slerp

from stp_jax.errors import InputError
from tests.controls.keyframe_files import FILMED, F, pose, tracks

FRAMES = np.arange(F)
W = np.eye(4)
W[:3, :3] = [[0.36, 0.48, -0.8], [-0.8, 0.6, 0], [0.48, 0.64, 0.6]]
W[:3, 3] = [5, 2, 1]
EYE = np.eye(4).tolist()


# Times ----------------------------------------------------------------------------------------------------


def test_times_in_frames_seconds_and_per_cent():
    keys = [
        {"time": 0, "animation_time": 0},
        {"time": "25%", "animation_time": "0.5s"},  # frame 4 shows 8
        {"time": "1s", "animation_time": "75%"},  # frame 8 shows 12
        {"time": 12.5, "animation_time": 13.25},
    ]
    made = tracks(*keys)
    expected = PchipInterpolator([0, 4, 8, 12.5], [0, 8, 12, 13.25])(np.minimum(FRAMES, 12.5))
    np.testing.assert_allclose(made.animation_time, expected, atol=1e-5)
    np.testing.assert_allclose(made.marks.clock, [[0, 0], [4, 8], [8, 12], [12.5, 13.25]], atol=1e-12)
    assert made.c2w is None and made.intrinsics is None


def test_a_track_skips_keys_that_lack_it_and_is_held_outside_its_own():
    made = tracks(
        {"time": 2, "fov": 40, "to_next": "linear"},
        {"time": 6, "animation_time": 3, "to_next": "hold"},
        {"time": 10, "animation_time": 9, "fov": 40},
    )
    np.testing.assert_array_equal(made.animation_time, [*[3] * 10, *[9] * 7])
    np.testing.assert_allclose(made.intrinsics, np.tile(made.intrinsics[0], (F, 1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([{"time": 17, "fov": 50}], r"keyframes\[0\]: time 17 is outside the new video, frames 0 to 16"),
        ([{"time": "101%", "fov": 50}], "time 101% is outside the new video"),
        (
            [{"time": "2.2s", "fov": 50}],
            r"time 2.2 s is outside the new video, frames 0 to 16 \(0 to 2.125 s\)",
        ),
        (
            [{"time": 1, "animation_time": 16.5}],
            "animation_time 16.5 is outside the source's clip, frames 0 to 16",
        ),
        (
            [{"time": 1, "animation_time": "1.2s"}],
            r"animation_time 1.2 s is outside the source's clip, .*\(1 s\)",
        ),
        (
            [{"time": "1s", "fov": 50}, {"time": "40%", "fov": 50}],
            r"\[1\]: out of order: 40% comes after 1 s",
        ),
        ([{"time": "1s", "fov": 50}, {"time": 8, "fov": 50}], r"\[1\]: two keyframes at frame 8"),
    ],
)
def test_times_outside_the_videos(keys, message):
    with pytest.raises(InputError, match=message):
        tracks(*keys)


def test_seconds_need_rates():
    with pytest.raises(InputError, match=r"keyframes\[0\]: 1 s cannot be counted in frames without a video"):
        tracks({"time": "1s", "fov": 50}, filmed=FILMED._replace(rates=None))


# Cameras --------------------------------------------------------------------------------------------------


def test_poses_are_met_at_their_keys_and_turn_as_slerp_does():
    turns = Rotation.from_rotvec([[0, 0, 0], [0.3, -0.5, 0.2], [1.2, 0.1, 0.4]])
    places = np.array([[0.0, 0, 0], [1, 2, 3], [0, -1, 0.5]])
    at = [0, 6, 16]
    keys = [{"time": at[i], "camera": {"c2w": pose(turns[i], places[i]).tolist()}} for i in range(2)]
    quaternion = turns[2].as_quat(scalar_first=True).tolist()
    keys.append({"time": 16, "camera": {"position": places[2].tolist(), "quaternion_wxyz": quaternion}})
    made = tracks(*keys).c2w
    for i, frame in enumerate(at):
        np.testing.assert_allclose(made[frame], pose(turns[i], places[i]), atol=1e-6)
    straight = tracks(*(key | {"to_next": "linear"} for key in keys)).c2w
    np.testing.assert_allclose(straight[:, :3, :3], Slerp(at, turns)(FRAMES).as_matrix(), atol=1e-6)
    expected = np.stack([np.interp(FRAMES, at, column) for column in places.T], axis=1)
    np.testing.assert_allclose(straight[:, :3, 3], expected, atol=1e-6)


def test_a_point_looked_at_stays_in_the_middle_and_the_horizon_level():
    point = np.array([0.5, 0.3, 4.0])
    keys = [
        {"time": t, "camera": {"position": p, "look_at": point.tolist()}}
        for t, p in ((0, [0, 0, 0]), (8, [2, -1, 1]), (16, [1, 0.5, -2]))
    ]
    made = tracks(*keys)
    for c2w in made.c2w.astype(np.float64):
        seen = c2w[:3, :3].T @ (point - c2w[:3, 3])
        np.testing.assert_allclose(seen[:2] / seen[2], 0, atol=1e-6)
        assert abs(c2w[1, 0]) < 1e-6 and c2w[1, 1] > 0
        np.testing.assert_allclose(np.linalg.det(c2w[:3, :3]), 1, atol=1e-6)
    np.testing.assert_allclose(made.marks.positions, [[0, 0, 0], [2, -1, 1], [1, 0.5, -2]], atol=1e-12)


def test_a_roll_leans_the_camera_s_right_side_down():
    still = {"position": [0, 0, 0], "look_at": [0, 0, 4], "roll": 30}
    for camera in (still, {"orbit": {"around": [0, 0, 4], "roll": 30}}):
        made = tracks({"time": 0, "camera": camera}).c2w[3]
        half = np.sqrt(0.75)
        np.testing.assert_allclose(made[:3, :3], [[half, -0.5, 0], [0.5, half, 0], [0, 0, 1]], atol=1e-6)
        np.testing.assert_allclose(made[:3, 3], 0, atol=1e-6)


def test_orbits_go_in_arcs():
    keys = [
        {"time": 0, "camera": {"orbit": {"left": -180}}},
        {"time": 16, "camera": {"orbit": {"left": 180}}},
    ]
    made = tracks(*keys).c2w.astype(np.float64)
    angle = np.radians(np.linspace(-180, 180, F))
    expected = np.stack([-4 * np.sin(angle), 0 * angle, 4 - 4 * np.cos(angle)], axis=1)
    np.testing.assert_allclose(made[:, :3, 3], expected, atol=1e-5)
    to_pivot = ([0, 0, 4] - made[:, :3, 3]) / 4
    np.testing.assert_allclose(made[:, :3, 2], to_pivot, atol=1e-5)
    high = tracks({"time": 0, "camera": {"orbit": {"up": 90, "distance": 2, "around": [1, 0, 3]}}}).c2w[0]
    np.testing.assert_allclose(high[:3, 3], [1, -2, 3], atol=1e-6)  # y points down
    np.testing.assert_allclose(high[:3, 2], [0, 1, 0], atol=1e-6)


def test_mixed_forms_are_interpolated_as_poses():
    made = tracks(
        {"time": 0, "camera": {"orbit": {"left": 20}}, "to_next": "linear"},
        {"time": 16, "camera": {"position": [0, 0, 0], "look_at": [0, 0, 4]}},
    ).c2w
    start = tracks({"time": 0, "camera": {"orbit": {"left": 20}}}).c2w[0]
    np.testing.assert_allclose(made[[0, 16]], [start, np.eye(4)], atol=1e-6)
    np.testing.assert_allclose(made[8, :3, 3], start[:3, 3] / 2, atol=1e-6)


@pytest.mark.parametrize("world", ["first_camera", "source_cameras"])
def test_the_world_of_the_source_s_cameras(world):
    """Each form, written in the world W and relative to its first camera, gives the same path."""
    to_world = W if world == "source_cameras" else np.eye(4)

    def point(p):
        return (to_world[:3, :3] @ p + to_world[:3, 3]).tolist()

    forward = (
        [{"c2w": (to_world @ pose(Rotation.identity(), [0, 0, z])).tolist()} for z in (0.0, 1.0)],
        [{"position": point([0, 0, z]), "look_at": point([0, 0, 9])} for z in (0.0, 1.0)],
        [{"orbit": {"around": point([0, 0, 4]), "distance": 4 - z}} for z in (0.0, 1.0)],
    )
    expected = np.tile(np.eye(4), (F, 1, 1))
    expected[:, 2, 3] = np.linspace(0, 1, F)
    for start, end in forward:
        made = tracks(
            {"time": 0, "camera": start},
            {"time": 16, "camera": end},
            world=world,
            filmed=FILMED._replace(first=W),
        )
        np.testing.assert_allclose(made.c2w, expected, atol=1e-6)


def test_a_mirrored_world_is_refused():
    mirrored = FILMED._replace(first=np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(InputError, match="keys.json: cannot be in the mirrored world"):
        tracks({"time": 0, "camera": {"c2w": EYE}}, world="source_cameras", filmed=mirrored)


def test_impossible_looks_between_keys_and_along_the_default_up():
    with pytest.raises(InputError, match=r"keyframes\[0\]: camera: it looks straight along up"):
        tracks({"time": 0, "camera": {"position": [0, -2, 4], "look_at": [0, 0, 4]}})
    through = [[0, 0, 0], [0, 0, 8]]
    with pytest.raises(InputError, match="keys.json: between keyframes, at frame 8: look_at is where"):
        tracks(
            *(
                {"time": 16 * i, "camera": {"position": p, "look_at": [0, 0, 4]}}
                for i, p in enumerate(through)
            )
        )


# Lenses ---------------------------------------------------------------------------------------------------


def test_lenses_by_field_of_view_focal_length_and_intrinsics():
    fov = tracks({"time": 0, "fov": 60}).intrinsics[0]
    np.testing.assert_allclose(
        2 * np.degrees(np.arctan(0.5 / fov[1])), 60, rtol=1e-6
    )  # the height is shorter
    np.testing.assert_allclose(fov[0] * 16, fov[1] * 9, rtol=1e-6)
    wide = tracks({"time": 0, "focal_length": 36}).intrinsics[0]
    np.testing.assert_allclose(wide, [1, 16 / 9, 0.5, 0.5], rtol=1e-6)
    tall = tracks({"time": 0, "focal_length": 36}, filmed=FILMED._replace(aspect=0.5)).intrinsics[0]
    np.testing.assert_allclose(tall, [2, 1, 0.5, 0.5], rtol=1e-6)
    zoom = tracks(
        {"time": 0, "intrinsics": [1, 2, 0.4, 0.5], "to_next": "linear"},
        {"time": 16, "intrinsics": [4, 8, 0.6, 0.5]},
    ).intrinsics
    np.testing.assert_allclose(zoom[:, 0], 4 ** np.linspace(0, 1, F), rtol=1e-6)  # even in the logarithm
    np.testing.assert_allclose(zoom[:, 2], np.linspace(0.4, 0.6, F), rtol=1e-6)
