"""Layouts of static scenes are read back to the cameras that they were written with, see test_layouts.py."""

import json

import dots
import numpy as np
import pytest
from dots import LENS, SIZE, refused, write
from PIL import Image

from input_pipeline.datasets import (
    dl3dv,
    realestate10k,
    undistort,
)
from input_pipeline.datasets.reading import open_records
from input_pipeline.shots import decode_scene

# RealEstate10K ----------------------------------------------------------------------------------------------

STAMPS = [
    1_000_000 + round(1e6 * i / 15) for i in range(1, 6)
]  # of the frames 16 to 20 of a video at 15 a second
CLIP = "0123456789abcdef"


def write_text(folder, path, stamps=STAMPS, lens=LENS):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        " ".join(map(str, [stamp, *lens, 0, 0, *np.linalg.inv(pose)[:3].ravel()]))
        for stamp, pose in zip(stamps, path, strict=True)
    ]
    text = folder / f"{CLIP}.txt"
    text.write_text("https://www.youtube.com/watch?v=ab-CdEfGhIj\n" + "\n".join(rows) + "\n")
    return text


def test_realestate10k(tmp_path):
    path = dots.path(5)
    film = dots.film(path, LENS, SIZE)
    cut, whole, stills = (write_text(tmp_path / name / "test", path) for name in ("cut", "whole", "stills"))
    assert f"{CLIP}.mp4 or " in refused(realestate10k.read_scene, cut)
    write(cut.parents[1] / "videos" / f"{CLIP}.mp4", film)
    dark = np.zeros((16, *SIZE, 3), np.uint8)
    write(whole.parents[1] / "videos" / "ab-CdEfGhIj.mp4", np.concatenate([dark, film, dark]))
    (stills.parents[1] / "frames" / CLIP).mkdir(parents=True)
    for stamp, image in zip(STAMPS, film, strict=True):
        Image.fromarray(image).save(stills.parents[1] / "frames" / CLIP / f"{stamp}.png")
    for text in (cut, whole, stills):
        record = realestate10k.read_scene(text, realestate10k.Settings({CLIP: ["a house"]}))
        dots.check(record, path[None], LENS[None])
        assert record["kind"] == "static" and not record["metric"] and record["captions"] == ["a house"]
        assert record["scene"] == CLIP and abs(record["fps"] - 15) < 0.01
    realestate10k.main(["--scenes", str(whole.parents[1]), "--out", str(tmp_path / "built")])
    (kept,) = open_records(tmp_path / "built", "realestate10k", "test")
    assert decode_scene(kept).videos.shape == (1, 5, *SIZE, 3)
    (stills.parents[1] / "frames" / CLIP / f"{STAMPS[2]}.png").unlink()
    assert f"no picture {STAMPS[2]}.jpg; 1 of the 5" in refused(realestate10k.read_scene, stills)
    write_text(whole.parent, path, [stamp + 2_000_000 for stamp in STAMPS])
    assert "has no frame at 3.067 s" in refused(realestate10k.read_scene, whole)
    write_text(whole.parent, path, [1_000_000 + 33_000 * i for i in range(5)])  # of 30 frames a second
    assert "has no frame at 1.033 s" in refused(realestate10k.read_scene, whole)
    write_text(cut.parent, path, lens=LENS * [1, 0.8, 1, 1])  # of pictures that were cropped
    assert "neither cropped nor squeezed" in refused(realestate10k.read_scene, cut)


# DL3DV ------------------------------------------------------------------------------------------------------


def brown(k1, k2, p1, p2):
    """Brown's distortion, as OpenCV's documents write it."""

    def distort(points):
        x, y = points.T
        r2 = x**2 + y**2
        radial = 1 + k1 * r2 + k2 * r2**2
        return np.stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
                y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
            ],
            1,
        )

    return distort


