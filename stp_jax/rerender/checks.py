"""Checks of what goes into a re-rendering, and of what comes out."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from stp_jax.controls.view import View
from stp_jax.errors import InputError
from stp_jax.weights.native import SamplingNotes


def check_shapes(video: np.ndarray, source: View, target: View, notes: SamplingNotes) -> None:
    """Raises `InputError` where videos [B, F, H, W, 3] or their views are not of the model's size."""
    batch, frames, size = len(video), notes.frames, (notes.height, notes.width)
    if video.dtype != np.uint8 or video.shape[1:] != (frames, *size, 3):
        raise InputError(
            f"source video: {video.dtype} {list(video.shape[1:])}; the model takes uint8 "
            f"[{frames}, {size[0]}, {size[1]}, 3]. stp_jax.media.fit_clip cuts a video to size."
        )
    shapes = View(c2w=(4, 4), intrinsics=(4,), animation_time=())
    for clip, view in (("source", source), ("target", target)):
        for name, array, shape in zip(View._fields, view, shapes, strict=True):
            if np.shape(array) != (batch, frames, *shape):
                raise InputError(
                    f"{clip} {name.replace('_', ' ')}: shape {list(np.shape(array))}, not "
                    f"{[batch, frames, *shape]} as the source video asks for."
                )


def check_finite(checks: Sequence[tuple[str, jax.Array]]) -> None:
    """Raises `InputError` that names the first thing whose flag is false; waits for all of them."""
    for what, finite in checks:
        if not bool(finite):
            raise InputError(
                f"{what} are not finite (NaN or overflow): the weights are damaged, or their numbers are too "
                "large for the computation (try --dtype float32)."
            )
