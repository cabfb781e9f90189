"""Three-axis rotary position embedding (Wan2.1's split of a head over frame, row and column)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from stp_jax.models.layers import cos_sin


def axis_frequencies(head_dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angular frequencies `10000^(-2j/d)` of the frame, row and column ranges of a head, float64.

    Rows and columns get `2 * (head_dim // 6)` of the head's dimensions each, frames the rest.

    Raises:
      ValueError: `head_dim` is odd.
    """
    if head_dim % 2:
        raise ValueError(f"head_dim must be even for rotary embedding, got {head_dim}")
    spatial = 2 * (head_dim // 6)

    def frequencies(dim: int) -> np.ndarray:
        return 10000.0 ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)

    return frequencies(head_dim - 2 * spatial), frequencies(spatial), frequencies(spatial)


def rotary_tables(
    frame_positions: jax.Array, grid: tuple[int, int], head_dim: int
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines `[B, F * h * w, 1, head_dim / 2]` float32 for tokens in frame, row, column order.

    Args:
      frame_positions: `[B, F]` position of each latent frame on the frame axis; fractions allowed.
      grid: tokens per frame, (h, w).
      head_dim: size of one attention head.
    """
    frame_freqs, row_freqs, column_freqs = axis_frequencies(head_dim)
    h, w = grid
    # The spatial angles are constants, so float64 costs nothing and keeps them exact.
    rows = np.broadcast_to(np.arange(h)[:, None, None] * row_freqs, (h, w, row_freqs.size))
    columns = np.broadcast_to(np.arange(w)[None, :, None] * column_freqs, (h, w, column_freqs.size))
    spatial = np.concatenate([rows, columns], -1)
    b, f = frame_positions.shape
    tables = []
    for numpy_function, over_frames in zip(
        (np.cos, np.sin), cos_sin(frame_positions, frame_freqs), strict=True
    ):
        over_time = jnp.broadcast_to(over_frames[:, :, None, None, :], (b, f, h, w, frame_freqs.size))
        over_space = jnp.broadcast_to(
            jnp.asarray(numpy_function(spatial), jnp.float32), (b, f, h, w, spatial.shape[-1])
        )
        tables.append(jnp.concatenate([over_time, over_space], -1).reshape(b, f * h * w, 1, head_dim // 2))
    return tables[0], tables[1]


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates pairs (a, b) of `x` `[B, N, heads, head_dim]`: `(a cos - b sin, a sin + b cos)`.

    Channels are in the half-split layout, see `layers.half_split`; Wan's parameters are interleaved.
    """
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).astype(x.dtype)
