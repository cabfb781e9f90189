"""Time fidelity where the camera is off, too, on a rendered scene."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from configs.demo import ASSETS
from input_pipeline.datasets.reading import open_records
from input_pipeline.render import views
from input_pipeline.shots import decode_scene
from stp_jax.evaluate import scene_cameras
from stp_jax.evaluate.camera_measure import CameraFidelity
from stp_jax.evaluate.cases import CAMERA, cases_of, example_of
from stp_jax.evaluate.scene_cameras import SceneCameras
from stp_jax.evaluate.time_measures import TimeFidelity
from tests.opengl import needs_opengl

FRAMES, ESTIMATES = 17, 3


@pytest.fixture(scope="module", autouse=True)
def few_estimates():
    """Of each video: all of the grid's times are rendered from each estimated camera."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_cameras, "FRAMES", ESTIMATES)
        yield


@pytest.fixture(scope="module")
def scene():
    return decode_scene(open_records(ASSETS / "cam_x_time_mini", "cam_x_time", "test")[0])


@pytest.fixture(scope="module")
def case(scene):
    return next(case for case in cases_of(0, len(scene.videos), FRAMES) if case.group == CAMERA)


@pytest.fixture(scope="module")
def film(scene, case):
    """Films the case with its cameras turned and moved, and its animation time late."""
    with views.SceneViews(views.seed_of(scene.name)) as opened:

        def shoot(degrees=0.0, metres=0.0, late=0.0):
            c2w = opened.c2w[case.target_camera].copy()
            c2w[:, :3, :3] = c2w[:, :3, :3] @ Rotation.from_rotvec([0, np.radians(degrees), 0]).as_matrix()
            c2w[:, :3, 3] += metres * c2w[:, :3, 0]
            times = np.rint(2 * (case.target_animation_time + late)).astype(int)
            return opened.pictures(
                np.minimum(times, opened.times - 1), c2w, opened.intrinsics[case.target_camera]
            )

        yield shoot


@pytest.fixture(scope="module")
def cameras():
    cameras = SceneCameras()
    yield cameras
    cameras.close()


@pytest.fixture
def measure(scene, cameras):
    measure = TimeFidelity(cameras)
    return lambda case, video: measure.measure(scene, case, video, video, video)


@pytest.fixture(scope="module")
def right(scene, case, film, cameras):
    """Camera and time fidelity of the right video, and how often its cameras were estimated for both."""
    measures = CameraFidelity(cameras), TimeFidelity(cameras)
    cameras.enter(scene)
    calls, estimate = [], cameras._estimator.estimate
    spy = lambda *given: calls.append(given) or estimate(*given)  # noqa: E731
    video = film()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cameras._estimator, "estimate", spy)
        return *(measure.measure(scene, case, video, video, video) for measure in measures), len(calls)


@needs_opengl
def test_a_turned_camera_is_not_blamed_on_the_animation_time(case, film, measure, right):
    turned = measure(case, film(degrees=3.0))
    for name in ("mean", "median"):
        own = right[1][f"estimated_camera_{name}_frames"]
        assert own < 0.1 and turned[f"estimated_camera_{name}_frames"] < own + 0.05
    assert turned["mean_absolute_error_frames"] > 0.3  # seen from the commanded camera
    assert turned["median_absolute_error_frames"] <= turned["mean_absolute_error_frames"]


@needs_opengl
def test_late_time_is_found_though_the_camera_is_off(case, film, measure):
    found = measure(case, film(degrees=3.0, metres=0.1, late=1.0))
    assert found["estimated_camera_median_frames"] == pytest.approx(1, abs=0.1)
    # At the last frame the grid has no time that is one frame later.
    assert found["estimated_camera_mean_frames"] == pytest.approx((ESTIMATES - 1) / ESTIMATES, abs=0.1)


@needs_opengl
def test_measures_that_share_cameras_estimate_a_video_once(right):
    camera, time, estimates = right
    assert estimates == 1 and camera["rotation_absolute"] < 0.2
    assert time["estimated_camera_mean_frames"] < 0.1


def test_without_the_renderer_the_commanded_camera_is_left(scene, case):
    measure = TimeFidelity()
    other = scene._replace(name="kitchen")
    assert measure.available(other, FRAMES) is None
    assert "its name holds no seed" in measure.parts_left_out()["time at estimated cameras"]
    video = example_of(scene, case)["target_video"]
    values = measure.measure(other, case, video, video, video)
    assert values["median_absolute_error_frames"] < 0.1
    assert not [name for name in values if name.startswith("estimated_camera")]
    measure.close()
