"""One transformer block of the DiT, and what it is conditioned on besides its tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from stp_jax.devices.sharding import RULES, constrain, size_of
from stp_jax.models import fused
from stp_jax.models.attention import attention
from stp_jax.models.conditioning import OfficialConvEncoder, zero_projection
from stp_jax.models.config import DiTConfig
from stp_jax.models.fused import Stream, Update
from stp_jax.models.fused_heads import norm_rotate
from stp_jax.models.layers import Dense, LayerNorm, RMSNorm, gelu, half_split, layer_norm, pad
from stp_jax.models.rope import rotate


class Modulation(NamedTuple):
    """Modulation of one half of a block by the timestep: `x + gate * f(norm(x) * (1 + scale) + shift)`."""

    shift: jax.Array  # each [B, 1, D] float32
    scale: jax.Array
    gate: jax.Array


class SharedConditioning(NamedTuple):
    """The conditioning that all blocks share."""

    cos: jax.Array  # [B or 1, N, 1, head_dim / 2], of the rotary embedding; N: tokens and padding
    sin: jax.Array
    rays: jax.Array | None  # [B, N, E], embedded Plücker rays


class BlockConditioning(NamedTuple):
    """The conditioning of one block, ready for use; stacked over the blocks it has a leading [L]."""

    frames: jax.Array | None  # [B, 2F', D], added to every token of a latent frame
    text_keys: jax.Array | None  # [B, T, heads, head_dim]
    text_values: jax.Array | None


class Conditioning(NamedTuple):
    """Everything that a model is conditioned on for one batch of videos, apart from the timestep."""

    shared: SharedConditioning
    blocks: BlockConditioning  # with a leading [L]


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """`[B, N, D]` -> `[B, N, heads, head_dim]`."""
    return einops.rearrange(x, "b n (heads d) -> b n heads d", heads=heads)


def merge_heads(x: jax.Array) -> jax.Array:
    """`[B, N, heads, head_dim]` -> `[B, N, D]`."""
    return einops.rearrange(x, "b n heads d -> b n (heads d)")


def to_tokens(frames: jax.Array, tokens: int, padded: int) -> jax.Array:
    """Values of frames for each of their tokens, `[B, F, D]` -> `[B, padded, D]`.

    `tokens` is the number of tokens of all frames; after them come zeros.
    """
    count = frames.shape[1]
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or size_of(RULES.tokens, mesh) == 1:
        # Repeated in float32, so that the gradient is summed in it.
        own = jnp.repeat(frames.astype(jnp.float32), tokens // count, axis=1)
        return pad(own.astype(frames.dtype), padded)
    # A device holds tokens of parts of frames. A product with a 0/1 matrix, split as the tokens are, picks
    # them.
    own = jnp.arange(padded)[:, None] // (tokens // count) == jnp.arange(count)
    own = constrain(own.astype(frames.dtype), "tokens", None)
    return jnp.einsum("nf,bfd->bnd", own, frames, precision="highest")


class CrossAttention(nnx.Module):
    """Attention from video tokens to the tokens of a prompt; no mask, as in Wan2.1."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        dim = config.dim
        options: dict[str, Any] = {"rngs": rngs, "lora_rank": config.lora_rank}
        self.q, self.k, self.v, self.o = (Dense(dim, dim, **options) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, config.eps), RMSNorm(dim, config.eps)
        self.heads = config.heads

    def keys_and_values(self, text: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`[B, T, D]` -> two of `[B, T, heads, head_dim]`."""
        keys, values = self.norm_k(self.k(text)), self.v(text)
        return split_heads(keys, self.heads), split_heads(values, self.heads)

    def __call__(self, x: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        """`[B, N, D]` -> `[B, N, D]`."""
        q = split_heads(self.norm_q(self.q(x)), self.heads)
        return self.o(merge_heads(attention(q, keys, values, whole_keys=True)))


class Block(nnx.Module):
    """Modulated self-attention over all tokens, cross-attention to the text, a modulated feed-forward net."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        dim = config.dim
        self.config = config
        self.modulation = nnx.Param(jax.random.normal(rngs.params(), (6, dim), jnp.float32) / dim**0.5)
        options: dict[str, Any] = {"rngs": rngs, "lora_rank": config.lora_rank}
        self.q, self.k, self.v, self.o = (Dense(dim, dim, **options) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, config.eps), RMSNorm(dim, config.eps)
        if config.camera == "plucker":
            self.camera = zero_projection(config.conditioning_dim, dim, rngs=rngs)
        elif config.camera != "none":
            self.camera = zero_projection(12, dim, rngs=rngs)
            self.projector = Dense(
                dim, dim, rngs=rngs, init=lambda key, shape, dtype: jnp.eye(dim, dtype=dtype)
            )
        if config.animation_time == "official_conv":
            self.animation_time: nnx.Module = OfficialConvEncoder(dim, freq_dim=config.freq_dim, rngs=rngs)
        elif config.animation_time != "none":
            self.animation_time = zero_projection(config.conditioning_dim, dim, rngs=rngs)
        if config.text_dim:
            self.norm3 = LayerNorm(dim, config.eps)
            self.cross_attn = CrossAttention(config, rngs=rngs)
        self.ffn_in = Dense(dim, config.ffn_dim, **options)
        self.ffn_out = Dense(config.ffn_dim, dim, **options)

    def prepare(
        self, poses: jax.Array | None, animation_time: jax.Array | None, text: jax.Array | None
    ) -> BlockConditioning:
        """Everything of this block that does not depend on the timestep.

        Args:
          poses: `[B, 2F', 12]`, for the `pose12` encoders.
          animation_time: what the animation-time encoder of the block takes.
          text: `[B, T, D]`.
        """
        frames = None if animation_time is None else self.animation_time(animation_time)
        if poses is not None:
            of_poses = self.camera(poses)
            frames = of_poses if frames is None else frames + of_poses
        keys, values = (None, None) if text is None else self.cross_attn.keys_and_values(text)
        return BlockConditioning(frames, keys, values)

    def __call__(
        self,
        stream: Stream,
        modulation: jax.Array,
        shared: SharedConditioning,
        conditioning: BlockConditioning,
        *,
        tokens: int,
        out_tokens: int,
        defer: bool = False,
        mode: str = "exact",
    ) -> Stream:
        """Applies the block to a stream `[B, N, D]`; returns its first `out_tokens` tokens, as a stream.

        Args:
          modulation: `[B, 6, D]`, from the timestep.
          tokens: the number of the N that serve as keys and values; the others are padding.
          out_tokens: the number of the first tokens that serve as queries.
          defer: whether the feed-forward net's update may be returned without being added, for the next norm
            if it is one of the kernels that add it.
          mode: of self-attention, see `attention`.
        """
        c, dtype = self.config, stream.x.dtype
        attn, ffn = self._modulations(modulation)
        fast = c.fused and fused.available(dtype)
        row_major = fused.row_major if fast else lambda x: x

        if fast:
            x, y = self._fused_input(stream, attn, shared, conditioning, tokens)
        else:
            assert stream.update is None
            x = stream.x
            y = self._attention_input(x, attn, shared, conditioning, tokens)
        a, x = self._attend(y, shared, tokens, out_tokens, mode), x[:, :out_tokens]
        if fast:
            update = Update(row_major(self.o.product(a)), self.o.bias[...], attn.gate[:, 0])
            x, y = fused.modulated_norm(Stream(x, update), ffn.shift[:, 0], ffn.scale[:, 0], c.eps)
            if defer and c.ffn_parts == 1:
                product = row_major(self.ffn_out.product(gelu(self.ffn_in(y))))
                return Stream(x, Update(product, self.ffn_out.bias[...], ffn.gate[:, 0]))
        else:
            pose12 = c.camera.startswith("pose12")
            x = x + (self.projector(self.o(a), attn.gate) if pose12 else self.o(a, attn.gate))
            if conditioning.text_keys is not None and conditioning.text_values is not None:
                x = x + self.cross_attn(self.norm3(x), conditioning.text_keys, conditioning.text_values)
            y = (layer_norm(x, c.eps) * (1 + ffn.scale) + ffn.shift).astype(dtype)
        return Stream(row_major(x + self._feed_forward(y, ffn.gate)))

    def _modulations(self, modulation: jax.Array) -> tuple[Modulation, Modulation]:
        """Those of attention and of the feed-forward net, for `modulation` `[B, 6, D]` of the timestep."""
        mod = (self.modulation[...] + modulation)[:, :, None]  # [B, 6, 1, D] float32
        shift1, scale1, gate1, shift2, scale2, gate2 = (mod[:, i] for i in range(6))
        return Modulation(shift1, scale1, gate1), Modulation(shift2, scale2, gate2)

    def _attend(
        self, y: jax.Array, shared: SharedConditioning, tokens: int, out_tokens: int, mode: str
    ) -> jax.Array:
        """Self-attention of the first `out_tokens` of `y` `[B, N, D]` to all tokens, before `o`."""
        c, cos, sin = self.config, shared.cos, shared.sin
        if out_tokens == y.shape[1] and c.fused and fused.available(y.dtype):
            return merge_heads(attention(*self._fused_heads(y, cos, sin), keys=tokens, mode=mode))
        q = self.norm_q(self.q(y[:, :out_tokens], rotary_heads=c.heads), rotary_heads=c.heads)
        k = self.norm_k(self.k(y, rotary_heads=c.heads), rotary_heads=c.heads)
        q, k, v = split_heads(q, c.heads), split_heads(k, c.heads), split_heads(self.v(y), c.heads)
        q, k = rotate(q, cos[:, :out_tokens], sin[:, :out_tokens]), rotate(k, cos, sin)
        return merge_heads(attention(q, k, v, keys=tokens, mode=mode))

    def _fused_heads(self, y: jax.Array, cos: jax.Array, sin: jax.Array) -> tuple[jax.Array, ...]:
        """Queries, keys, values `[B, N, heads, head_dim]` of `y` `[B, N, D]`: one product and a kernel."""
        heads = self.config.heads
        kernels = [half_split(layer.kernel[...], heads) for layer in (self.q, self.k)]
        biases = [half_split(layer.bias[...], heads) for layer in (self.q, self.k)]
        kernel = jnp.concatenate([*kernels, self.v.kernel[...]], 1).astype(y.dtype)
        bias = jnp.concatenate([*biases, self.v.bias[...]])
        scales = jnp.stack([half_split(norm.scale[...], heads) for norm in (self.norm_q, self.norm_k)])
        return norm_rotate(y @ kernel, bias, scales, cos[:, :, 0], sin[:, :, 0], heads, self.config.eps)

    def _fused_input(
        self,
        stream: Stream,
        mod: Modulation,
        shared: SharedConditioning,
        conditioning: BlockConditioning,
        tokens: int,
    ) -> tuple[jax.Array, jax.Array]:
        """The tokens `[B, N, D]`, and the result of `_attention_input` for them, by a kernel.

        Summands that are equal for all tokens of a video or of a frame are added to the shift, whose gradient
        the kernel sums.
        """
        n, frames = stream.x.shape[1], conditioning.frames
        shift, scale = mod.shift[:, 0], mod.scale[:, 0]
        if shared.rays is not None:
            shift = shift + self.camera.bias[...]
        if frames is not None and n == tokens:
            shift, frames = shift[:, None] + frames.astype(jnp.float32), None
        x, y = fused.modulated_norm(stream, shift, scale, self.config.eps)
        if frames is not None:
            y = y + to_tokens(frames, tokens, n)
        if shared.rays is not None:
            y = y + self.camera.product(shared.rays)
        return x, fused.row_major(y)

    def _attention_input(
        self,
        x: jax.Array,
        mod: Modulation,
        shared: SharedConditioning,
        conditioning: BlockConditioning,
        tokens: int,
    ) -> jax.Array:
        """`x` `[B, N, D]`, normed and modulated, with the embeddings of animation time and cameras added."""
        y = (layer_norm(x, self.config.eps) * (1 + mod.scale) + mod.shift).astype(x.dtype)
        if conditioning.frames is not None:
            y = y + to_tokens(conditioning.frames, tokens, y.shape[1])
        if shared.rays is not None:
            y = y + self.camera(shared.rays)
        return y

    def _feed_forward(self, y: jax.Array, gate: jax.Array) -> jax.Array:
        """`[B, N, D]` -> `[B, N, D]`, times `gate` `[B, 1, D]`; in parts if the config says so."""
        mesh, parts = jax.sharding.get_abstract_mesh(), self.config.ffn_parts
        # On several devices every part would gather the parameters and reduce their gradient anew.
        if parts == 1 or y.shape[1] % parts or not (mesh.empty or mesh.size == 1):
            return self.ffn_out(gelu(self.ffn_in(y)), gate)
        graph, state = nnx.split((self.ffn_in, self.ffn_out))

        @jax.checkpoint
        def one(state: nnx.State, y: jax.Array) -> jax.Array:
            ffn_in, ffn_out = nnx.merge(graph, state)
            return ffn_out(gelu(ffn_in(y)), gate)

        y = einops.rearrange(y, "b (parts n) d -> parts b n d", parts=parts)
        return einops.rearrange(jax.lax.map(lambda y: one(state, y), y), "parts b n d -> b (parts n) d")
