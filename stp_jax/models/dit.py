"""The space-time DiT: Wan2.1's video transformer over target and source tokens, told cameras and moments.

Tokens are ordered frame, row, column; the noisy target's frames come first, the clean source's after them,
then those of a memory, if there is one, and padding last (`sharding.padded_tokens`). Everything that does not
depend on the timestep is computed once per video by `condition`. The same class, by its config alone, is the
demo's model, our recipes at 1.3B and 14B, the official SpaceTimePilot and ReCamMaster, and plain Wan2.1
text-to-video.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from stp_jax.controls.view import View
from stp_jax.devices.sharding import cast_kernels, constrain, constrain_parameters, gathered, padded_tokens
from stp_jax.flow import MAX_TIMESTEP
from stp_jax.models import fused
from stp_jax.models.attention import attention_backend, fastest_backend
from stp_jax.models.block import Block, BlockConditioning, Shared
from stp_jax.models.camera_attention import latent_projections
from stp_jax.models.clips import CLIPS, frame_positions, joined, views_by_clip
from stp_jax.models.conditioning import ANIMATION_TIME_ENCODERS, PluckerEncoder, pose12
from stp_jax.models.config import BLOCK_INPUT, LEAST_SIGMA, REMAT_POLICIES, DiTConfig
from stp_jax.models.fused import Stream
from stp_jax.models.layers import MLP, Dense, fill_up, gelu, layer_norm, sinusoid, zeros
from stp_jax.models.rope import rotary_tables


class Conditioning(NamedTuple):
    """What a model is told of one batch of videos, whatever the timestep."""

    shared: Shared
    blocks: BlockConditioning  # with a leading [L]


class SpaceTimeDiT(nnx.Module):
    """Predicts a target video's flow-matching velocity from a source video, cameras, moments and text."""

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
        """Encodes cameras, animation times and text once per video; ignores what the config has no use for.

        Args:
          target, source: what the clips are seen with, F entries each; None for a model without a source.
          memory: of the K latent frames of a memory, 4K entries; None: there is no memory.
          text: `[B, T, text_dim]`, the text encoder's embeddings, with zeros past the end of the prompt.
          latent_size: (F', H', W') of the target's latents.

        Raises:
          ValueError: the latents are not divisible into patches; something that the model needs is missing;
            it takes no memory.
        """
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        frames, height, width = latent_size
        if height % c.patch or width % c.patch:
            raise ValueError(
                f"latents of {height} x {width} cells do not divide into patches of {c.patch} x {c.patch}"
            )
        views = views_by_clip(c, target, source, memory, text)
        grids = {clip: (height // c.clip_patch(clip), width // c.clip_patch(clip)) for clip in views}

        rays = poses = moments = None
        if c.camera == "plucker":
            rays = joined(
                views,
                lambda view, clip: self.camera_encoder(
                    view.c2w, view.intrinsics, grids[clip], role=CLIPS.index(clip)
                ),
                lambda part, clip: einops.rearrange(part, "b f h w d -> b (f h w) d"),
            )
            rays = constrain(_pad_tokens(rays.astype(dtype)), "batch", "tokens", None)
        elif c.camera == "pose12":
            poses = joined(views, lambda view, clip: pose12(view.c2w)).astype(dtype)
        elif c.camera == "pose12_target":
            poses = joined(views, lambda view, clip: pose12(views["target"].c2w)).astype(dtype)
        if c.animation_time == "official_conv":
            clocks = jnp.stack([view.animation_time for view in views.values()])
            moments = sinusoid(clocks, c.freq_dim).astype(dtype)
        elif c.animation_time != "none":
            moments = joined(views, lambda view, clip: self.animation_time_encoder(view.animation_time))
            moments = moments.astype(dtype)
        words = self.text_embedding(text.astype(dtype)) if text is not None and c.text_dim else None

        graph, stacked = nnx.split(self.blocks)

        def prepare(state):
            return nnx.merge(graph, gathered(cast_kernels(state, dtype), "blocks.")).prepare(
                poses, moments, words
            )

        blocks = jax.vmap(prepare)(stacked) if c.unroll else jax.lax.map(prepare, stacked)
        cos, sin = self._rotary_tables(frame_positions(c, frames, views), grids)
        cameras = None
        if c.camera_attention == "prope":
            cameras = self._token_cameras(views, grids)
        return Conditioning(Shared(_pad_tokens(cos), _pad_tokens(sin), rays, cameras), blocks)

    def _rotary_tables(
        self, positions: jax.Array, grids: dict[str, tuple[int, int]]
    ) -> tuple[jax.Array, jax.Array]:
        """Of all tokens, `[B or 1, N, 1, n]`, for the `[B or 1, frames]` positions of `frame_positions`."""
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

    def _token_cameras(self, views: dict[str, View], grids: dict[str, tuple[int, int]]) -> jax.Array:
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
          differentiable: False reads the blocks' parameters where they are; a gradient through such indexing
            would touch all of them in every block.

        Returns:
          Velocity `[B, F', H', W', C]` float32.

        Raises:
          ValueError: the memory is not that of `conditioning`.
        """
        c = self.config
        dtype, p = jnp.dtype(c.dtype), c.patch
        frames, height, width = noisy_target.shape[1:4]
        sigma = timestep.astype(jnp.float32) / MAX_TIMESTEP
        x, tokens, target_tokens = self._embed(noisy_target.astype(dtype), source, memory)
        if conditioning.shared.cos.shape[1] != x.shape[1]:
            raise ValueError("the latents have more or fewer frames than what `condition` was given")
        if c.official_rounding:
            timestep = timestep.astype(jnp.bfloat16)
        t = self.timestep_embedding(sinusoid(timestep, c.freq_dim))
        modulation = self.timestep_projection(jax.nn.silu(t)).reshape(-1, 6, c.dim)

        graph, stacked = nnx.split(self.blocks)
        first_values = None
        if c.value_residual:
            state, told = jax.tree.map(lambda a: a[0], (stacked, conditioning.blocks))
            block = nnx.merge(graph, gathered(cast_kernels(state, dtype), "blocks."))
            first_values = block.values(x, modulation, conditioning.shared, told, tokens=tokens)
        backend = fastest_backend(differentiable=differentiable)

        def run(stream, layer, out_tokens, defer=False):
            state, told = layer
            block = nnx.merge(graph, gathered(cast_kernels(state, dtype), "blocks."))
            stream = stream._replace(x=checkpoint_name(stream.x, BLOCK_INPUT))
            with attention_backend(backend):
                stream = block(
                    stream,
                    modulation,
                    conditioning.shared,
                    told,
                    tokens=tokens,
                    out_tokens=out_tokens,
                    first_values=first_values,
                    defer=defer,
                )
            return _constrained(stream)

        # Past the last block only target tokens are read, so only they need queries: exact, and free.
        all_tokens, last_tokens = padded_tokens(tokens), padded_tokens(target_tokens)
        layers, stream = (stacked, conditioning.blocks), Stream(x)
        if differentiable and c.unroll:
            stream = self._run_unrolled(run, stream, layers, all_tokens, last_tokens)
        elif differentiable:
            stream = self._run_looped(run, stream, layers, all_tokens, last_tokens)
        else:
            at = lambda i: jax.tree.map(lambda a: a[i], layers)  # noqa: E731
            stream = jax.lax.fori_loop(0, c.layers - 1, lambda i, s: run(s, at(i), all_tokens), stream)
            stream = run(stream, at(c.layers - 1), last_tokens)

        shift, scale = jnp.split(self.head_modulation[...] + t[:, None], 2, axis=1)
        if stream.update is None:
            y = (layer_norm(stream.x, c.eps) * (1 + scale) + shift).astype(dtype)
        else:
            _, y = fused.modulated_norm(stream, shift[:, 0], scale[:, 0], c.eps)
        y = self.head(y)
        y = constrain(y, "batch", None, None)[:, :target_tokens]  # few values: gathered, then cut
        y = einops.rearrange(
            y, "b (f h w) (p q c) -> b f (h p) (w q) c", f=frames, h=height // p, w=width // p, p=p, q=p
        )
        y = y.astype(jnp.float32)
        if c.prediction == "x0":
            y = (noisy_target.astype(jnp.float32) - y) / jnp.maximum(sigma, LEAST_SIGMA)[
                :, None, None, None, None
            ]
        return y

    def _embed(
        self, target: jax.Array, source: jax.Array | None, memory: jax.Array | None
    ) -> tuple[jax.Array, int, int]:
        """Tokens `[B, N, D]` of the latents, the number of them all without padding and of the target's."""
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
                tokens = constrain(_pad_tokens(x), "batch", "tokens", None)
                return tokens, x.shape[1], of_target.shape[1]
            earlier = [] if memory is None else [memory.astype(target.dtype)]
            target = jnp.concatenate([target, source, *earlier], axis=1)
        of_all = patches(target, c.patch)
        x = constrain(self.patch_embedding(_pad_tokens(of_all)), "batch", "tokens", None)
        return x, of_all.shape[1], of_target.shape[1]

    def _run_unrolled(
        self, run: Callable, stream: Stream, layers: Any, all_tokens: int, last_tokens: int
    ) -> Stream:
        """All blocks, each with code of its own; `layers` have a leading `[L]`."""
        if self.config.remat == "none":
            run = functools.partial(run, defer=True)
        else:  # of a block's input as little as possible is kept, so updates are added
            policy = REMAT_POLICIES[self.config.remat]
            run = jax.checkpoint(run, policy=policy, static_argnums=2)
        leaves, structure = jax.tree.flatten(layers)
        each = [jax.tree.unflatten(structure, layer) for layer in zip(*map(_unstack, leaves), strict=True)]
        for layer in each[:-1]:
            stream = run(stream, layer, all_tokens)
        return run(stream, each[-1], last_tokens)

    def _run_looped(
        self, run: Callable, stream: Stream, layers: Any, all_tokens: int, last_tokens: int
    ) -> Stream:
        """All blocks but the last in a loop, then the last, with rematerialisation."""
        stacked, told = layers
        # To split off the last block copies parameters and gradient, so in the computation's dtype.
        layers = (cast_kernels(stacked, jnp.dtype(self.config.dtype)), told)
        first, last = (jax.tree.map(lambda a, at=at: a[at], layers) for at in (slice(-1), -1))
        first, last = ((constrain_parameters(p, "blocks."), told) for p, told in (first, last))
        # Else sums over tokens in the gradient are put off until it is joined to that of the others.
        last = jax.lax.optimization_barrier(last)
        policy = REMAT_POLICIES[self.config.remat]
        remat = functools.partial(jax.checkpoint, policy=policy, static_argnums=2)
        inner = remat(run, prevent_cse=False)  # a loop lets nothing be shared with its backward pass
        stream, _ = jax.lax.scan(lambda s, layer: (inner(s, layer, all_tokens), None), stream, first)
        return remat(run)(stream, last, last_tokens)


def _constrained(stream: Stream) -> Stream:
    """A stream whose tokens `[B, N, D]` are split over the devices as those of all activations."""
    x, update = stream
    if update is not None:
        update = update._replace(product=constrain(update.product, "batch", "tokens", None))
    return Stream(constrain(x, "batch", "tokens", None), update)


def _unstack(x: jax.Array) -> list[jax.Array]:
    """`[L, ...]` -> L of `[...]`; its gradient is one concatenation, that of indexing a sum of L stacks."""
    return [part[0] for part in jax.lax.split(x, (1,) * len(x))]


def _pad_tokens(x: jax.Array) -> jax.Array:
    """`[B, N, ...]` with zeros behind its tokens, as many as `padded_tokens` says."""
    return fill_up(x, padded_tokens(x.shape[1]))
