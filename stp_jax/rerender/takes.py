"""What a model takes into account, and the refusal of what is asked of it to no effect; without JAX."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stp_jax.controls import cameras
from stp_jax.controls.animation_time import needs_rates
from stp_jax.errors import InputError
from stp_jax.official import time_patterns
from stp_jax.rerender import estimated_cameras
from stp_jax.rerender.speed import refuse_idle_knobs
from stp_jax.weights import adapters
from stp_jax.weights.native import SamplingNotes

SAME_CAMERA = "source"  # a camera path beside the presets: the source's own
CAMERA, ANIMATION_TIME = "orbit_left:30:-15", "bullet_time"  # what is made where nothing is asked for


class Takes(NamedTuple):
    """What a DiT is conditioned on.

    Attributes:
      camera: as `DiTConfig.camera`: `plucker`, rays, so poses and lenses; `pose12`, poses alone;
        `pose12_target`, the target's poses alone; `none`.
      animation_time: whether it is given animation times.
      text: whether it is given prompts.
      title: names the model in messages.
      flow_map: whether it is one, see `stp_jax.flow_map`.
      memory: latent frames of earlier output that it is given in long videos; 0: none.
    """

    camera: str = "plucker"
    animation_time: bool = True
    text: bool = True
    title: str = "this model"
    flow_map: bool = False
    memory: int = 0

    @property
    def official(self) -> bool:
        """Whether it is sampled the official way, with poses from consecutive frames."""
        return self.camera.startswith("pose12")

    @property
    def lens(self) -> bool:
        """Whether lenses have an effect."""
        return self.camera == "plucker"

    def default_camera(self) -> str:
        return SAME_CAMERA if self.camera == "none" else CAMERA

    def default_animation_time(self) -> str:
        return ANIMATION_TIME if self.animation_time else "forward"


def takes(config: Mapping[str, Any], title: str) -> Takes:
    """Of a model's config, by the names of `DiTConfig`; fields that are missing have its defaults."""
    clock = config.get("animation_time", "frames") != "none"
    rotary = config.get("rope_frames", "animation_time") == "animation_time"
    camera = str(config.get("camera", "plucker"))
    flow_map = bool(config.get("flow_map", False))
    memory = int(config.get("memory", 0))
    return Takes(camera, clock or rotary, bool(config.get("text_dim", 0)), title, flow_map, memory)


class Asked(NamedTuple):
    """What a user asks for. None: nothing is asked; it has its default, which for some models is another.

    Attributes:
      video: any file that FFmpeg reads.
      camera: a preset or a file, see `cameras.parse`; a file is in the world of `source_cameras`, or without
        them in the frame of the source's first camera. `SAME_CAMERA`: the path of the source.
      animation_time: of the target, see `stp_jax.official.time_patterns.curve`.
      keyframes: a file of cameras, lenses and animation times, see `stp_jax.controls.keyframes`. What it has
        is not asked for otherwise; what it lacks is the source's own camera and `forward` by default.
      source_cameras: file with the source's poses; without it the camera stands still. Which pose of a file
        belongs to which frame: see `stp_jax.rerender.camera_paths`. `estimate`: by the video's pictures, see
        `stp_jax.rerender.estimated_cameras`.
      camera_axes, camera_poses: of files that do not state them, see `camera_files.Reading`.
      source_camera_axes, source_camera_poses: where the source's file has others than the target's.
      camera_scale: metres for a unit of length in the camera files, which are in one world. Beside a file of
        the source's cameras, files that say only how a camera moves keep their own unit.
      key_poses: fewer poses than frames in a camera file are key poses also where its form has one for each
        frame, see `cameras.check_key_poses`.
      fov: degrees across the shorter side of the picture, where no file has the intrinsics (50).
      distance: metres from the source's first camera to the point that presets circle (4). It sets the scale
        of cameras that are estimated, and of files that say how far away what they show is.
      start: seconds into the video.
      duration: seconds; without it to the end, but `request.LONGEST` at most.
      fps: frames per second of the new video, which seconds of it are counted by, see `request.playing_rate`.
    """

    video: str | os.PathLike
    camera: str | None = None
    animation_time: str | None = None
    keyframes: str | os.PathLike | None = None
    source_cameras: str | os.PathLike | None = None
    camera_axes: str | None = None
    camera_poses: str | None = None
    source_camera_axes: str | None = None
    source_camera_poses: str | None = None
    camera_scale: float | None = None
    key_poses: bool = False
    fov: float | None = None
    distance: float | None = None
    start: float = 0.0
    duration: float | None = None
    fps: float | None = None

    def of(self, model: Takes) -> Asked:
        """With the camera and the animation time that the model, or keyframes, have by default."""
        if self.keyframes is not None:
            return self._replace(
                camera=self.camera or SAME_CAMERA, animation_time=self.animation_time or "forward"
            )
        return self._replace(
            camera=self.camera or model.default_camera(),
            animation_time=self.animation_time or model.default_animation_time(),
        )


