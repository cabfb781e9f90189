"""--source_cameras estimate: against rendered planes, and scale, gaps and warnings in closed form."""

import numpy as np
import pytest

from stp_jax import media
from stp_jax.controls import cameras
from stp_jax.controls.structure import CameraPath
from stp_jax.errors import InputError
from stp_jax.rerender import estimated_cameras
from stp_jax.rerender.request import read_request
from stp_jax.weights import native
from tests.evaluate.test_camera_features import turned
from tests.textured_planes import LENS, film, path

F = 5


def test_a_handheld_clip_gets_its_cameras_and_its_lens(tmp_path):
    """By the video file: 320 x 240 pixels, of which the model is shown 32 x 32; the lens is not given."""
    pytest.importorskip("pycolmap", reason="the extra poses is not installed")
    filmed = path("orbit_left:20:-4", F)
    media.write_video(tmp_path / "clip.mp4", film(filmed), 10, crf=4, pixel_format="yuv444p")
    notes = native.SamplingNotes(F, 32, 32, 2, 1.0)
    made = read_request(
        notes,
        video=tmp_path / "clip.mp4",
        camera="static",
        animation_time="forward",
        source_cameras="estimate",
        distance=3.9,  # near what is in the middle of the first picture
    )
    expected = np.linalg.inv(filmed[0]) @ filmed
    errors = np.degrees(
        np.arccos(
            (
                np.trace(made.source.c2w[:, :3, :3].swapaxes(1, 2) @ expected[:, :3, :3], axis1=1, axis2=2)
                - 1
            ).clip(-2, 2)
            / 2
        )
    )
    assert errors.max() < 0.3
    length = np.linalg.norm(expected[-1, :3, 3])
    scale = np.linalg.norm(made.source.c2w[-1, :3, 3]) / length
    assert scale == pytest.approx(1, abs=0.1)  # what is in the middle lies between 3.4 and 4.3 m
    np.testing.assert_allclose(made.source.c2w[:, :3, 3] / scale, expected[:, :3, 3], atol=0.02 * length)
    lens = media.fit_intrinsics(LENS, (240, 320), 32, 32)
    np.testing.assert_allclose(made.source.intrinsics, [lens] * F, rtol=0.02)
    assert f"estimated by features; {F} of {F} frames were placed" in made.summary
    assert "is taken to be 3.9 m away" in made.summary and "degrees, estimated" in made.summary


def found(c2w, missing=(), parallax=True, depth=2.0, intrinsics=None):
    c2w, there = c2w.copy(), np.ones(len(c2w), bool)
    there[list(missing)] = False
    c2w[~there] = np.nan
    if not parallax:
        c2w[:, :3, 3] = np.nan
    return CameraPath(c2w, there, parallax, intrinsics, depth)


@pytest.fixture
def moving():
    """12 frames; x counts them."""
    yaw = np.linspace(0, 11, 12)
    return turned(np.stack([0 * yaw, yaw, 0 * yaw], 1), yaw[:, None] * [0.1, 0, 0])


def test_the_distance_sets_the_scale_and_few_missing_frames_are_interpolated(moving):
    numbers = np.array([0, 2, 2, *range(4, 24, 2)])
    made = estimated_cameras.settle(found(moving, [3, 11]), LENS, numbers, distance=6.0)
    x = made.cameras.c2w[:, 0, 3]
    np.testing.assert_allclose(x, 3 * 0.1 * np.minimum(numbers / 2, 10), atol=1e-6)
    text = "\n".join(made.lines)
    assert "10 of 12 frames were placed, the others are interpolated" in text
    assert "moves up to 3 m and turns up to 10 degrees" in text and "6 m away" in text
    assert "--distance" not in text and "50 degrees, assumed, --fov says another" in text
    np.testing.assert_array_equal(made.cameras.intrinsics, [LENS] * 13)


def test_a_lens_that_is_estimated_from_hardly_any_turn_is_uncertain(moving):
    lens = np.array([0.9, 1.2, 0.5, 0.5])
    made = estimated_cameras.settle(found(moving[:4], intrinsics=lens), LENS, np.arange(4))
    np.testing.assert_allclose(made.cameras.intrinsics, [lens] * 4, rtol=1e-6)
    assert "45.2 degrees, estimated; uncertain" in made.lines[2]
    assert "4 m away, --distance says another" in made.lines[1]


def test_a_camera_that_only_turns_stands_still_and_that_is_said(moving):
    made = estimated_cameras.settle(found(moving, parallax=False), LENS, np.arange(12), fov=50)
    np.testing.assert_array_equal(made.cameras.c2w[:, :3, 3], 0)
    np.testing.assert_allclose(made.cameras.c2w[:, :3, :3], moving[:, :3, :3], atol=1e-6)
    assert made.lines[1].startswith("WARNING: its camera hardly moves: its turns (up to 11 degrees)")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (lambda c: found(c, [1, 4, 5]), "only 9 of 12 frames could be placed"),
        (lambda c: found(c, range(12), parallax=False), "only 0 of 12"),
        (lambda c: found(c, depth=None), "no scale can be set"),
    ],
)
def test_what_cannot_be_estimated_is_refused(moving, path, message):
    with pytest.raises(InputError, match=message) as error:
        estimated_cameras.settle(path(moving), LENS, np.arange(12))
    assert "Give a file with --source_cameras" in str(error.value)


def test_too_few_frames_and_a_missing_package_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="2 different frames, and 3 are needed"):
        estimated_cameras.estimate(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2))
    video = tmp_path / "a.mp4"
    media.write_video(video, np.zeros((F, 32, 32, 3), np.uint8), 10)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install 'stp-jax\\[poses\\]'"):
        read_request(native.SamplingNotes(F, 32, 32, 2, 1.0), video=video, source_cameras="estimate")


def test_frames_are_read_by_number_and_made_smaller(tmp_path):
    video = np.stack([np.full((40, 60, 3), 40 * i, np.uint8) for i in range(6)])
    media.write_video(tmp_path / "a.mp4", video, 10)
    read = media.read_frames(tmp_path / "a.mp4", [4, 1, 4], 30)
    assert read.shape == (2, 20, 30, 3)
    np.testing.assert_allclose(read[:, 10, 15], [[40] * 3, [160] * 3], atol=3)
    with pytest.raises(InputError, match="cannot be read again"):
        media.read_frames(tmp_path / "a.mp4", [6], 30)
    assert cameras.DISTANCE == 4