def write_dl3dv(folder, path, film, distortion=(0, 0, 0, 0), numbers=None):
    numbers = numbers or range(1, len(path) + 1)
    opengl = path @ np.diag([1.0, -1, -1, 1])
    height, width = 4 * SIZE[0], 4 * SIZE[1]
    frames = [
        {"file_path": f"images/frame_{number:05d}.png", "transform_matrix": pose.tolist()}
        for number, pose in zip(numbers, opengl, strict=True)
    ]
    k1, k2, p1, p2 = distortion
    data = {"w": width, "h": height, "fl_x": LENS[0] * width, "fl_y": LENS[1] * height, "cx": LENS[2] * width}
    data |= {"cy": LENS[3] * height, "k1": k1, "k2": k2, "p1": p1, "p2": p2, "camera_model": "OPENCV"}
    (folder / "images_4").mkdir(parents=True)
    (folder / "transforms.json").write_text(json.dumps(data | {"frames": frames[::-1]}))  # in any order
    for number, image in zip(numbers, film, strict=True):
        Image.fromarray(image).save(folder / "images_4" / f"frame_{number:05d}.png")


@pytest.mark.parametrize(
    "distortion", [(0, 0, 0, 0), (-0.08, 0.02, 0.002, -0.001), (0.06, 0.01, -0.002, 0.003)]
)
def test_dl3dv(tmp_path, distortion):
    path = dots.path(5)
    folder = tmp_path / "1K" / "0a1b2c"
    film = dots.film(path, LENS, SIZE, brown(*distortion))
    write_dl3dv(folder, path, film, distortion, numbers=[1, 2, 9, 10, 11])  # registered ones alone
    record = dl3dv.read_scene(folder)
    zoom = record["intrinsics"][0, 0, 0] / LENS[0]
    assert 1.01 < zoom < 1.1 if distortion[0] > 0 else abs(zoom - 1) < 1e-6
    dots.check(record, path[None], (LENS * [zoom, zoom, 1, 1])[None])
    assert record["kind"] == "static" and not record["metric"] and record["scene"] == "0a1b2c"
    dl3dv.main(["--scenes", str(tmp_path / "1K"), "--out", str(tmp_path / "built"), "--fps", "10"])
    (kept,) = open_records(tmp_path / "built", "dl3dv", "train")
    assert decode_scene(kept).videos.shape == (1, 5, *SIZE, 3) and kept["fps"] == 10


def test_undistortion_is_that_of_opencv():
    cv2 = pytest.importorskip("cv2")
    lens, size = np.array([0.7, 1.0, 0.52, 0.47]), (60, 90)
    camera = undistort.Pinhole(
        size, lens, undistort.Distortion(k1=0.1, k2=-0.03, k3=0.01, p1=0.004, p2=-0.003), "x"
    )

    def pixels(lens):  # OpenCV's pixels have their middle at whole numbers
        fx, fy, cx, cy = lens * np.array([90, 60, 90, 60])
        return np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])

    image = np.random.default_rng(0).integers(0, 255, (6, 9, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(image).resize((90, 60), Image.Resampling.BICUBIC))
    theirs = cv2.undistort(
        image, pixels(lens), np.array([0.1, -0.03, 0.004, -0.003, 0.01]), None, pixels(camera.lens)
    )
    assert np.abs(camera(image).astype(int) - theirs)[1:-1, 1:-1].max() <= 3
    for strong in (undistort.Distortion(k1=4), undistort.Distortion(k1=-2)):
        assert "undistort the pictures first" in refused(undistort.Pinhole, size, lens, strong, "x")


def test_broken_scenes_of_dl3dv_are_named(tmp_path):
    path = dots.path(5)
    film = dots.film(path, LENS, SIZE)
    write_dl3dv(tmp_path / "a", path, film)
    picture = tmp_path / "a" / "images_4" / "frame_00003.png"
    Image.open(picture).resize((80, 48)).save(picture)
    assert "frame_00003.png: is 80 x 48, but others are 160 x 96" in refused(dl3dv.read_scene, tmp_path / "a")
    picture.unlink()
    assert "'frame_00003.png' is not there" in refused(dl3dv.read_scene, tmp_path / "a")
    (tmp_path / "a" / "images_4").rename(tmp_path / "a" / "other")
    assert "has no folder images_4 or images_8" in refused(dl3dv.read_scene, tmp_path / "a")
