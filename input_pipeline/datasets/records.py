"""Shared by the builders of this folder: reads scene folders, writes a data set, opens one.

A record is one scene: its encoded videos, one per camera, with cameras and animation times as arrays. The
videos are stored as they are on disk; nothing is decoded or encoded here.
"""

from __future__ import annotations

import abc
import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from stp_jax.command_line import Parser
from stp_jax.controls.cameras import check
from stp_jax.errors import InputError


class SceneBuilder(tfds.core.GeneratorBasedBuilder):
    """Base of the builders: scene folders in `splits` (split name -> folders) become records.

    Features: scene (folder name), fps, videos (C encoded files), c2w (OpenCV axes; [C, 4, 4], or [C, T, 4, 4]
    where cameras move), intrinsics ([C, 4] or [C, T, 4]; by width and height), and animation_time [T] in
    source frames.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded, so there are no checksums; searching for their file would need
    # importlib_resources, which tensorflow-datasets imports but does not install.
    url_infos = None
    CAMERA_SHAPE: tuple[int | None, ...]  # shape of the cameras of a scene: (None,) or (None, None)

    def __init__(self, *, splits: dict[str, list[Path]] | None = None, **kwargs: Any):
        self._splits = splits or {}
        super().__init__(**kwargs)

    @abc.abstractmethod
    def read_scene(self, folder: Path) -> dict[str, Any]:
        """The record of a scene folder. Raises `InputError` where the folder is damaged."""

    def _info(self) -> tfds.core.DatasetInfo:
        # encoding="bytes" is the fastest, and several unknown dimensions need it.
        features = {
            "scene": tfds.features.Text(),
            "fps": np.float32,
            "videos": tfds.features.Sequence(tfds.features.Scalar(dtype=np.object_)),
            "c2w": tfds.features.Tensor(shape=(*self.CAMERA_SHAPE, 4, 4), dtype=np.float32, encoding="bytes"),
            "intrinsics": tfds.features.Tensor(
                shape=(*self.CAMERA_SHAPE, 4), dtype=np.float32, encoding="bytes"
            ),
            "animation_time": tfds.features.Tensor(shape=(None,), dtype=np.float32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name, folders) for name, folders in self._splits.items()}

    def _generate_examples(self, split: str, folders: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
        for folder in tqdm(folders, desc=f"{split} scenes", unit="scene"):
            yield folder.name, {"scene": folder.name} | self.read_scene(folder)


def build(builder_class: type[SceneBuilder], out: Path, splits: dict[str, list[Path]]) -> Path:
    """Writes the data set below `out` and returns its folder; splits without scenes are left out.

    An interrupted build leaves no data set behind and starts again; a complete one is never replaced.

    Raises:
      InputError: there is no scene, a scene is damaged, or the data set exists.
    """
    splits = {name: folders for name, folders in splits.items() if folders}
    builder = builder_class(splits=splits, data_dir=str(out), file_format="array_record")
    folder = Path(builder.data_path)
    if folder.exists():
        raise InputError(f"{folder}: the data set exists; choose another --out or delete that folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written to ({error.strerror})") from error
    tfds.disable_progress_bar()  # it knows no total; ours does
    with contextlib.redirect_stdout(io.StringIO()):  # it speaks of downloading, which does not happen
        builder.download_and_prepare()
    return folder


def open_records(path: str | Path, kind: str, split: str) -> Sequence[dict[str, Any]]:
    """Opens a split of a built data set for random access.

    `path` is the folder given as --out when it was built, or the data set's own folder.

    Raises:
      InputError: no data set of this kind is there, or the split is missing or empty.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"data set {path}: no such folder")
    folders = [
        f
        for f in (path, *sorted((path / kind).glob("*"), reverse=True))
        if (f / "dataset_info.json").exists()
    ]
    if not folders:
        others = sorted(f.parent.parent.name for f in path.glob("*/*/dataset_info.json"))
        found = (
            f"it holds {', '.join(others)}"
            if others
            else f"build it with python -m input_pipeline.datasets.{kind}"
        )
        raise InputError(f"data set {path}: no data set of kind {kind!r} there; {found}")
    builder = tfds.builder_from_directory(str(folders[0]))
    if builder.name != kind:
        raise InputError(f"data set {folders[0]}: of kind {builder.name!r}, but data.kind = {kind!r}")
    if split not in builder.info.splits or builder.info.splits[split].num_examples == 0:
        available = ", ".join(builder.info.splits) or "none"
        raise InputError(
            f"data set {folders[0]}: no split {split!r} with scenes in it; there is: {available}"
        )
    return builder.as_data_source(split=split)


