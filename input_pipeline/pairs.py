"""Draws camera paths and temporal warps, and makes (source, target) pairs of clips out of a scene.

What can be chosen depends on the kind of the scene, see `shots.KINDS`:

- grid: camera path and animation time are chosen independently.
- synchronised: only the diagonal exists, the picture of a moving camera at time t. A clip is one camera's
  video, and a warp applies to its pictures, poses and times together.
- static: nothing moves, so each frame of each video is a camera that stands there. A camera path is a smooth
  path over the frames of one video, and the animation time is any curve at all: pictures do not depend on it.
- single: the diagonal of one camera. Source and target are the same video at other animation times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from input_pipeline.shots import Clip, Scene, Shot, take
from stp_jax.controls.animation_time import random_warp
from stp_jax.controls.cameras import relative_to
from stp_jax.controls.view import View, named, view_of
from stp_jax.errors import InputError

MODES = ("time_only", "camera_only", "both")
# How a full grid is used; other kinds have rules of their own, see above. `grid`: camera and animation time
# are chosen independently. `synchronised`: as videos of moving cameras, only the diagonal: each time is seen
# from where the camera was at that time, so a warp applies to a clip's pictures and poses together. `static`:
# one animation time, in all frames of both clips.
RULES = ("grid", "synchronised", "static")
# Animation times of static scenes are multiples of this, in source frames: pictures exist for any.
STATIC_RESOLUTION = 1 / 64
# How camera paths over a rig are drawn: standing still, one sweep, a sweep and back.
PATHS = {"static": 0.25, "sweep": 0.6, "there_and_back": 0.15}
_EASINGS = (
    lambda s: s,  # even speed
    lambda s: s * s,  # accelerating
    lambda s: 1 - (1 - s) ** 2,  # decelerating
    lambda s: s * s * (3 - 2 * s),  # starts and stops gently
)


def random_camera_path(rng: np.random.Generator, cameras: int, frames: int) -> np.ndarray:
    """Draws a smooth path along a rig: the index of the nearest camera for each frame, int [F].

    The cameras are taken to stand in order along the rig. The path stands still, sweeps over a part of the
    rig or all of it, or sweeps and comes back, in either direction and at varied speed.
    """
    last = cameras - 1
    kind = rng.choice(list(PATHS), p=list(PATHS.values()))
    if kind == "static" or cameras == 1:
        return np.full(frames, rng.integers(cameras))
    span = rng.uniform(1, last)
    start = rng.uniform(0, last - span)
    progress = _EASINGS[rng.integers(len(_EASINGS))](np.linspace(0, 1, frames))
    if kind == "there_and_back":
        progress = 1 - np.abs(2 * progress - 1)
    if rng.random() < 0.5:
        progress = 1 - progress
    return np.rint(start + span * progress).astype(np.int64)


def random_camera(rng: np.random.Generator, scene: Scene, frames: int) -> np.ndarray:
    """Draws the camera of each frame, int [F]: a path over the rig, or one of the moving cameras.

    In a static scene each frame of each video is a camera. They are numbered camera by camera: frame t of
    video c is c T + t. A path is over the frames of one video.
    """
    cameras, times = scene.videos.shape[:2]
    if scene.kind == "grid":
        return random_camera_path(rng, cameras, frames)
    camera = rng.integers(cameras)
    if scene.kind == "static":
        return camera * times + random_camera_path(rng, times, frames)
    return np.full(frames, camera)


def stretch(rng: np.random.Generator, scene: Scene, reach: int) -> Scene:
    """Draws `reach` successive frames of a static scene's videos; 0, or another kind: the scene as it is."""
    times = scene.videos.shape[1]
    if scene.kind != "static" or not 0 < reach < times:
        return scene
    part = slice(first := int(rng.integers(times - reach + 1)), first + reach)
    return scene._replace(
        videos=scene.videos[:, part],
        c2w=scene.c2w[:, part],
        intrinsics=scene.intrinsics[:, part],
        animation_time=scene.animation_time[part],
        depth=None if scene.depth is None else scene.depth[:, part],
    )


