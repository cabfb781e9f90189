"""The space-time DiT: Wan2.1's video transformer over target and source tokens, conditioned on cameras and
animation time.

Tokens are ordered frame, row, column; the noisy target's frames come first, the clean source's after them,
then those of a memory, if there is one, and padding last (`sharding.padded_tokens`). Everything that does not
depend on the timestep is computed once per video by `condition`. The same class, by its config alone, is the
demo's model, our recipes at 1.3B and 14B, the official SpaceTimePilot and ReCamMaster, and plain Wan2.1
text-to-video.
"""

from __future__ import annotations

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from stp_jax.controls.view import View
from stp_jax.devices.sharding import constrain, padded_tokens
from stp_jax.models import fused
from stp_jax.models.block import Block, Conditioning, SharedConditioning
from stp_jax.models.clips import CLIPS, frame_positions, joined, views_by_clip
from stp_jax.models.conditioning import ANIMATION_TIME_ENCODERS, PluckerEncoder, pose12
from stp_jax.models.config import DiTConfig
from stp_jax.models.fused import Stream
from stp_jax.models.layers import MLP, Dense, gelu, layer_norm, pad, sinusoid, zeros
from stp_jax.models.rope import rotary_tables
from stp_jax.models.stack import prepare_blocks, run_blocks

