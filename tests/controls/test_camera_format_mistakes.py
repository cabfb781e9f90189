"""What camera files of other programs say that cannot be, and the line that says so."""

import json

import numpy as np
import pytest

from stp_jax.controls import cameras
from stp_jax.controls.cameras import Reading
from tests.controls import camera_writers
from tests.controls.filmed import LENS, SIZE, F, refused


def test_a_form_that_states_its_convention_refuses_another(tmp_path, poses):
    for writer in (camera_writers.nerfstudio, camera_writers.realestate, camera_writers.colmap_text):
        where = writer(tmp_path, poses, LENS, SIZE)
        assert "leave out the option that its axes are opengl" in refused(where, Reading(axes="opengl"))
        assert len(cameras.load(where, reading=Reading("opengl", "w2c", inherited=True)).cameras.c2w) == F
    np.testing.assert_allclose(
        cameras.load(
            camera_writers.tum(tmp_path, np.linalg.inv(poses), LENS, SIZE), reading=Reading(poses="w2c")
        ).cameras.c2w,
        poses,
        atol=1e-6,
    )


def test_quaternions_that_are_not_of_length_one_are_named(tmp_path, poses):
    where = camera_writers.tum(tmp_path, poses, LENS, SIZE)
    rows = np.loadtxt(where)
    rounded = camera_writers.lines(tmp_path / "r.txt", rows.round(3))
    np.testing.assert_allclose(cameras.load(rounded).cameras.c2w, poses, atol=5e-3)
    rows[4, 4:] *= 2
    assert "line 5: a quaternion of length 2;" in refused(camera_writers.lines(where, rows))
    where = camera_writers.colmap_text(tmp_path, poses, LENS, SIZE)
    text = where.read_text().splitlines()
    text[2] = "12 1 1 0 0 0 0 0 1 frame 0012.png"
    where.write_text("\n".join(text))
    assert "image frame 0012.png: a quaternion of length 1.414;" in refused(where)


def test_colmap_models_with_several_cameras_ask_for_one(tmp_path, poses):
    where = camera_writers.colmap_text(tmp_path, poses, LENS, SIZE)
    cameras_file = tmp_path / "cameras.txt"
    cameras_file.write_text(cameras_file.read_text() + "2 PINHOLE 640 480 500 500 320 240\n")
    text = where.read_text()
    for i in (1, 2, 3):
        text = text.replace(f" 1 frame {i:04d}.png", f" 2 other {i:04d}.png")
    where.write_text(text)
    message = refused(where)
    assert "several cameras" in message and "9 of camera 1, 3 of camera 2" in message
    np.testing.assert_allclose(cameras.load(f"{where}:2").cameras.c2w, poses[:3], atol=1e-9)
    np.testing.assert_allclose(cameras.load(f"{tmp_path}:1").cameras.c2w, poses[3:], atol=1e-9)
    assert "has no images of camera 7; 9 of camera 1" in refused(f"{where}:7")


