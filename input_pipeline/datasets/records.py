"""Shared by the builders of this folder: their base, their flags, and how our own scene folders are read.

A record is one scene: its encoded videos, one per camera, with cameras and animation times as arrays. The
videos are stored as they are on disk. `building` writes a data set, `reading` opens it.
"""

from __future__ import annotations

import abc
import argparse
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.config import DEPTH_STRIDE
from input_pipeline.datasets import form
from input_pipeline.datasets.building import Build, Options
from input_pipeline.datasets.checking import Checks
from input_pipeline.datasets.transcoding import Transcoding
from input_pipeline.decoding import ffmpeg, opened
from input_pipeline.remote import local_folder
from stp_jax.command_line import Parser, count
from stp_jax.controls.cameras import check
from stp_jax.errors import InputError
from stp_jax.files import file_size


class SceneBuilder(tfds.core.GeneratorBasedBuilder):
    """Base of the builders: each scene becomes a record of the form in `form`.

    A builder has a `name`, by which its data sets are opened, reads its scenes, and does so the same each
    time; `build` calls it in several processes. What the command line says of scenes is in `settings`.
    """

    VERSION = tfds.core.Version(form.VERSION)
    # Nothing is downloaded, so there are no checksums; searching for their file would need
    # importlib_resources, which tensorflow-datasets imports but does not install.
    url_infos = None
    defaults: Any = None  # settings, where none are given

    def __init__(self, *, settings: Any = None, **kwargs: Any):
        self.settings = self.defaults if settings is None else settings
        super().__init__(**kwargs)

    @abc.abstractmethod
    def read_scene(self, folder: Path) -> dict[str, Any]:
        """The record of a scene, see `form`; without "scene" it is named as its folder.

        Raises:
          InputError: the scene is broken.
        """

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=form.features())

    def _split_generators(self, dl_manager):
        raise NotImplementedError("`records.build` writes data sets, in parallel and without TensorFlow")

    def _generate_examples(self):
        raise NotImplementedError("see _split_generators")


def build(
    builder_class: type[SceneBuilder],
    out: Path,
    splits: Mapping[str, Sequence[Path]],
    options: Options = Options(),  # noqa: B008 (immutable)
    **settings: Any,
) -> Path:
    """Writes the data set below `out` and returns its folder; splits without scenes are left out.

    Scenes are in their order; the files are the same for any number of processes. Broken scenes are left out
    and listed, see `building.Options`. An interrupted build leaves no data set behind; the same call goes on
    with it. A complete data set is never replaced.

    Args:
      splits: name of a split -> paths of its scenes.
      settings: arguments of the builder.

    Raises:
      InputError: there is no scene, all of a split are broken, the data set exists, a build of other scenes
        or settings was begun there, or the disk is full.
    """
    return Build(builder_class, out, splits, options, settings).run()


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
        except OSError as error:
            raise InputError(f"{path}: not a readable video ({error.strerror})") from None
        counts[name], rate = ffmpeg(path, functools.partial(_count_frames, videos[-1]))
        rates.add(rate)
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError(f"{folder}: the videos must have the same number of frames; they have {counts}")
    return videos, counts[names[0]], rates.pop()


def _count_frames(data: bytes) -> tuple[int, float]:
    """The number of a video's packets, and its rate."""
    with opened(data) as (container, stream):
        return sum(packet.size > 0 for packet in container.demux(stream)), float(stream.average_rate or 0)


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
    for name, matrices in zip(names, w2c, strict=True):
        if not np.isfinite(matrices).all():
            raise InputError(f"{path}, {name}: an extrinsic has a number that is not finite")
        if (np.linalg.det(np.clip(matrices, -1e9, 1e9)[..., :3, :3]) < 0).any():
            raise InputError(f"{path}, {name}: an extrinsic is mirrored")
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


def read_depth(data: dict[str, Any], path: Path) -> np.ndarray:
    """The array of the file's "coarse_depth", see `form`; `form.NO_DEPTH` where there is none.

    Raises:
      InputError: it is of squares of another size, or cannot be read. Its shape is not checked.
    """
    described = data.get("coarse_depth")
    if described is None:
        return form.NO_DEPTH
    if not isinstance(described, dict) or not isinstance(described.get("file"), str):
        raise InputError(f"{path}: coarse_depth must have the name of a file, and a stride")
    if described.get("stride") != DEPTH_STRIDE:
        raise InputError(
            f"{path}: coarse_depth has stride {str(described.get('stride'))[:100]}; data sets have "
            f"{DEPTH_STRIDE} (render --depth_stride {DEPTH_STRIDE})"
        )
    file = path.parent / Path(described["file"]).name
    try:
        file_size(file)
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: cannot be read as an array ({str(error)[:200]})") from None


def arguments(description: str | None) -> Parser:
    """The command line that the builders share; `options` reads it."""
    parser = Parser(description=description)
    add = parser.add_argument
    add("--scenes", type=local_folder, required=True, help="folder that holds the scene folders")
    add("--out", type=local_folder, required=True, help="folder to write the data set below")
    add("--workers", type=count, help="processes (default: one for each core, fewer for few scenes)")
    add("--strict", action="store_true", help="stop at the first broken scene (default: it is left out)")
    add("--decode", action="store_true", help="decode every frame to find damage within videos")
    add("--keep_jumps", action="store_true", help="take scenes whose poses jump, too")
    add("--transcode", action="store_true", help="encode the videos anew, which are then read faster")
    add(
        "--size",
        type=count,
        nargs=2,
        metavar=("WIDTH", "HEIGHT"),
        help="with --transcode: of larger pictures",
    )
    add("--gop", type=count, help="with --transcode: frames from one key frame to the next (default: 8)")
    add("--crf", type=int, help="with --transcode: x264's quality, 0 to 51 (default: 16)")
    return parser


def options(args: argparse.Namespace) -> Options:
    """What the flags of `arguments` say of how to build."""
    return Options(Checks(args.decode, args.keep_jumps), args.strict, args.workers, transcoding(args))


def transcoding(args: argparse.Namespace) -> Transcoding | None:
    """What the flags of `arguments` say of how to encode videos anew, if at all."""
    given = {name: getattr(args, name) for name in ("size", "gop", "crf") if getattr(args, name) is not None}
    if not args.transcode:
        if given:
            raise InputError(f"--{next(iter(given))}: only with --transcode")
        return None
    if not 0 <= given.get("crf", 0) <= 51:
        raise InputError(f"--crf {given['crf']}: must be 0 to 51")
    if "size" in given:
        width, height = given["size"]
        given["size"] = (height, width)
    return Transcoding(**given)
