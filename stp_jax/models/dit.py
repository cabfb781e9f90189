"""The space-time DiT: Wan2.1's video transformer over target and source tokens, conditioned on cameras and
animation time.

Tokens are ordered frame, row, column; the noisy target's frames come first, the clean source's after them,
then those of a memory, if there is one, and padding last (`sharding.padded_tokens`). Everything that does not
depend on the timestep is computed once per video by `condition`. The same class, by its config alone, is the
demo's model, our recipes at 1.3B and 14B, the official SpaceTimePilot and ReCamMaster, and plain Wan2.1
text-to-video.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from stp_jax.controls.view import View
from stp_jax.devices.sharding import constrain, padded_tokens
from stp_jax.flow import MAX_TIMESTEP
from stp_jax.models import fused
from stp_jax.models.block import Block, Conditioning, SharedConditioning
from stp_jax.models.camera_attention import latent_projections
from stp_jax.models.clips import CLIPS, frame_positions, joined, views_by_clip
from stp_jax.models.conditioning import ANIMATION_TIME_ENCODERS, PluckerEncoder, pose12
from stp_jax.models.config import LEAST_SIGMA, DiTConfig
from stp_jax.models.fused import Stream
from stp_jax.models.layers import MLP, Dense, gelu, layer_norm, pad, sinusoid, zeros
from stp_jax.models.rope import rotary_tables
from stp_jax.models.stack import prepare_blocks, run_blocks

Grids = dict[str, tuple[int, int]]  # tokens along the height and the width of a clip's frames, by its name


class Tokens(NamedTuple):
    """Tokens of all clips, the input of the first block."""

    x: jax.Array  # [B, N, D], padding last
    total: int  # number of tokens without padding
    of_target: int  # number of the target's tokens, which come first


class SpaceTimeDiT(nnx.Module):
    """Predicts a target video's velocity from a source video, cameras, animation time and text."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        dim, tokens_in = config.dim, config.channels * config.patch**2
        self.config = config
        self.patch_embedding = Dense(tokens_in, dim, rngs=rngs)
        if config.source_patch:
            self.source_embedding = Dense(config.channels * config.source_patch**2, dim, rngs=rngs)
        self.timestep_embedding = MLP(config.freq_dim, dim, dim, rngs=rngs)
        self.timestep_projection = Dense(dim, 6 * dim, rngs=rngs)
        if config.text_dim:
            self.text_embedding = MLP(config.text_dim, dim, dim, rngs=rngs, activation=gelu)
        if config.camera == "plucker":
            self.camera_encoder = PluckerEncoder(
                config.conditioning_dim,
                samples=config.ray_samples,
                scene_scale=config.scene_scale,
                memory=config.memory > 0,
                rngs=rngs,
            )
        if config.animation_time in ANIMATION_TIME_ENCODERS:
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
        target: View | None = None,
        source: View | None = None,
        memory: View | None = None,
        *,
        text: jax.Array | None = None,
        latent_size: tuple[int, int, int],
    ) -> Conditioning:
        """Encodes cameras, animation time and text once per video; ignores what the config does not use.

        Args:
          target, source: cameras and animation times of the clips, F entries each. A source of None is for a
            model without one.
          memory: those of a memory of K latent frames, 4K entries. None: there is no memory.
          text: `[B, T, text_dim]`, the text encoder's embeddings, with zeros past the end of the prompt.
          latent_size: (F', H', W') of the target's latents.

        Raises:
          ValueError: the latents are not divisible into patches; an input that the model needs is missing;
            the model takes no memory.
        """
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        frames, height, width = latent_size
        if height % c.patch or width % c.patch:
            raise ValueError(
                f"latents of {height} x {width} cells do not divide into patches of {c.patch} x {c.patch}"
            )
        views = views_by_clip(c, target, source, memory, text)
        grids = {clip: (height // c.clip_patch(clip), width // c.clip_patch(clip)) for clip in views}

        rays = self._rays(views, grids).astype(dtype) if c.camera == "plucker" else None
        poses = self._poses(views).astype(dtype) if c.camera.startswith("pose12") else None
        animation_time = None
        if c.animation_time != "none":
            animation_time = self._animation_time(views).astype(dtype)
        prompt = self.text_embedding(text.astype(dtype)) if text is not None and c.text_dim else None
        blocks = prepare_blocks(self.blocks, poses, animation_time, prompt)

        cos, sin = self._rotary_tables(frame_positions(c, frames, views), grids)
        if rays is not None:
            rays = constrain(_pad_tokens(rays), "batch", "tokens", None)
        cameras = self._token_cameras(views, grids) if c.camera_attention == "prope" else None
        return Conditioning(SharedConditioning(_pad_tokens(cos), _pad_tokens(sin), rays, cameras), blocks)

    def _rays(self, views: dict[str, View], grids: Grids) -> jax.Array:
        """Embedded Plücker rays of each token, `[B, N, E]`."""
        return joined(
            views,
            lambda view, clip: self.camera_encoder(
                view.c2w, view.intrinsics, grids[clip], role=CLIPS.index(clip)
            ),
            lambda part, clip: einops.rearrange(part, "b f h w d -> b (f h w) d"),
        )

    def _poses(self, views: dict[str, View]) -> jax.Array:
        """Rotation and translation by latent frame `[B, 2F', 12]`; ReCamMaster's are the target's twice."""
        if self.config.camera == "pose12_target":
            return joined(views, lambda view, clip: pose12(views["target"].c2w))
        return joined(views, lambda view, clip: pose12(view.c2w))

    def _animation_time(self, views: dict[str, View]) -> jax.Array:
        """The input of the blocks' projections: embeddings of the latent frames `[B, 2F', E]`; for the
        official convolutions sinusoids of the pixel frames `[2, B, F, freq_dim]`."""
        if self.config.animation_time == "official_conv":
            animation_time = jnp.stack([view.animation_time for view in views.values()])
            return sinusoid(animation_time, self.config.freq_dim)
        return joined(views, lambda view, clip: self.animation_time_encoder(view.animation_time))

    def _rotary_tables(self, positions: jax.Array, grids: Grids) -> tuple[jax.Array, jax.Array]:
        """Cosines and sines of all tokens, `[B or 1, N, 1, n]`, at the positions of `frame_positions`."""
        c = self.config
        rotated = c.dim // c.heads // (2 if c.camera_attention == "prope" else 1)
        if not c.source_patch:
            return rotary_tables(positions, grids["target"], rotated)
        parts = [
            rotary_tables(half, grids[clip], rotated, cell=c.clip_patch(clip) / c.patch)
            for clip, half in zip(grids, jnp.split(positions, 2, axis=1), strict=True)
        ]
        cos, sin = (jnp.concatenate(tables, axis=1) for tables in zip(*parts, strict=True))
        return cos, sin

    def _token_cameras(self, views: dict[str, View], grids: Grids) -> jax.Array:
        """Projection and its inverse for each token, `[B, N, 2, 4, 4]` float32, zeros for padding."""
        matrices = joined(
            views,
            lambda view, clip: latent_projections(view.c2w, view.intrinsics, self.config.scene_scale),
            lambda part, clip: jnp.repeat(part, math.prod(grids[clip]), axis=1),
        )
        return constrain(_pad_tokens(matrices), "batch", "tokens", None, None, None)

    def __call__(
        self,
        noisy_target: jax.Array,
        source: jax.Array | None,
        timestep: jax.Array,
        conditioning: Conditioning,
        memory: jax.Array | None = None,
        *,
        differentiable: bool = True,
    ) -> jax.Array:
        """Predicts `noise - x0` of the target.

        Args:
          noisy_target: latents `[B, F', H', W', C]` at the noise level of `timestep`.
          source: clean latents of the source video, same shape; None for a model without a source.
          timestep: `[B]` in [0, 1000].
          conditioning: from `condition`.
          memory: latents `[B, K, H', W', C]` of earlier output, clean or slightly noisy, where `conditioning`
            has a memory of K latent frames.
          differentiable: False is for sampling: faster, and no gradient can be taken, see `run_blocks`.

        Returns:
          Velocity `[B, F', H', W', C]` float32.

        Raises:
          ValueError: latents and memory have other numbers of frames than `condition` was given.
        """
        c = self.config
        tokens = self._embed(noisy_target.astype(c.dtype), source, memory)
        if conditioning.shared.cos.shape[1] != tokens.x.shape[1]:
            raise ValueError("the latents have more or fewer frames than what `condition` was given")
        t = self._embed_timestep(timestep)
        stream = run_blocks(
            self.blocks,
            tokens.x,
            self.timestep_projection(jax.nn.silu(t)).reshape(-1, 6, c.dim),
            conditioning,
            tokens=tokens.total,
            target_tokens=tokens.of_target,
            differentiable=differentiable,
        )
        y = constrain(self._head(stream, t), "batch", None, None)  # few values, so they are gathered
        _, frames, height, width, _ = noisy_target.shape
        grid = {"f": frames, "h": height // c.patch, "w": width // c.patch}
        y = einops.rearrange(
            y[:, : tokens.of_target], "b (f h w) (p q c) -> b f (h p) (w q) c", p=c.patch, q=c.patch, **grid
        ).astype(jnp.float32)
        if c.prediction == "x0":
            sigma = (timestep.astype(jnp.float32) / MAX_TIMESTEP)[:, None, None, None, None]
            y = (noisy_target.astype(jnp.float32) - y) / jnp.maximum(sigma, LEAST_SIGMA)
        return y

    def _embed_timestep(self, timestep: jax.Array) -> jax.Array:
        """`[B]` -> `[B, D]` float32."""
        if self.config.official_rounding:
            timestep = timestep.astype(jnp.bfloat16)
        return self.timestep_embedding(sinusoid(timestep, self.config.freq_dim))

    def _head(self, stream: Stream, t: jax.Array) -> jax.Array:
        """Tokens `[B, N, D]`, modulated by `t` `[B, D]`, to the values of their patches `[B, N, p p C]`."""
        c = self.config
        shift, scale = jnp.split(self.head_modulation[...] + t[:, None], 2, axis=1)
        if stream.update is None:
            y = (layer_norm(stream.x, c.eps) * (1 + scale) + shift).astype(c.dtype)
        else:
            _, y = fused.modulated_norm(stream, shift[:, 0], scale[:, 0], c.eps)
        return self.head(y)

    def _embed(self, target: jax.Array, source: jax.Array | None, memory: jax.Array | None) -> Tokens:
        """Tokens of the latents, the target's in the dtype of the computation."""
        c = self.config

        def patches(latents: jax.Array, p: int) -> jax.Array:
            return einops.rearrange(latents, "b f (h p) (w q) c -> b (f h w) (p q c)", p=p, q=p)

        of_target = patches(target, c.patch)
        if c.source:
            assert source is not None
            source = source.astype(target.dtype)
            if c.source_patch:
                own = self.source_embedding(patches(source, c.source_patch))
                x = jnp.concatenate([self.patch_embedding(of_target), own], axis=1)
                padded = constrain(_pad_tokens(x), "batch", "tokens", None)
                return Tokens(padded, x.shape[1], of_target.shape[1])
            earlier = [] if memory is None else [memory.astype(target.dtype)]
            target = jnp.concatenate([target, source, *earlier], axis=1)
        of_all = patches(target, c.patch)
        x = constrain(self.patch_embedding(_pad_tokens(of_all)), "batch", "tokens", None)
        return Tokens(x, of_all.shape[1], of_target.shape[1])


def _pad_tokens(x: jax.Array) -> jax.Array:
    """`[B, N, ...]` with zeros after its tokens, up to `padded_tokens`."""
    return pad(x, padded_tokens(x.shape[1]))
