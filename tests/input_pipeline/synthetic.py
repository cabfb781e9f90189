"""Tiny scene folders whose colours say which scene, camera and grid time each frame is."""

import json
from pathlib import Path

import av
import numpy as np

from input_pipeline.shots import Scene

STEP = 20  # difference of colour between neighbours: far more than coding loses


def colour(scene: int, camera: int, grid_time: int) -> np.ndarray:
    return np.array([20 + STEP * scene, 20 + STEP * camera, 20 + STEP * grid_time], np.uint8)


def read_colour(video: np.ndarray) -> np.ndarray:
    """[..., H, W, 3] -> int [..., 3]: scene, camera and grid time."""
    return np.rint((video.mean((-3, -2)) - 20) / STEP).astype(int)


def depth_cells(cameras: int, times: int) -> np.ndarray:
    """Depth [C, T, 1, 2] of pictures of 8 x 16 that says which camera, grid time and column each cell is."""
    camera, time, _, column = np.indices((cameras, times, 1, 2))
    return ((64 * camera + 2 * time + column + 1) / 1024).astype(np.float16)


def read_depth_cells(depth: np.ndarray) -> np.ndarray:
    """[..., 1, 2] -> int [..., 2, 3]: camera, grid time and column of each cell."""
    code = np.rint(depth[..., 0, :].astype(float) * 1024).astype(int) - 1
    return np.stack([code // 64, code % 64 // 2, code % 2], -1)


def rig_pose(camera: int, time: float = 0.0) -> np.ndarray:
    """c2w of a camera of the rig; turning and rising with `time` where cameras move."""
    angle = 0.2 * camera + 0.05 * time
    c2w = np.eye(4)
    c2w[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    c2w[:3, 3] = [camera, 0.1 * time, 0.3 * camera]
    return c2w


def rig_intrinsics(camera: int) -> np.ndarray:
    return np.array([1 + 0.1 * camera, 1.2, 0.45, 0.5])


def scene(
    index: int = 0,
    cameras: int = 5,
    times: int = 9,
    step: float = 0.5,
    kind: str = "grid",
    depth: bool = False,
) -> Scene:
    """The decoded scene, without files."""
    videos = np.array([[colour(index, c, t) for t in range(times)] for c in range(cameras)])
    when = np.zeros(times) if kind == "grid" else np.arange(times)
    return Scene(
        name=f"scene_{index}",
        videos=np.tile(videos[:, :, None, None], (1, 1, 8, 16, 1)),
        c2w=np.array([[rig_pose(c, t) for t in when] for c in range(cameras)], np.float32),
        intrinsics=np.array([[rig_intrinsics(c)] * times for c in range(cameras)], np.float32),
        animation_time=np.arange(times, dtype=np.float32) * step,
        kind=kind,
        depth=depth_cells(cameras, times) if depth else None,
    )


def write_video(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_scene(parent: Path, name: str, index: int, kind: str = "grid", **kwargs) -> Path:
    """Writes the scene as a folder, as a renderer or a set of recordings would be."""
    data = scene(index, kind=kind, **kwargs)
    folder = parent / name
    names = [f"camera_{c:03d}" for c in range(len(data.videos))]
    for camera, video in zip(names, data.videos, strict=True):
        write_video(folder / "videos" / f"{camera}.mp4", video)
    w2c = np.linalg.inv(data.c2w.astype(np.float64))
    extrinsic = w2c[:, 0] if kind == "grid" else w2c
    cameras = {
        "fps": 30,
        "cameras": {
            "extrinsic": {n: e.tolist() for n, e in zip(names, extrinsic, strict=True)},
            "intrinsic": {n: i.tolist() for n, i in zip(names, data.intrinsics[:, 0], strict=True)},
        },
    }
    if kind == "grid":
        cameras["animation_time"] = data.animation_time.tolist()
    if data.depth is not None:
        np.save(folder / "cells.npy", data.depth)
        cameras["coarse_depth"] = {"file": "cells.npy", "stride": 8}
    (folder / ("camera_data.json" if kind == "grid" else "cameras.json")).write_text(json.dumps(cameras))
    return folder
