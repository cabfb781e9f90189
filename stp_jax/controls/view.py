"""What a clip is seen with: one type for the two things that a user directs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class View(NamedTuple):
    """Cameras and animation times of a clip, a JAX pytree; None where a model has no use for a part.

    There is an entry for each pixel frame. Target and source have F = 4n + 1. A memory of K latent frames has
    4K: its entries 4k .. 4k + 3 are those of the four pixel frames that latent frame k of it encodes. (Of a
    clip's latent frame 0, which encodes one, it is that entry four times.)

    Attributes:
      c2w: `[B, F, 4, 4]`, OpenCV camera to world, relative to the source's first camera, metres; for the
        `pose12` encoders in their own convention, see `stp_jax.official.poses`.
      intrinsics: `[B, F, 4]`, (fx, fy, cx, cy) divided by (width, height, width, height).
      animation_time: `[B, F]`, in source frames.
    """

    c2w: Any = None
    intrinsics: Any = None
    animation_time: Any = None


def view_of(batch: Mapping[str, Any], clip: str) -> View:
    """The view of a clip of a batch, for instance of `source`: its arrays `source_c2w` and so on, or None."""
    return View(*(batch.get(f"{clip}_{name}") for name in View._fields))
