"""Augmentations of a whole pair of clips that keep it consistent: mirroring, permuting colour channels."""

from __future__ import annotations

import numpy as np

from input_pipeline.shots import Clip
from stp_jax.controls.view import named, view_of

_MIRROR = np.array([-1, 1, 1, 1], np.float32)


def mirror(clip: Clip) -> Clip:
    """The clip as a camera would see it in the mirrored world x -> -x.

    With M = diag(-1, 1, 1), the world point X becomes M X and a pose (R, t) becomes (M R M, M t), again a
    rotation. A point's camera coordinates become M x, so its picture coordinate u = fx x / z + cx becomes
    1 - u, as in the mirrored picture, with the principal point at 1 - cx. M M = 1, so relative poses mirror
    in the same way. Depth along z stays, in the mirrored place.
    """
    view = view_of(clip)
    intrinsics = view.intrinsics.copy()
    intrinsics[..., 2] = 1 - intrinsics[..., 2]
    mirrored = view._replace(c2w=view.c2w * _MIRROR[:, None] * _MIRROR, intrinsics=intrinsics)
    pictures = {"video": np.ascontiguousarray(clip["video"][..., ::-1, :])}
    if "depth" in clip:
        pictures["depth"] = np.ascontiguousarray(clip["depth"][..., ::-1])
    return clip | named("", mirrored, **pictures)


def augment(rng: np.random.Generator, *clips: Clip, flip: bool, permute_channels: bool) -> tuple[Clip, ...]:
    """Applies the same random changes to all clips: mirrored half of the time, R, G, B in a random order."""
    if flip and rng.random() < 0.5:
        clips = tuple(mirror(clip) for clip in clips)
    if permute_channels:
        order = rng.permutation(3)
        # Not `[..., order]`: that lays the channels out apart, and such an array is copied again and again.
        clips = tuple(clip | {"video": np.take(clip["video"], order, axis=-1)} for clip in clips)
    return clips
