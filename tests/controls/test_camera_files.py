"""Files of cameras in our own forms, good and bad."""

import json

import numpy as np
import pytest

from stp_jax.controls import camera_files, cameras
from stp_jax.errors import InputError
from tests.controls.random_cameras import random_cameras

F = 9


@pytest.fixture
def path_of_cameras():
    return cameras.preset("spiral_left:40:-20", F, intrinsics=np.array([1.1, 1.2, 0.45, 0.55]))


def write(path, c2w, intrinsics=None):
    c2w = np.asarray(c2w)
    if path.suffix == ".npy":
        np.save(path, c2w)
    elif path.suffix == ".npz":
        np.savez(path, c2w=c2w, **({} if intrinsics is None else {"intrinsics": intrinsics}))
    else:
        data = {"c2w": c2w.tolist()}
        if intrinsics is not None:
            data["intrinsics"] = np.asarray(intrinsics).tolist()
        path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("name", ["a.json", "a.npz", "a.NPY", "a.npy"])
def test_files_read_back(tmp_path, path_of_cameras, name):
    path = tmp_path / name
    if name == "a.NPY":
        with path.open("wb") as file:
            np.save(file, path_of_cameras.c2w)
    else:
        write(path, *path_of_cameras)
    read = cameras.read(path, F)
    assert read.c2w.dtype == read.intrinsics.dtype == np.float32
    np.testing.assert_allclose(read.c2w, path_of_cameras.c2w, atol=1e-6)
    has_lens = path.suffix.lower() != ".npy"
    lens = path_of_cameras.intrinsics if has_lens else np.tile(cameras.default_intrinsics(), (F, 1))
    np.testing.assert_array_equal(read.intrinsics, lens)
    np.testing.assert_array_equal(
        cameras.read(path).c2w, path_of_cameras.c2w
    )  # as many as there are, untouched


@pytest.mark.parametrize("name", ["a.json", "a.npz"])
def test_one_lens_in_a_file_serves_all_frames_and_a_missing_one_is_the_given(tmp_path, path_of_cameras, name):
    lens = np.array([1.5, 1.4, 0.5, 0.5], np.float32)
    path = write(tmp_path / name, path_of_cameras.c2w, lens)
    np.testing.assert_array_equal(cameras.read(path, F).intrinsics, np.tile(lens, (F, 1)))
    path = write(tmp_path / f"no_lens_{name}", path_of_cameras.c2w)
    np.testing.assert_array_equal(cameras.read(path, F, intrinsics=lens).intrinsics, np.tile(lens, (F, 1)))


def rig(path_of_cameras, convention=camera_files.GRID_CONVENTION):
    names = [f"camera_{i:03d}" for i in range(F)]
    w2c = np.linalg.inv(path_of_cameras.c2w.astype(np.float64))
    order = reversed(range(F))  # a file need not list cameras by name
    return {
        "convention": convention,
        "cameras": {
            "extrinsic": {names[i]: w2c[i].tolist() for i in order},
            "intrinsic": {n: k.tolist() for n, k in zip(names, path_of_cameras.intrinsics, strict=True)},
        },
    }


def test_rendered_rig_is_read_as_a_path_through_its_cameras(tmp_path, path_of_cameras):
    path = tmp_path / "camera_data.json"
    path.write_text(json.dumps(rig(path_of_cameras)))
    read = cameras.read(path, F)
    np.testing.assert_allclose(read.c2w, path_of_cameras.c2w, atol=1e-6)
    np.testing.assert_allclose(read.intrinsics, path_of_cameras.intrinsics)


def test_more_poses_than_frames_are_sampled_evenly(tmp_path):
    fine = cameras.preset("orbit_left:80", 4 * (F - 1) + 1)
    read = cameras.read(write(tmp_path / "a.json", *fine), F)
    np.testing.assert_allclose(read.c2w, fine.c2w[::4], atol=1e-6)


def test_a_span_takes_a_part_of_the_path(tmp_path):
    fine = cameras.preset("orbit_left:80", 41)
    read = cameras.read(write(tmp_path / "a.json", *fine), 11, span=(0.25, 0.75))
    np.testing.assert_allclose(read.c2w, fine.c2w[10:31:2], atol=1e-6)


def test_resampled_rotations_lie_on_the_arc_between_their_neighbours():
    coarse = cameras.preset("pan_left:80", 5)
    fine = cameras.resample(coarse, 9)
    exact = cameras.preset("pan_left:80", 9)
    np.testing.assert_allclose(fine.c2w, exact.c2w, atol=1e-6)
    uneven = cameras.resample(coarse, 7)
    cameras.check(uneven.c2w, uneven.intrinsics, 7, "resampled")
    np.testing.assert_allclose(uneven.c2w, cameras.preset("pan_left:80", 7).c2w, atol=2e-3)
    zoom = cameras.resample(cameras.preset("zoom_in", 2), 3)
    np.testing.assert_allclose(zoom.intrinsics[1], zoom.intrinsics[[0, 2]].mean(0), rtol=1e-6)
    assert len(cameras.resample(cameras.preset("static", 1), 4).c2w) == 4


