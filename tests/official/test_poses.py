"""Camera files of the official releases: from a camera's path to each file and back, in float64."""

import json
from pathlib import Path

import numpy as np
import pytest

from stp_jax.controls import cameras
from stp_jax.controls.camera_files import Reading
from stp_jax.errors import InputError
from stp_jax.official.poses import official_poses

F = 9
OFFICIAL = Reading(official=True)  # as for the official weights
MIRROR, FLIP = np.diag([-1.0, 1, 1, 1]), np.diag([1.0, -1, -1, 1])


def world_path(seed: int = 0) -> np.ndarray:
    """Poses with OpenCV axes [F, 4, 4] float64 in a world of another origin and other axes."""
    rng = np.random.default_rng(seed)
    world = np.eye(4)
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    world[:3, :3] = q * np.linalg.det(q)
    world[:3, 3] = rng.normal(0, 2, 3)
    return world @ cameras.preset("spiral_left:40", F).c2w.astype(np.float64)


def motion(c2w: np.ndarray) -> np.ndarray:
    return np.linalg.inv(c2w[0]) @ c2w


def write_npy(folder, c2w):
    path = folder / "clip_extrinsics.npy"
    np.save(path, np.linalg.inv(c2w))
    return str(path)


def write_blender(folder, c2w):
    """World-to-camera, of cameras that look along -z and have y up."""
    w2c = np.linalg.inv(c2w @ FLIP)
    path = folder / "camera_data.json"
    extrinsic = {f"camera_{i:03d}": w2c[i].tolist() for i in reversed(range(F))}
    path.write_text(json.dumps({"cameras": {"extrinsic": extrinsic}}))
    return str(path)


def unreal(pose: np.ndarray) -> str:
    """A pose as Unreal has it: x forward, y right, z up, left-handed, centimetres; row vectors."""
    world = np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]])  # (x, y, z) of OpenCV -> (z, x, -y)
    rows = np.zeros((4, 4))
    rows[:3, :3] = (world @ pose[:3, :3] @ world.T).T
    rows[3] = [*(100 * world @ pose[:3, 3]), 1]
    return " ".join("[" + " ".join(f"{value:.9g}" for value in row) + "]" for row in rows) + " "


def write_multicam(folder, c2w, others=()):
    path = folder / "camera_extrinsics.json"
    paths = {"cam01": np.tile(np.eye(4), (F, 1, 1)), "cam05": c2w, **dict(others)}
    frames = {f"frame{i}": {name: unreal(poses[i]) for name, poses in paths.items()} for i in range(F)}
    path.write_text(json.dumps(frames))
    return f"{path}:cam05"


WRITERS = {"npy": write_npy, "blender": write_blender, "multicam": write_multicam}


@pytest.mark.parametrize("form", WRITERS)
def test_the_camera_moves_as_it_was_filmed_in_every_form(tmp_path, form):
    c2w = world_path()
    file = WRITERS[form](tmp_path, c2w)
    read = cameras.read(file, F, reading=OFFICIAL)
    assert read.c2w.dtype == np.float32
    np.testing.assert_allclose(cameras.relative_to(read.c2w, read.c2w[0]), motion(c2w), atol=5e-6)
    np.testing.assert_array_equal(read.intrinsics, np.tile(cameras.default_intrinsics(), (F, 1)))
    # As the new camera's path it begins at the source's first camera, wherever that is.
    relative = cameras.parse(file, F, reference=world_path(1)[3], source="source.npz", reading=OFFICIAL)
    np.testing.assert_allclose(relative.c2w, motion(c2w), atol=5e-6)
    cameras.check(relative.c2w, relative.intrinsics, F, form)
    np.testing.assert_allclose(cameras.parse(file, F, reading=OFFICIAL).c2w, relative.c2w, atol=1e-6)


def test_the_worlds_are_the_official_ones(tmp_path):
    c2w = world_path()
    np.testing.assert_allclose(cameras.read(write_npy(tmp_path, c2w), reading=OFFICIAL).c2w, c2w, atol=1e-6)
    np.testing.assert_allclose(cameras.read(write_blender(tmp_path, c2w)).c2w, MIRROR @ c2w, atol=1e-6)
    pose = cameras.read(write_multicam(tmp_path, c2w)).c2w[3]
    x, y, z = c2w[3, :3, 3]
    np.testing.assert_allclose(pose[:3, 3], [z, x, -y], atol=1e-6)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(-1, abs=1e-5)


