"""What is evaluated: which cells of a camera x time grid are the source video, and which the target.

Cameras 0 .. C-1 stand in order along the rig. The source always runs forward in time.

  time control    the target follows the source's own camera path, with another animation time.
  camera control  animation time runs forward in both; the target is filmed from the other half of the rig.
  both            another animation time, from the other half of the rig.

In camera control and both, source and target never share a camera: no target frame equals a source frame, and
the first frames differ. The camera paths take turns from scene to scene.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stp_jax.animation_time import EVALUATION_MODES, curve

TIME, CAMERA, BOTH = "time control", "camera control", "both"
GROUPS = (TIME, CAMERA, BOTH)
COPY = "forward"  # in time control: the target is the source itself

# (source, target) camera paths, as (first, last) position on the rig from 0 to 1; they move evenly.
_PATHS = (
    ((0.0, 0.4375), (0.5625, 1.0)),  # side by side
    ((0.75, 0.75), (0.5, 0.0)),  # standing; the target starts a quarter of the rig away and leaves
    ((1.0, 0.5625), (0.0, 0.4375)),  # towards each other
    ((0.25, 0.25), (1.0, 0.5)),  # standing; the target comes closer
)
# Time control: how the source moves, and the target with it.
_TIME_PATHS = ((0.0, 1.0), (1.0, 0.0), (0.25, 0.75), (0.75, 0.25))


class Case(NamedTuple):
    """One task on one scene; camera numbers int [F], animation times float32 [F] in source frames."""

    group: str
    mode: str  # of animation time: one of EVALUATION_MODES
    source_camera: np.ndarray
    target_camera: np.ndarray
    source_animation_time: np.ndarray
    target_animation_time: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.group}: {self.mode}".replace("_", " ")


def cases_of(scene: int, cameras: int, frames: int) -> list[Case]:
    """The ten cases of the scene of this number: five of time control, one of camera control, four of both."""
    forward = np.arange(frames, dtype=np.float32)
    moving = _path(_TIME_PATHS[scene % len(_TIME_PATHS)], cameras, frames)
    source, target = (_path(ends, cameras, frames) for ends in _PATHS[scene % len(_PATHS)])
    times = {mode: curve(mode, frames) for mode in EVALUATION_MODES}
    cases = [Case(TIME, mode, moving, moving, forward, time) for mode, time in times.items()]
    cases.append(Case(CAMERA, COPY, source, target, forward, times[COPY]))
    cases += [Case(BOTH, mode, source, target, forward, time) for mode, time in times.items() if mode != COPY]
    return cases


def nearest_source_frame(case: Case) -> np.ndarray:
    """For each target frame the source frame nearest in animation time (the earlier of two), int [F]."""
    distance = np.abs(case.target_animation_time[:, None] - case.source_animation_time[None])
    return np.argmin(distance, axis=1)


def _path(ends: tuple[float, float], cameras: int, frames: int) -> np.ndarray:
    return np.rint(np.linspace(*ends, frames) * (cameras - 1)).astype(np.int64)