# Of the length of a step, before its sinusoids: they then have less than two periods over all noise levels.
# With those of the timestep, of up to 160, its derivative in training would be that of noise.
INTERVAL_SCALE = 0.01


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
        self.timestep_embedding = MLP(config.freq_dim, dim, dim, rngs=rngs)
        self.timestep_projection = Dense(dim, 6 * dim, rngs=rngs)
        if config.flow_map:
            # Zero until it is trained: with the weights of a model of velocities it predicts its velocity.
            self.interval_embedding = MLP(config.freq_dim, dim, dim, rngs=rngs, init=zeros)
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
        grid = (height // c.patch, width // c.patch)

        rays = self._rays(views, grid).astype(dtype) if c.camera == "plucker" else None
        poses = self._poses(views).astype(dtype) if c.camera.startswith("pose12") else None
        animation_time = None
        if c.animation_time != "none":
            animation_time = self._animation_time(views).astype(dtype)
        prompt = self.text_embedding(text.astype(dtype)) if text is not None and c.text_dim else None
        blocks = prepare_blocks(self.blocks, poses, animation_time, prompt)

        cos, sin = rotary_tables(frame_positions(c, frames, views), grid, c.dim // c.heads)
        if rays is not None:
            rays = constrain(_pad_tokens(rays), "batch", "tokens", None)
        return Conditioning(SharedConditioning(_pad_tokens(cos), _pad_tokens(sin), rays), blocks)

    def _rays(self, views: dict[str, View], grid: tuple[int, int]) -> jax.Array:
        """Embedded Plücker rays of each token, `[B, N, E]`."""
        return joined(
            views,
            lambda view, clip: self.camera_encoder(view.c2w, view.intrinsics, grid, role=CLIPS.index(clip)),
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

    def __call__(
        self,
        noisy_target: jax.Array,
        source: jax.Array | None,
        timestep: jax.Array,
        conditioning: Conditioning,
        memory: jax.Array | None = None,
        *,
        target_timestep: jax.Array | None = None,
        differentiable: bool = True,
    ) -> jax.Array:
        """Predicts `noise - x0` of the target; a flow map predicts the mean velocity of a step.

        Args:
          noisy_target: latents `[B, F', H', W', C]` at the noise level of `timestep`.
          source: clean latents of the source video, same shape; None for a model without a source.
          timestep: `[B]` in [0, 1000].
          conditioning: from `condition`.
          memory: latents `[B, K, H', W', C]` of earlier output, clean or slightly noisy, where `conditioning`
            has a memory of K latent frames.
          target_timestep: `[B]` or a scalar, at most `timestep`: where the step ends. Only a flow map
            (`DiTConfig.flow_map`) reads it; None: `timestep`, for the velocity there.
          differentiable: False is for sampling: faster, and no gradient can be taken, see `run_blocks`.

        Returns:
          Velocity `[B, F', H', W', C]` float32.

        Raises:
          ValueError: latents and memory have other numbers of frames than `condition` was given.
        """
        given = noisy_target, source, timestep, conditioning, memory
        return self._run(
            *given, target_timestep=target_timestep, differentiable=differentiable, keep_after=0
        )[0]

    def with_tokens(
        self,
        noisy_target: jax.Array,
        source: jax.Array | None,
        timestep: jax.Array,
        conditioning: Conditioning,
        memory: jax.Array | None = None,
        *,
        after: int,
    ) -> tuple[jax.Array, jax.Array]:
        """The velocity, as a call returns it, and the tokens of target and source after some of the blocks.

        Args:
          after: the number of blocks, from 1 to all but one.

        Returns:
          Velocity, and tokens `[B, 2F', h, w, D]` of F' latent frames of the target, then of the source.
        """
        given = noisy_target, source, timestep, conditioning, memory
        velocity, tokens = self._run(*given, target_timestep=None, differentiable=True, keep_after=after)
        assert tokens is not None
        _, frames, height, width, _ = noisy_target.shape
        grid = {"h": height // self.config.patch, "w": width // self.config.patch}
        of_both = 2 * frames * grid["h"] * grid["w"]
        return velocity, einops.rearrange(tokens[:, :of_both], "b (f h w) d -> b f h w d", **grid)

    def _run(
        self,
        noisy_target: jax.Array,
        source: jax.Array | None,
        timestep: jax.Array,
        conditioning: Conditioning,
        memory: jax.Array | None,
        *,
        target_timestep: jax.Array | None,
        differentiable: bool,
        keep_after: int,
    ) -> tuple[jax.Array, jax.Array | None]:
        """The velocity, and what `run_blocks` keeps."""
        c = self.config
        tokens = self._embed(noisy_target.astype(c.dtype), source, memory)
        if conditioning.shared.cos.shape[1] != tokens.x.shape[1]:
            raise ValueError("the latents have more or fewer frames than what `condition` was given")
        t = self._embed_timestep(timestep, target_timestep)
        stream, kept = run_blocks(
            self.blocks,
            tokens.x,
            self.timestep_projection(jax.nn.silu(t)).reshape(-1, 6, c.dim),
            conditioning,
            tokens=tokens.total,
            target_tokens=tokens.of_target,
            differentiable=differentiable,
            keep_after=keep_after,
        )
        y = constrain(self._head(stream, t), "batch", None, None)  # few values, so they are gathered
        _, frames, height, width, _ = noisy_target.shape
        grid = {"f": frames, "h": height // c.patch, "w": width // c.patch}
        y = einops.rearrange(
            y[:, : tokens.of_target], "b (f h w) (p q c) -> b f (h p) (w q) c", p=c.patch, q=c.patch, **grid
        )
        return y.astype(jnp.float32), kept

    def _embed_timestep(self, timestep: jax.Array, target_timestep: jax.Array | None) -> jax.Array:
        """`[B]` -> `[B, D]` float32."""
        c = self.config
        rounded = timestep.astype(jnp.bfloat16) if c.official_rounding else timestep
        t = self.timestep_embedding(sinusoid(rounded, c.freq_dim))
        if c.flow_map:
            interval = timestep - (timestep if target_timestep is None else target_timestep)
            t = t + self.interval_embedding(sinusoid(INTERVAL_SCALE * interval, c.freq_dim))
        return t

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
        p, of_target = self.config.patch, target.shape[1]
        if self.config.source:
            assert source is not None
            earlier = [] if memory is None else [memory.astype(target.dtype)]
            target = jnp.concatenate([target, source.astype(target.dtype), *earlier], axis=1)
        patches = einops.rearrange(target, "b f (h p) (w q) c -> b (f h w) (p q c)", p=p, q=p)
        x = constrain(self.patch_embedding(_pad_tokens(patches)), "batch", "tokens", None)
        total = patches.shape[1]
        return Tokens(x, total, total * of_target // target.shape[1])


def _pad_tokens(x: jax.Array) -> jax.Array:
    """`[B, N, ...]` with zeros after its tokens, up to `padded_tokens`."""
    return pad(x, padded_tokens(x.shape[1]))
