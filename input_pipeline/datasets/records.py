"""Shared by the builders of this folder: reads scene folders, writes a data set; `reading` opens it.

A record is one scene: its encoded videos, one per camera, with cameras and animation times as arrays. The
videos are stored as they are on disk; nothing is decoded or encoded here.
"""

from __future__ import annotations

import abc
import errno
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from input_pipeline.datasets import form
from stp_jax.command_line import Parser
from stp_jax.controls.cameras import check
from stp_jax.errors import InputError
from stp_jax.files import file_size

SCENES_OF_A_FILE = 256  # at most


class SceneBuilder(tfds.core.GeneratorBasedBuilder):
    """Base of the builders: scene folders in `splits` (split name -> folders) become records.

    The form of a record is that of `form`.
    """

    VERSION = tfds.core.Version(form.VERSION)
    # Nothing is downloaded, so there are no checksums; searching for their file would need
    # importlib_resources, which tensorflow-datasets imports but does not install.
    url_infos = None

    def __init__(self, *, splits: dict[str, list[Path]] | None = None, **kwargs: Any):
        self._splits = splits or {}
        super().__init__(**kwargs)

    @abc.abstractmethod
    def read_scene(self, folder: Path) -> dict[str, Any]:
        """The record of a scene folder, see `form`, but for its name.

        Raises:
          InputError: the folder is damaged.
        """

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=form.features())

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name, folders) for name, folders in self._splits.items()}

    def _generate_examples(self, split: str, folders: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
        for folder in tqdm(folders, desc=f"{split} scenes", unit="scene"):
            yield folder.name, {"scene": folder.name} | self.read_scene(folder)


def build(builder_class: type[SceneBuilder], out: Path, splits: dict[str, list[Path]]) -> Path:
    """Writes the data set below `out` and returns its folder; splits without scenes are left out.

    Scenes are written one after the other, in their order: the builder's own `download_and_prepare` would
    shuffle them, and needs TensorFlow for more than 1 GB. An interrupted build leaves no data set behind and
    starts again; a complete one is never replaced.

    Raises:
      InputError: there is no scene, a scene is damaged, the data set exists, or the disk is full.
    """
    splits = {name: folders for name, folders in splits.items() if folders}
    partial = out / f".{builder_class.__name__}.partial"
    builder = builder_class(splits=splits, data_dir=str(partial), file_format="array_record")
    written = Path(builder.data_path)
    folder = out / written.relative_to(partial)
    if folder.exists():
        raise InputError(f"{folder}: the data set exists; choose another --out or delete that folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        written.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written to ({error.strerror})") from error
    try:
        _write(builder)
        folder.parent.mkdir(exist_ok=True)
        os.replace(written, folder)
    except Exception as error:  # of the libraries between
        reasons = map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
        found = next((reason for reason in reasons if reason in str(error)), None)
        if found is None:
            raise
        raise InputError(f"--out {out}: cannot be written to ({found}). Free some space there.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write(builder: SceneBuilder) -> None:
    writer = tfds.core.SequentialWriter(
        builder.info, SCENES_OF_A_FILE, overwrite=True, file_format="array_record"
    )
    splits = builder._split_generators(None)
    writer.initialize_splits(list(splits))
    for split, examples in splits.items():
        for _, example in examples:
            writer.add_examples({split: [example]})
    writer.close_all()


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


def read_videos(folder: Path, names: Sequence[str]) -> tuple[list[bytes], int, float]:
    """Reads the video files `names` in `folder`: their bytes, the number of frames of each, the rate (1/s).

    The packets of each file are counted, so a truncated file is noticed without decoding it.
    """
    videos, counts, rates = [], {}, set()
    for name in names:
        path = folder / f"{name}.mp4"
        try:
            file_size(path)
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

    The extrinsics of one camera have `ndim` dimensions: 2 where it stands still, else 3.

    Returns:
      The names in order, c2w float32 [C, 1 or T, 4, 4] and intrinsics float32 [C, 1 or T, 4].
    """
    try:
        extrinsic, intrinsic = data["cameras"]["extrinsic"], data["cameras"]["intrinsic"]
        names = sorted(extrinsic)
        w2c = np.array([extrinsic[name] for name in names], np.float64)
        intrinsics = np.array([intrinsic[name] for name in names], np.float64)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: cameras are missing or uneven ({repr(error)[:200]})") from None
    if outside := [name for name in names if Path(name).name != name]:
        raise InputError(f"{path}: {outside[0][:100]!r} is no name of a camera")
    fitting = intrinsics.ndim == 2 or (ndim == 3 and intrinsics.shape[:-1] == w2c.shape[:2])
    if not names or w2c.ndim != ndim + 1 or w2c.shape[-2:] != (4, 4) or intrinsics.shape[-1:] != (4,):
        fitting = False
    if not fitting:
        raise InputError(f"{path}: extrinsics have shape {w2c.shape} and intrinsics {intrinsics.shape}")
    intrinsics = np.clip(intrinsics, -1e9, 1e9)  # refused below, but no float32 overflows
    rigid = (np.abs(w2c) < 1e9).all() and (np.abs(w2c[..., 3, :] - [0, 0, 0, 1]) <= 1e-2).all()
    if not rigid or (np.abs(np.linalg.det(w2c[..., :3, :3]) - 1) > 1e-2).any():
        raise InputError(f"{path}: an extrinsic is not a rigid world-to-camera matrix")
    c2w = np.linalg.inv(w2c).astype(np.float32)
    c2w = c2w[:, None] if ndim == 2 else c2w
    intrinsics = (intrinsics[:, None] if intrinsics.ndim == 2 else intrinsics).astype(np.float32)
    for name, poses, lenses in zip(names, c2w, intrinsics, strict=True):
        lenses = np.broadcast_to(lenses, (len(poses), 4))
        check(poses, lenses, len(poses), f"{path}, {name}")
    return names, c2w, intrinsics


def read_rate(data: dict[str, Any], measured: float, path: Path) -> float:
    """Frames in a second: the file's "fps", else as measured. Raises `InputError` for what is no rate."""
    rate = data.get("fps", measured)
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1e6:
        raise InputError(f"{path}: fps must be a number of frames in a second, found {rate!r}"[:300])
    return float(rate)


def read_captions(data: dict[str, Any], path: Path) -> list[str]:
    """The file's "captions", none where it has none. Raises `InputError` for what is no list of texts."""
    captions = data.get("captions", [])
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise InputError(f"{path}: captions must be a list of texts")
    return captions


def read_metric(data: dict[str, Any], path: Path) -> bool:
    """The file's "metric", whether poses are in metres: true where it does not say."""
    metric = data.get("metric", True)
    if not isinstance(metric, bool):
        raise InputError(f"{path}: metric must be true or false, found {metric!r}"[:300])
    return metric


def arguments(description: str | None) -> Parser:
    """The command line that the builders share."""
    parser = Parser(description=description)
    parser.add_argument("--scenes", type=Path, required=True, help="folder that holds the scene folders")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the data set below")
    return parser
