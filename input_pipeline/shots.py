"""Scenes in memory, and the frames of them that a shot shows.

A scene is a grid of frames: camera c at grid time t. A shot names one cell of the grid for each of its
frames. `take` copies these cells together with their poses, intrinsics and times, so that all of them always
agree.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline import fitting
from input_pipeline.config import DEPTH_STRIDE
from input_pipeline.decoding import Size, decode_with_size
from input_pipeline.fitting import Fit
from input_pipeline.scene_videos import SceneVideos
from stp_jax.controls.cameras import check
from stp_jax.errors import InputError

Clip = dict[str, np.ndarray]

# What a scene's cameras and world do. `grid`: cameras stand still, and each of them shows all grid times, so
# that camera and time may be mixed freely. `synchronised`: several moving cameras film one motion; each
# shows a time only from where it was then. `static`: nothing moves in the world, one or more moving cameras.
# `single`: one moving camera in a moving world.
KINDS = ("grid", "synchronised", "static", "single")


class Scene(NamedTuple):
    """One decoded scene of C cameras and T grid times."""

    name: str
    videos: Any  # uint8 RGB [C, T, H, W, 3]; or `SceneVideos`, which decodes what is asked for
    c2w: np.ndarray  # float32 [C, T, 4, 4], OpenCV axes, in the scene's own world frame
    intrinsics: np.ndarray  # float32 [C, T, 4]: (fx, fy, cx, cy) / (width, height, width, height)
    animation_time: np.ndarray  # float32 [T], evenly spaced, in source frames
    kind: str  # one of KINDS
    captions: tuple[str, ...] = ()  # none, or several of which each describes the scene
    metric: bool = True  # whether poses are in metres; otherwise their unit differs from scene to scene
    depth: np.ndarray | None = None  # float16 [C, T, h, w], 1 / metres, see `datasets.form`; None: not read

    @property
    def steps_per_frame(self) -> int:
        """Grid times per source frame: 2 where the grid is twice as fine as a source video."""
        return round(1 / float(self.animation_time[1] - self.animation_time[0]))

    @property
    def source_frames(self) -> int:
        """The number of source frames that fit into it; of a static scene the frames of each video."""
        times = self.videos.shape[1]
        return times if self.kind == "static" else (times - 1) // self.steps_per_frame + 1

    def check_length(self, frames: int) -> None:
        """Raises `InputError` where the scene is too short for a source video of `frames` frames."""
        if self.source_frames < frames:
            raise InputError(
                f"scene {self.name}: {self.source_frames} source frames, but the config asks for frames = "
                f"{frames}"
            )


class Shot(NamedTuple):
    """The cell of the grid that each of F frames shows."""

    cameras: np.ndarray  # int [F]
    grid_times: np.ndarray  # int [F]


def take(scene: Scene, shot: Shot, first_grid_time: int = 0) -> Clip:
    """Copies the frames of a shot out of its scene.

    `first_grid_time` is the grid time that counts as animation time 0.

    Returns video uint8 [F, H, W, 3], c2w [F, 4, 4] (still in the scene's world frame), intrinsics [F, 4] and
    animation_time [F] in source frames since `first_grid_time`; of a scene with depth also depth float16
    [F, h, w].
    """
    cells = (shot.cameras, shot.grid_times)
    depth = {} if scene.depth is None else {"depth": scene.depth[cells]}
    return depth | {
        "video": scene.videos[cells],
        "c2w": scene.c2w[cells],
        "intrinsics": scene.intrinsics[cells],
        "animation_time": (
            scene.animation_time[shot.grid_times] - scene.animation_time[first_grid_time]
        ).astype(np.float32),
    }


def together(scene: Scene, draw: Callable[[Scene], Sequence[Clip]]) -> list[Clip]:
    """The clips that `draw` cuts out of a scene whose videos are `SceneVideos`, decoded together."""
    clips = draw(scene._replace(videos=scene.videos.cells()))
    videos = scene.videos.pictures([clip["video"] for clip in clips])
    return [clip | {"video": video} for clip, video in zip(clips, videos, strict=True)]


def check_animation_time(times: Any, frames: int, where: str | Path) -> np.ndarray:
    """Checks the animation times [T] of T frames: evenly spaced, a whole number of steps per source frame."""
    try:
        times = np.asarray(times, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: animation_time must be a list of numbers") from None
    if times.shape != (frames,) or frames < 2:
        raise InputError(
            f"{where}: animation_time has shape {times.shape}, but the videos have {frames} frames"
        )
    step = float(times[1]) - float(times[0])
    even = np.isfinite(times).all() and step > 0 and np.allclose(np.diff(times), step)
    if not even or not 0.5 < 1 / step < 1e4 or abs(1 / step - round(1 / step)) > 1e-3:
        raise InputError(
            f"{where}: animation_time must rise evenly, by 1 or 1/2 or 1/3 ... of a source frame"
        )
    return times


def decode_scene(record: Mapping[str, Any], fit: Fit | None = None) -> Scene:
    """Decodes a record of a data set, of the form in `input_pipeline.datasets.form`.

    Args:
      fit: the picture size, rate and unit of length to bring it to, and whether its depth is read; None: it
        is left as it is, without depth.

    Raises:
      InputError: a video cannot be decoded or is too small, the record's parts do not fit each other, or it
        has no depth where that is wanted.
    """
    name, size = _text(record["scene"]), fit.size if fit else None
    return _scene(record, *_decode_videos(record["videos"], name, size), fit)


def open_scene(record: Mapping[str, Any], fit: Fit | None = None) -> Scene:
    """As `decode_scene`, but its videos are `SceneVideos`: pictures are decoded when they are asked for."""
    name, size = _text(record["scene"]), fit.size if fit else None
    if not len(record["videos"]):
        raise InputError(f"scene {name}: the record has no videos; build the data set again")
    videos = SceneVideos(record["videos"], name, len(record["animation_time"]), size)
    return _scene(record, videos, [videos.source_size] * videos.shape[0], fit)


def _scene(record: Mapping[str, Any], videos: Any, source_sizes: Sequence[Size], fit: Fit | None) -> Scene:
    """The scene of a record with these videos [C, T, H, W, 3], of the sizes that they have in their files."""
    name, kind = _text(record["scene"]), _text(record["kind"])
    if kind not in KINDS:
        raise InputError(f"scene {name}: of kind {kind[:100]!r}, which is none of {', '.join(KINDS)}")
    cameras, times = videos.shape[:2]
    c2w, intrinsics = record["c2w"], record["intrinsics"]
    check_cameras(c2w, intrinsics, kind, cameras, times, f"scene {name}")
    size = fit.size if fit else None
    lenses = [
        fitting.fit_lenses(lens, source, size) for lens, source in zip(intrinsics, source_sizes, strict=True)
    ]
    scene = Scene(
        name=name,
        videos=videos,
        c2w=np.broadcast_to(c2w, (cameras, times, 4, 4)),
        intrinsics=np.broadcast_to(np.stack(lenses), (cameras, times, 4)),
        animation_time=check_animation_time(record["animation_time"], times, f"scene {name}"),
        kind=kind,
        captions=tuple(_text(caption) for caption in record["captions"]),
        metric=bool(record["metric"]),
    )
    if fit and fit.depth:
        scene = scene._replace(depth=_read_depth(record["depth"], name, source_sizes[0], videos.shape))
    return _in_rate_and_unit(scene, float(record["fps"]), fit) if fit else scene


def _read_depth(
    depth: np.ndarray, name: str, source_size: tuple[int, int], shape: tuple[int, ...]
) -> np.ndarray:
    """The depth of a record with videos of this shape [C, T, H, W, 3], which had `source_size` before."""
    if not depth.size:
        raise InputError(
            f"scene {name}: has no depth; render it with --depth_stride 8, and build the data set again"
        )
    cells = (*shape[:2], shape[2] // DEPTH_STRIDE, shape[3] // DEPTH_STRIDE)
    if source_size != shape[2:4] or depth.shape != cells:
        raise InputError(
            f"scene {name}: depth {list(depth.shape)} is of videos of {source_size[1]} x {source_size[0]}; "
            "depth is not resized: set data.width and data.height to that"
        )
    return depth


def _in_rate_and_unit(scene: Scene, frame_rate: float, fit: Fit) -> Scene:
    """The scene at the rate and in the unit of length of `fit`; `frame_rate` is that of its videos, 1/s."""
    if not scene.metric:
        factor = fitting.scale(scene.c2w, fit.camera_extent)
        scene = scene._replace(c2w=fitting.scaled(scene.c2w, factor))
        if scene.depth is not None:
            scene = scene._replace(depth=(scene.depth / np.float32(factor)).astype(np.float16))
    if scene.kind != "static":  # there no frame has a time
        skipped = fitting.stride(frame_rate / scene.steps_per_frame, fit.fps)
        times = scene.animation_time if skipped == 1 else scene.animation_time / np.float32(skipped)
        scene = scene._replace(animation_time=times)
    return scene


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _decode_videos(
    encoded: Sequence[bytes], name: str, size: tuple[int, int] | None
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The videos of a scene, uint8 [C, T, H, W, 3]; and the height and width that each had in its file."""
    videos, source_sizes = None, []
    for camera, data in enumerate(encoded):
        video, source_size = decode_with_size(data, f"scene {name}, camera {camera}", size)
        source_sizes.append(source_size)
        if videos is None:
            videos = np.empty((len(encoded), *video.shape), np.uint8)
        if video.shape != videos.shape[1:]:
            raise InputError(f"scene {name}: camera {camera} has shape {video.shape}, not {videos.shape[1:]}")
        videos[camera] = video
    if videos is None:
        raise InputError(f"scene {name}: the record has no videos; build the data set again")
    return videos, source_sizes


def check_cameras(
    c2w: np.ndarray, intrinsics: np.ndarray, kind: str, cameras: int, times: int, where: str
) -> None:
    """Raises `InputError` where they are no cameras of C videos of T frames.

    Args:
      c2w: [C, 1 or T, 4, 4]; of a `grid` [C, 1, 4, 4].
      intrinsics: [C, 1 or T, 4].
    """
    moments = {1} if kind == "grid" else {1, times}
    fitting = c2w.ndim == 4 and intrinsics.ndim == 3 and c2w.shape[0] == intrinsics.shape[0] == cameras
    if not fitting or c2w.shape[1] not in moments or intrinsics.shape[1] not in {1, times}:
        raise InputError(
            f"{where}: {cameras} videos of {times} frames, but poses {list(c2w.shape)} and intrinsics "
            f"{list(intrinsics.shape)}"
        )
    if kind == "single" and cameras != 1:
        raise InputError(f"{where}: {cameras} videos, but a scene of kind 'single' has one")
    shape = (cameras, max(c2w.shape[1], intrinsics.shape[1]))
    poses, lenses = np.broadcast_to(c2w, (*shape, 4, 4)), np.broadcast_to(intrinsics, (*shape, 4))
    check(poses.reshape(-1, 4, 4), lenses.reshape(-1, 4), shape[0] * shape[1], f"{where}, cameras")


class Caching(NamedTuple):
    """Which pictures a `SceneReader` keeps, where these are decoded when they are asked for.

    Attributes:
      scenes: at most, of which anything is kept.
      nbytes: of all decoded pictures, at most.
      at_once: scenes that take turns.
      again: whether pictures of a scene are asked for more than once in its turn.
    """

    scenes: int
    nbytes: float
    at_once: int
    again: bool


class SceneReader:
    """Decodes scenes of a record source, keeping the last few.

    Each process has its own cache: it is not pickled with the reader into a worker. Threads that need the
    same scene wait for a single decoding of it. Scenes are brought to `fit`, see `decode_scene`.

    Args:
      cached_scenes: how many scenes are kept, decoded as a whole; or `Caching`: pictures are decoded when
        they are asked for, and kept as long as all scenes that take turns find room.
    """

    def __init__(self, records: Sequence[Any], cached_scenes: int | Caching, fit: Fit | None = None):
        self._records, self._fit = records, fit
        self._cached_scenes = cached_scenes
        self._start_cache()

    def _start_cache(self) -> None:
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, _Entry] = OrderedDict()

    def __getstate__(self):
        return {"_records": self._records, "_cached_scenes": self._cached_scenes, "_fit": self._fit}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._start_cache()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Scene:
        with self._lock:
            entry = self._cache.setdefault(index, _Entry())
            self._cache.move_to_end(index)
            self._drop()
        with entry.lock:
            if entry.scene is None:
                entry.scene = self._read(index, entry)
                with self._lock:
                    self._drop()  # now that it is known how much it may take
            return entry.scene

    def _read(self, index: int, entry: _Entry) -> Scene:
        if not isinstance(self._cached_scenes, Caching):
            return decode_scene(self._records[index], self._fit)
        scene, caching = open_scene(self._records[index], self._fit), self._cached_scenes
        if caching.again and scene.videos.nbytes * caching.at_once <= caching.nbytes:
            scene.videos.keep()
            entry.nbytes = scene.videos.nbytes
        return scene

    def _drop(self) -> None:
        """Drops the scenes that were used longest ago, but for one, until the others find room."""
        caching = self._cached_scenes
        scenes, most = (caching.scenes, caching.nbytes) if isinstance(caching, Caching) else (caching, np.inf)
        while len(self._cache) > max(1, scenes) or (
            len(self._cache) > 1 and sum(entry.nbytes for entry in self._cache.values()) > most
        ):
            self._cache.popitem(last=False)


class _Entry:
    """A place in the cache; its lock is held while the scene is being decoded.

    `nbytes` are those that its pictures take when all are kept.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.scene: Scene | None = None
        self.nbytes = 0
