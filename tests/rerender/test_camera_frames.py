"""Files of cameras that say which frames their poses are of, and in which unit."""

import json

import numpy as np
import pytest

from stp_jax.controls import cameras
from stp_jax.errors import InputError
from stp_jax.rerender.results import write_plan
from tests.rerender.requests import CASES, along_z, request, source_of_20


def test_estimated_cameras_of_the_source_are_written_with_the_frames_that_they_are_of(videos, tmp_path):
    made = request(videos, "120", camera="static", source_cameras=CASES / "px.json", duration=3.0)
    write_plan(tmp_path, made._replace(estimated=True), 20.0)
    path = tmp_path / "source_cameras.json"
    again = request(videos, "120", camera="static", source_cameras=path, duration=3.0)
    np.testing.assert_allclose(again.source.c2w, made.source.c2w, atol=1e-6)
    np.testing.assert_allclose(again.source.intrinsics, made.source.intrinsics, rtol=1e-6)
    assert "its 17 poses: of frames 0 to 60 of the video, by the numbers in the file, up to 4 apart" in (
        again.summary
    )
    # Of another part: each frame has its own pose, or none.
    part = request(videos, "120", camera="static", source_cameras=path, start=1.0, duration=1.0)
    shown = np.array(part.clip.source_frames)
    places = np.interp(shown, made.clip.source_frames, along_z(made.source))
    np.testing.assert_allclose(along_z(part.source), places - places[0], atol=1e-5)
    with pytest.raises(InputError, match="poses of the video's frames 0 to 60, and the clip shows 60 to 119"):
        request(videos, "120", camera="static", source_cameras=path, start=3.0)
    short = request(videos, camera="static", source_cameras=CASES / "px.json", duration=0.3)
    write_plan(tmp_path / "..", short._replace(estimated=True), 20.0)  # frames are shown more than once
    path = tmp_path / ".." / "source_cameras.json"
    again = request(videos, camera="static", source_cameras=path, duration=0.3)
    _, first = np.unique(short.clip.source_frames, return_index=True)
    np.testing.assert_allclose(again.source.c2w[first], short.source.c2w[first], atol=1e-6)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([0, 2, 1], '"frame_numbers" must be whole numbers that increase'),
        ([0, 1.5, 2], '"frame_numbers" must be whole numbers that increase'),
        ([0, 1], "3 poses, but 2 numbers of their frames"),
        ("012", '"frame_numbers": expected a list'),
        ([0, 1, "2"], '"frame_numbers": frame 2: expected a number'),
    ],
)
def test_frame_numbers_that_are_none_are_refused(tmp_path, numbers, message):
    poses = np.tile(np.eye(4), (3, 1, 1)).tolist()
    (tmp_path / "a.json").write_text(json.dumps({"c2w": poses, "frame_numbers": numbers}))
    with pytest.raises(InputError, match=message):
        cameras.load(tmp_path / "a.json")


# Units ----------------------------------------------------------------------------------------------------


def vggt(folder, depth: float | None):
    """VGGT's file of the source: forward by 1 unit over 20 frames, with depths."""
    c2w = np.load(source_of_20(folder))
    arrays = {"extrinsic": np.linalg.inv(c2w)[:, :3]}
    if depth is not None:
        near = np.full((20, 6, 9, 1), 100, np.float32)
        near[0, 1:5, 2:7] = depth
        arrays["depth"] = near
    np.savez_compressed(folder / "vggt.npz", **arrays)
    return folder / "vggt.npz"


