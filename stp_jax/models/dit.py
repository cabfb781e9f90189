"""The space-time DiT: Wan2.1's video transformer over target and source tokens, told cameras and moments.

Tokens are ordered frame, row, column; the noisy target's frames come first, the clean source's after them.
Everything that does not depend on the timestep is computed once per video by `condition`.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from stp_jax.models.attention import attention
from stp_jax.models.conditioning import (
    ANIMATION_TIME_ENCODERS,
    PluckerEncoder,
    group_frames,
    zero_projection,
)
from stp_jax.models.layers import MLP, Dense, RMSNorm, layer_norm, sinusoid, zeros
from stp_jax.models.rope import rotary_tables, rotate
from stp_jax.sharding import constrain

REMAT_POLICIES = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Size and conditioning of a `SpaceTimeDiT`; the defaults are Wan2.1 1.3B with our encoders."""

    dim: int = 1536
    ffn_dim: int = 8960
    layers: int = 30
    heads: int = 12
    channels: int = 16
    patch: int = 2  # side of the square of latent cells that makes a token
    freq_dim: int = 256
    eps: float = 1e-6
    conditioning_dim: int = 256  # width of the camera and animation-time embeddings
    ray_samples: int = 2  # rays per token side
    scene_scale: float = 4.0  # metres that count as 1 in the rays' moments
    animation_time: str = "frames"  # frames | uniform
    rope_frames: str = "animation_time"  # stream | shared | animation_time
    dtype: str = "bfloat16"
    remat: str = "none"  # none | dots | full

    def __post_init__(self):
        for field, known in (
            ("animation_time", ANIMATION_TIME_ENCODERS),
            ("rope_frames", ("stream", "shared", "animation_time")),
            ("remat", REMAT_POLICIES),
        ):
            if getattr(self, field) not in known:
                chosen = getattr(self, field)
                raise ValueError(f"model.{field} is {chosen!r}; choose one of {', '.join(known)}")
        if self.dim % self.heads:
            raise ValueError(f"model.dim {self.dim} is not divisible by model.heads {self.heads}")


class Conditioning(NamedTuple):
    """What the blocks need to know of cameras and moments, target first, then source."""

    camera: jax.Array  # [B, 2F', h, w, E]
    animation_time: jax.Array  # [B, 2F', E]
    cos: jax.Array  # [B, 2F' h w, 1, head_dim / 2]
    sin: jax.Array