def test_colmap_cameras_of_other_kinds_and_damaged_models(tmp_path, poses):
    where = camera_writers.colmap_text(tmp_path, poses, LENS, SIZE)
    (tmp_path / "cameras.txt").write_text("1 OPENCV_FISHEYE 640 480 500 500 320 240 0 0 0 0\n")
    assert "OPENCV_FISHEYE is not supported" in refused(where)
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 640 480 500 500 320\n")
    assert "a PINHOLE camera has 4 finite parameters" in refused(where)
    (tmp_path / "cameras.txt").write_text("8 PINHOLE 640 480 500 500 320 240\n")
    assert "is of camera 1, which is not there" in refused(where)
    (tmp_path / "cameras.txt").unlink()
    assert "needs cameras.txt in the same folder" in refused(where)
    binary = camera_writers.colmap_binary(tmp_path, poses, LENS, SIZE) / "sparse" / "0"
    whole = (binary / "images.bin").read_bytes()
    for length in (4, 60, 80, len(whole) // 2):
        (binary / "images.bin").write_bytes(whole[:length])
        assert "images.bin: " in refused(binary)
    (binary / "images.bin").write_bytes(b"\xff" * 8 + whole[8:])
    assert "images.bin: " in refused(binary)
    (tmp_path / "empty").mkdir()
    assert "is a folder without a COLMAP model" in refused(tmp_path / "empty")


POSE = {"transform_matrix": np.eye(4).tolist()}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "0 0 0 0 0 0 0 1\n0.1 0 0 x 0 0 0 1\n", "line 2: '0.1 0 0 x 0 0 0 1' is not a line"),
        ("a.txt", "# only\n\n", "no camera path in it"),
        (
            "a.txt",
            "0 0 0 0 0 0 0 1\n0 0 0 0 0 0 1\n" + "0 0 0 0 0 0 0 1\n" * 2,
            "line 2: 7 numbers; other lines have 8",
        ),
        ("a.txt", "1 2 3 4 5\n" * 4, "no camera path in it"),
        ("a.txt", "0 1\n0\n0 1\n", "needs two numbers or more"),
        ("a.txt", "0 0 0 0 0 0 0 0\n" * 4, "line 1: a quaternion of length 0"),
        ("a.txt", "0 0 0 0 0 0 0 1e300\n" * 4, "line 1: a quaternion of length inf"),
        ("a.json", {"frames": [{"transform_matrix": np.eye(4).tolist()}, {}]}, "frame 1: has no"),
        ("a.json", {"camera_model": "EQUIRECTANGULAR", "frames": [{"transform_matrix": 1}]}, "not supported"),
        (
            "a.json",
            {"fl_x": 500, "frames": [{"transform_matrix": np.eye(4).tolist()}]},
            '"w" and "h" are missing',
        ),
        ("a.json", {"camera_angle_x": 4, "frames": [{"transform_matrix": np.eye(4).tolist()}]}, "0 and pi"),
        (
            "a.json",
            {"fl_x": "a", "w": 3, "h": 2, "frames": [{"transform_matrix": []}]},
            '"fl_x" must be a number',
        ),
        (
            "a.json",
            {"camera_path": [{"camera_to_world": [1] * 16, "fov": 50}]},
            '"render_width" must be a number',
        ),
        (
            "a.json",
            {
                "render_width": 9,
                "render_height": 9,
                "camera_path": [{"camera_to_world": [1] * 16, "fov": 190}],
            },
            "between 0 and 180",
        ),
        ("a.json", {"extrinsic": [np.eye(3).tolist()]}, "frame 0: expected 4 x 4 numbers"),
        ("a.json", {"frames": [{"file_path": "b.png"} | POSE, {"file_path": "a.png"}]}, "a.png: has no"),
        (
            "a.json",
            {"frames": [{"file_path": f"{i % 2}.png"} | POSE for i in range(3)]},
            "are of 0.png: remove",
        ),
        (
            "a.txt",
            "".join(f"{t} 0 0 0 0 0 0 1\n" for t in (1, 2, 2)) + "3 0 0 0 0 0 0 1\n",
            "line 3: its time 2",
        ),
        (
            "a.txt",
            "".join(f"{t} 0 0 0 0 0 0 1\n" for t in (1, 3, 2, 4)),
            "line 3: its time 2 comes after 3: sort",
        ),
        (
            "a.txt",
            "".join(f"{t} 1 1 .5 .5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n" for t in (5, 6, 4, 7)),
            "line 3: its time 4 comes after 6: sort",
        ),
        (
            "images.txt",
            "".join(f"{i} 1 0 0 0 0 0 {i} 1 {'aba'[i]}.png\n\n" for i in range(3)),
            "two of its poses are of a.png",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 8 6 9 9 4 3\n")  # of the COLMAP model
    assert message in refused(tmp_path / name)


def test_times_and_names_that_say_nothing_do_not_matter(tmp_path):
    (tmp_path / "a.txt").write_text("0 0 0 0 0 0 0 1\n" * 5)
    (tmp_path / "a.json").write_text(json.dumps({"frames": [{"file_path": "x.png"} | POSE] * 3}))
    assert [len(cameras.load(tmp_path / name).cameras.c2w) for name in ("a.txt", "a.json")] == [5, 3]


def test_arrays_that_do_not_fit_each_other(tmp_path, poses):
    where = camera_writers.vipe(tmp_path, poses, LENS, SIZE)
    assert "give the one of the same name in pose/" in refused(tmp_path / "intrinsics" / "clip.npz")
    np.savez(where, data=poses[:5], inds=np.arange(5) + 1)
    assert "its frames (inds) are not those of" in refused(where)
    np.savez(where, data=poses[:5], inds=np.arange(4))
    assert "5 poses, but 4 frame numbers" in refused(where)
    np.savez(where, data=poses[:2], inds=[3, 1])
    assert "(inds) must increase" in refused(where)
