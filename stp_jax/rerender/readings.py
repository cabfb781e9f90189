"""How the camera files of a request are read; without JAX."""

from __future__ import annotations

from stp_jax.controls import cameras
from stp_jax.controls.cameras import Reading
from stp_jax.rerender.takes import Asked


def readings(
    wish: Asked,
    official: bool,
    frames: int,
    video: tuple[int, int] | None = None,
    video_frames: int | None = None,
) -> tuple[Reading, Reading]:
    """How the source's and the target's file are read; what is said of the target's is for both.

    Args:
      frames: of the new video.
      video, video_frames: height and width of the video's picture, and its frames, if it is known.
    """
    axes, poses = wish.source_camera_axes, wish.source_camera_poses
    metres = cameras.DISTANCE if wish.distance is None else wish.distance
    known = (video, official, axes is None and poses is None, frames, video_frames, metres)
    source = Reading(axes or wish.camera_axes, poses or wish.camera_poses, *known)
    target = Reading(wish.camera_axes, wish.camera_poses, *known)._replace(inherited=False)
    return source, target
