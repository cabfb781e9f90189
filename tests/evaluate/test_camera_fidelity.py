"""Camera fidelity on rendered ground truth with known disturbances, and its mathematics beside other ways."""

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from input_pipeline.render import views
from stp_jax.errors import InputError
from stp_jax.evaluate import alignment, camera_fidelity
from stp_jax.evaluate.camera_estimation import CameraEstimator
from stp_jax.evaluate.camera_fidelity import camera_scores, extent_of, rotation_error, summary
from stp_jax.evaluate.disturb import degrade
from stp_jax.evaluate.matching import ShiftedComparison
from stp_jax.media.metrics import psnr
from tests.opengl import needs_opengl

CAMERAS = np.array([3, 9, 15])
TIMES = np.array([4, 16, 27])


@pytest.fixture(scope="module")
def scene():
    with views.SceneViews(1_000_000) as opened:
        yield opened


@pytest.fixture(scope="module")
def estimator(scene):
    return CameraEstimator(scene)


def scaled(c2w, factor):
    """A path whose turn and way from its first pose are `factor` times as large."""
    own = np.linalg.inv(c2w[0]) @ c2w
    own[:, :3, :3] = Rotation.from_rotvec(
        factor * Rotation.from_matrix(own[:, :3, :3]).as_rotvec()
    ).as_matrix()
    own[:, :3, 3] *= factor
    return c2w[0] @ own


def turned(c2w, degrees, axis):
    result = c2w.copy()
    vector = np.radians(degrees) * np.eye(3)["xyz".index(axis)]
    result[:, :3, :3] = c2w[:, :3, :3] @ Rotation.from_rotvec(vector).as_matrix()
    return result


# ---------------------------------------------------------------- with rendered scenes


@needs_opengl
def test_a_camera_turned_by_3_degrees_is_measured_as_3_degrees(scene, estimator):
    c2w, lens = scene.c2w[CAMERAS], scene.intrinsics[CAMERAS]
    filmed = turned(c2w, 3.0, "y")
    found = estimator.estimate(scene.pictures(TIMES, filmed, lens), lens)
    scores = camera_scores(found.c2w, c2w, scene.c2w[0], extent_of(scene.c2w))
    np.testing.assert_allclose(scores.rotation_absolute, 3.0, atol=0.3)
    assert scores.translation_absolute.max() < 0.1
    assert rotation_error(found.c2w, filmed).max() < 0.3


@needs_opengl
def test_a_camera_far_off_the_rig_is_found(scene, estimator):
    c2w, lens = scene.c2w[[5]].copy(), scene.intrinsics[:1]
    c2w[:, :3, 3] += [0.1, -0.2, 0.2]
    filmed = turned(turned(c2w, 8.0, "y"), -6.0, "x")
    found = estimator.estimate(scene.pictures(np.array([9]), filmed, lens))
    assert rotation_error(found.c2w, filmed)[0] < 0.3
    assert np.linalg.norm((found.c2w - filmed)[:, :3, 3]) < 0.05


@needs_opengl
def test_a_path_of_four_fifths_has_gain_four_fifths(scene, estimator):
    c2w, lens = scene.c2w[CAMERAS], scene.intrinsics[CAMERAS]
    found = estimator.estimate(scene.pictures(TIMES, scaled(c2w, 0.8), lens), lens)
    figures = summary([camera_scores(found.c2w, c2w, scene.c2w[0], extent_of(scene.c2w))])
    assert figures["rotation_gain_from_first"] == pytest.approx(0.8, abs=0.03)
    assert figures["translation_gain_from_first"] == pytest.approx(0.8, abs=0.03)


@needs_opengl
def test_ground_truth_blurred_and_noised_to_19_db_keeps_its_gain(scene, estimator):
    c2w, lens = scene.c2w[CAMERAS], scene.intrinsics[CAMERAS]
    video = scene.pictures(TIMES, c2w, lens)
    worse = degrade(video, 19.0)
    assert psnr(worse, video) == pytest.approx(19.0, abs=0.1)
    for frames, error in ((video, 0.2), (worse, 1.0)):
        found = estimator.estimate(frames)
        figures = summary([camera_scores(found.c2w, c2w, scene.c2w[0], extent_of(scene.c2w))])
        for name in ("rotation_gain", "translation_gain", "rotation_gain_from_first"):
            assert figures[name] == pytest.approx(1.0, abs=0.025)
        assert figures["rotation_absolute"] < error


@needs_opengl
def test_no_candidate_is_a_camera_of_the_rig(scene, estimator):
    poses = estimator._poses.c2w
    apart = np.linalg.norm(poses[:, None, :3, 3] - scene.c2w[:, :3, 3], axis=-1)
    step = np.linalg.norm(np.diff(scene.c2w[:, :3, 3], axis=0), axis=-1)
    assert len(poses) == 18 and apart.min() > 0.35 * step.min()
    transposed = np.swapaxes(poses[:, :3, :3], 1, 2)
    np.testing.assert_allclose(transposed @ poses[:, :3, :3] - np.eye(3), 0, atol=1e-6)


@needs_opengl
def test_frames_of_another_size_are_refused(estimator):
    with pytest.raises(InputError, match="64, 64, 3"):
        estimator.estimate(np.zeros((2, 64, 64, 3), np.uint8))


# ---------------------------------------------------------------- mathematics


