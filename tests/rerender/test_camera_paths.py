"""Which pose belongs to which frame, one lens for source and target, warnings about paths that look wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from stp_jax.controls import cameras
from stp_jax.controls.cameras import Cameras, Reading
from stp_jax.errors import InputError
from stp_jax.rerender.camera_paths import Shown, source_path, target_path
from stp_jax.rerender.camera_warnings import warnings
from stp_jax.rerender.request import read_request
from stp_jax.rerender.results import write_plan
from stp_jax.rerender.takes import Takes
from tests.rerender.requests import CASES, NOTES, OFFICIAL, W, along_z, request, source_of_20, video

# Lens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["norm169.json", "px.json", "k33.json"])
def test_source_and_target_have_one_lens_after_the_crop(videos, name):
    path = CASES / name
    made = request(videos, camera=str(path), source_cameras=path)
    np.testing.assert_array_equal(made.source.intrinsics, made.target.intrinsics)
    np.testing.assert_allclose(made.source.intrinsics, [[1.38889, 1.38889, 0.5, 0.5]] * 17, rtol=1e-5)
    alone = request(videos, camera=str(path))
    np.testing.assert_allclose(alone.target.intrinsics, made.target.intrinsics, rtol=1e-5)
    assert {
        "norm169.json": "intrinsics divided by width and height",
        "px.json": "intrinsics in pixels of 1920 x 1080 (twice the principal point)",
        "k33.json": "3 x 3 matrices in pixels of 1920 x 1080 (twice the principal point)",
    }[name] in made.summary


@pytest.mark.parametrize("height, width", [(16, 16), (32, 64), (48, 16)])
def test_the_model_s_shape_gives_both_the_same_lens(videos, height, width):
    notes = NOTES._replace(height=height, width=width)
    made = request(videos, notes=notes, camera=str(CASES / "px.json"), source_cameras=CASES / "norm169.json")
    np.testing.assert_allclose(made.source.intrinsics, made.target.intrinsics, rtol=1e-5)
    fx, fy = made.source.intrinsics[0, :2] * [width, height]
    np.testing.assert_allclose(fx, fy, rtol=1e-5)  # square pixels
    # One side of the picture sees as much as that of 1920 x 1080, the other less.
    seen = width / fx / (1920 / 1500), height / fy / (1080 / 1500)
    np.testing.assert_allclose(max(seen), 1, rtol=1e-5)


def test_a_preset_and_a_file_without_a_lens_have_the_source_s(videos):
    for camera in ("orbit_left", str(CASES / "fwd_rel.npy")):
        made = request(videos, camera=camera, source_cameras=CASES / "px.json")
        np.testing.assert_array_equal(made.source.intrinsics, made.target.intrinsics)


# Poses and frames -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["f81.npy", "f120.npy"])
@pytest.mark.parametrize("name", ["81", "120", "150"])
@pytest.mark.parametrize(("notes", "official"), [(NOTES, False), (OFFICIAL, True)])
def test_one_file_has_the_same_poses_at_the_same_frames(videos, file, name, notes, official):
    given = dict(camera=str(CASES / file), source_cameras=CASES / file, official=official)
    made = request(videos, name, notes, **given)
    np.testing.assert_array_equal(made.source.c2w, made.target.c2w)
    assert f"its {file[1:-4]} poses: at the same frames as the source's" in made.summary
    poses = int(file[1:-4])
    if official:  # pose j is that of frame j
        np.testing.assert_allclose(along_z(made.source), np.arange(81) / (poses - 1), atol=1e-6)
    else:
        shown = np.array(made.clip.source_frames)
        np.testing.assert_allclose(along_z(made.source), shown / (int(name) - 1), atol=1e-6)
        assert shown[-1] == min(int(name) - 1, 60)


def test_a_target_with_a_pose_for_each_frame_of_the_video_has_them_at_these(videos):
    made = request(videos, "120", OFFICIAL, camera=str(CASES / "f120.npy"), official=True)
    np.testing.assert_allclose(along_z(made.target), np.arange(81) / 119, atol=1e-6)
    assert "its 120 poses: one for each frame of the video, which has 120" in made.summary
    made = request(videos, "150", OFFICIAL, camera=str(CASES / "f81.npy"), official=True)
    np.testing.assert_allclose(along_z(made.target), np.arange(81) / 80, atol=1e-6)
    assert "its 81 poses: one for each of the 81 frames of the new video" in made.summary
    made = request(videos, "150", camera=str(CASES / "f120.npy"))
    np.testing.assert_allclose(along_z(made.target), np.arange(17) / 16, atol=1e-6)
    assert "its 120 poses: followed evenly over the 17 frames of the new video" in made.summary
    made = request(videos, "150", camera=str(CASES / "fwd_rel.npy"))
    np.testing.assert_allclose(along_z(made.target), np.arange(17) / 16, atol=1e-6)


def path_of(count: int, motion_only: bool = False) -> cameras.CameraPath:
    c2w = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    c2w[:, 2, 3] = np.arange(count)
    lens = np.tile(cameras.default_intrinsics(), (count, 1))
    return cameras.CameraPath("path.npy", Cameras(c2w, lens), "", None, motion_only)


@pytest.mark.parametrize(
    ("poses", "numbers", "of", "consecutive", "expected"),
    [
        (20, [0, 4, 9, 14, 19], 20, False, [0, 4, 9, 14, 19]),
        (5, [0, 4, 9, 14, 19], 40, False, [0, 1, 2, 3, 4]),  # of the clip, which ends before the video
        (79, [0, 4, 9, 14, 19], 40, False, [0, 8, 18, 28, 38]),  # two poses for each frame
        (3, [0, 0, 1, 1, 2], 3, False, [0, 0, 1, 1, 2]),
        (12, [2, 3, 4, 5, 6], 40, True, [2, 3, 4, 5, 6]),
        (5, [2, 3, 4, 5, 6], 40, True, [0, 1, 2, 3, 4]),
        (3, [0, 1, 2, 2, 2], 3, True, [0, 1, 2, 2, 2]),
    ],
)
def test_poses_of_the_source(poses, numbers, of, consecutive, expected):
    shown = Shown(np.array(numbers), of, consecutive)
    placed = source_path(path_of(poses), shown)
    np.testing.assert_allclose(placed.cameras.c2w[:, 2, 3], expected, atol=1e-5)
    same = target_path(path_of(poses), shown, placed)
    np.testing.assert_array_equal(same.cameras.c2w, placed.cameras.c2w)


KEYS = "its 5 poses: key poses, and a smooth path through them over the 17 frames of the new video"


def test_fewer_poses_than_frames_are_key_poses(videos):
    """Every fourth pose of fwd_rel.npy is interpolated to it."""
    whole = np.load(CASES / "fwd_rel.npy")
    made = request(videos, camera=str(CASES / "keys5.npy"))
    np.testing.assert_allclose(made.target.c2w, whole, atol=1e-6)
    np.testing.assert_array_equal(made.target.c2w[::4], whole[::4].astype(np.float32))
    assert KEYS in made.summary
    np.testing.assert_allclose(cameras.read(CASES / "keys5.npy", 17).c2w, whole, atol=1e-6)
    np.testing.assert_allclose(cameras.parse(CASES / "keys5.npy", 17).c2w, whole, atol=1e-6)
    # It may be said, and it may be the source's.
    said = request(videos, camera=str(CASES / "keys5.npy"), key_poses=True)
    np.testing.assert_array_equal(said.target.c2w, made.target.c2w)
    both = request(videos, camera=str(CASES / "keys5.npy"), source_cameras=CASES / "keys5.npy")
    np.testing.assert_array_equal(both.source.c2w, both.target.c2w)
    np.testing.assert_allclose(along_z(both.source), np.array(both.clip.source_frames) / 19, atol=1e-6)
    assert "its 5 poses: key poses, spread evenly over the video's 20 frames" in both.summary
    assert "at the same frames as the source's, key poses of a smooth path" in both.summary
    official = request(videos, "120", OFFICIAL, source_cameras=CASES / "keys5.npy", official=True)
    np.testing.assert_allclose(along_z(official.source), np.arange(81) / 119, atol=1e-6)


def test_key_poses_of_files_with_a_pose_for_each_frame_must_be_said():
    shown = Shown(np.array([0, 4, 9, 14, 19]), 20, False)
    per_frame = path_of(3)._replace(pose_per_frame=True)
    for place in (
        lambda said: source_path(per_frame, shown, said).cameras.c2w,
        lambda said: target_path(per_frame, shown, None, said).cameras.c2w,
    ):
        with pytest.raises(
            InputError, match="path.npy: 3 poses are too few; 5 frames need one each .*key_poses"
        ):
            place(False)
        assert place(True)[-1, 2, 3] == 2
    consecutive = Shown(np.arange(5), 40, True)
    motion = target_path(path_of(3, motion_only=True)._replace(pose_per_frame=True), consecutive, None, True)
    np.testing.assert_allclose(motion.cameras.c2w[:, 2, 3], np.linspace(0, 2, 5), atol=1e-6)
    with pytest.raises(InputError, match="path.npy: one pose is too few; 5 frames need two key poses"):
        target_path(path_of(1), shown, None, True)
    with pytest.raises(InputError, match="path.npy: 7 poses; frames 4 to 8 need one each"):
        source_path(path_of(7), Shown(np.arange(4, 9), 20, True), True)


def test_the_official_forms_have_a_pose_for_each_frame(tmp_path):
    np.save(tmp_path / "a_extrinsics.npy", np.tile(np.eye(4), (3, 1, 1)))
    official = cameras.load(tmp_path / "a_extrinsics.npy", reading=Reading(official=True))
    assert official.pose_per_frame and not cameras.load(tmp_path / "a_extrinsics.npy").pose_per_frame
    with pytest.raises(InputError, match="3 poses are too few; 9 frames"):
        cameras.read(tmp_path / "a_extrinsics.npy", 9, reading=Reading(official=True))
    assert (
        len(
            cameras.read(tmp_path / "a_extrinsics.npy", 9, reading=Reading(official=True), key_poses=True).c2w
        )
        == 9
    )


@pytest.mark.parametrize("name", ["tum.txt", "re10k.txt", "kitti.txt"])
def test_key_poses_of_trajectories_must_be_said(videos, tmp_path, name):
    own = Path(__file__).parents[1] / "controls" / "cases"
    poses = cameras.read(own / "tum.txt").c2w
    np.savetxt(tmp_path / "kitti.txt", poses[:, :3].reshape(-1, 12))
    file = tmp_path / name if name == "kitti.txt" else own / name
    rows = [row for row in file.read_text().splitlines() if row[0] in "-0123456789"]
    (tmp_path / "keys.txt").write_text("\n".join(rows[:5]))
    with pytest.raises(InputError, match="5 poses are too few; .*key_poses"):
        request(videos, camera=str(tmp_path / "keys.txt"))
    keyed = request(videos, camera=str(tmp_path / "keys.txt"), key_poses=True)
    assert "its 5 poses: key poses, and a smooth path through them over the" in keyed.summary
    ours = cameras.read(tmp_path / "keys.txt").c2w
    np.testing.assert_allclose(keyed.target.c2w[::4], ours, atol=1e-6)


def test_key_poses_to_no_effect_are_refused(videos):
    with pytest.raises(InputError, match="--key_poses: no camera file has fewer poses than frames"):
        request(videos, camera=str(CASES / "fwd_rel.npy"), key_poses=True)


def test_files_of_motion_are_followed_pose_by_pose_by_official_models():
    shown = Shown(np.arange(5), 40, True)
    placed = target_path(path_of(12, motion_only=True), shown, None)
    np.testing.assert_array_equal(placed.cameras.c2w[:, 2, 3], np.arange(5))


# Axes -----------------------------------------------------------------------------------------------------


def test_opengl_axes_are_read_by_option_and_warned_of_without(videos):
    path = str(CASES / "opengl_c2w.npy")
    given = dict(camera=path, source_cameras=path, camera_axes="opengl")
    made = request(videos, **given)
    np.testing.assert_allclose(along_z(made.target), np.linspace(0, 1, 17), atol=1e-6)
    np.testing.assert_allclose(made.target.c2w[:, :3, :3], np.tile(np.eye(3), (17, 1, 1)), atol=1e-6)
    assert "camera-to-world, OpenGL axes" in made.summary and "WARNING" not in made.summary
    # The source's file in OpenCV's axes, this one not said to be in OpenGL's.
    source = cameras.load(path, reading=Reading("opengl")).cameras
    ours = videos["wide"].parent / "ours.npy"
    np.save(ours, source.c2w)
    made = request(videos, camera=path, source_cameras=ours)
    assert "no frame of it looks where the source looked (its first looks 180 degrees away" in made.summary
    assert "--camera_axes opengl" in made.summary
    # The option for the target alone; and one for each.
    for more in (
        {"source_camera_axes": "opencv"},
        {"source_camera_poses": "c2w", "source_camera_axes": "opencv"},
    ):
        made = request(videos, camera=path, source_cameras=ours, camera_axes="opengl", **more)
        np.testing.assert_allclose(along_z(made.target), np.linspace(0, 1, 17), atol=1e-6)
        assert "WARNING" not in made.summary
    # Without the source's cameras.
    made = request(videos, camera=path)
    assert "every frame of it is 4.92 m or more away from every camera of the source" in made.summary
    assert "looks where the source looked (its first looks 127 degrees" in made.summary
    assert "relative to the source's first camera" in made.summary


def test_a_name_never_inverts_a_path(videos):
    path = CASES / "my_extrinsics_c2w.npy"
    up = request(videos, camera=str(path), source_cameras=path)
    np.testing.assert_allclose(up.target.c2w[:, 1, 3], -np.linspace(0, 1, 17), atol=1e-6)
    assert "my_extrinsics_c2w.npy: camera-to-world, OpenCV axes, metres" in up.summary
    official = request(videos, camera=str(path), source_cameras=path, official=True)
    np.testing.assert_allclose(official.target.c2w, up.target.c2w)


def test_w2c_is_read_by_option_and_as_the_official_release_names_it(videos, tmp_path):
    c2w = W @ np.load(CASES / "fwd_rel.npy")
    path = tmp_path / "clip_extrinsics.npy"
    np.save(path, np.linalg.inv(c2w))
    for given in ({"camera_poses": "w2c"}, {"official": True}):
        made = request(videos, camera=str(path), source_cameras=path, **given)
        np.testing.assert_allclose(along_z(made.target), np.linspace(0, 1, 17), atol=1e-6)
        assert "world-to-camera" in made.summary
    plain = request(videos, camera=str(path), source_cameras=path)
    assert "SpaceTimePilot's files of such names are world-to-camera: say so" in plain.summary
    forced = request(videos, camera=str(path), source_cameras=path, official=True, camera_poses="c2w")
    np.testing.assert_allclose(forced.target.c2w, plain.target.c2w)


def test_a_form_that_states_its_axes_has_no_others(tmp_path):
    path = tmp_path / "camera_data.json"
    path.write_text('{"cameras": {"extrinsic": {"camera_000": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}}}')
    with pytest.raises(InputError, match="Blender's axes.*leave out the option that its axes are opengl"):
        cameras.read(path, 1, reading=Reading("opengl"))
    assert len(cameras.read(path, 1, reading=Reading("opengl", inherited=True)).c2w) == 1


def test_good_paths_are_not_warned_of():
    still = cameras.preset("static", 5)
    for move in ("orbit_left:170", "dolly_out:4", "pan_left:60", "spiral_right", "crane_up:3"):
        assert warnings(still, cameras.preset(move, 5), 4.0) == [], move
    away = cameras.preset("truck_left:1:30", 5)
    (first,) = warnings(still, away, 4.0)
    assert "every frame of it is 30 m or more away" in first


def test_a_lens_of_a_picture_of_another_shape_is_remarked_on(videos):
    squeezed = request(videos, "120", camera=str(CASES / "px.json"))
    assert (
        "pixels of this video, 16 x 16, are not square: fx is 0.7812 of the width, fy 1.389"
        in squeezed.summary
    )
    assert "not square" not in request(videos, camera=str(CASES / "px.json")).summary
    pilot = Takes("pose12", True, True, "SpaceTimePilot")
    unused = request(videos, "120", camera=str(CASES / "px.json"), model=pilot)
    assert "its lens: not used, SpaceTimePilot is given poses alone" in unused.summary
    assert "field of view" not in unused.summary


# Written cameras ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["new_camera.json", "camera_path.json"])
def test_the_cameras_of_a_result_can_be_given_again(videos, tmp_path, name):
    """In the world of the source's file, with lenses of the whole picture."""
    given = dict(source_cameras=CASES / "transforms.json", animation_time="forward")
    made = read_request(NOTES, video=videos["wide"], camera="orbit_left:30:-15", **given)
    write_plan(tmp_path, made, 20.0)
    again = read_request(NOTES, video=videos["wide"], camera=str(tmp_path / name), **given)
    np.testing.assert_allclose(again.target.c2w, made.target.c2w, atol=1e-6)
    np.testing.assert_allclose(again.target.intrinsics, made.target.intrinsics, rtol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {
        "source.png",
        "cameras_and_time.png",
        "new_camera.json",
        "camera_path.json",
    }


@pytest.mark.parametrize("name", ["new_camera.json", "camera_path.json"])
def test_a_result_s_cameras_are_of_its_frames_whatever_part_is_shown(videos, tmp_path, name):
    """Of a part of a video that has as many frames as the model, and as many poses as the source's file."""
    notes = NOTES._replace(frames=20)
    part = dict(start=0.5, source_cameras=source_of_20(tmp_path))
    made = request(videos, "wide", notes, camera="orbit_left:30:-15", **part)
    assert made.clip.source_frames[0] == 10
    write_plan(tmp_path, made, 20.0)
    again = request(videos, "wide", notes, camera=str(tmp_path / name), **part)
    np.testing.assert_allclose(again.target.c2w, made.target.c2w, atol=1e-6)
    assert "its 20 poses: of the new video's 20 frames, by what the file says" in again.summary
    # A path of which nothing is known is the video's, and it is said which frames are shown.
    plain = json.loads((tmp_path / "new_camera.json").read_text())
    (tmp_path / "plain.json").write_text(json.dumps({"c2w": plain["c2w"]}))
    said = request(videos, "wide", notes, camera=str(tmp_path / "plain.json"), start=0.5).summary
    assert "one for each frame of the video, which has 20; the clip shows 10 to 19" in said
    fewer = request(videos, "wide", NOTES, camera=str(tmp_path / name), **part)
    assert "of the new video's 20 frames, by what the file says, followed evenly over the 17" in fewer.summary
    np.testing.assert_allclose(fewer.target.c2w[[0, -1]], made.target.c2w[[0, -1]], atol=1e-6)


def test_a_result_is_filmed_by_its_new_camera(videos, tmp_path):
    """The lens of the file is that of the whole picture, of which the result is cut out."""
    made = request(videos, "wide", camera="zoom_in")
    write_plan(tmp_path, made, 20.0)
    result = video(tmp_path / "result.mp4", 17, 32, 32)
    again = read_request(
        NOTES,
        video=result,
        camera="source",
        animation_time="forward",
        source_cameras=tmp_path / "new_camera.json",
    )
    np.testing.assert_allclose(again.source.intrinsics, made.target.intrinsics, rtol=1e-6)
    assert "WARNING" not in again.summary


def test_keys_of_a_new_video_are_followed_from_the_first_to_the_last(videos, tmp_path):
    """Also where they, the source's file and the video have equal numbers, and a part is shown."""
    (tmp_path / "keys.txt").write_text("0 0\n0 0\n0 0.5\n")
    given = dict(camera=str(tmp_path / "keys.txt"), source_cameras=source_of_20(tmp_path), start=0.5)
    made = request(videos, "wide", NOTES._replace(frames=20), **given)
    np.testing.assert_allclose(along_z(made.target), np.linspace(0, 2, 20), atol=1e-5)
