"""The clips that a DiT sees, in the order of their tokens: target, source and perhaps a memory."""

from __future__ import annotations

from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp

from stp_jax.controls.view import View
from stp_jax.models.conditioning import group_frames
from stp_jax.models.config import DiTConfig

CLIPS = ("target", "source", "memory")  # in the order of the tokens


def views_by_clip(
    config: DiTConfig,
    target: View | None,
    source: View | None,
    memory: View | None,
    text: jax.Array | None,
) -> dict[str, View]:
    """The views by name of the clip, in the order of the tokens; without `memory` if there is none.

    Raises:
      ValueError: something that the model needs is missing, or it takes no memory.
    """
    if memory is not None and not config.memory:
        raise ValueError("this model takes no memory: model.memory is 0")
    views = {"target": target or View(), "source": source or View()}
    if memory is not None:
        views["memory"] = memory
    needed = View(
        c2w=config.camera != "none",
        intrinsics=config.camera == "plucker",
        animation_time=config.animation_time != "none" or config.rope_frames == "animation_time",
    )
    only_target = config.camera == "pose12_target"
    missing = [
        f"{clip}.{name}"
        for clip, view in views.items()
        for name in View._fields
        if getattr(needed, name)
        and getattr(view, name) is None
        and not (only_target and clip == "source" and name == "c2w")
    ]
    missing += ["text"] if config.text_dim and text is None else []
    if missing:
        raise ValueError(f"this model must be given {', '.join(missing)}")
    return views


def joined(
    views: dict[str, View],
    encode: Callable[[View, str], jax.Array],
    spread: Callable[[jax.Array, str], jax.Array] = lambda part, clip: part,
) -> jax.Array:
    """Encodes the clips one after the other on the axis of latent frames, or of tokens.

    Encoders take a single first frame and then groups of four. A memory has groups of four only, so a frame
    is put before them, and its latent frame is removed from the result.

    Args:
      views: of the clips, by name.
      encode: (view, name of its clip) -> `[B, F', ...]`.
      spread: (that, name of its clip) -> the part that is joined, for instance `[B, tokens of the clip,
        ...]`.
    """
    parts = []
    for clip, view in views.items():
        if clip == "memory":
            view = jax.tree.map(lambda x: jnp.concatenate([x[:, :1], x], axis=1), view)
            parts.append(spread(encode(view, clip)[:, 1:], clip))
        else:
            parts.append(spread(encode(view, clip), clip))
    return jnp.concatenate(parts, axis=1)


def frame_positions(config: DiTConfig, frames: int, views: dict[str, View]) -> jax.Array:
    """Positions of all clips' latent frames on the frame axis of the rotary embedding, `[B or 1, frames]`.

    See `DiTConfig.rope_frames`. With `shared` a memory's frames come before the target's: -K .. -1.
    """
    memory = views.get("memory")
    if config.rope_frames == "animation_time":
        positions = [group_frames(views[clip].animation_time).mean(2) for clip in ("target", "source")]
        if memory is not None:
            positions.append(einops.reduce(memory.animation_time, "b (k four) -> b k", "mean", four=4))
        return jnp.concatenate(positions, axis=1)
    count = 0 if memory is None else memory.c2w.shape[1] // 4
    own = (2 if config.source else 1) * frames
    if config.rope_frames == "stream":
        return jnp.arange(own + count)[None]
    return jnp.concatenate([jnp.arange(own) % frames, jnp.arange(-count, 0)])[None]
