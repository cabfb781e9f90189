"""Readers of other data sets' layouts, as their builders find them on disk."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz import mutators
from tests.fuzz.inputs import Reader, Seed

FRAMES, SIZE = 4, 16
LENS = [1.0, 1.0, 0.5, 0.5]


@functools.cache
def _poses() -> np.ndarray:
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    poses[:, :3, 3] = np.arange(FRAMES)[:, None] * [0.1, 0.0, 0.2]
    return poses


def _video(path: Path) -> None:
    from stp_jax import media

    path.parent.mkdir(parents=True, exist_ok=True)
    media.write_video(path, np.full((FRAMES, SIZE, SIZE, 3), 90, np.uint8), 15, crf=30)


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _seeds(folder: Path, *chosen: str) -> list[Seed]:
    """Seeds of all files below a folder, of which those with these endings are mutated."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
    kinds = {".json": mutators.JSON, ".txt": mutators.TEXT, ".csv": mutators.TEXT}
    return [
        Seed(files, name, kinds.get(Path(name).suffix, mutators.BYTES))
        for name in files
        if name.endswith(chosen)
    ]


def _check(record: dict[str, Any]) -> None:
    from input_pipeline.shots import check_animation_time, check_cameras

    frames = len(record["animation_time"])
    cameras = len(record["videos"])
    check_cameras(record["c2w"], record["intrinsics"], record["kind"], cameras, frames, "record")
    check_animation_time(record["animation_time"], frames, "record")
    assert record["c2w"].dtype == record["intrinsics"].dtype == np.float32
    assert 0 < record["fps"] < 1e6 and all(isinstance(text, str) for text in record["captions"])


def _multicam_seeds(work: Path) -> list[Seed]:
    row = "[1 0 0 0] [-0 1 0 0] [0 -0 1 0] [3390 1380 {} 1] "
    folder = work / "f24_aperture5" / "scene1"
    frames = {f"frame{f}": {f"cam0{c}": row.format(240 + f) for c in (1, 2)} for f in range(FRAMES)}
    _json(folder / "cameras" / "camera_extrinsics.json", frames)
    for camera in (1, 2):
        _video(folder / "videos" / f"cam0{camera}.mp4")
    return _seeds(work, ".json", "cam02.mp4")


def _read_multicam(folder: Path) -> None:
    from input_pipeline.datasets import multicam_video

    _check(multicam_video.read_scene(folder / "f24_aperture5" / "scene1"))


def _grid_seeds(work: Path) -> list[Seed]:
    folder = work / "Scene001" / "camera-trajectory-01"
    entries = {str(i): {"c2w": pose.tolist()} for i, pose in enumerate(_poses()[:2])}
    lens = {"K": [[16.0, 0, 8], [0, 16.0, 8], [0, 0, 1]]}
    _json(folder / f"{folder.name}-camera.json", {"trajectory": entries, "intrinsics": lens})
    for camera in (1, 2):
        _video(folder / f"cam00{camera}_full_motion.mp4")
    return _seeds(work, ".json")


def _read_grid(folder: Path) -> None:
    from input_pipeline.datasets import cam_x_time_published

    _check(cam_x_time_published.read_grid(folder / "Scene001" / "camera-trajectory-01"))


def _realestate_seeds(work: Path) -> list[Seed]:
    lines = [
        " ".join(map(str, [66_667 * i, *LENS, 0, 0, *pose[:3].ravel()]))
        for i, pose in enumerate(_poses()[:3])
    ]
    (work / "abc.txt").write_text("https://www.youtube.com/watch?v=ab-CdEfGhIj\n" + "\n".join(lines) + "\n")
    _video(work / "videos" / "ab-CdEfGhIj.mp4")
    return _seeds(work, ".txt", ".mp4")


def _read_realestate(folder: Path) -> None:
    from input_pipeline.datasets import realestate10k

    _check(realestate10k.read_scene(folder / "abc.txt"))


def _dl3dv_seeds(work: Path) -> list[Seed]:
    from PIL import Image

    names = [f"frame_{i:05d}.png" for i in range(FRAMES)]
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": pose.tolist()}
        for name, pose in zip(names, _poses(), strict=True)
    ]
    lens = {"w": 64, "h": 64, "fl_x": 64.0, "fl_y": 64.0, "cx": 32.0, "cy": 32.0, "k1": -0.02, "p1": 0.001}
    _json(work / "transforms.json", lens | {"frames": frames})
    (work / "images_4").mkdir()
    for name in names:
        Image.new("RGB", (SIZE, SIZE), (90, 80, 70)).save(work / "images_4" / name)
    return _seeds(work, ".json", names[1])


def _read_dl3dv(folder: Path) -> None:
    from input_pipeline.datasets import dl3dv

    _check(dl3dv.read_scene(folder))


def _shots_seeds(work: Path) -> list[Seed]:
    for name in ("one", "two"):
        _video(work / f"{name}.mp4")
        _json(work / f"{name}_cameras.json", {"c2w": _poses().tolist(), "intrinsics": LENS})
    (work / "one.txt").write_text("a walk\n")
    note = {"kind": "synchronised", "metric": True, "camera_scale": 2.0, "fov": 50, "captions": ["a"]}
    _json(work / "shot.json", note)
    return _seeds(work, "shot.json", "two_cameras.json", "one.txt")


def _read_shots(folder: Path) -> None:
    from input_pipeline.datasets import shots

    _check(shots.read_scene(folder))


def _caption_seeds(work: Path) -> list[Seed]:
    _json(work / "a.json", {"a": "one", "b": ["two", "three"]})
    (work / "b.csv").write_text('scene,caption\na,"one, two"\nb,three\n')
    return _seeds(work, ".json", ".csv")


def _read_captions(folder: Path) -> None:
    from input_pipeline.datasets import captions

    for name in ("a.json", "b.csv"):
        for texts in captions.read(folder / name).values():
            assert texts and all(text == " ".join(text.split()) for text in texts)


def _reader(name: str, seeds: Callable, read: Callable, share: float = 0.2) -> Reader:
    return Reader(name, seeds, read, share=share)


READERS = [
    _reader("layout of MultiCamVideo", _multicam_seeds, _read_multicam),
    _reader("layout of Cam x Time", _grid_seeds, _read_grid),
    _reader("layout of RealEstate10K", _realestate_seeds, _read_realestate),
    _reader("layout of DL3DV", _dl3dv_seeds, _read_dl3dv),
    _reader("layout of one's own videos", _shots_seeds, _read_shots),
    _reader("captions of scenes", _caption_seeds, _read_captions),
]
