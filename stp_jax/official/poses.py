"""Poses as the official weights take them, where they differ from this library's one convention.

SpaceTimePilot's DiT is conditioned on the rotation and translation of each camera relative to a first one, in
two ways that do not agree:

- Source poses are `c2w_i @ inv(c2w_0)`: the motion in the file's world. They depend on the arbitrary axes and
  origin of that world, and even on whether it is mirrored.
- Target poses are `inv(c2w_0) @ c2w_i`: the motion in the first camera's frame, as everywhere else here.

Both are equal where the first camera's frame is the world. The weights expect both, so both are given. For
this `controls.cameras.read` keeps poses in their file's world. ReCamMaster is given the target's alone.
"""

from __future__ import annotations

import numpy as np


def official_poses(
    source_c2w: np.ndarray | None,
    target_c2w: np.ndarray | None,
    *,
    scale_source: bool = True,
    target_reference: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Poses as the `pose12` encoders take them, which look at the first three rows of every fourth.

    Args:
      source_c2w: [..., F, 4, 4], in the world of its file. None: not known, taken to stand still, as the
        official scripts do.
      target_c2w: [..., F, 4, 4], metres, in any world. None: the same as the source's result, as in the
        official Cam x Time evaluation, where time alone changes.
      scale_source: divide the source's translations by the largest of their components over all frames,
        unless it is below 0.01. The official script for single videos does so, its batch script and
        evaluations do not.
      target_reference: [..., 1, 4, 4] or [4, 4], the pose that the target's are relative to, in its world:
        the source's first camera, so that the target may begin elsewhere, as ReCamMaster was trained. None:
        the target's own first, as in all official inference.

    Returns:
      The source's and the target's poses, float32 [..., F, 4, 4].
    """
    known = source_c2w if source_c2w is not None else target_c2w
    if known is None:
        raise ValueError("give the poses of the source or of the target")
    source = np.broadcast_to(np.eye(4), np.shape(known))
    if source_c2w is not None:
        poses = np.asarray(source_c2w, np.float64)
        source = poses @ np.linalg.inv(poses[..., :1, :, :])
        if scale_source:
            largest = np.abs(source[..., :3, 3]).max((-2, -1))[..., None, None]
            source[..., :3, 3] /= np.where(largest < 0.01, 1, largest)
    target = source
    if target_c2w is not None:
        poses = np.asarray(target_c2w, np.float64)
        reference = poses[..., :1, :, :] if target_reference is None else target_reference
        target = np.linalg.inv(np.asarray(reference, np.float64)) @ poses
    return source.astype(np.float32), target.astype(np.float32)
