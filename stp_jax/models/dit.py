"""The space-time DiT: Wan2.1's video transformer over target and source tokens, told cameras and moments.

Tokens are ordered frame, row, column; the noisy target's frames come first, the clean source's after them,
and padding last (`sharding.padded_tokens`). Everything that does not depend on the timestep is computed once
per video by `condition`. The same class, by its config alone, is the demo's model, our recipes at 1.3B and
14B, the official SpaceTimePilot and ReCamMaster, and plain Wan2.1 text-to-video.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from stp_jax.models.attention import attention_backend, fastest_backend, keep_attention
from stp_jax.models.block import Block, BlockConditioning, Shared
from stp_jax.models.conditioning import ANIMATION_TIME_ENCODERS, PluckerEncoder, group_frames, pose12
from stp_jax.models.layers import MLP, Dense, fill_up, gelu, layer_norm, sinusoid, zeros
from stp_jax.models.rope import rotary_tables
from stp_jax.sharding import cast_kernels, constrain, constrain_parameters, gathered, padded_tokens

BLOCK_INPUT = "block_input"
_to_host = jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[BLOCK_INPUT],
    offload_src="device",
    offload_dst="pinned_host",
)


def offload_inputs(primitive, *avals, **parameters):
    """A rematerialisation policy: `keep_attention`, with the inputs of the blocks in the host's memory."""
    return keep_attention(primitive, *avals, **parameters) or _to_host(primitive, *avals, **parameters)


