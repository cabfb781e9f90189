"""The auxiliary head for depth: it predicts how far things are from tokens in the middle of a DiT.

It exists in training alone. Its loss asks the tokens of both clips to know how far everything is: those of
the source from its pictures, those of the target from cameras, animation times and attention to the source.
"""

from __future__ import annotations

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from input_pipeline.config import DEPTH_STRIDE
from stp_jax.errors import InputError
from stp_jax.models.conditioning import group_frames
from stp_jax.models.config import DiTConfig
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.layers import Dense, LayerNorm, zeros
from stp_jax.training.task import Batch

NAME = "depth_head"  # of its parameters
NEAREST = 0.25  # of scene_scale: what is nearer counts as this near
SMOOTH = 0.05  # errors below it count as squares


class DepthHead(nnx.Module):
    """A norm and a linear layer: tokens `[B, F', h, w, D]` -> `[B, F', 4, h cells, w cells]` float32.

    The four are the pixel frames of a latent frame, see `group_frames`.

    Args:
      dim: D.
      cells: values along a side of a token.
    """

    def __init__(self, dim: int, cells: int, eps: float, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(dim, eps)
        self.linear = Dense(dim, 4 * cells * cells, rngs=rngs, init=zeros)
        self.cells = cells

    def __call__(self, tokens: jax.Array) -> jax.Array:
        values = self.linear(self.norm(tokens)).astype(jnp.float32)
        split = "b f h w (four p q) -> b f four (h p) (w q)"
        return einops.rearrange(values, split, four=4, p=self.cells, q=self.cells)


class DiTWithDepth(SpaceTimeDiT):
    """A `SpaceTimeDiT` with a head for depth; its other parameters are those that it has without."""

    def __init__(self, config: DiTConfig, cells: int, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.depth_head = DepthHead(config.dim, cells, config.eps, rngs=rngs)


def cells_of_token(patch: int, spatial_stride: int) -> int:
    """Values of coarse depth along a side of a token; `spatial_stride` is the VAE's.

    Raises:
      InputError: a token is smaller than a square of coarse depth, or has no whole number of them.
    """
    cells, rest = divmod(patch * spatial_stride, DEPTH_STRIDE)
    if rest or not cells:
        raise InputError(
            f"config.loss.depth: depth has a value for {DEPTH_STRIDE} x {DEPTH_STRIDE} pixels, but a token "
            f"is {patch * spatial_stride} pixels wide."
        )
    return cells


def layer_of_head(depth_layer: int, layers: int) -> int:
    """The number of blocks before the head, for `config.loss.depth_layer`; 0: two thirds of all `layers`.

    Raises:
      InputError: there is no such block, or it is the last, after which the source's tokens are gone.
    """
    chosen = depth_layer or max(1, round(2 * layers / 3))
    if chosen >= layers:
        raise InputError(
            f"config.loss.depth_layer is {chosen}; the model has {layers} layers: it must be below that."
        )
    return chosen


def depth_target(depth: jax.Array, scene_scale: float) -> jax.Array:
    """What the head predicts: `[B, F, h, w]` inverse depth, 1 / metres -> `[B, F', 4, h, w]` in [0, 1].

    It is NEAREST * scene_scale / z, 1 for all that is nearer than that and 0 for the sky.
    """
    return jnp.minimum(1.0, NEAREST * scene_scale * group_frames(depth.astype(jnp.float32)))


def depth_loss(model: DiTWithDepth, tokens: jax.Array, batch: Batch) -> jax.Array:
    """The mean error of the head for tokens `[B, 2F', h, w, D]` of target and source.

    An error e counts as |e| - SMOOTH / 2, below SMOOTH as e^2 / (2 SMOOTH).
    """
    scale = model.config.scene_scale
    target = [depth_target(batch[f"{clip}_depth"], scale) for clip in ("target", "source")]
    error = jnp.abs(model.depth_head(tokens) - jnp.concatenate(target, axis=1))
    return jnp.mean(jnp.where(error < SMOOTH, error**2 / (2 * SMOOTH), error - SMOOTH / 2))
