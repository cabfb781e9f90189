"""umT5's encoder, the text encoder of Wan2.1."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stp_jax.models.layers import RMSNorm, lecun_normal


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig:
    """Size of a `TextEncoder`; the defaults are umT5-xxl's encoder.

    Attributes:
      vocab: number of known tokens.
      dim: of the embeddings.
      attn_dim: of all heads together.
      ffn_dim: of the feed-forward network.
      buckets: of distances between tokens, half for each direction; a layer has a bias for each.
      max_distance: from which all distances share a bucket.
      dtype: of the computation; norms and softmax are float32.
    """

    vocab: int = 256384
    dim: int = 4096
    attn_dim: int = 4096
    heads: int = 64
    ffn_dim: int = 10240
    layers: int = 24
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6
    dtype: str = "bfloat16"

    def __post_init__(self):
        if self.attn_dim % self.heads:
            raise ValueError(f"attn_dim {self.attn_dim} is not divisible by {self.heads} heads")


def distance_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each pair (query, key), int32 `[length, length]`.

    Half of the buckets are for keys after the query. In each half near distances have one bucket each, and
    farther ones share buckets logarithmically (Raffel et al. 2020, section 2.1, as in T5's code).
    """
    relative = np.arange(length)[None] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    distance = np.abs(relative)
    ratio = np.log(np.maximum(distance, 1) / exact) / np.log(max_distance / exact)
    far = np.minimum(exact + (ratio * (half - exact)).astype(np.int64), half - 1)
    return (np.where(relative > 0, half, 0) + np.where(distance < exact, distance, far)).astype(np.int32)


class Linear(nnx.Module):
    """`x @ kernel`, in the dtype of `x`."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(lecun_normal(rngs.params(), (inputs, outputs), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...].astype(x.dtype)


class TextEncoderBlock(nnx.Module):
    """Self-attention with a bias for distances, then a gated feed-forward network."""

    def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = config
        self.norm1, self.norm2 = RMSNorm(c.dim, c.eps), RMSNorm(c.dim, c.eps)
        self.q, self.k, self.v = (Linear(c.dim, c.attn_dim, rngs=rngs) for _ in range(3))
        self.o = Linear(c.attn_dim, c.dim, rngs=rngs)
        self.position_bias = nnx.Param(lecun_normal(rngs.params(), (c.buckets, c.heads), jnp.float32))
        self.ffn_gate, self.ffn_in = (Linear(c.dim, c.ffn_dim, rngs=rngs) for _ in range(2))
        self.ffn_out = Linear(c.ffn_dim, c.dim, rngs=rngs)

    def __call__(self, x: jax.Array, pairs: np.ndarray, mask: jax.Array) -> jax.Array:
        """`[B, N, D]` -> `[B, N, D]`; `pairs` as `distance_buckets`; `mask` `[B, N]`, true for the prompt."""
        y = self.norm1(x)
        heads = (*y.shape[:2], self.config.heads, -1)
        q, k, v = (layer(y).reshape(heads) for layer in (self.q, self.k, self.v))
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)  # not scaled
        logits = logits + self.position_bias[...].astype(jnp.float32)[pairs].transpose(2, 0, 1)
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
        y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits).astype(x.dtype), v)
        x = x + self.o(y.reshape(*y.shape[:2], -1))
        y = self.norm2(x)
        return x + self.ffn_out(self.ffn_in(y) * jax.nn.gelu(self.ffn_gate(y)))


class TextEncoder(nnx.Module):
    """Embeds the tokens of a prompt."""

    def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.token_embedding = nnx.Param(
            jax.random.normal(rngs.params(), (config.vocab, config.dim), jnp.float32)
        )

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: None})
        def make_blocks(rngs):
            return TextEncoderBlock(config, rngs=rngs)

        self.blocks = make_blocks(rngs)
        self.norm = RMSNorm(config.dim, config.eps)

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Embeddings `[B, N, D]` float32.

        Args:
          ids: int32 `[B, N]`, padded.
          mask: `[B, N]`, true or 1 for tokens of the prompt; embeddings of the others are meaningless.
        """
        c = self.config
        pairs = distance_buckets(ids.shape[1], c.buckets, c.max_distance)
        graph, stacked = nnx.split(self.blocks)

        def body(x: jax.Array, state) -> tuple[jax.Array, None]:
            return nnx.merge(graph, state)(x, pairs, mask.astype(bool)), None

        x, _ = jax.lax.scan(body, self.token_embedding[...][ids].astype(c.dtype), stacked)
        return self.norm(x).astype(jnp.float32)