REMAT_POLICIES = {
    "none": jax.checkpoint_policies.everything_saveable,
    "attention": keep_attention,
    "offload": offload_inputs,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
CHOICES = {
    "camera": ("plucker", "pose12", "pose12_target", "none"),
    "animation_time": (*ANIMATION_TIME_ENCODERS, "official_conv", "none"),
    "rope_frames": ("stream", "shared", "animation_time"),
    "remat": tuple(REMAT_POLICIES),
}

ROLES = ("target", "source")  # in the order of the tokens
TEXT_TOKENS = 512  # of a prompt, most of them padding


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Size and conditioning of a `SpaceTimeDiT`; the defaults are Wan2.1 1.3B with our encoders, textless.

    Attributes:
      channels: of the latents.
      patch: side of the square of latent cells that makes a token.
      freq_dim: of the sinusoids of timestep and animation time.
      text_dim: of the text encoder's embeddings; 0: the model takes no text.
      source: whether the source video's clean frames stand beside the target's.
      camera: `plucker`, rays inside each token; `pose12`, the official encoder of poses, with a projector
        after self-attention; `pose12_target`, the same told the target's poses alone (ReCamMaster); `none`.
      animation_time: `frames`, all four of a latent frame; `uniform`, one of four; `official_conv`,
        SpaceTimePilot's; `none`.
      rope_frames: the position of a latent frame: `stream`, running on through the source (official);
        `shared` by target and source; `animation_time`, the moment that it shows.
      conditioning_dim: width of our camera and animation-time embeddings.
      ray_samples: rays along the side of a token.
      scene_scale: metres that count as 1 in the rays' moments.
      official_rounding: whether the timestep is rounded to bfloat16 before its sinusoid, as the official
        bfloat16 inference does (978.26 becomes 980). Needed to match its videos.
      lora_rank: of the matrices to train beside the blocks' attention and feed-forward kernels; 0: none.
      dtype: of the computation; norms, softmax and the modulation are float32.
      remat: what the backward pass keeps of the blocks: `none` recomputes nothing; `attention` keeps their
        inputs, and outputs and statistics of attention, the best trade of memory for time; `offload` the
        same, but the inputs in the memory of the host; `dots` all matrix products of parameters; `full` the
        inputs alone.
      unroll: whether a training step is compiled as one piece of code for each block instead of one loop over
        all. A loop with `remat="none"` writes every activation into a stack, which takes half of the step of
        a small model; unrolled code of a deep one takes minutes to compile.
      fused: whether norms and rotary embeddings run as kernels of our own where there are any, see
        `stp_jax.models.fused`: faster for small models.
      ffn_parts: of the tokens, that the feed-forward nets compute one after the other on a single device, to
        need less memory; their insides are then always recomputed.
    """

    dim: int = 1536
    ffn_dim: int = 8960
    layers: int = 30
    heads: int = 12
    channels: int = 16
    patch: int = 2
    freq_dim: int = 256
    eps: float = 1e-6
    text_dim: int = 0
    source: bool = True
    camera: str = "plucker"
    animation_time: str = "frames"
    rope_frames: str = "animation_time"
    conditioning_dim: int = 256
    ray_samples: int = 2
    scene_scale: float = 4.0
    official_rounding: bool = False
    dtype: str = "bfloat16"
    remat: str = "none"
    unroll: bool = False
    fused: bool = False
    ffn_parts: int = 1
    lora_rank: int = 0

    def __post_init__(self):
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                chosen = getattr(self, field)
                raise ValueError(f"model.{field} is {chosen!r}; choose one of {', '.join(known)}")
        if self.fused and (self.lora_rank or self.text_dim or self.camera.startswith("pose12")):
            raise ValueError("model.fused has no kernels for lora_rank, text_dim and the pose12 cameras")
        if self.ffn_parts < 1:
            raise ValueError(f"model.ffn_parts is {self.ffn_parts}; it must be at least 1")
        if self.dim % self.heads:
            raise ValueError(f"model.dim {self.dim} is not divisible by model.heads {self.heads}")
        if not self.source and (self.camera, self.animation_time) != ("none", "none"):
            raise ValueError("model.source is False; then model.camera and model.animation_time must be none")
        if self.rope_frames == "animation_time" and not self.source:
            raise ValueError(
                "model.rope_frames is animation_time, which a model without a source is not told"
            )


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
        self.timestep_embedding = MLP(config.freq_dim, dim, dim, rngs=rngs)
        self.timestep_projection = Dense(dim, 6 * dim, rngs=rngs)
        if config.text_dim:
            self.text_embedding = MLP(config.text_dim, dim, dim, rngs=rngs, activation=gelu)
        if config.camera == "plucker":
            self.camera_encoder = PluckerEncoder(
                config.conditioning_dim, samples=config.ray_samples, scene_scale=config.scene_scale, rngs=rngs
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
        source_c2w: jax.Array | None = None,
        source_intrinsics: jax.Array | None = None,
        source_animation_time: jax.Array | None = None,
        target_c2w: jax.Array | None = None,
        target_intrinsics: jax.Array | None = None,
        target_animation_time: jax.Array | None = None,
        text: jax.Array | None = None,
        *,
        latent_size: tuple[int, int, int],
    ) -> Conditioning:
        """Encodes cameras, animation times and text once per video; ignores what the config has no use for.

        Args:
          source_c2w, target_c2w: `[B, F, 4, 4]`, OpenCV axes, relative to the source's first camera, metres;
            for the `pose12` encoders in their own convention, see `stp_jax.official_inputs`.
          source_intrinsics, target_intrinsics: `[B, F, 4]`, normalised by width and height.
          source_animation_time, target_animation_time: `[B, F]` in source frames.
          text: `[B, T, text_dim]`, the text encoder's embeddings, with zeros past the end of the prompt.
          latent_size: (F', H', W') of the latents.

        Raises:
          ValueError: the latents are not divisible into patches; something that the model needs is missing.
        """
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        frames, height, width = latent_size
        if height % c.patch or width % c.patch:
            raise ValueError(
                f"latents of {height} x {width} cells do not divide into patches of {c.patch} x {c.patch}"
            )
        grid = (height // c.patch, width // c.patch)
        told: dict[str, Any] = {
            "source_c2w": source_c2w,
            "target_c2w": target_c2w,
            "source_intrinsics": source_intrinsics,
            "target_intrinsics": target_intrinsics,
            "source_animation_time": source_animation_time,
            "target_animation_time": target_animation_time,
            "text": text,
        }
        needed = {
            "c2w": c.camera != "none",
            "intrinsics": c.camera == "plucker",
            "animation_time": c.animation_time != "none" or c.rope_frames == "animation_time",
            "text": c.text_dim > 0,
        }
        missing = [name for name in told if needed[name.split("_", 1)[-1]] and told[name] is None]
        if missing:
            raise ValueError(f"this model must be told {', '.join(missing)}")

        def both(encode: Callable[[str], jax.Array]) -> jax.Array:
            """Encodes what is told of target and source, in that order on the frame axis."""
            return jnp.concatenate([encode("target"), encode("source")], axis=1).astype(dtype)

        rays = poses = moments = None
        if c.camera == "plucker":
            rays = both(
                lambda clip: self.camera_encoder(
                    told[f"{clip}_c2w"], told[f"{clip}_intrinsics"], grid, role=ROLES.index(clip)
                )
            )
            rays = _pad_tokens(einops.rearrange(rays, "b f h w d -> b (f h w) d"))
            rays = constrain(rays, "batch", "tokens", None)
        elif c.camera == "pose12":
            poses = both(lambda clip: pose12(told[f"{clip}_c2w"]))
        elif c.camera == "pose12_target":
            poses = both(lambda clip: pose12(told["target_c2w"]))
        if c.animation_time == "official_conv":
            clocks = jnp.stack([told[f"{clip}_animation_time"] for clip in ROLES])
            moments = sinusoid(clocks, c.freq_dim).astype(dtype)
        elif c.animation_time != "none":
            moments = both(lambda clip: self.animation_time_encoder(told[f"{clip}_animation_time"]))
        words = self.text_embedding(told["text"].astype(dtype)) if c.text_dim else None

        graph, stacked = nnx.split(self.blocks)

        def prepare(state):
            return nnx.merge(graph, gathered(cast_kernels(state, dtype), "blocks.")).prepare(
                poses, moments, words
            )

        blocks = jax.vmap(prepare)(stacked) if c.unroll else jax.lax.map(prepare, stacked)
        cos, sin = rotary_tables(
            self._frame_positions(frames, target_animation_time, source_animation_time),
            grid,
            c.dim // c.heads,
        )
        return Conditioning(Shared(_pad_tokens(cos), _pad_tokens(sin), rays), blocks)

    def _frame_positions(self, frames: int, *moments: Any) -> jax.Array:
        """`[B or 1, frames of target and source]`, see `DiTConfig.rope_frames`."""
        if self.config.rope_frames == "animation_time":
            return jnp.concatenate([group_frames(m).mean(2) for m in moments], axis=1)
        if self.config.rope_frames == "shared":
            return jnp.tile(jnp.arange(frames), 2)[None]
        return jnp.arange(2 * frames if self.config.source else frames)[None]

    def __call__(
        self,
        noisy_target: jax.Array,
        source: jax.Array | None,
        timestep: jax.Array,
        conditioning: Conditioning,
        *,
        differentiable: bool = True,
    ) -> jax.Array:
        """Predicts `noise - x0` of the target.

        Args:
          noisy_target: latents `[B, F', H', W', C]` at the noise level of `timestep`.
          source: clean latents of the source video, same shape; None for a model without a source.
          timestep: `[B]` in [0, 1000].
          conditioning: from `condition`.
          differentiable: False reads the blocks' parameters where they are; a gradient through such indexing
            would touch all of them in every block.

        Returns:
          Velocity `[B, F', H', W', C]` float32.
        """
        c = self.config
        dtype, p = jnp.dtype(c.dtype), c.patch
        frames, height, width = noisy_target.shape[1:4]
        latents = noisy_target.astype(dtype)
        if c.source:
            assert source is not None
            latents = jnp.concatenate([latents, source.astype(dtype)], axis=1)
        patches = einops.rearrange(latents, "b f (h p) (w q) c -> b (f h w) (p q c)", p=p, q=p)
        tokens, target_tokens = patches.shape[1], frames * (height // p) * (width // p)
        x = constrain(self.patch_embedding(_pad_tokens(patches)), "batch", "tokens", None)
        if c.official_rounding:
            timestep = timestep.astype(jnp.bfloat16)
        t = self.timestep_embedding(sinusoid(timestep, c.freq_dim))
        modulation = self.timestep_projection(jax.nn.silu(t)).reshape(-1, 6, c.dim)

        graph, stacked = nnx.split(self.blocks)
        backend = fastest_backend(differentiable=differentiable)

        def run(x, layer, out_tokens):
            state, told = layer
            block = nnx.merge(graph, gathered(cast_kernels(state, dtype), "blocks."))
            x = checkpoint_name(x, BLOCK_INPUT)
            with attention_backend(backend):
                y = block(x, modulation, conditioning.shared, told, tokens=tokens, out_tokens=out_tokens)
            return constrain(y, "batch", "tokens", None)

        # Past the last block only target tokens are read, so only they need queries: exact, and free.
        all_tokens, last_tokens = padded_tokens(tokens), padded_tokens(target_tokens)
        layers = (stacked, conditioning.blocks)
        if differentiable and c.unroll:
            x = self._run_unrolled(run, x, layers, all_tokens, last_tokens)
        elif differentiable:
            x = self._run_looped(run, x, layers, all_tokens, last_tokens)
        else:
            at = lambda i: jax.tree.map(lambda a: a[i], layers)  # noqa: E731
            x = jax.lax.fori_loop(0, c.layers - 1, lambda i, x: run(x, at(i), all_tokens), x)
            x = run(x, at(c.layers - 1), last_tokens)

        shift, scale = jnp.split(self.head_modulation[...] + t[:, None], 2, axis=1)
        y = self.head((layer_norm(x, c.eps) * (1 + scale) + shift).astype(dtype))
        y = constrain(y, "batch", None, None)[:, :target_tokens]  # few values: gathered, then cut
        y = einops.rearrange(
            y, "b (f h w) (p q c) -> b f (h p) (w q) c", f=frames, h=height // p, w=width // p, p=p, q=p
        )
        return y.astype(jnp.float32)

    def _run_unrolled(
        self, run: Callable, x: jax.Array, layers: Any, all_tokens: int, last_tokens: int
    ) -> jax.Array:
        """All blocks, each with code of its own; `layers` have a leading `[L]`."""
        if self.config.remat != "none":
            policy = REMAT_POLICIES[self.config.remat]
            run = jax.checkpoint(run, policy=policy, static_argnums=2)
        leaves, structure = jax.tree.flatten(layers)
        each = [jax.tree.unflatten(structure, layer) for layer in zip(*map(_unstack, leaves), strict=True)]
        for layer in each[:-1]:
            x = run(x, layer, all_tokens)
        return run(x, each[-1], last_tokens)

    def _run_looped(
        self, run: Callable, x: jax.Array, layers: Any, all_tokens: int, last_tokens: int
    ) -> jax.Array:
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
        x, _ = jax.lax.scan(lambda x, layer: (inner(x, layer, all_tokens), None), x, first)
        return remat(run)(x, last, last_tokens)


def _unstack(x: jax.Array) -> list[jax.Array]:
    """`[L, ...]` -> L of `[...]`; its gradient is one concatenation, that of indexing a sum of L stacks."""
    return [part[0] for part in jax.lax.split(x, (1,) * len(x))]


def _pad_tokens(x: jax.Array) -> jax.Array:
    """`[B, N, ...]` with zeros behind its tokens, as many as `padded_tokens` says."""
    return fill_up(x, padded_tokens(x.shape[1]))


def dit_flop(
    config: DiTConfig, latent_size: tuple[int, int, int], *, trained: Container[str] | None = None
) -> float:
    """Multiplications and additions in the matrix products of one forward pass of one video.

    What is computed once per video (keys and values of the text, embedded cameras) is not counted, nor what
    LoRA adds, but the projection of the rays in each block is.

    Args:
      config: of the model.
      latent_size: (F', H', W') of the latents.
      trained: names of parameters; if given, a train step of them is counted, without recomputation: each
        product, and the two that make its gradients, or one to a kernel that is not trained.
    """
    c = config
    frames, height, width = latent_size
    target = frames * (height // c.patch) * (width // c.patch)
    tokens = 2 * target if c.source else target
    queries, keys = (c.layers - 1) * tokens + target, c.layers * tokens  # of all blocks
    values = c.channels * c.patch**2
    kernels = {
        "patch_embedding": tokens * values * c.dim,
        "timestep_embedding.layer_in": c.freq_dim * c.dim,
        "timestep_embedding.layer_out": c.dim**2,
        "timestep_projection": 6 * c.dim**2,
        "blocks.q": queries * c.dim**2,
        "blocks.k": keys * c.dim**2,
        "blocks.v": keys * c.dim**2,
        "blocks.o": queries * c.dim**2,
        "blocks.ffn_in": queries * c.dim * c.ffn_dim,
        "blocks.ffn_out": queries * c.dim * c.ffn_dim,
        "head": target * c.dim * values,
    }
    attention = 2 * queries * tokens * c.dim
    if c.text_dim:
        kernels |= {f"blocks.cross_attn.{name}": queries * c.dim**2 for name in "qo"}
        attention += 2 * queries * TEXT_TOKENS * c.dim
    if c.camera == "plucker":
        kernels["blocks.camera"] = keys * c.conditioning_dim * c.dim
    elif c.camera != "none":
        kernels["blocks.projector"] = queries * c.dim**2
    if trained is None:
        return 2.0 * (attention + sum(kernels.values()))
    of_kernels = sum((3 if f"{name}.kernel" in trained else 2) * count for name, count in kernels.items())
    return 2.0 * (3 * attention + of_kernels)
