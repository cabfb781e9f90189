"""Keyframes of a request: what they direct, what is left to other flags, and what has no effect."""

import json

import numpy as np
import pytest

from stp_jax import media
from stp_jax.errors import InputError
from stp_jax.rerender.request import read_request
from stp_jax.rerender.results import write_settings
from stp_jax.rerender.takes import Takes
from stp_jax.weights import native

F = 17
NOTES = native.SamplingNotes(F, 32, 32, 2, 1.0)
W = np.eye(4)
W[:3, :3] = [[0.36, 0.48, -0.8], [-0.8, 0.6, 0], [0.48, 0.64, 0.6]]
W[:3, 3] = [5, 2, 1]
FORWARD = [
    {"time": 0, "camera": {"position": [0, 0, 0], "look_at": [0, 0, 9]}},
    {"time": "100%", "camera": {"position": [0, 0, 1], "look_at": [0, 0, 9]}},
]
CLOCK = [{"time": 0, "animation_time": 8}]
LENS = [{"time": 0, "fov": 30}]
ORBIT = [{"time": 0, "camera": {"orbit": {"left": 20}}}]
MASTER = Takes("pose12_target", False, True, "ReCamMaster")
PILOT = Takes("pose12", True, True, "SpaceTimePilot")
BLIND = Takes("none", True, False, "a model without cameras")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "wide.mp4"
    y, x = np.mgrid[:90, :160]
    pictures = np.stack([np.stack([x + i, y, x], -1) for i in range(20)]).astype(np.uint8)
    media.write_video(path, pictures, 20)
    return path


@pytest.fixture
def request_of(video, tmp_path):
    def make(keys, model=Takes(), world=None, **asked):  # noqa: B008 (immutable)
        data = {"version": 1, "keyframes": keys} | ({"world": world} if world else {})
        (tmp_path / "keys.json").write_text(json.dumps(data))
        return read_request(NOTES, model=model, video=video, keyframes=tmp_path / "keys.json", **asked)

    return make


def test_a_file_directs_camera_lens_and_clock(request_of):
    keys = [FORWARD[0] | {"fov": 40, "animation_time": 16}, FORWARD[1] | {"animation_time": "50%"}]
    made = request_of(keys)
    np.testing.assert_allclose(made.target.c2w[:, 2, 3], np.linspace(0, 1, F), atol=1e-6)
    np.testing.assert_allclose(made.target.intrinsics[:, 1], 0.5 / np.tan(np.radians(20)), rtol=1e-6)
    np.testing.assert_allclose(
        made.target.intrinsics[:, 0], made.target.intrinsics[:, 1], rtol=1e-6
    )  # the crop
    np.testing.assert_allclose(made.target.animation_time, np.linspace(16, 8, F), atol=1e-5)
    assert not made.same_camera and made.in_world()[1].c2w is not None
    assert (
        "New camera: keys.json: 2 keyframes at 0 smooth, 100%, looking at a point, relative to the"
        in made.summary
    )
    assert "New lens: keys.json: 1 keyframe at 0" in made.summary
    assert "New animation time: keys.json: 2 keyframes at 0 smooth, 100%" in made.summary


def test_what_a_file_lacks_is_given_by_flags_or_the_source_s_own(request_of):
    made = request_of(CLOCK)
    assert made.same_camera and "New camera: the source's own" in made.summary
    np.testing.assert_array_equal(made.target.animation_time, [8] * F)
    made = request_of(CLOCK, camera="dolly_in:1")
    np.testing.assert_allclose(made.target.c2w[:, 2, 3], np.linspace(0, 1, F), atol=1e-6)
    assert "New camera: dolly_in:1" in made.summary and "New animation time: keys.json" in made.summary
    made = request_of(FORWARD)
    np.testing.assert_array_equal(made.target.animation_time, np.arange(F))
    assert "New animation time: forward" in made.summary
    np.testing.assert_array_equal(made.target.intrinsics, made.source.intrinsics)
    made = request_of(FORWARD, animation_time="0s:0s, 0.5s:0.25s")
    np.testing.assert_allclose(made.target.animation_time[:8], np.arange(8) / 2, atol=1e-6)
    made = request_of(LENS, camera="pan_left")
    assert made.target.intrinsics[0, 1] == pytest.approx(0.5 / np.tan(np.radians(15)))
    made = request_of(LENS)
    assert not made.same_camera and made.target.intrinsics[0, 1] != made.source.intrinsics[0, 1]


