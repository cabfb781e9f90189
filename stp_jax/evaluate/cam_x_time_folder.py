"""The published evaluation set of Cam x Time, read from its folder.

It measures time control along the camera path of the source: the target has the source's poses and another
animation time. A case is one mode of one scene. Its files: `input_pipeline.datasets.cam_x_time_evaluation`.

As in the official evaluation:
  - the first 81 frames and poses are taken;
  - pictures are resized with a bilinear filter until they cover 832 x 480, and their centre is cropped;
  - animation times are the official time patterns;
  - the target has the source's poses, unscaled;
  - PSNR is taken per frame, averaged over the frames of a video and then over scenes.

Unlike the official evaluation:
  - Frames are measured as the model returns them; the official script measures after H.264 compression.
  - A missing file is an error; the official script skips it.

Not known:
  - The lens: the files do not state one, and official models are not given any.
  - Whether `eval_gt`, 1080 x 1080, is to be cropped as the source is. That is assumed here; the official
    script would squeeze it to 832 x 480.
  - How the 832 x 480 files of `eval_gt_wan2.1_format` were made. They are preferred where both folders exist.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline.datasets.cam_x_time_evaluation import FRAMES, MODES, SceneFiles, read_folder
from stp_jax import media
from stp_jax.controls import cameras
from stp_jax.controls.view import View
from stp_jax.errors import InputError
from stp_jax.media import decode
from stp_jax.official import time_patterns
from stp_jax.official.clip import official_fit

__all__ = [
    "FRAMES",
    "MODES",
    "SceneFiles",
    "find_videos",
    "read_folder",
    "read_frames",
    "read_source",
    "summary",
    "target_animation_time",
]

HEIGHT, WIDTH = 480, 832
#: how the official evaluation samples: arguments of `Rerenderer`, and the seed of its noise
OFFICIAL_SAMPLING = {"steps": 50, "guidance": 5.0, "tiled": True}
OFFICIAL_SEED = 0


class Source(NamedTuple):
    """The inputs of a model for a scene: F frames of its size, with cameras."""

    video: np.ndarray  # uint8 [F, H, W, 3]
    view: View  # cameras in the file's mirrored world, see `stp_jax.controls.cameras.read`; time 0 .. F - 1


def target_animation_time(mode: str, frames: int) -> np.ndarray:
    """The target's animation time in a mode, float32 [F], in source frames of a model with F frames.

    A model with fewer than 81 frames is given every n-th frame of source and target: F - 1 must divide 80.

    Raises:
      InputError: F - 1 does not divide 80.
    """
    stride = _stride(frames)
    return time_patterns.pattern(MODES[mode][0])[::stride] / stride


def _stride(frames: int) -> int:
    if frames < 2 or (FRAMES - 1) % (frames - 1):
        raise InputError(
            f"a model of {frames} frames cannot be evaluated on Cam x Time, whose videos have {FRAMES}: "
            "give it all of them, or every n-th: 41, 21, 17, 9 or 5."
        )
    return (FRAMES - 1) // (frames - 1)


def read_frames(path: str | os.PathLike, frames: int, height: int, width: int) -> np.ndarray:
    """The frames of a video of the set as a model gets them: uint8 [F, height, width, 3].

    Source and ground truth are cropped to 832 x 480 as in the official evaluation. For a model of another
    size they are then cropped and resized as every video is (`media.fit_image`). So both show the same part
    of the scene.

    Raises:
      InputError: not a video, fewer than 81 frames; F - 1 does not divide 80.
    """
    stride, pictures, count = _stride(frames), [], 0
    with contextlib.closing(decode.frames(path)) as timed:
        for count, (_, picture) in enumerate(timed, start=1):
            if (count - 1) % stride == 0:
                image = official_fit(picture(), HEIGHT, WIDTH)
                whole = (height, width) == (HEIGHT, WIDTH)
                pictures.append(image if whole else media.fit_image(image, height, width))
            if count == FRAMES:
                return np.stack(pictures)
    raise InputError(f"{path} has {count} frames: those of the evaluation set have {FRAMES}.")


def read_source(scene: SceneFiles, frames: int, height: int, width: int, fov: float = 50.0) -> Source:
    """The inputs of a model with F frames for a scene.

    Args:
      fov: degrees across the height of the 832 x 480 picture, for models that are given a lens; the set has
        none.

    Raises:
      InputError: a file cannot be read, or has too few frames or poses.
    """
    stride = _stride(frames)
    lens = cameras.default_intrinsics(fov, aspect=WIDTH / HEIGHT)
    lens = media.fit_intrinsics(lens, (HEIGHT, WIDTH), height, width)
    path = View(*cameras.read(scene.cameras, intrinsics=lens))
    if len(path.c2w) < FRAMES:
        raise InputError(f"{scene.cameras} has {len(path.c2w)} poses: the source has {FRAMES} frames.")
    view = path.at(slice(0, FRAMES, stride))._replace(animation_time=np.arange(frames, dtype=np.float32))
    return Source(read_frames(scene.video, frames, height, width), view)


def find_videos(folder: str | os.PathLike, scenes: Sequence[SceneFiles]) -> dict[tuple[str, str], Path]:
    """Videos of the set's cases that were made elsewhere, by (scene, mode).

    Args:
      folder: has the layout of the ground truth, `{scene}/moving_{bullettime,...,zigzag}.mp4`.
      scenes: see `read_folder`; for each scene the modes in its `truths` are looked for.

    Raises:
      InputError: one is missing, is not a video, or has fewer than 81 frames.
    """
    found = {
        (scene.name, mode): Path(folder) / scene.name / MODES[mode][1]
        for scene in scenes
        for mode in scene.truths
    }
    absent = [path for path in found.values() if not path.is_file()]
    if absent:
        others = f", nor are {len(absent) - 1} others" if len(absent) > 1 else ""
        raise InputError(f"--videos: {absent[0]} is not there{others}; videos are named as in eval_gt.")
    for path in found.values():
        if (count := decode.times(path)[0]) < FRAMES:
            raise InputError(f"--videos: {path} has {count} frames: those of the set have {FRAMES}.")
    return found


def summary(scores: Iterable[tuple[str, str, float]]) -> dict[str, dict[str, float]]:
    """Mean, population standard deviation and number of videos for each mode, and under "mean" for all.

    Args:
      scores: (mode, scene, value), one for each case.
    """
    by_mode: dict[str, list[float]] = {}
    for mode, _, value in scores:
        by_mode.setdefault(mode, []).append(value)
    groups = by_mode | {"mean": [value for values in by_mode.values() for value in values]}
    return {
        name: {
            "mean": float(np.mean(values)),
            "std": float(np.std(values)) if np.isfinite(values).all() else float("nan"),
            "videos": len(values),
        }
        for name, values in groups.items()
        if values
    }
