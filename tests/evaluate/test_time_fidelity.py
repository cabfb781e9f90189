"""Time fidelity and disentanglement on the bundled held-out scenes with known disturbances."""

import numpy as np
import pytest

from configs.demo import ASSETS
from input_pipeline.datasets.reading import open_records
from input_pipeline.shots import decode_scene
from stp_jax.errors import InputError
from stp_jax.evaluate import disentanglement, time_fidelity
from stp_jax.evaluate.disturb import degrade
from stp_jax.evaluate.time_fidelity import time_scores

CAMERAS = np.linspace(2, 14, 9).round().astype(int)


@pytest.fixture(scope="module")
def scene():
    return decode_scene(open_records(ASSETS / "cam_x_time_mini", "cam_x_time", "test")[0])


@pytest.fixture(scope="module")
def references(scene):
    return scene.videos[CAMERAS]


def filmed(scene, grid_times):
    """A video of the path of the cameras at these grid times, and the animation times."""
    grid_times = np.asarray(grid_times)
    return scene.videos[CAMERAS, grid_times], scene.animation_time[grid_times]


def test_ground_truth_has_its_commanded_times(scene, references):
    video, commanded = filmed(scene, np.arange(8, 26, 2))
    scores = time_scores(video, references, scene.animation_time, commanded)
    assert scores.mean_absolute_error < 0.1 and scores.slope == pytest.approx(1, abs=0.02)


def test_a_video_late_by_one_frame_has_an_error_of_one(scene, references):
    grid_times = np.arange(6, 24, 2)
    video, _ = filmed(scene, grid_times + 2)
    scores = time_scores(video, references, scene.animation_time, scene.animation_time[grid_times])
    np.testing.assert_allclose(scores.error, 1.0, atol=0.25)
    assert scores.mean_error == pytest.approx(1.0, abs=0.1)
    assert scores.median_absolute_error == pytest.approx(1.0, abs=0.1)
    assert scores.drift == pytest.approx(0, abs=0.03)


def test_bullet_time_that_drifts_is_found_out(scene, references):
    still, commanded = filmed(scene, np.full(9, 16))
    scores = time_scores(still, references, scene.animation_time, commanded)
    assert scores.spread < 0.1 and abs(scores.slope) < 0.02
    drifting, _ = filmed(scene, 12 + np.arange(9))  # half a source frame each frame
    scores = time_scores(drifting, references, scene.animation_time, commanded)
    assert scores.slope == pytest.approx(0.5, abs=0.02) and scores.drift == pytest.approx(0.5, abs=0.02)
    assert scores.spread == pytest.approx(0.5 * np.arange(9).std(), abs=0.05)


def test_blurred_and_noised_to_19_db_times_stay(scene, references):
    video, commanded = filmed(scene, np.arange(8, 26, 2))
    scores = time_scores(degrade(video, 19.0), references, scene.animation_time, commanded)
    assert scores.mean_absolute_error < 0.25 and scores.slope == pytest.approx(1, abs=0.04)


def test_moments_between_the_references_are_found(scene, references):
    """Of every second grid time as references; the frames are from between them."""
    video, commanded = filmed(scene, np.arange(9, 26, 2))
    scores = time_scores(video, references[:, ::2], scene.animation_time[::2], commanded)
    assert scores.mean_absolute_error < 0.15


def test_where_nothing_moves_there_is_no_time(scene, references):
    still = np.repeat(references[:, :1], 33, axis=1)
    scores = time_scores(still[:, 0], still, scene.animation_time, np.zeros(9))
    assert np.isnan(scores.estimated).all() and np.isnan(scores.spread) and np.isnan(scores.drift)
    moving = time_scores(*(references[:, 3], references), scene.animation_time, np.full(9, 1.5))
    assert time_fidelity.summary([scores, moving])["mean_absolute_error"] == moving.mean_absolute_error


def test_shapes_that_do_not_fit_are_refused(scene, references):
    with pytest.raises(InputError, match="do not fit"):
        time_scores(references[:5, 0], references, scene.animation_time, np.zeros(5))


# ---------------------------------------------------------------- disentanglement


def test_background_of_ground_truth_is_equal_at_all_animation_times(scene, references):
    moving = disentanglement.moving_mask(references)
    assert moving.shape == (9, 128, 128) and 0.2 < moving.mean() < 0.8
    videos = [filmed(scene, times)[0] for times in (np.arange(9), np.full(9, 20), np.arange(30, 12, -2))]
    assert disentanglement.background_psnr(videos, moving) > 40


def test_only_the_background_counts_and_all_pairs_do(scene, references):
    moving = disentanglement.moving_mask(references)
    video = references[:, 0].clip(50, 200)
    other = np.where(moving[..., None], 0, video + 4).astype(np.uint8)
    expected = 10 * np.log10(255**2 / 4**2)
    assert disentanglement.background_psnr([video, other], moving) == pytest.approx(expected)
    # Of three pairs two differ by 4.
    expected = 10 * np.log10(255**2 / (2 / 3 * 4**2))
    assert disentanglement.background_psnr([video, video, other], moving) == pytest.approx(expected)
    assert disentanglement.background_psnr([video, video], moving) == float("inf")
    assert np.isnan(disentanglement.background_psnr([video, other], np.ones_like(moving)))
    with pytest.raises(InputError, match="two or more"):
        disentanglement.background_psnr([video], moving)


def test_drift_of_the_animation_time_under_camera_control(scene, references):
    """Time that runs at half speed though forward is commanded."""
    video, _ = filmed(scene, 8 + np.arange(9))
    scores = time_scores(video, references, scene.animation_time, scene.animation_time[np.arange(8, 26, 2)])
    found = disentanglement.time_drift(scores)
    assert found.drift == pytest.approx(-0.5, abs=0.03) and found.mean_error == pytest.approx(-2, abs=0.1)
