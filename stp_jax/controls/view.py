"""`View`: the cameras and the animation times of a clip, the two things that a user directs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class View(NamedTuple):
    """Cameras and animation times of a clip, a JAX pytree; None for a part that a model does not use.

    There is an entry for each pixel frame. Target and source have F = 4n + 1. A memory of K latent frames has
    4K: entries 4k .. 4k + 3 belong to the four pixel frames that its latent frame k encodes. (A clip's latent
    frame 0 encodes one pixel frame; in a memory it has that entry four times.)

    Models take a batch; a single clip lacks the axis B. `View(*cameras, animation_time)` joins a path of
    `stp_jax.controls.cameras` and a curve of `stp_jax.controls.animation_time`.

    Attributes:
      c2w: `[B, F, 4, 4]`, OpenCV camera to world, metres. Models take it relative to the source's first
        camera; the `pose12` encoders in their own convention, see `stp_jax.official.poses`.
      intrinsics: `[B, F, 4]`, (fx, fy, cx, cy) divided by (width, height, width, height).
      animation_time: `[B, F]`, in source frames.
    """

    c2w: Any = None
    intrinsics: Any = None
    animation_time: Any = None

    def at(self, frames: Any) -> View:
        """The entries of some frames, given as a slice or as an array of frame numbers."""
        axes_after = View(c2w=2, intrinsics=1, animation_time=0)
        return View(
            *(
                None if array is None else array[(..., frames, *[slice(None)] * after)]
                for array, after in zip(self, axes_after, strict=True)
            )
        )

    def as_batch(self) -> View:
        """A batch of this one clip: numpy arrays with a leading axis [1]."""
        return View(*(None if array is None else np.asarray(array)[None] for array in self))


def view_of(batch: Mapping[str, Any], clip: str = "") -> View:
    """The view of a clip of a batch: for `source` the arrays `source_c2w` and so on; None where one is
    missing.

    Without a clip's name the arrays are `c2w`, `intrinsics` and `animation_time`.
    """
    return View(*(batch.get(name_in_batch(clip, field)) for field in View._fields))


def named(clip: str, view: View, **others: Any) -> dict[str, Any]:
    """The entries of a clip in a batch, the inverse of `view_of`; parts that are None get no entry.

    Args:
      others: further arrays of the clip, such as its `latents` or its `video`.
    """
    entries = {field: part for field, part in view._asdict().items() if part is not None}
    return {name_in_batch(clip, field): part for field, part in (others | entries).items()}


def name_in_batch(clip: str, field: str) -> str:
    """The name of a clip's array in a batch: `source`, `c2w` -> `source_c2w`; of a clip alone `c2w`."""
    return f"{clip}_{field}" if clip else field