class Block(nnx.Module):
    """Modulated self-attention over all tokens, then a modulated feed-forward network."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        dim = config.dim
        self.config = config
        self.modulation = nnx.Param(jax.random.normal(rngs.params(), (6, dim), jnp.float32) / dim**0.5)
        self.camera = zero_projection(config.conditioning_dim, dim, rngs=rngs)
        self.animation_time = zero_projection(config.conditioning_dim, dim, rngs=rngs)
        self.q, self.k, self.v, self.o = (Dense(dim, dim, rngs=rngs) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, config.eps), RMSNorm(dim, config.eps)
        self.ffn_in = Dense(dim, config.ffn_dim, rngs=rngs)
        self.ffn_out = Dense(config.ffn_dim, dim, rngs=rngs)

    def __call__(
        self, x: jax.Array, modulation: jax.Array, conditioning: Conditioning, out_tokens: int
    ) -> jax.Array:
        """The first `out_tokens` tokens, `[B, out_tokens, D]`, of `x` `[B, N, D]`.

        `modulation` `[B, 6, D]` comes from the timestep. Every token serves as key and value; only those
        asked for serve as query.
        """
        c, dtype = self.config, x.dtype
        mod = (self.modulation[...] + modulation)[:, :, None]  # [B, 6, 1, D] float32
        shift1, scale1, gate1, shift2, scale2, gate2 = (mod[:, i] for i in range(6))

        y = (layer_norm(x, c.eps) * (1 + scale1) + shift1).astype(dtype)
        moment = self.animation_time(conditioning.animation_time)[:, :, None, None]
        told = self.camera(conditioning.camera) + moment
        y = y + einops.rearrange(told, "b f h w d -> b (f h w) d")
        heads = lambda z: einops.rearrange(z, "b n (heads d) -> b n heads d", heads=c.heads)  # noqa: E731
        cos, sin = conditioning.cos, conditioning.sin
        q = rotate(heads(self.norm_q(self.q(y[:, :out_tokens]))), cos[:, :out_tokens], sin[:, :out_tokens])
        k = rotate(heads(self.norm_k(self.k(y))), cos, sin)
        a = einops.rearrange(attention(q, k, heads(self.v(y))), "b n heads d -> b n (heads d)")
        x = x[:, :out_tokens] + gate1.astype(dtype) * self.o(a)

        y = (layer_norm(x, c.eps) * (1 + scale2) + shift2).astype(dtype)
        return x + gate2.astype(dtype) * self.ffn_out(jax.nn.gelu(self.ffn_in(y)))


class SpaceTimeDiT(nnx.Module):
    """Predicts a target video's flow-matching velocity from a source video, cameras and animation times."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        dim, tokens_in = config.dim, config.channels * config.patch**2
        self.config = config
        self.patch_embedding = Dense(tokens_in, dim, rngs=rngs)
        self.timestep_embedding = MLP(config.freq_dim, dim, dim, rngs=rngs)
        self.timestep_projection = Dense(dim, 6 * dim, rngs=rngs)
        self.camera_encoder = PluckerEncoder(
            config.conditioning_dim, samples=config.ray_samples, scene_scale=config.scene_scale, rngs=rngs
        )
        self.animation_time_encoder = ANIMATION_TIME_ENCODERS[config.animation_time](
            config.conditioning_dim, freq_dim=config.freq_dim, rngs=rngs
        )

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: None})
        def make_blocks(rngs):
            return Block(config, rngs=rngs)

        self.blocks = make_blocks(rngs)
        self.head_modulation = nnx.Param(jax.random.normal(rngs.params(), (2, dim), jnp.float32) / dim**0.5)
        self.head = Dense(dim, tokens_in, rngs=rngs, init=zeros)

    def condition(
        self,
        source_c2w: jax.Array,
        source_intrinsics: jax.Array,
        source_animation_time: jax.Array,
        target_c2w: jax.Array,
        target_intrinsics: jax.Array,
        target_animation_time: jax.Array,
        *,
        latent_size: tuple[int, int],
    ) -> Conditioning:
        """Encodes cameras and animation times once per video.

        Args:
          source_c2w, target_c2w: `[B, F, 4, 4]`, OpenCV axes, relative to the source's first camera, metres.
          source_intrinsics, target_intrinsics: `[B, F, 4]`, normalised by width and height.
          source_animation_time, target_animation_time: `[B, F]` in source frames.
          latent_size: (H', W') of the latents.

        Raises:
          ValueError: the latents are not divisible into patches.
        """
        c = self.config
        if latent_size[0] % c.patch or latent_size[1] % c.patch:
            raise ValueError(
                f"latents of {latent_size} cells do not divide into patches of {c.patch} x {c.patch}"
            )
        grid = (latent_size[0] // c.patch, latent_size[1] // c.patch)
        camera = jnp.concatenate(
            [
                self.camera_encoder(target_c2w, target_intrinsics, grid, role=0),
                self.camera_encoder(source_c2w, source_intrinsics, grid, role=1),
            ],
            axis=1,
        )
        moments = [target_animation_time, source_animation_time]
        animation_time = jnp.concatenate([self.animation_time_encoder(m) for m in moments], axis=1)
        batch, frames = camera.shape[0], camera.shape[1] // 2
        if c.rope_frames == "animation_time":
            positions = jnp.concatenate([group_frames(m).mean(2) for m in moments], axis=1)
        elif c.rope_frames == "shared":
            positions = jnp.broadcast_to(jnp.tile(jnp.arange(frames), 2), (batch, 2 * frames))
        else:
            positions = jnp.broadcast_to(jnp.arange(2 * frames), (batch, 2 * frames))
        cos, sin = rotary_tables(positions, grid, c.dim // c.heads)
        dtype = jnp.dtype(c.dtype)
        return Conditioning(camera.astype(dtype), animation_time.astype(dtype), cos, sin)

    def __call__(
        self, noisy_target: jax.Array, source: jax.Array, timestep: jax.Array, conditioning: Conditioning
    ) -> jax.Array:
        """Predicts `noise - x0` of the target.

        Args:
          noisy_target: latents `[B, F', H', W', C]` at the noise level of `timestep`.
          source: clean latents of the source video, same shape.
          timestep: `[B]` in [0, 1000].
          conditioning: from `condition`.

        Returns:
          Velocity `[B, F', H', W', C]` float32.
        """
        c = self.config
        dtype, p = jnp.dtype(c.dtype), c.patch
        frames, height, width = noisy_target.shape[1:4]
        latents = jnp.concatenate([noisy_target.astype(dtype), source.astype(dtype)], axis=1)
        x = self.patch_embedding(
            einops.rearrange(latents, "b f (h p) (w q) c -> b (f h w) (p q c)", p=p, q=p)
        )
        x = constrain(x, "batch", "tokens", None)
        t = self.timestep_embedding(sinusoid(timestep, c.freq_dim))
        modulation = self.timestep_projection(jax.nn.silu(t)).reshape(-1, 6, c.dim)

        tokens, target_tokens = x.shape[1], x.shape[1] // 2
        graph, stacked = nnx.split(self.blocks)

        def run(x, block_state, out_tokens):
            block = nnx.merge(graph, block_state)
            return constrain(block(x, modulation, conditioning, out_tokens), "batch", "tokens", None)

        policy = REMAT_POLICIES[c.remat]
        body = jax.checkpoint(
            lambda x, state: (run(x, state, tokens), None), policy=policy, prevent_cse=False
        )
        x, _ = jax.lax.scan(body, x, jax.tree.map(lambda a: a[:-1], stacked))
        # Past the last block only target tokens are read, so only they need queries: exact, and free.
        last = jax.checkpoint(lambda x, state: run(x, state, target_tokens), policy=policy)
        x = last(x, jax.tree.map(lambda a: a[-1], stacked))

        shift, scale = jnp.split(self.head_modulation[...] + t[:, None], 2, axis=1)
        y = self.head((layer_norm(x, c.eps) * (1 + scale) + shift).astype(dtype))
        y = einops.rearrange(
            y, "b (f h w) (p q c) -> b f (h p) (w q) c", f=frames, h=height // p, w=width // p, p=p, q=p
        )
        return y.astype(jnp.float32)