def test_paths_of_mirrored_worlds_and_of_half_turns_are_interpolated():
    """Left-handed poses until they are relative; and two poses that face each other."""
    path, fine = (cameras.preset("orbit_left:80", frames) for frames in (5, 9))
    mirror = np.diag([-1.0, 1, 1, 1]).astype(np.float32)
    mirrored = cameras.resample(path._replace(c2w=mirror @ path.c2w), 9)
    np.testing.assert_allclose(mirror @ mirrored.c2w[:, :, :3], fine.c2w[:, :, :3], atol=1e-6)
    facing = cameras.resample(cameras.preset("pan_left:180", 2), 5)
    cameras.check(*facing, 5, "half a turn")
    np.testing.assert_allclose(abs(facing.c2w[2, 0, 2]), 1, atol=1e-6)


def test_parse_takes_files_relative_to_the_source_and_presets_as_they_are(
    tmp_path, path_of_cameras, monkeypatch
):
    world, _ = random_cameras(frames=1)
    path = write(tmp_path / "a.json", world @ path_of_cameras.c2w, path_of_cameras.intrinsics)
    reference = (world @ path_of_cameras.c2w)[3]
    read = cameras.parse(path, F, reference=reference)
    expected = np.linalg.inv(path_of_cameras.c2w[3].astype(np.float64)) @ path_of_cameras.c2w
    np.testing.assert_allclose(read.c2w, expected, atol=1e-5)
    np.testing.assert_allclose(cameras.parse(str(path), F).c2w, world @ path_of_cameras.c2w, atol=1e-5)
    lens = np.array([2.0, 2.0, 0.5, 0.5], np.float32)
    preset = cameras.parse("orbit_left:10", F, intrinsics=lens, distance=2.0, reference=reference)
    np.testing.assert_array_equal(preset.c2w, cameras.preset("orbit_left:10", F, distance=2.0).c2w)
    np.testing.assert_array_equal(preset.intrinsics, np.tile(lens, (F, 1)))
    # A file that happens to bear a preset's name does not hide the preset.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "static").write_text("")
    assert len(cameras.parse("static", F).c2w) == F


def damaged(kind: str) -> tuple[list, list]:
    """JSON values of nine good cameras but for one fault in frame 4."""
    path = cameras.preset("orbit_left", F)
    c2w, intrinsics = path.c2w.astype(np.float64), path.intrinsics.astype(np.float64)
    if kind == "nan":
        c2w[4, 0, 3] = np.nan
    elif kind == "infinite":
        c2w[4, 2, 2] = np.inf
    elif kind == "huge":
        c2w[4, 1, 3] = 1e300
    elif kind == "left-handed":
        c2w[4, :3, 1] *= -1
    elif kind == "scaled":
        c2w[4, :3, :3] *= 1.02
    elif kind == "sheared":
        c2w[4, :3, 0] += 0.1 * c2w[4, :3, 1]
    elif kind == "transposed":
        c2w = np.swapaxes(c2w, 1, 2)
    elif kind == "pixels":
        intrinsics[4] *= 1024
    elif kind == "focal":
        intrinsics[4, 1] = 0
    elif kind == "lens nan":
        intrinsics[4, 2] = np.nan
    poses, lenses = c2w.tolist(), intrinsics.tolist()
    if kind == "3x4":
        poses[4] = poses[4][:3]
    elif kind == "ragged":
        poses[4][1] = [0, 1]
    elif kind == "text":
        poses[4][1][1] = "one"
    elif kind == "null":
        poses[4] = None
    elif kind == "short lens":
        lenses[4] = [1, 1, 0.5]
    elif kind == "few lenses":
        lenses = lenses[:5]
    return poses, lenses


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "frame 4: .*NaN"),
        ("infinite", "frame 4: .*infinite"),
        ("huge", "frame 4: .*huge"),
        ("left-handed", "frame 4: .*left-handed"),
        ("scaled", "frame 4: .*not orthonormal"),
        ("sheared", "frame 4: .*not orthonormal"),
        ("transposed", "frame 1: .*last row.*transposed"),
        ("pixels", "frame 4: .*Divide"),
        ("focal", "frame 4: .*focal"),
        ("lens nan", "frame 4: .*intrinsics have NaN"),
        ("3x4", r"frame 4: expected 4 x 4 numbers, found shape \[3, 4\]"),
        ("ragged", "frame 4: expected 4 x 4 numbers"),
        ("text", "frame 4: expected 4 x 4 numbers"),
        ("null", "frame 4: expected 4 x 4 numbers"),
        ("short lens", r"intrinsics: frame 4: expected 4 numbers, found shape \[3\]"),
        ("few lenses", r"intrinsics of shape \[5, 4\]"),
    ],
)
def test_unsound_cameras_are_refused_with_file_and_frame(tmp_path, kind, message):
    path = tmp_path / "bad.json"
    poses, lenses = damaged(kind)
    path.write_text(json.dumps({"c2w": poses, "intrinsics": lenses}))
    with pytest.raises(InputError, match=message) as error:
        cameras.read(path, F)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value).splitlines()) <= 2


