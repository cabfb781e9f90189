"""The table of all forms of camera files; a new one is a line here."""

from __future__ import annotations

from stp_jax.controls.formats import colmap, estimators, nerf, official, own, trajectories
from stp_jax.controls.formats.base import Format

# The first that matches reads a file. Three lines of keys come before the poses that they might be.
FORMATS: tuple[Format, ...] = (
    own.C2W,
    official.MULTICAM,
    official.GRID_PATH,
    own.RIG,
    nerf.TRANSFORMS,
    nerf.CAMERA_PATH,
    estimators.UNI3C,
    official.BLENDER_RIG,
    estimators.MEGASAM,
    estimators.VGGT,
    estimators.VIPE,
    colmap.COLMAP,
    trajectories.CRAFTER,
    trajectories.RE10K,
    trajectories.TUM,
    trajectories.KITTI,
    own.MATRICES,
)
