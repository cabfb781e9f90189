"""One attention function for every device."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Full bidirectional softmax attention, scaled by `1 / sqrt(head_dim)`.

    On NVIDIA GPUs in 16-bit precision it runs cuDNN's fused kernel, elsewhere XLA's own operations with a
    float32 softmax.

    Args:
      q: `[B, N, heads, head_dim]`.
      k, v: `[B, M, heads, head_dim]`.

    Returns:
      `[B, N, heads, head_dim]` in the dtype of `q`.
    """
    fused = jax.default_backend() == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16)
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn" if fused else "xla")