def other_camera(rng: np.random.Generator, scene: Scene, camera: np.ndarray) -> np.ndarray:
    """Draws a camera path that differs from `camera` [F]; the same one only where the scene has no other."""
    if scene.videos.shape[0] == 1 and scene.kind != "static":
        return camera
    while True:
        other = random_camera(rng, scene, len(camera))
        if not np.array_equal(other, camera):
            return other


def forward(frames: int) -> np.ndarray:
    """The animation time of an unwarped video: 0, 1, ... F-1, float32 [F]."""
    return np.arange(frames, dtype=np.float32)


def warped(rng: np.random.Generator, scene: Scene, frames: int) -> np.ndarray:
    """Draws animation times [F] other than plain forward, all of them such as the scene has pictures of."""
    resolution = STATIC_RESOLUTION if scene.kind == "static" else 1 / scene.steps_per_frame
    while True:
        _, animation_time = random_warp(rng, frames, resolution=resolution)
        if not np.array_equal(animation_time, forward(frames)):
            return animation_time


def random_first_grid_time(rng: np.random.Generator, scene: Scene, frames: int) -> int:
    """Draws where animation time 0 lies in a scene that is longer than F source frames.

    In a static scene it lies anywhere; that is, at 0.
    """
    scene.check_length(frames)
    if scene.kind == "static":
        return 0
    steps = scene.steps_per_frame
    spare = scene.videos.shape[1] - 1 - (frames - 1) * steps
    return int(rng.integers(spare + 1))


def clip(scene: Scene, cameras: np.ndarray, animation_time: np.ndarray, first_grid_time: int = 0) -> Clip:
    """The clip whose frame i shows camera `cameras[i]` at `animation_time[i]`; see `shots.take`.

    Cameras are numbered as in `random_camera`.
    """
    if scene.kind == "static":
        taken = take(scene, Shot(*np.divmod(cameras, scene.videos.shape[1])))
        return taken | {"animation_time": animation_time.astype(np.float32)}
    grid_times = first_grid_time + np.rint(animation_time * scene.steps_per_frame).astype(np.int64)
    return take(scene, Shot(cameras, grid_times), first_grid_time)


def diagonal(path: np.ndarray, animation_time: np.ndarray) -> np.ndarray:
    """The cameras of a clip of these animation times [F], of a camera that was at `path[t]` at time t.

    Half frames are rounded to the nearest even one.
    """
    return path[np.rint(animation_time).astype(np.int64)]


