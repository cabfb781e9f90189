"""Requests with camera files; those of `CASES` move from 0 to 1 m along their own z axis, without turning, in
their own frame or in the world `W`; my_extrinsics_c2w.npy moves up, along its -y.
"""

from pathlib import Path

import numpy as np

from stp_jax import media
from stp_jax.rerender.request import read_request
from stp_jax.weights import native

CASES = Path(__file__).parents[1] / "controls" / "cases"
W = np.eye(4)
W[:3, :3] = [[0.36, 0.48, -0.8], [-0.8, 0.6, 0], [0.48, 0.64, 0.6]]
W[:3, 3] = [5, 2, 1]
NOTES = native.SamplingNotes(17, 32, 32, 2, 1.0)
OFFICIAL = native.SamplingNotes(81, 16, 16, 2, 1.0)


def video(path, frames: int, height: int = 90, width: int = 160, fps: int = 20):
    y, x = np.mgrid[:height, :width]
    pictures = np.stack([np.stack([x + i, y, x], -1) for i in range(frames)]).astype(np.uint8)
    media.write_video(path, pictures, fps)
    return path


def request(videos, name="wide", notes=NOTES, **asked):
    return read_request(notes, video=videos[name], animation_time="forward", **asked)


def along_z(view) -> np.ndarray:
    return view.c2w[:, 2, 3]


def source_of_20(folder):
    """A file of a source's camera with a pose for each of 20 frames."""
    path = np.tile(W, (20, 1, 1))
    path[:, :3, 3] += np.arange(20)[:, None] * W[:3, 2] / 19
    np.save(folder / "source.npy", path)
    return folder / "source.npy"