def test_rounded_rotations_are_accepted(tmp_path, path_of_cameras):
    """Three decimals, as a person might write."""
    cameras.read(write(tmp_path / "a.json", path_of_cameras.c2w.round(3)), F)


@pytest.mark.parametrize("name", ["a.json", "a.npz", "a.npy"])
def test_a_single_pose_is_too_few(tmp_path, path_of_cameras, name):
    path = write(tmp_path / name, path_of_cameras.c2w[:1])
    with pytest.raises(InputError, match=f"{name}: one pose is too few; {F} frames need two key poses"):
        cameras.read(path, F)


@pytest.mark.parametrize("name", ["a.json", "a.npz", "a.npy"])
def test_empty_truncated_and_missing_files_are_refused(tmp_path, path_of_cameras, name):
    path = tmp_path / name
    with pytest.raises(InputError, match=f"{name}: no such file"):
        cameras.parse(str(path), F)
    write(path, *path_of_cameras)
    whole = path.read_bytes()
    for length in (1, 7, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=f"{name}: .*truncated"):
            cameras.read(path, F)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=f"{name}: the file is empty"):
        cameras.read(path, F)
    path.write_bytes(b"\xff\xfe\x00not numbers")
    with pytest.raises(InputError, match=name):
        cameras.read(path, F)


@pytest.mark.parametrize(
    "content",
    [
        [],
        5,
        {},
        {"cam01": "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1] "},
        {"convention": "blender", "cameras": {"extrinsic": {"camera_000": np.eye(4).tolist()}}},
    ],
)
def test_json_of_another_convention_is_refused_with_what_is_expected(tmp_path, content):
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match='cameras.json: .*"c2w".*"convention": "opencv w2c, metres"'):
        cameras.read(path, 1)


@pytest.mark.parametrize("content", [{"c2w": []}, {"c2w": None}, {"c2w": 3}, {"c2w": {}}, {"c2w": "poses"}])
def test_json_without_poses_is_refused(tmp_path, content):
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="cameras.json: expected a list"):
        cameras.read(path, 1)


@pytest.mark.parametrize("lens", [[], {}, "wide", 3, [1, 1, 0.5], [[1, 1], [1]], [None] * 4])
def test_malformed_intrinsics_are_refused(tmp_path, path_of_cameras, lens):
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"c2w": path_of_cameras.c2w.tolist(), "intrinsics": lens}))
    with pytest.raises(InputError, match="cameras.json: intrinsics"):
        cameras.read(path, F)


def test_rig_without_all_its_lenses_is_refused(tmp_path, path_of_cameras):
    path = tmp_path / "camera_data.json"
    data = rig(path_of_cameras)
    del data["cameras"]["intrinsic"]["camera_002"]
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="camera_data.json: .*every camera"):
        cameras.read(path, F)
    path.write_text(json.dumps(data | {"cameras": [1, 2]}))
    with pytest.raises(InputError, match="camera_data.json: .*every camera"):
        cameras.read(path, F)


def test_pickled_arrays_other_types_and_folders_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"c2w": 1}], object), allow_pickle=True)
    with pytest.raises(InputError, match="objects.npy"):
        cameras.read(tmp_path / "objects.npy", 1)
    np.savez(tmp_path / "other.npz", poses=np.eye(4)[None])
    with pytest.raises(InputError, match='other.npz: .*"c2w"'):
        cameras.read(tmp_path / "other.npz", 1)
    np.save(tmp_path / "single.npy", np.eye(4))
    with pytest.raises(InputError, match=r"single.npy: frame 0: expected 4 x 4 numbers, found shape \[4\]"):
        cameras.read(tmp_path / "single.npy", 1)
    (tmp_path / "notes.csv").write_text("1,2")
    with pytest.raises(InputError, match="notes.csv: .*not read; expected .json"):
        cameras.parse(tmp_path / "notes.csv", 1)
    with pytest.raises(InputError, match="is a folder"):
        cameras.parse(f"{tmp_path}/", 1)