def refuse_idle_controls(model: Takes, frames: int, asked: Asked, *, by_distance: bool = False) -> None:
    """Raises `InputError` for what is asked of a model, or of a camera path, to no effect.

    Camera and animation time are those of `Asked.of`: defaults always have an effect. `by_distance`: a camera
    file measures in the distance.
    """
    camera, animation_time = str(asked.camera), str(asked.animation_time)
    preset = camera != SAME_CAMERA and cameras.is_preset(camera)
    if preset and not model.lens and cameras.changes_lens(camera):
        raise InputError(
            f"--camera {camera}: {model.title} is given poses alone, a zoom has no effect on it; "
            "dolly_in and dolly_out drive nearer and away."
        )
    estimated = estimated_cameras.is_asked(asked.source_cameras)
    if asked.fov is not None and not model.lens and not estimated:
        raise InputError(
            f"--fov {asked.fov:g}: {model.title} is given poses alone, a lens has no effect: leave it out."
        )
    if model.camera == "none" and not (camera == SAME_CAMERA or (preset and cameras.stands_still(camera))):
        raise InputError(f"--camera {camera}: {model.title} is given no cameras: leave it out.")
    if not model.animation_time and not _is_forward(animation_time, frames):
        raise InputError(
            f"--animation_time {animation_time}: {model.title} is given no animation time, "
            "its videos always run forward: leave it out."
        )
    by_distance |= estimated
    by_distance |= preset and _depends_on_distance(camera, frames)
    if asked.distance is not None and not by_distance:
        by_keys = asked.keyframes is not None and camera == SAME_CAMERA
        path = f"--keyframes {asked.keyframes}" if by_keys else f"--camera {camera}"
        raise InputError(
            f"--distance {asked.distance:g}: the path of {path} does not depend on it: leave it out."
        )
    if asked.source_cameras is not None and preset and model.camera in ("pose12_target", "none"):
        raise InputError(
            f"--source_cameras: {model.title} is given the new camera alone, and a move starts at the "
            "source's first camera wherever that is: leave it out."
        )


def _is_forward(animation_time: str, frames: int) -> bool:
    if needs_rates(animation_time):
        return False  # it may be, but that is known with the video alone
    return bool(np.array_equal(time_patterns.curve(animation_time, frames), np.arange(frames)))


def _depends_on_distance(camera: str, frames: int) -> bool:
    # Far away, so that no dolly zoom reaches the pivot.
    near, far = (cameras.preset(camera, max(frames, 2), distance=distance) for distance in (1e4, 2e4))
    return not all(map(np.array_equal, near, far))


@functools.lru_cache(maxsize=32)  # the lines of a file of jobs have the same
def _check_lora(path: Path, modified: int, size: int) -> None:
    """Finds a mistake in a LoRA now, not after the video is read."""
    adapters.read_adapter(path)


def refuse_idle_flags(flags: argparse.Namespace, model: Takes, notes: SamplingNotes) -> None:
    """Raises `InputError` for flags of sample.py that were given to no effect on this model."""
    for lora in map(adapters.parse_lora, flags.lora or ()):
        changed = lora.path.stat()
        _check_lora(lora.path, changed.st_mtime_ns, changed.st_size)
    guidance = notes.sampling_guidance if flags.guidance is None else flags.guidance
    if not model.text:
        for name in ("prompt", "negative_prompt", "text_encoder"):
            if getattr(flags, name):
                raise InputError(f"--{name}: {flags.weights} takes no text; leave it out.")
        if flags.guidance not in (None, 1):
            raise InputError(
                f"{flags.weights} takes no text, so --guidance {guidance:g} has no meaning: leave it out."
            )
    elif flags.negative_prompt and guidance == 1:
        raise InputError("--negative_prompt has no effect without guidance: give --guidance above 1.")
    refuse_idle_knobs(flags.guidance_interval, flags.cache_threshold, guidance, flow_map=model.flow_map)
    source_file = flags.source_cameras is not None and not estimated_cameras.is_asked(flags.source_cameras)
    for name in ("source_camera_axes", "source_camera_poses"):
        if getattr(flags, name) is not None and not source_file:
            raise InputError(f"--{name}: needs --source_cameras FILE.")
    camera = flags.camera or model.default_camera()
    files = source_file or not (camera == SAME_CAMERA or cameras.is_preset(camera))
    for name in ("camera_axes", "camera_poses", "camera_scale"):
        if getattr(flags, name) is not None and not files:
            raise InputError(f"--{name}: says how camera files are read, and none is given: leave it out.")