def random_path(frames=6, seed=0):
    rng = np.random.default_rng(seed)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = Rotation.from_rotvec(0.4 * rng.normal(size=(frames, 3))).as_matrix()
    c2w[:, :3, 3] = rng.normal(size=(frames, 3))
    return c2w


def test_rotation_error_is_the_angle_between_the_rotations():
    c2w = random_path()
    for degrees in (1e-5, 0.3, 3.0, 90.0, 179.0):
        np.testing.assert_allclose(
            rotation_error(turned(c2w, degrees, "x"), c2w), degrees, rtol=1e-6, atol=1e-9
        )


def test_errors_relative_to_the_first_frame_forgive_a_common_displacement():
    target = random_path()
    moved = random_path(1, seed=5)[0] @ target  # the same path, elsewhere
    scores = camera_scores(moved, target, target[0], extent=4.0)
    np.testing.assert_allclose(scores.rotation_relative, 0, atol=1e-6)
    np.testing.assert_allclose(scores.translation_relative, 0, atol=1e-9)
    assert scores.rotation_absolute.min() > 1 and scores.translation_absolute.min() > 0.1
    expected = np.linalg.norm(moved[:, :3, 3] - target[:, :3, 3], axis=-1)
    np.testing.assert_allclose(scores.translation_absolute, expected)
    figures = summary([scores])
    assert figures["translation_absolute_of_extent"] == pytest.approx(expected.mean() / 4.0)
    assert figures["rotation_gain_from_first"] == pytest.approx(1)
    assert figures["first_within_15"] == float(scores.rotation_absolute[0] < 15)


@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.8, 2.2])
def test_gain_is_the_factor_of_a_path(factor):
    target = random_path()
    scores = camera_scores(scaled(target, factor), target, target[0], extent=1.0)
    for motion in (scores.from_source, scores.from_first):
        assert camera_fidelity.rotation_gain([motion, motion]) == pytest.approx(factor, abs=1e-9)
        assert camera_fidelity.translation_gain([motion]) == pytest.approx(factor, abs=1e-9)
        np.testing.assert_allclose(motion.achieved_angle, factor * motion.commanded_angle, atol=1e-6)


def test_noise_around_the_path_leaves_the_gain():
    rng = np.random.default_rng(1)
    target, motions = random_path(500), []
    noisy = target.copy()
    noisy[:, :3, :3] = target[:, :3, :3] @ Rotation.from_rotvec(0.05 * rng.normal(size=(500, 3))).as_matrix()
    motions.append(camera_scores(noisy, target, np.eye(4), 1.0).from_source)
    assert camera_fidelity.rotation_gain(motions) == pytest.approx(1, abs=0.01)


def test_a_camera_that_stands_still_has_no_gain():
    target = np.tile(random_path(1), (4, 1, 1))
    figures = summary([camera_scores(target, target, target[0], 1.0)])
    assert np.isnan(figures["rotation_gain"]) and figures["rotation_absolute"] == 0


def test_shifted_pictures_are_compared_where_they_overlap():
    rng = np.random.default_rng(0)
    picture, candidates = rng.normal(size=(12, 10, 3)), rng.normal(size=(2, 12, 10, 3))
    candidates[1, :9, 2:] = picture[3:, :8] + [5, 0, -2]  # 3 up and 2 to the right; another tint
    found = ShiftedComparison(candidates, 4)(picture)
    assert found.shape == (2, 9, 9)
    for (down, right), (k, i, j) in {(-3, 4): (0, 1, 8), (2, -1): (1, 6, 3), (0, 0): (0, 4, 4)}.items():
        own = picture[max(down, 0) : 12 + min(down, 0), max(right, 0) : 10 + min(right, 0)]
        other = candidates[k, max(-down, 0) : 12 - max(down, 0), max(-right, 0) : 10 - max(right, 0)]
        assert found[k, i, j] == pytest.approx((own - other).reshape(-1, 3).var(0).sum())
    assert found[1, 4 + 3, 4 - 2] == pytest.approx(0, abs=1e-9) and found[1].argmin() == 7 * 9 + 2


def test_exponential_is_scipys():
    twists = np.concatenate([np.random.default_rng(0).normal(size=(5, 6)), np.zeros((1, 6))])
    for motion, (tx, ty, tz, x, y, z) in zip(alignment.exponential(twists), twists, strict=True):
        expected = expm(np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
        np.testing.assert_allclose(motion[:3, :3], expected, atol=1e-12)
        np.testing.assert_allclose(motion[:3, 3], [tx, ty, tz])


def test_picture_motion_is_the_derivative_of_projection():
    height, width = 20, 30
    fx, fy, cx, cy = intrinsics = np.array([0.9, 1.1, 0.5, 0.45])
    depth = np.random.default_rng(0).uniform(2, 5, (1, height, width))
    motion = alignment.picture_motion(1 / depth, intrinsics[None])
    for row, column in ((0, 0), (7, 22), (19, 29)):
        z = depth[0, row, column]
        x, y = ((column + 0.5) / width - cx) / fx, ((row + 0.5) / height - cy) / fy
        point = np.array([x * z, y * z, z, 1])

        def project(twist, point=point):
            px, py, pz, _ = np.linalg.inv(alignment.exponential(twist[None])[0]) @ point
            return np.array([(fx * px / pz + cx) * width, (fy * py / pz + cy) * height])

        steps = 1e-5 * np.eye(6)
        numeric = np.stack([(project(s) - project(-s)) / 2e-5 for s in steps], -1)
        np.testing.assert_allclose(motion[0, row, column], numeric, atol=1e-4)