def test_seconds_are_those_of_the_new_video_and_of_the_source(request_of):
    """20 frames at 20 per second: 17 frames over 0.95 s."""
    keys = [
        {"time": 0, "animation_time": "0s"},
        {"time": "0.5s", "animation_time": "0.475s", "to_next": "hold"},
    ]
    made = request_of(keys)
    np.testing.assert_allclose(made.target.animation_time, np.minimum(np.arange(F) * 0.95, 8), atol=1e-5)
    slower = request_of(keys, fps=8.5)
    np.testing.assert_allclose(slower.target.animation_time[5:], 8, atol=1e-5)
    np.testing.assert_allclose(slower.target.animation_time[4], 8 * 4 / 4.25, atol=1e-5)


def test_worlds(request_of, tmp_path):
    path = np.tile(W, (20, 1, 1))
    np.save(tmp_path / "source.npy", path)
    keys = [{"time": t, "camera": {"c2w": (W @ _along_z(z)).tolist()}} for t, z in ((0, 0.0), (16, 1.0))]
    made = request_of(keys, world="source_cameras", source_cameras=tmp_path / "source.npy")
    np.testing.assert_allclose(made.target.c2w[:, 2, 3], np.linspace(0, 1, F), atol=1e-6)
    assert "relative to the world of --source_cameras" in made.summary
    made = request_of(FORWARD, source_cameras=tmp_path / "source.npy")
    np.testing.assert_allclose(made.target.c2w[:, 2, 3], np.linspace(0, 1, F), atol=1e-6)
    # In the wrong world they look elsewhere.
    made = request_of(keys, source_cameras=tmp_path / "source.npy")
    assert "WARNING: the new camera: " in made.summary and "--camera_axes" not in made.summary


def _along_z(z):
    pose = np.eye(4)
    pose[2, 3] = z
    return pose


def test_the_distance_is_that_of_orbits_without_a_point(request_of):
    made = request_of(ORBIT, distance=2.0)
    np.testing.assert_allclose(np.linalg.norm(made.target.c2w[0, :3, 3] - [0, 0, 2]), 2, rtol=1e-6)
    with pytest.raises(InputError, match="--distance 2: the path of --keyframes .*keys.json does not depend"):
        request_of(FORWARD, distance=2.0)


def test_the_distance_may_be_that_of_a_camera_file_beside_keyframes(request_of, tmp_path):
    (tmp_path / "right.txt").write_text("0 0\n0 90\n0 0\n")
    made = request_of(CLOCK, camera=str(tmp_path / "right.txt"), distance=2.0)
    # Degrees to the right, around a point 2 m ahead.
    np.testing.assert_allclose(made.target.c2w[-1, :3, 3], [2, 0, 2], atol=1e-6)
    # The source's own path, with another lens.
    own = request_of(LENS, source_cameras=tmp_path / "right.txt", distance=2.0)
    np.testing.assert_allclose(own.source.c2w, made.target.c2w, atol=1e-6)
    np.testing.assert_array_equal(own.target.c2w, own.source.c2w)


@pytest.mark.parametrize(
    ("keys", "asked", "message"),
    [
        (FORWARD, {"camera": "orbit_left"}, "--camera: .*keys.json has cameras: leave one of them out"),
        (FORWARD, {"camera": "source"}, "--camera: .*keys.json has cameras"),
        (CLOCK, {"animation_time": "forward"}, "--animation_time: .*keys.json has animation times"),
        (LENS, {"camera": "pan_left, zoom_in"}, "it changes the lens, and so does"),
        (FORWARD, {"model": BLIND}, "a model without cameras is given no cameras"),
        (LENS, {"model": PILOT}, "SpaceTimePilot is given no lens"),
        (CLOCK, {"model": MASTER}, "ReCamMaster is given no animation time"),
        (
            FORWARD,
            {"model": MASTER, "source_cameras": "a.npy"},
            "--source_cameras: ReCamMaster is given the new",
        ),
        (CLOCK, {"world": "source_cameras"}, 'no keyframe has a camera, so "world" has no effect'),
        (FORWARD, {"world": "source_cameras"}, "and there are none: --source_cameras FILE"),
        (
            [{"time": 20, "animation_time": 0}],
            {},
            r"keys.json: keyframes\[0\]: time 20 is outside the new video",
        ),
        ([{"time": 0, "animation_time": 17}], {}, "animation_time 17 is outside the source's clip"),
    ],
)
def test_conflicts_and_what_has_no_effect(request_of, keys, asked, message):
    with pytest.raises(InputError, match=message):
        request_of(keys, **asked)


def test_keyframes_are_marked_and_in_the_settings(request_of, tmp_path):
    made = request_of([FORWARD[0] | {"animation_time": 3}, FORWARD[1]])
    np.testing.assert_allclose(made.marks.positions, [[0, 0, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_array_equal(made.marks.clock, [[0, 3]])
    (tmp_path / "out").mkdir()
    write_settings(tmp_path / "out" / "settings.json", {"keyframes": "keys.json", "camera": None}, made)
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["command"] == "python sample.py --keyframes=keys.json"