def frozen(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Draws one animation time for all frames: [F]."""
    return np.full(frames, rng.integers(frames), np.float32)


def random_pair(
    scene: Scene,
    rng: np.random.Generator,
    frames: int,
    modes: Sequence[float],
    source_warp: float,
    rules: str = "grid",
) -> tuple[Clip, Clip]:
    """Draws a source and a target clip of a scene, poses in the scene's world frame.

    The source runs forward in time, or with probability `source_warp` is warped, too; the target is a
    `random_target`. With the rules `static`, `modes` and `source_warp` have no effect: two camera paths see
    one animation time.
    """
    first = random_first_grid_time(rng, scene, frames)
    camera = random_camera(rng, scene, frames)
    if rules == "static":
        animation_time = frozen(rng, frames)
        target = other_camera(rng, scene, camera)
        return clip(scene, camera, animation_time, first), clip(scene, target, animation_time, first)
    animation_time = warped(rng, scene, frames) if rng.random() < source_warp else forward(frames)
    own = diagonal(camera, animation_time) if rules == "synchronised" else camera
    return clip(scene, own, animation_time, first), random_target(scene, rng, camera, first, modes, rules)


def random_shots(
    scene: Scene,
    rng: np.random.Generator,
    frames: int,
    count: int,
    clips_per_path: int,
    rules: str = "grid",
    windows: int = 1,
) -> tuple[int, list[tuple[np.ndarray, np.ndarray]]]:
    """Draws clips of a scene that may be paired with each other: cameras [F] and animation time [F] of each.

    Each camera path is shown `clips_per_path` times: first forward, as a source needs it, then warped. No two
    of these paths are equal. All clips count animation time from the same grid time. With the rules `static`
    all clips show one animation time.

    With `windows` W > 1 paths and curves of animation time are W (F - 1) + 1 frames long. They are cut into W
    clips that continue each other: the last frame of one is the first of the next. `count` and
    `clips_per_path` still count clips.

    Returns:
      The grid time that counts as animation time 0; cameras and animation time of each clip.

    Raises:
      InputError: the scene has too few camera paths, or is too short.
    """
    if windows > 1:
        return _long_shots(scene, rng, frames, count, clips_per_path, rules, windows)
    first = random_first_grid_time(rng, scene, frames)
    paths = -(-count // clips_per_path)
    distinct: dict[bytes, np.ndarray] = {}
    for _ in range(100 * paths):
        path = random_camera(rng, scene, frames)
        distinct[path.tobytes()] = path
        if len(distinct) == paths:
            break
    else:
        raise InputError(
            f"scene {scene.name}: fewer than {paths} camera paths; ask for fewer clips or more clips_per_path"
        )
    cameras = list(distinct.values())
    if rules == "static":
        animation_time = frozen(rng, frames)
        return first, [(cameras[i // clips_per_path], animation_time) for i in range(count)]
    shots = [
        (cameras[i // clips_per_path], warped(rng, scene, frames) if i % clips_per_path else forward(frames))
        for i in range(count)
    ]
    if rules == "synchronised":
        shots = [(diagonal(path, animation_time), animation_time) for path, animation_time in shots]
    return first, shots


def _long_shots(
    scene: Scene,
    rng: np.random.Generator,
    frames: int,
    count: int,
    clips_per_path: int,
    rules: str,
    windows: int,
) -> tuple[int, list[tuple[np.ndarray, np.ndarray]]]:
    """`random_shots` of long paths: drawn as clips of that length, then cut."""
    length = windows * (frames - 1) + 1
    if scene.source_frames < length:
        raise InputError(
            f"scene {scene.name}: {scene.source_frames} source frames, but {windows} windows of {frames} "
            f"frames need {length}"
        )
    first, shots = random_shots(scene, rng, length, count // windows, clips_per_path // windows, rules)
    starts = range(0, length - 1, frames - 1)
    return first, [
        (cameras[start : start + frames], animation_time[start : start + frames])
        for cameras, animation_time in shots
        for start in starts
    ]


def random_clips(
    scene: Scene,
    rng: np.random.Generator,
    frames: int,
    count: int,
    clips_per_path: int,
    rules: str = "grid",
    windows: int = 1,
) -> Clip:
    """The clips of `random_shots`: a clip's arrays with a leading axis [count]."""
    first, shots = random_shots(scene, rng, frames, count, clips_per_path, rules, windows)
    clips = [clip(scene, *shot, first) for shot in shots]
    return {key: np.stack([one[key] for one in clips]) for key in clips[0]}


def random_target(
    scene: Scene,
    rng: np.random.Generator,
    source_camera: np.ndarray,
    first_grid_time: int,
    modes: Sequence[float],
    rules: str = "grid",
) -> Clip:
    """Draws a target clip of a scene for a source on the camera path `source_camera` [F].

    `modes` are the probabilities of MODES: a new curve of animation time on the source's camera path, a new
    camera path in forward time, or both; of a `single` scene always the first. `rules` are `grid` or
    `synchronised`.
    """
    frames = len(source_camera)
    mode = "time_only" if scene.kind == "single" else rng.choice(MODES, p=modes)
    camera = source_camera if mode == "time_only" else other_camera(rng, scene, source_camera)
    animation_time = forward(frames) if mode == "camera_only" else warped(rng, scene, frames)
    camera = diagonal(camera, animation_time) if rules == "synchronised" else camera
    return clip(scene, camera, animation_time, first_grid_time)


def make_relative(source: Clip, target: Clip, memory: Clip | None = None) -> dict[str, np.ndarray]:
    """Joins clips of one scene to a training example in the frame of the source's first camera.

    The clips' arrays may have any leading axes, the same for all; their names in the example are those of
    `stp_jax.controls.view.named`, with `source_`, `target_` and `memory_` before them.
    """
    example: dict[str, np.ndarray] = {}
    reference = view_of(source).c2w[..., :1, :, :]
    for name, one in (("source", source), ("target", target), ("memory", memory)):
        if one is not None:
            view = view_of(one)
            others = {key: array for key, array in one.items() if key not in View._fields}
            example |= named(name, view._replace(c2w=relative_to(view.c2w, reference)), **others)
    return example
