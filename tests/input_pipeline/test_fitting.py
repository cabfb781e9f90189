"""What scenes of any size, rate and unit are brought to: against closed forms and pictures with marks."""

import io

import av
import numpy as np
import pytest
import synthetic

from input_pipeline import fitting
from input_pipeline.shots import decode_scene
from stp_jax.errors import InputError


def encoded(frames: np.ndarray) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def record(kind="single", size=(96, 64), frames=7, fps=30.0, metric=True, unit=1.0) -> dict:
    """One moving camera; a bright square is where it sees the world's point (0.5, 0.3, 6)."""
    c2w = np.array([[synthetic.rig_pose(0.3, t) for t in range(frames)]])
    lens = np.array([0.9, 1.3, 0.55, 0.45])
    height, width = size
    video = np.full((frames, height, width, 3), 20, np.uint8)
    for picture, pose in zip(video, c2w[0], strict=True):
        x, y = seen(pose, lens) * [width, height]
        picture[round(y) - 4 : round(y) + 4, round(x) - 4 : round(x) + 4] = 230
    c2w[..., :3, 3] *= unit
    return {
        "scene": "s",
        "kind": kind,
        "fps": fps,
        "metric": metric,
        "videos": [encoded(video)],
        "c2w": c2w.astype(np.float32),
        "intrinsics": np.tile(lens, (1, 1, 1)).astype(np.float32),
        "animation_time": np.arange(frames, dtype=np.float32),
        "captions": [],
    }


def seen(pose, lens, unit=1.0) -> np.ndarray:
    """Where a camera sees the point, as parts of the picture's width and height."""
    x, y, z = (np.linalg.inv(pose.astype(np.float64)) @ [0.5 * unit, 0.3 * unit, 6 * unit, 1])[:3]
    return np.array([lens[0] * x / z + lens[2], lens[1] * y / z + lens[3]])


@pytest.mark.parametrize("size", [(32, 32), (48, 64), (96, 64), (90, 60), (40, 60)])
def test_points_stay_where_cameras_see_them_after_resizing_and_cropping(size):
    scene = decode_scene(record(), fitting.Fit(size))
    assert scene.videos.shape == (1, 7, *size, 3)
    for picture, pose, lens in zip(scene.videos[0], scene.c2w[0], scene.intrinsics[0], strict=True):
        bright = picture.astype(np.float64).mean(-1) - 20
        bright[bright < 40] = 0
        rows, columns = np.indices(size) + 0.5
        found = np.array([(bright * columns).sum(), (bright * rows).sum()]) / bright.sum()
        np.testing.assert_allclose(found, seen(pose, lens) * size[::-1], atol=1.0)


def test_videos_of_the_size_are_as_they_are_and_smaller_ones_refused():
    plain, same = decode_scene(record()), decode_scene(record(), fitting.Fit((96, 64)))
    np.testing.assert_array_equal(plain.videos, same.videos)
    np.testing.assert_array_equal(plain.intrinsics, same.intrinsics)
    with pytest.raises(InputError, match="scene s, camera 0: videos of 64 x 96, smaller than"):
        decode_scene(record(), fitting.Fit((96, 65)))


@pytest.mark.parametrize(
    ("rate", "fps", "every"),
    [(30, 15, 2), (30, 0, 1), (0, 15, 1), (24, 16, 2), (24, 17, 1), (10, 15, 1), (60, 16, 4), (29.97, 10, 3)],
)
def test_every_nth_frame_is_a_source_frame_and_the_others_lie_between(rate, fps, every):
    assert fitting.stride(rate, fps) == every
    scene = decode_scene(record(fps=float(rate)), fitting.Fit(fps=float(fps)))
    np.testing.assert_allclose(scene.animation_time, np.arange(7) / every, rtol=1e-6)
    assert scene.steps_per_frame == every and scene.source_frames == 6 // every + 1


def test_the_frames_of_static_scenes_have_no_rate():
    scene = decode_scene(record("static"), fitting.Fit(fps=5.0))
    assert scene.source_frames == 7 and scene.steps_per_frame == 1


@pytest.mark.parametrize("unit", [1e-3, 1.0, 250.0])
def test_scenes_without_metres_have_one_extent_whatever_their_unit(unit):
    scene = decode_scene(record(metric=False, unit=unit), fitting.Fit(camera_extent=1.5))
    centres = scene.c2w[0, :, :3, 3].astype(np.float64)
    apart = np.linalg.norm(centres - centres.mean(0), axis=1)
    assert np.sqrt((apart**2).mean()) == pytest.approx(1.5, rel=1e-5)
    factor = fitting.scale(record(unit=unit)["c2w"], 1.5)
    for pose, before in zip(scene.c2w[0], record(unit=unit)["c2w"][0], strict=True):
        lens = scene.intrinsics[0, 0]  # what is seen stays: the world is scaled with the cameras
        np.testing.assert_allclose(seen(pose, lens, unit * factor), seen(before, lens, unit), atol=1e-5)
    metric = decode_scene(record(unit=unit), fitting.Fit(camera_extent=1.5))
    np.testing.assert_array_equal(metric.c2w, record(unit=unit)["c2w"])


def test_cameras_that_stand_still_are_not_scaled():
    c2w = np.tile(synthetic.rig_pose(3), (2, 5, 1, 1))
    assert fitting.scale(c2w, 1.5) == 1.0 and fitting.scale(np.tile(np.eye(4), (1, 5, 1, 1)), 1.5) == 1.0
    c2w[..., :3, 3] += 1e-7 * np.arange(5)[:, None]
    assert fitting.scale(c2w, 1.5) == 1.0
