"""Camera paths as files that this and other programs read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stp_jax.controls.formats.base import FLIP_CAMERA, NEW_VIDEO, POSES_OF
from stp_jax.controls.paths import Cameras


def to_ours(
    cameras: Cameras, size: tuple[int, int], frame_numbers: Sequence[int] | None = None
) -> dict[str, Any]:
    """The JSON of our own form; --camera and --source_cameras read it.

    Args:
      cameras: lenses are those of the whole picture.
      size: width and height of that picture; for other programs, as the lenses are divided by it.
      frame_numbers: the frames of the source's video that the poses are of, one for each, increasing. None:
        the poses are of a new video.
    """
    of: dict[str, Any] = (
        {POSES_OF: NEW_VIDEO} if frame_numbers is None else {"frame_numbers": list(frame_numbers)}
    )
    return {
        "c2w": cameras.c2w.tolist(),
        "intrinsics": cameras.intrinsics.tolist(),
        "width": size[0],
        "height": size[1],
        **of,
    }


def to_nerfstudio(cameras: Cameras, size: tuple[int, int], fps: float) -> dict[str, Any]:
    """The JSON of nerfstudio's camera_path.json, which its viewer loads and `ns-render camera-path` renders.

    By `nerfstudio/viewer/render_panel.py`: camera-to-world in OpenGL axes, flat; "fov" in degrees across the
    height; `keyframes` are what the viewer shows. It has no place for a principal point and for pixels that
    are not square. Arguments as for `to_ours`.
    """
    width, height = size
    path, keys = [], []
    for pose, lens in zip(cameras.c2w.astype(np.float64), cameras.intrinsics.astype(np.float64), strict=True):
        matrix = (pose @ FLIP_CAMERA).ravel().tolist()
        fov, aspect = float(np.degrees(2 * np.arctan(0.5 / lens[1]))), width / height
        path.append({"camera_to_world": matrix, "fov": fov, "aspect": aspect})
        keys.append({"matrix": matrix, "fov": fov, "aspect": aspect, "override_transition_enabled": False})
    return {
        "default_fov": path[0]["fov"],
        "default_transition_sec": 1 / fps,
        "keyframes": keys,
        "camera_type": "perspective",
        "render_height": height,
        "render_width": width,
        "fps": fps,
        "seconds": len(path) / fps,
        "is_cycle": False,
        "smoothness_value": 0.0,
        "camera_path": path,
        POSES_OF: NEW_VIDEO,  # other programs do not look at it
    }