def test_multicamvideo_by_hand(tmp_path):
    """A camera that stands at (1, 2, 3) m, turned to look along Unreal's y; then 50 cm further along it."""
    turned = "[0 1 0 0] [-1 0 0 0] [0 -0 1 0]"
    path = tmp_path / "camera_extrinsics.json"
    path.write_text(
        json.dumps(
            {
                "frame0": {"cam07": f"{turned} [100 200 300 1] "},
                "frame1": {"cam07": f"{turned} [100 250 300 1] "},
            }
        )
    )
    for chosen in ("cam07", "7", "cam7", "07", "CAM07"):
        read = cameras.read(f"{path}:{chosen}", 2)
        right, down, forward, where = read.c2w[0, :3].T
        np.testing.assert_array_equal(
            [right, down, forward, where], [[-1, 0, 0], [0, 0, -1], [0, 1, 0], [1, 2, 3]]
        )
        np.testing.assert_allclose(cameras.parse(f"{path}:{chosen}", 2).c2w[1, :3, 3], [0, 0, 0.5], atol=1e-6)


def test_a_path_of_as_many_poses_as_frames_is_not_touched(tmp_path):
    """Rotations that are rounded stay as they are, since the official weights see them so."""
    c2w = world_path().round(3)
    path = tmp_path / "a.npy"
    np.save(path, c2w)
    np.testing.assert_array_equal(cameras.read(path, F).c2w, c2w.astype(np.float32))


def test_two_cameras_of_one_file_are_in_one_world(tmp_path):
    one, other = world_path(), world_path(1)
    file = write_multicam(tmp_path, one, {"cam06": other}.items())
    path = file.removesuffix(":cam05")
    source = cameras.read(file, F)
    target = cameras.parse(f"{path}:6", F, reference=source.c2w[0], source=file)
    np.testing.assert_allclose(target.c2w, np.linalg.inv(one[0]) @ other, atol=1e-5)
    # But our own right-handed files cannot be in its left-handed world.
    np.save(tmp_path / "ours.npy", other)
    with pytest.raises(InputError, match="ours.npy: cannot be in the mirrored world"):
        cameras.parse(tmp_path / "ours.npy", F, reference=source.c2w[0], source=file)


def test_only_the_last_colon_chooses_a_camera(tmp_path):
    folder = tmp_path / "a:b.json:cam01"
    folder.mkdir()
    file = write_multicam(folder, world_path())
    assert len(cameras.parse(file, F).c2w) == F


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("", r"which of its cameras\? It has cam01, cam05; write .*camera_extrinsics.json:cam01"),
        (":cam11", "it has no camera 11. It has cam01, cam05"),
        (":0", "it has no camera 0"),
    ],
)
def test_a_camera_that_is_not_in_the_file_is_refused(tmp_path, chosen, message):
    path = write_multicam(tmp_path, world_path()).removesuffix(":cam05")
    with pytest.raises(InputError, match=message):
        cameras.parse(path + chosen, F)


def test_files_of_one_camera_have_none_to_choose(tmp_path):
    with pytest.raises(InputError, match="camera_data.json: has no cameras to choose"):
        cameras.parse(write_blender(tmp_path, world_path()) + ":cam01", F)
    with pytest.raises(InputError, match="missing.json: no such file"):
        cameras.parse(f"{tmp_path}/missing.json:cam01", F)


@pytest.mark.parametrize(
    ("frame", "value", "message"),
    [
        (4, None, 'frame 4: expected .*"cam05".* under "frame4"'),
        (4, "[1 0 0 0] [0 1 0 0]", r"frame 4: expected 4 x 4 numbers"),
        (4, "[1 0 0 0] [0 1 0] [0 0 1 0] [0 0 0 1] ", "frame 4: expected"),
        (4, "[1 0 0 0] [0 one 0 0] [0 0 1 0] [0 0 0 1] ", "frame 4: expected"),
        (4, "[nan 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1] ", "frame 4: .*NaN"),
        (4, "[1 0 0 5] [0 1 0 6] [0 0 1 7] [0 0 0 1] ", "frame 4: .*transposed"),
    ],
)
def test_unsound_multicamvideo_files_are_refused_by_frame(tmp_path, frame, value, message):
    file = write_multicam(tmp_path, world_path())
    path = tmp_path / "camera_extrinsics.json"
    data = json.loads(path.read_text())
    data[f"frame{frame}"]["cam05"] = value
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"camera_extrinsics.json: {message}"):
        cameras.read(file, F)
    del data[f"frame{frame}"]
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"frame {frame}: expected"):
        cameras.read(file, F)


