"""The cases of the evaluation: the cells of a camera x time grid that are source and target videos.

Cameras 0 .. C-1 stand in order along the rig. The source always runs forward in time.

  time control    the target follows the source's own camera path, with another animation time.
  camera control  animation time runs forward in both; the target is filmed from the other half of the rig.
  both            another animation time, filmed from the other half of the rig.

In "camera control" and "both", source and target share no camera: no target frame equals a source frame, and
the first frames differ. The camera paths alternate from scene to scene.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from input_pipeline.pairs import clip, make_relative
from input_pipeline.shots import Scene
from stp_jax.controls.animation_time import EVALUATION_MODES, curve
from stp_jax.errors import InputError

TIME, CAMERA, BOTH = "time control", "camera control", "both"
GROUPS = (TIME, CAMERA, BOTH)
COPY = "forward"  # in time control the target is then the source itself
# Of --quick: with four scenes, one of each camera path, they are done in minutes on a CPU.
QUICK_CASES = (
    (TIME, "bullet_time"),
    (TIME, "reverse"),
    (CAMERA, COPY),
    (BOTH, "bullet_time"),
    (BOTH, "slow_motion"),
)
CASES_PER_SCENE = 2 * len(EVALUATION_MODES)
MIN_CAMERAS = 7  # fewer would round source and target paths to the same cameras

# Time control: first and last position on the rig, from 0 to 1, of the path that source and target share.
_SHARED_PATHS = ((0.0, 1.0), (1.0, 0.0), (0.25, 0.75), (0.75, 0.25))
# The others: the paths of (source, target).
_PATHS = (
    ((0.0, 0.4), (0.6, 1.0)),  # side by side
    ((0.75, 0.75), (0.5, 0.0)),  # the source stands still; the target moves away from it
    ((1.0, 0.6), (0.0, 0.4)),  # towards each other
    ((0.25, 0.25), (1.0, 0.5)),  # the source stands still; the target comes closer
)

QUICK_SCENES = len(_PATHS)


class Case(NamedTuple):
    """One task on one scene: camera numbers, int [F], and animation times, float32 [F] in source frames."""

    group: str
    mode: str  # of animation time: one of EVALUATION_MODES
    source_camera: np.ndarray
    target_camera: np.ndarray
    source_animation_time: np.ndarray
    target_animation_time: np.ndarray


def cases_of(scene: int, cameras: int, frames: int) -> list[Case]:
    """The cases of a scene: five of time control, one of camera control, four of both.

    Args:
      scene: its number; camera paths alternate by it.
      cameras: number of cameras along its rig.
      frames: F of each clip.
    """
    forward = np.arange(frames, dtype=np.float32)
    shared = _path(_SHARED_PATHS[scene % len(_SHARED_PATHS)], cameras, frames)
    source, target = (_path(ends, cameras, frames) for ends in _PATHS[scene % len(_PATHS)])
    times = {mode: curve(mode, frames) for mode in EVALUATION_MODES}
    others = {mode: time for mode, time in times.items() if mode != COPY}
    return [
        *(Case(TIME, mode, shared, shared, forward, time) for mode, time in times.items()),
        Case(CAMERA, COPY, source, target, forward, forward),
        *(Case(BOTH, mode, source, target, forward, time) for mode, time in others.items()),
    ]


def example_of(scene: Scene, case: Case) -> dict[str, np.ndarray]:
    """Source and target of a case, cut out of its scene; keys as in `input_pipeline.pairs.make_relative`."""
    return make_relative(
        clip(scene, case.source_camera, case.source_animation_time),
        clip(scene, case.target_camera, case.target_animation_time),
    )


def nearest_source_frame(case: Case) -> np.ndarray:
    """For each target frame the source frame nearest in animation time (the earlier of two), int [F]."""
    distance = np.abs(case.target_animation_time[:, None] - case.source_animation_time[None])
    return np.argmin(distance, axis=1)


def check_scene(scene: Scene, frames: int) -> None:
    """Raises `InputError` where a scene's grid lacks cells that the cases need."""
    scene.check_length(frames)
    cameras, steps = len(scene.videos), scene.steps_per_frame
    if scene.kind != "grid" or cameras < MIN_CAMERAS or steps % 2:
        raise InputError(
            f"scene {scene.name} cannot be evaluated: it must be a full grid of at least {MIN_CAMERAS} "
            f"cameras (it has {cameras}) with 2 grid times per source frame (it has {steps})."
        )


def _path(ends: tuple[float, float], cameras: int, frames: int) -> np.ndarray:
    return np.rint(np.linspace(*ends, frames) * (cameras - 1)).astype(np.int64)
