"""The folder of the published evaluation set of Cam x Time: its files, and whether they are whole.

CamxTime_eval/
    eval_input/
        metadata.csv                        file_name, text: a scene is named by the stem of its file
        videos/{file_name}                  the source, filmed by a moving camera
        src_cam/{scene}/camera_data.json    its poses, in Blender's axes
    eval_gt_wan2.1_format/ or eval_gt/
        {scene}/moving_{bullettime,forward,backward,slowmo,zigzag}.mp4
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from stp_jax.errors import InputError
from stp_jax.files import file_size
from stp_jax.media import decode

FRAMES = 81
#: mode: (official time pattern, file of the ground truth)
MODES = {
    "bullet_time": ("fixed_10", "moving_bullettime.mp4"),
    "forward": ("normal", "moving_forward.mp4"),
    "reverse": ("reverse", "moving_backward.mp4"),
    "slow_motion": ("repeat_0to40_double", "moving_slowmo.mp4"),
    "zigzag": ("zigzag_0_10_0", "moving_zigzag.mp4"),
}
_TRUTHS = ("eval_gt_wan2.1_format", "eval_gt")


class SceneFiles(NamedTuple):
    """The files of one scene."""

    name: str
    prompt: str
    video: Path
    cameras: Path
    truths: dict[str, Path]  # by mode


def read_folder(
    folder: str | os.PathLike, *, scenes: int | None = None, modes: Sequence[str] = tuple(MODES)
) -> list[SceneFiles]:
    """Lists the scenes of the set, in the order of its metadata.csv, and checks their files.

    Args:
      folder: the one with `eval_input`, or its parent.
      scenes: only the first n. None: all.
      modes: names of MODES.

    Raises:
      InputError: the folder has another layout; a file is missing, is not a video, or has fewer than 81
        frames; the set has fewer scenes.
    """
    root = Path(folder)
    if not (root / "eval_input").is_dir() and (root / "CamxTime_eval" / "eval_input").is_dir():
        root = root / "CamxTime_eval"
    inputs = root / "eval_input"
    truth = next((root / name for name in _TRUTHS if (root / name).is_dir()), None)
    if not inputs.is_dir() or truth is None:
        absent = "eval_input" if not inputs.is_dir() else " or ".join(_TRUTHS)
        raise InputError(f"{root}: no folder {absent} in it; give the unpacked Cam x Time evaluation set.")
    found = [
        SceneFiles(
            Path(name).stem,
            text,
            inputs / "videos" / name,
            cameras_of(inputs / "videos" / name),
            {mode: truth / Path(name).stem / MODES[mode][1] for mode in modes},
        )
        for name, text in _read_metadata(inputs / "metadata.csv")
    ]
    if scenes is not None and len(found) < scenes:
        raise InputError(f"--scenes {scenes}: {root} has {len(found)} scenes.")
    found = found[:scenes]
    _check_files(found)
    return found


def _read_metadata(path: Path) -> list[tuple[str, str]]:
    try:
        file_size(path)
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    named = [(row.get("file_name") or "", row.get("text") or "") for row in rows]
    if not named or not all(name and Path(name).name == name for name, _ in named):
        raise InputError(f"{path}: expected a line with file_name and text for each scene.")
    stems = [Path(name).stem for name, _ in named]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise InputError(f"{path}: names the scene {twice[0]} twice.")
    return named


def _check_files(scenes: Iterable[SceneFiles]) -> None:
    files = [path for scene in scenes for path in (scene.video, scene.cameras, *scene.truths.values())]
    absent = [path for path in files if not path.is_file()]
    if absent:
        others = f", nor are {len(absent) - 1} other files of the set" if len(absent) > 1 else ""
        raise InputError(f"{absent[0]} is not there{others}: unpack the evaluation set again.")
    for path in files:
        if path.suffix != ".json" and (count := decode.times(path)[0]) < FRAMES:
            raise InputError(f"{path} has {count} frames: those of the evaluation set have {FRAMES}.")


def cameras_of(video: Path) -> Path:
    """The file of cameras of a source `eval_input/videos/NAME.mp4`."""
    return video.parent.parent / "src_cam" / video.stem / "camera_data.json"