def test_cameras_are_ordered_by_their_numbers(tmp_path):
    c2w = world_path()
    path = Path(write_blender(tmp_path, c2w))
    data = json.loads(path.read_text())
    poses = data["cameras"]["extrinsic"]
    data["cameras"]["extrinsic"] = {f"camera_{int(name[-3:])}": pose for name, pose in poses.items()}
    expected = cameras.read(path).c2w
    path.write_text(json.dumps(data))
    np.testing.assert_array_equal(cameras.read(path).c2w, expected)


def test_unsound_blender_files_are_refused(tmp_path):
    path = tmp_path / "camera_data.json"
    for value in (None, [1, 2], {}, {"extrinsic": None}, {"extrinsic": {}}):
        path.write_text(json.dumps({"cameras": value}))
        with pytest.raises(InputError, match="camera_data.json: "):
            cameras.read(path, 1)


# The official pose encoders' input ------------------------------------------------------------------------


def official_source(c2w: np.ndarray) -> np.ndarray:
    return np.stack([pose @ np.linalg.inv(c2w[0]) for pose in c2w])


@pytest.mark.parametrize("form", ["npy", "blender"])
def test_source_poses_are_relative_from_the_right_in_the_world_of_the_file(tmp_path, form):
    c2w = world_path()
    raw = c2w if form == "npy" else MIRROR @ c2w
    file = WRITERS[form](tmp_path, c2w)
    source, target = official_poses(cameras.read(file, F, reading=OFFICIAL).c2w, None, scale_source=False)
    assert source.dtype == target.dtype == np.float32
    np.testing.assert_allclose(source, official_source(raw), atol=5e-6)
    np.testing.assert_array_equal(target, source)
    assert np.abs(source - motion(c2w)).max() > 0.1, "the other convention gives something else"

    scaled, _ = official_poses(cameras.read(file, F, reading=OFFICIAL).c2w, None)
    expected = official_source(raw)
    expected[:, :3, 3] /= np.abs(expected[:, :3, 3]).max()
    np.testing.assert_allclose(scaled, expected, atol=5e-6)


@pytest.mark.parametrize("form", WRITERS)
def test_target_poses_are_relative_from_the_left(tmp_path, form):
    c2w = world_path()
    file = WRITERS[form](tmp_path, c2w)
    source, target = official_poses(None, cameras.read(file, F, reading=OFFICIAL).c2w)
    np.testing.assert_allclose(target, motion(c2w), atol=5e-6)
    np.testing.assert_array_equal(source, np.tile(np.eye(4), (F, 1, 1)))


def test_a_target_put_into_the_sources_world_is_given_as_its_own_motion(tmp_path):
    """How both reach the model: the source in its file's world, the target placed at its first camera."""
    source = cameras.read(write_blender(tmp_path, world_path()), F)
    target = cameras.parse(write_multicam(tmp_path, world_path(1)), F, reference=source.c2w[0])
    placed = source.c2w[0] @ target.c2w
    reference = source.c2w[:1]
    _, given = official_poses(source.c2w, placed, target_reference=reference)
    np.testing.assert_allclose(given, motion(world_path(1)), atol=1e-5)


def test_a_target_may_begin_away_from_the_source():
    source, target = world_path(), world_path(1)
    _, given = official_poses(source, target, target_reference=source[0])
    np.testing.assert_allclose(given, np.linalg.inv(source[0]) @ target, atol=1e-5)


def test_batches_are_as_each_alone_and_still_cameras_are_not_scaled():
    batch = np.stack([world_path(), world_path(1), np.tile(world_path()[:1], (F, 1, 1))])
    together = official_poses(batch, batch[::-1], target_reference=batch[:, :1])
    for i in range(3):
        alone = official_poses(batch[i], batch[::-1][i], target_reference=batch[i, 0])
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one[i], other, atol=1e-7)
    np.testing.assert_allclose(together[0][2], np.tile(np.eye(4), (F, 1, 1)), atol=1e-6)
