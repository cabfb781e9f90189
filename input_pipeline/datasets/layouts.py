"""What the readers of other data sets' layouts share: videos, camera files, pictures, records, folders.

A record's world is its first camera at its first frame. So the mirrored worlds of some files become
right-handed, and worlds far from their origin keep their digits as float32. Lengths keep the file's unit.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.datasets.checking import MOST_BYTES
from input_pipeline.datasets.probing import probe
from input_pipeline.decoding import ffmpeg, opened
from stp_jax.command_line import Parser, number
from stp_jax.controls import cameras
from stp_jax.controls.cameras import Cameras, Reading
from stp_jax.controls.formats.base import by_numbers
from stp_jax.errors import InputError
from stp_jax.files import file_size
from stp_jax.media import decode
from stp_jax.media.colour import Notes
from stp_jax.media.writing import write_pictures

_SQUARE = 0.02  # by which pixels may differ from squares: sizes of pictures are rounded
_GUESSED = "twice the principal point"  # how `lenses.read` finds a size that no file states
_DEPTH = 4  # of scene folders below the one that is given
_HELD_OUT = {"test": "test", "val": "validation", "validation": "validation"}


class Video(NamedTuple):
    """A video file as it is stored in a record.

    Attributes:
      data: its bytes.
      frames: how many it has.
      fps: frames in a second.
      size: height and width of its pictures.
    """

    data: bytes
    frames: int
    fps: float
    size: tuple[int, int]


# Videos -----------------------------------------------------------------------------------------------------


def read_video(path: Path, *, moving: bool = True) -> Video:
    """Reads a video file; its packets are counted, and one frame is decoded.

    Args:
      moving: whether its world moves, so that it needs a constant frame rate.

    Raises:
      InputError: no such file, not a video, too large; fewer than two frames; turned by a display matrix; a
        frame rate that varies, where the world moves.
    """
    try:
        size = file_size(path)
        if size > MOST_BYTES:
            raise InputError(f"{path}: {size:,} bytes; a video of a data set may have {MOST_BYTES:,}")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    found = probe(data, str(path), even=moving)
    if found.frames < 2:
        raise InputError(f"{path}: {found.frames} frame; a video of a data set needs two at least")
    return Video(data, found.frames, ffmpeg(str(path), lambda: _rate(data)), found.size)


def _rate(data: bytes) -> float:
    with opened(data) as (_, stream):
        if not stream.average_rate:
            raise InputError("does not say how many frames a second it has")
        return float(stream.average_rate)


def check_whole_frames(path: Path) -> None:
    """Raises `InputError` for an interlaced video: data sets are decoded as they are stored."""
    notes: Notes = {}
    with contextlib.closing(decode.frames(path, notes=notes)) as timed:
        next(timed)
    if any(note.startswith("interlaced") for note in notes):
        raise InputError(f"{path}: is interlaced: convert it to whole frames")


def read_videos(paths: Sequence[Path], *, moving: bool = True) -> list[Video]:
    """Reads videos that belong together.

    Raises:
      InputError: as `read_video`; they differ in length, size or rate.
    """
    videos = [read_video(path, moving=moving) for path in paths]
    for path, video in zip(paths[1:], videos[1:], strict=True):
        if video.frames != videos[0].frames:
            raise InputError(f"{path}: {video.frames} frames, but {paths[0].name} has {videos[0].frames}")
        if video.size != videos[0].size:
            sizes = [f"{width} x {height}" for height, width in (video.size, videos[0].size)]
            raise InputError(f"{path}: pictures of {sizes[0]}, but those of {paths[0].name} are {sizes[1]}")
        if moving and abs(video.fps / videos[0].fps - 1) > 0.01:
            raise InputError(
                f"{path}: {video.fps:.4g} frames a second, but {paths[0].name} has {videos[0].fps:.4g}"
            )
    return videos


def encoded(pictures: Iterable[np.ndarray], fps: float) -> bytes:
    """An H.264 file (MP4) of pictures uint8 [H, W, 3]; H and W must be even, see `even_part`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        write_pictures(path, pictures, fps)
        return path.read_bytes()