def test_files_of_any_unit_are_brought_to_metres(videos, tmp_path):
    """By a factor; or by their depths, so that the middle of the first picture is --distance away."""
    path = vggt(tmp_path, depth=0.5)
    plain = request(videos, camera="static", source_cameras=path)
    assert "its lengths: as in the file; its first camera has something 0.5 away" in plain.summary
    near = request(videos, camera="orbit_left", source_cameras=path, distance=3.0)
    np.testing.assert_allclose(along_z(near.source), 6 * along_z(plain.source), atol=1e-5)
    assert "its lengths: times 6; its first camera has something 3 m away in the middle" in near.summary
    # A new camera in the same world has the same unit; the depths matter without a preset, too.
    both = request(videos, camera=str(path), source_cameras=path, distance=3.0)
    np.testing.assert_allclose(both.target.c2w, near.source.c2w, atol=1e-5)
    by_factor = request(videos, camera=str(path), source_cameras=path, camera_scale=6.0)
    np.testing.assert_allclose(by_factor.target.c2w, near.source.c2w, atol=1e-5)
    np.testing.assert_allclose(by_factor.source.c2w, near.source.c2w, atol=1e-5)
    # Written in the unit of the source's file, so that it lies where that is.
    write_plan(tmp_path, near, 20.0)
    again = request(videos, camera=str(tmp_path / "new_camera.json"), source_cameras=path, distance=3.0)
    np.testing.assert_allclose(again.target.c2w, near.target.c2w, atol=1e-5)
    with pytest.raises(InputError, match="--distance 3: the path of --camera static does not depend on it"):
        request(videos, camera="static", source_cameras=path, distance=3.0, camera_scale=6.0)


def test_a_unit_of_a_new_camera_s_file_alone(videos, tmp_path):
    forward = np.load(CASES / "fwd_rel.npy")
    far = request(videos, camera=str(CASES / "fwd_rel.npy"), camera_scale=2.5)
    np.testing.assert_allclose(far.target.c2w[:, :3, 3], 2.5 * forward[:, :3, 3], atol=1e-6)
    np.testing.assert_allclose(far.target.c2w[:, :3, :3], forward[:, :3, :3], atol=1e-6)
    # A move that starts at the source keeps its own unit beside the source's file.
    (tmp_path / "loop.txt").write_text("0 0\n0 10 30\n0 0.5\n")
    source = source_of_20(tmp_path)
    loops = [
        request(videos, camera=str(tmp_path / "loop.txt"), source_cameras=source, camera_scale=scale)
        for scale in (None, 7.0)
    ]
    np.testing.assert_allclose(loops[0].target.c2w, loops[1].target.c2w, atol=1e-5)
    assert along_z(loops[1].source)[-1] == pytest.approx(7 * along_z(loops[0].source)[-1])


def test_poses_of_frames_that_the_video_does_not_have_are_refused(videos, tmp_path):
    """ViPE's files number their frames; a target may come from another video."""
    (tmp_path / "pose").mkdir()
    path = tmp_path / "pose" / "clip.npz"
    np.savez(path, data=np.tile(np.eye(4), (31, 1, 1)), inds=np.arange(31))
    with pytest.raises(InputError, match="has a pose of frame 30, and the video has 20 frames"):
        request(videos, camera="static", source_cameras=path)
    assert "its 31 poses" in request(videos, camera=str(path)).summary
    more = request(videos, camera="static", source_cameras=CASES / "f81.npy").summary
    assert "WARNING: f81.npy: has 81 poses, and the video 20 frames. Is it of another" in more


def test_keys_in_parts_of_the_distance_depend_on_it(videos, tmp_path):
    (tmp_path / "loop.txt").write_text("0 0\n0 10 30\n0 0.5\n")
    near, far = (request(videos, camera=str(tmp_path / "loop.txt"), distance=d) for d in (2.0, 6.0))
    np.testing.assert_allclose(far.target.c2w[:, :3, 3], 3 * near.target.c2w[:, :3, 3], atol=1e-5)
    assert len(near.target.c2w) == 17 and "around a point at 2 m" in near.summary
    with pytest.raises(InputError, match="--distance 2: the path of --camera .*fwd_rel.npy does not"):
        request(videos, camera=str(CASES / "fwd_rel.npy"), distance=2.0)
