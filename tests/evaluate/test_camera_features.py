"""Camera paths by features, of rendered planes; errors, gain and similarity beside closed forms."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from stp_jax.controls import structure
from stp_jax.errors import InputError
from stp_jax.evaluate import camera_features
from tests.textured_planes import LENS, film, path


@pytest.fixture(scope="module")
def estimate():
    pytest.importorskip("pycolmap", reason="the extra eval is not installed")
    return camera_features.load()


def test_a_moving_camera_is_found_and_its_gain(estimate):
    """Beside the path that was filmed, and beside one of half the angle as if it had been commanded."""
    filmed, commanded = path("orbit_left:24:-4"), path("orbit_left:12")
    video = film(filmed)
    video[3] = 128  # nothing to see
    found = estimate(video, LENS)
    assert found.parallax and found.found.tolist() == [True, True, True, False, True, True]
    np.testing.assert_allclose(found.c2w[0], np.eye(4), atol=1e-12)
    right = camera_features.compare(found, filmed)
    assert np.nanmax(right.rotation) < 0.5 and right.rotation_of_pairs < 0.3
    assert right.gain == pytest.approx(1, abs=0.05)
    assert np.isnan(right.rotation).tolist() == (~found.found).tolist()
    extent = np.linalg.norm(filmed[-1, :3, 3] - filmed[0, :3, 3])
    assert np.nanmax(right.translation) < 0.02 * extent
    wrong = camera_features.compare(found, commanded)
    assert wrong.gain == pytest.approx(2, abs=0.1)
    assert wrong.rotation[-1] == pytest.approx(12, abs=0.5)
    assert wrong.commanded_angle[-1] == pytest.approx(12) and abs(wrong.achieved_angle[-1] - 24) < 0.5


def test_of_a_turning_camera_the_rotations_are_found(estimate):
    filmed = path("pan_left:15", 4)
    found = estimate(film(filmed), LENS)
    errors = camera_features.compare(found, filmed)
    assert found.found.all() and not found.parallax
    assert np.isnan(found.c2w[:, :3, 3]).all() and np.isnan(errors.translation).all()
    assert errors.rotation.max() < 0.5 and errors.gain == pytest.approx(1, abs=0.05)
    assert camera_features.compare(found, path("pan_left:10", 4)).gain == pytest.approx(1.5, abs=0.075)


def test_a_video_without_features_has_no_path(estimate):
    found = estimate(np.full((3, 64, 64, 3), 90, np.uint8), LENS)
    errors = camera_features.compare(found, path("orbit_left", 3))
    assert not found.found.any() and not found.parallax and np.isnan(found.c2w).all()
    assert np.isnan(errors.rotation).all() and np.isnan(errors.gain) and np.isnan(errors.rotation_of_pairs)
    with pytest.raises(InputError, match="3 frames or more, not 2"):
        estimate(np.zeros((2, 64, 64, 3), np.uint8), LENS)


def test_without_the_package_there_is_no_estimate(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert camera_features.load() is None


# Errors -----------------------------------------------------------------------------------------------------


def found_as(c2w):
    relative = np.linalg.inv(c2w[0]) @ c2w
    return camera_features.CameraPath(relative, np.ones(len(c2w), bool), True)


def turned(vectors, centres=0.0):
    c2w = np.tile(np.eye(4), (len(vectors), 1, 1))
    c2w[:, :3, :3] = Rotation.from_rotvec(np.radians(vectors)).as_matrix()
    c2w[:, :3, 3] = centres
    return c2w


def test_errors_of_a_known_disturbance():
    rng = np.random.default_rng(0)
    yaw = np.linspace(0, 30, 7)
    commanded = turned(np.stack([0 * yaw, yaw, 0 * yaw], 1), rng.normal(size=(7, 3)))
    world = turned(rng.normal(size=(1, 3)) * 50, rng.normal(size=3))[0]
    achieved = turned(np.stack([0 * yaw, 1.4 * yaw, 0 * yaw], 1), 3 * commanded[:, :3, 3] + [1, 2, 3])
    errors = camera_features.compare(found_as(achieved), world @ commanded)
    assert errors.gain == pytest.approx(1.4)
    np.testing.assert_allclose(errors.rotation, 0.4 * yaw, atol=1e-6)
    np.testing.assert_allclose(errors.achieved_angle, 1.4 * yaw, atol=1e-6)
    np.testing.assert_allclose(errors.translation, 0, atol=1e-9)
    between = np.abs(yaw[:, None] - yaw)[np.triu_indices(7, 1)]
    assert errors.rotation_of_pairs == pytest.approx(0.4 * between.mean())
    # A camera that is turned by 3 degrees in the last frame alone.
    shifted = achieved.copy()
    shifted[-1, :3, :3] = shifted[-1, :3, :3] @ Rotation.from_rotvec([np.radians(3), 0, 0]).as_matrix()
    error = camera_features.compare(found_as(shifted), achieved).rotation
    np.testing.assert_allclose(error, [0] * 6 + [3], atol=1e-6)


def test_gain_ignores_other_axes_and_needs_a_turn():
    yaw = np.linspace(0, 20, 5)
    commanded = turned(np.stack([0 * yaw, yaw, 0 * yaw], 1))[:, :3, :3]
    other = turned(np.stack([yaw, 0 * yaw, 0 * yaw], 1))[:, :3, :3]
    assert camera_features.gain_of(other, commanded) == pytest.approx(0, abs=1e-9)
    assert np.isnan(camera_features.gain_of(commanded, np.tile(np.eye(3), (5, 1, 1))))
    commanded_with_gap = commanded.copy()
    commanded_with_gap[2] = np.nan
    assert camera_features.gain_of(commanded_with_gap, commanded) == pytest.approx(1)


def test_umeyama_finds_a_known_similarity():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(9, 3))
    rotation = Rotation.random(random_state=2).as_matrix()
    fit = camera_features.umeyama(points, 2.5 * points @ rotation.T + [1, -2, 3])
    assert fit.scale == pytest.approx(2.5)
    np.testing.assert_allclose(fit.rotation, rotation, atol=1e-12)
    np.testing.assert_allclose(fit.translation, [1, -2, 3], atol=1e-12)
    assert camera_features.umeyama(np.ones((4, 3)), points[:4]).scale == 0


@pytest.mark.parametrize("mirrored", [False, True])
def test_umeyama_is_the_least_squares_fit(mirrored):
    rng = np.random.default_rng(3)
    points = rng.normal(size=(8, 3))
    targets = 1.5 * points @ Rotation.random(random_state=4).as_matrix().T + rng.normal(size=(8, 3)) * 0.3
    targets *= [-1 if mirrored else 1, 1, 1]

    def error(values):
        moved = np.exp(values[0]) * points @ Rotation.from_rotvec(values[1:4]).as_matrix().T + values[4:]
        return np.sum((moved - targets) ** 2)

    starts = [np.r_[0, vector, 0, 0, 0] for vector in rng.normal(size=(12, 3)) * 1.5]
    best = min(minimize(error, start, tol=1e-12).fun for start in starts)
    fit = camera_features.umeyama(points, targets)
    assert np.linalg.det(fit.rotation) == pytest.approx(1)
    assert np.sum((fit(points) - targets) ** 2) == pytest.approx(best, rel=1e-6)


def test_rotations_are_averaged_over_pairs():
    rng = np.random.default_rng(5)
    truth = Rotation.random(6, random_state=6).as_matrix()  # world to camera
    noise = lambda: Rotation.from_rotvec(rng.normal(size=3) * 0.01).as_matrix()  # noqa: E731
    exact = {(a, b): (truth[b] @ truth[a].T, 10 + a) for a in range(6) for b in range(a)}
    noisy = {pair: (noise() @ rotation, weight) for pair, (rotation, weight) in exact.items()}
    for pairs, tolerance in ((exact, 1e-9), (noisy, 0.03)):
        found = structure.average_rotations(pairs, 8)  # frames 6 and 7 are connected with none
        assert list(found) == list(range(6))
        for frame, rotation in found.items():
            np.testing.assert_allclose(rotation @ found[0].T, truth[frame] @ truth[0].T, atol=tolerance)
    assert structure.average_rotations({}, 3) == {}