def even_part(
    size: tuple[int, int], intrinsics: np.ndarray, where: str | Path
) -> tuple[tuple[int, int], np.ndarray]:
    """The largest even size (height, width) in a picture of `size`, and the lens [F, 4] of that part.

    H.264 needs even sizes: an odd picture loses its last row or column.

    Raises:
      InputError: nothing of it is left.
    """
    height, width = (length - length % 2 for length in size)
    if not height or not width:
        raise InputError(f"{where}: pictures of {size[1]} x {size[0]} are too small")
    return (height, width), intrinsics * np.array([size[1] / width, size[0] / height] * 2)


def picture(path: Path) -> np.ndarray:
    """The picture of a file, uint8 RGB [H, W, 3]. Raises `InputError` where it cannot be read."""
    with contextlib.closing(decode.frames(path)) as timed:
        return next(timed)[1]()


def pictures(paths: Sequence[Path], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The pictures of files. Raises `InputError` for one that cannot be read, or is not of `size`."""
    for path in paths:
        image = picture(path)
        if image.shape[:2] != size:
            raise InputError(
                f"{path}: is {image.shape[1]} x {image.shape[0]}, but others are {size[1]} x {size[0]}"
            )
        yield image


# Cameras ----------------------------------------------------------------------------------------------------


def read_cameras(
    path: str | Path, frames: int, size: tuple[int, int], *, reading: Reading | None = None
) -> cameras.CameraPath:
    """The cameras of a file in any form that `stp_jax.controls.camera_files` reads, one for each frame.

    Args:
      frames: T.
      size: height and width of its video's pictures, for a lens in pixels.
      reading: axes and poses, if the user says them.

    Returns:
      c2w float64 [T, 4, 4] in the file's world, which may be mirrored, and intrinsics float32 [T, 4]; or one
      of each, where the file has one.

    Raises:
      InputError: as `cameras.load`; another number of poses; a lens in pixels of a picture whose size is not
        known.
    """
    known = (reading or Reading())._replace(video=size, video_frames=frames)
    read = cameras.load(path, reading=known)
    poses = len(read.cameras.c2w)
    if poses not in (1, frames):
        raise InputError(f"{read.where}: {poses} poses, but its video has {frames} frames")
    if read.frame_numbers is not None and poses > 1 and not np.array_equal(read.frame_numbers, range(frames)):
        raise InputError(f"{read.where}: its poses are not of the frames 0 to {frames - 1} of the video")
    if _GUESSED in (read.lens or "") and not _fits(read.cameras.intrinsics, size):
        raise InputError(
            f"{read.where}: {read.lens} do not fit pictures of {size[1]} x {size[0]}: add to the file the "
            "width and height of the picture that they are of"
        )
    return read


def check_square_pixels(path: str | Path, intrinsics: np.ndarray, size: tuple[int, int]) -> None:
    """Raises `InputError` where a lens [F, 4] of a camera with square pixels does not fit pictures of `size`.

    So pictures are noticed that were cropped or squeezed after their cameras were found.
    """
    if not _fits(intrinsics, size):
        shape = intrinsics[0, 1] / intrinsics[0, 0]
        raise InputError(
            f"{path}: its lens is of pictures {shape:.4g} times as wide as high, but they are {size[1]} x "
            f"{size[0]}: take the pictures whole, neither cropped nor squeezed"
        )


def _fits(intrinsics: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether pixels are squares with a lens [F, 4] and pictures of `size`."""
    return abs(float(intrinsics[0, 1] / intrinsics[0, 0]) / (size[1] / size[0]) - 1) <= _SQUARE


# Records ----------------------------------------------------------------------------------------------------


def record(
    scene: str,
    kind: str,
    videos: Sequence[bytes],
    paths: Sequence[Cameras],
    frames: int,
    fps: float,
    *,
    metric: bool,
    captions: Sequence[str] = (),
    where: str | Path,
) -> dict[str, Any]:
    """A record as `records.SceneBuilder` wants it; its world is the first camera at its first frame.

    Args:
      paths: of each of C cameras c2w float64 [1 or T, 4, 4] and intrinsics [1 or T, 4], in one world.
      frames: T.
      where: names the scene in errors.

    Raises:
      InputError: a pose or a lens is not valid, or the worlds of two cameras are mirrored to each other.
    """
    longest = 1 if kind == "grid" else frames  # one pose of a camera is that of all its frames
    reference = np.asarray(paths[0].c2w[0], np.float64)
    c2w = [np.broadcast_to(cameras.relative_to(one.c2w, reference), (longest, 4, 4)) for one in paths]
    lenses = [np.asarray(one.intrinsics, np.float32) for one in paths]
    if all((lens == lens[0]).all() for lens in lenses):
        lenses = [lens[:1] for lens in lenses]
    else:
        lenses = [np.broadcast_to(lens, (longest, 4)) for lens in lenses]
    for camera, (poses, lens) in enumerate(zip(c2w, lenses, strict=True)):
        cameras.check(poses, np.broadcast_to(lens, (longest, 4)), longest, f"{where}: camera {camera}")
    return {
        "scene": scene,
        "kind": kind,
        "fps": float(fps),
        "videos": list(videos),
        "c2w": np.stack(c2w).astype(np.float32),
        "intrinsics": np.stack(lenses).astype(np.float32),
        "animation_time": np.arange(frames, dtype=np.float32),
        "captions": list(captions),
        "metric": metric,
    }


# Folders ----------------------------------------------------------------------------------------------------


def find(parent: Path, flag: str, is_scene: Callable[[Path, set[str]], bool], expected: str) -> list[Path]:
    """The scene folders at any of four depths below `parent`, or `parent` itself, by natural order of name.

    Args:
      is_scene: whether a folder is one, given its path and the names in it; such are not looked into.
      expected: what scene folders have, for the error.

    Raises:
      InputError: no such folder, or no scene in it.
    """
    if not parent.is_dir():
        raise InputError(f"{flag} {parent}: no such folder")
    found = []
    for folder, folders, files in os.walk(parent, followlinks=True):
        path = Path(folder)
        if is_scene(path, {*folders, *files}):
            found.append(path)
            folders.clear()
        if len(path.relative_to(parent).parts) >= _DEPTH:
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".") and "tmp" not in Path(name).suffix]
    if not found:
        raise InputError(f"{flag} {parent}: holds no scenes; {expected}")
    return sorted(found, key=lambda path: [by_numbers(part) for part in path.parts])


