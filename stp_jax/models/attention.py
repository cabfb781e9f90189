"""One attention function for every device."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp

LOGITS_BYTES = 2**30  # at most so much memory for attention weights where no fused kernel avoids them

_portable = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable_attention() -> Iterator[None]:
    """What is traced within runs on every platform: no kernels of one vendor."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Full bidirectional softmax attention, scaled by `1 / sqrt(head_dim)`.

    On NVIDIA GPUs in 16-bit precision it runs cuDNN's fused kernel, elsewhere XLA's own operations with a
    float32 softmax; for long sequences those take the queries block by block.

    Args:
      q: `[B, N, heads, head_dim]`.
      k, v: `[B, M, heads, head_dim]`.

    Returns:
      `[B, N, heads, head_dim]` in the dtype of `q`.
    """
    fused = jax.default_backend() == "gpu" and not _portable.get()
    if fused and q.dtype in (jnp.bfloat16, jnp.float16):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    batch, queries, heads, _ = q.shape
    bytes_per_query = 4 * batch * heads * k.shape[1]
    if queries * bytes_per_query <= LOGITS_BYTES:
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")

    @jax.checkpoint
    def one_query(q: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q[:, None], k, v, implementation="xla")[:, 0]

    block = max(1, LOGITS_BYTES // bytes_per_query)
    return jax.lax.map(one_query, q.swapaxes(0, 1), batch_size=block).swapaxes(0, 1)