def scene_folders(parent: Path, flag: str) -> list[Path]:
    """The scene folders in `parent`, in order of name. Raises `InputError` where there are none."""
    if not parent.is_dir():
        raise InputError(f"{flag} {parent}: no such folder")
    folders = sorted(
        f for f in parent.iterdir() if f.is_dir() and (f / "videos").is_dir() and "tmp" not in f.suffix
    )
    if not folders:
        raise InputError(
            f"{flag} {parent}: holds no scene folders (each has videos/*.mp4 and a JSON file of cameras)"
        )
    return folders


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises `InputError` that names the file."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return value


def read_videos(folder: Path, names: Sequence[str]) -> tuple[list[bytes], int, float]:
    """Reads the video files `names` in `folder`: their bytes, the number of frames of each, the rate (1/s).

    The packets of each file are counted, so a truncated file is noticed without decoding it.
    """
    videos, counts, rates = [], {}, set()
    for name in names:
        path = folder / f"{name}.mp4"
        try:
            videos.append(path.read_bytes())
            with av.open(io.BytesIO(videos[-1]), "r") as container:
                stream = container.streams.video[0]
                rates.add(float(stream.average_rate or 0))
                counts[name] = sum(packet.size > 0 for packet in container.demux(stream))
        except (OSError, av.FFmpegError) as error:
            raise InputError(f"{path}: not a readable video ({error.strerror})") from error
        except IndexError as error:
            raise InputError(f"{path}: holds no video") from error
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError(f"{folder}: the videos must have the same number of frames; they have {counts}")
    return videos, counts[names[0]], rates.pop()


def read_cameras(data: dict[str, Any], path: Path, ndim: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Reads {"cameras": {"extrinsic": {name: w2c}, "intrinsic": {name: [fx, fy, cx, cy]}}}.

    Returns the names in order, c2w and intrinsics; the extrinsics of one camera have `ndim` dimensions.
    """
    try:
        extrinsic, intrinsic = data["cameras"]["extrinsic"], data["cameras"]["intrinsic"]
        names = sorted(extrinsic)
        w2c = np.array([extrinsic[name] for name in names], np.float64)
        intrinsics = np.array([intrinsic[name] for name in names], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cameras are missing or uneven ({error!r})") from error
    if not names or w2c.ndim != ndim + 1 or w2c.shape[-2:] != (4, 4) or intrinsics.shape[-1:] != (4,):
        raise InputError(f"{path}: extrinsics have shape {w2c.shape} and intrinsics {intrinsics.shape}")
    if not np.isfinite(w2c).all() or (np.abs(np.linalg.det(w2c[..., :3, :3]) - 1) > 1e-2).any():
        raise InputError(f"{path}: an extrinsic is not a rigid world-to-camera matrix")
    c2w = np.linalg.inv(w2c).astype(np.float32)
    intrinsics = np.broadcast_to(
        intrinsics[:, None] if intrinsics.ndim < ndim else intrinsics, (*c2w.shape[:-2], 4)
    ).astype(np.float32)
    for name, poses, lenses in zip(names, c2w, intrinsics, strict=True):
        poses = poses.reshape(-1, 4, 4)
        check(poses, lenses.reshape(-1, 4), len(poses), f"{path}, {name}")
    return names, c2w, intrinsics


def check_animation_time(times: Any, frames: int, path: Path) -> np.ndarray:
    """Checks the animation times [T] of T frames: evenly spaced, a whole number of steps per source frame."""
    times = np.asarray(times, np.float32)
    if times.shape != (frames,) or frames < 2:
        raise InputError(
            f"{path}: animation_time has shape {times.shape}, but the videos have {frames} frames"
        )
    step = float(times[1] - times[0])
    if step <= 0 or not np.allclose(np.diff(times), step) or abs(1 / step - round(1 / step)) > 1e-3:
        raise InputError(f"{path}: animation_time must rise evenly, by 1 or 1/2 or 1/3 ... of a source frame")
    return times


def arguments(description: str | None) -> Parser:
    """The command line that the builders share."""
    parser = Parser(description=description)
    parser.add_argument("--scenes", type=Path, required=True, help="folder that holds the scene folders")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the data set below")
    return parser