def split(
    scenes: Sequence[Path],
    parent: Path,
    test_scenes: int,
    group: Callable[[Path], str] = lambda path: path.name,
) -> dict[str, list[Path]]:
    """Scenes by split: those below `parent`/test or /val are held out already, and some others may be.

    Args:
      test_scenes: how many groups of the train split become test scenes. They are chosen by a hash of their
        names, so that they are of all kinds, and stay when scenes are added.
      group: the name of what must not be in two splits, as a scene that was filmed twice.

    Raises:
      InputError: no scene is left for training.
    """
    splits: dict[str, list[Path]] = {"train": [], "test": [], "validation": []}
    for scene in scenes:
        top = scene.relative_to(parent).parts[:1]
        splits[_HELD_OUT.get(top[0] if len(top) else "", "train")].append(scene)
    groups = sorted(
        {group(scene) for scene in splits["train"]}, key=lambda name: sha256(name.encode()).digest()
    )
    if test_scenes and test_scenes >= len(groups):
        raise InputError(
            f"--test_scenes {test_scenes}: there are {len(groups)} scenes, and training needs one"
        )
    held = set(groups[:test_scenes])
    splits["test"] += [scene for scene in splits["train"] if group(scene) in held]
    splits["train"] = [scene for scene in splits["train"] if group(scene) not in held]
    return splits


def add_flags(parser: Parser) -> None:
    """Adds the flags that all readers of layouts have."""
    parser.add_argument(
        "--test_scenes",
        type=number(0, 10**6, int),
        default=0,
        help="how many scenes of the train split are held out",
    )
    parser.add_argument(
        "--captions", type=Path, help="JSON {scene: caption or list} or CSV with the columns scene, caption"
    )
