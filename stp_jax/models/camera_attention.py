"""Cameras inside attention: PRoPE, projective positional encoding (Li et al. 2025, "Cameras as relative
positional encoding").

The first half of each head's channels is `head_dim / 8` vectors of four components; the second half keeps
the rotary embedding. With `P_i` the 4 x 4 matrix that projects the world into the picture of token i, the
logit of query i and key j is `q_i^T P_i P_j^-1 k_j`, and query i reads the value `P_i P_j^-1 v_j`. So
attention depends only on the relation of two cameras, not on the world's frame. As in the paper, queries are
multiplied by `P^T`, keys and values by `P^-1`, and the result by `P`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stp_jax.models.rope import rotate


def latent_projections(c2w: jax.Array, intrinsics: jax.Array, scene_scale: float) -> jax.Array:
    """`P` and `P^-1` of the last pixel frame of each latent frame, `[B, F', 2, 4, 4]` float32.

    `P = [K 0; 0 1] [R^T -R^T t; 0 1]` for poses (R, t) camera-to-world. K has the focal lengths by width and
    height, and the principal point as its distance from the picture's centre.

    Args:
      c2w: `[B, F, 4, 4]`, metres.
      intrinsics: `[B, F, 4]`, normalised by width and height.
      scene_scale: metres that count as 1.
    """
    c2w, intrinsics = c2w[:, ::4].astype(jnp.float32), intrinsics[:, ::4].astype(jnp.float32)
    fx, fy, cx, cy = jnp.split(intrinsics[..., None], 4, axis=-2)  # each [B, F', 1, 1]
    rotation, position = c2w[..., :3, :3], c2w[..., :3, 3:] / scene_scale
    last = jnp.broadcast_to(jnp.asarray([[0, 0, 0, 1]], jnp.float32), (*c2w.shape[:2], 1, 4))
    zero, one = jnp.zeros_like(fx), jnp.ones_like(fx)

    def rows(*values: list[jax.Array]) -> jax.Array:
        return jnp.concatenate([jnp.concatenate(row, axis=-1) for row in values], axis=-2)

    project = rows([fx, zero, cx - 0.5], [zero, fy, cy - 0.5], [zero, zero, one])
    unproject = rows([1 / fx, zero, (0.5 - cx) / fx], [zero, 1 / fy, (0.5 - cy) / fy], [zero, zero, one])
    w2c = jnp.einsum("bfij,bfkj->bfik", project, rotation, precision="highest")  # K R^T
    forward = jnp.concatenate([w2c, -jnp.matmul(w2c, position, precision="highest")], axis=-1)
    backward = jnp.matmul(rotation, unproject, precision="highest")
    backward = jnp.concatenate([backward, position], axis=-1)
    both = [jnp.concatenate([part, last], axis=-2) for part in (forward, backward)]
    return jnp.stack(both, axis=2)


def _transform(x: jax.Array, matrices: jax.Array) -> jax.Array:
    """`matrices` `[B, N, 4, 4]` times the vectors of `x` `[B, N, heads, 4 n]`; float32.

    Component i of all vectors comes before component i + 1. So slices of channels are multiplied by one
    number for each token, which the compiler fuses with the operations around it.
    """
    parts = jnp.split(x.astype(jnp.float32), 4, axis=-1)
    rows = []
    for i in range(4):
        row = [matrices[:, :, i, j, None, None] * part for j, part in enumerate(parts)]
        rows.append(row[0] + row[1] + row[2] + row[3])
    return jnp.concatenate(rows, axis=-1)


def _join(x: jax.Array, matrices: jax.Array, rest: jax.Array) -> jax.Array:
    first = x[..., : x.shape[-1] // 2]
    return jnp.concatenate([_transform(first, matrices).astype(x.dtype), rest], axis=-1)


def encode_queries(q: jax.Array, cameras: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """`q` `[B, N, heads, head_dim]`; `cameras` `[B, N, 2, 4, 4]` of `latent_projections`, for each token;
    `cos`, `sin` `[B or 1, N, 1, head_dim / 4]`."""
    transposed = cameras[:, :, 0].swapaxes(-1, -2)
    return _join(q, transposed, rotate(q[..., q.shape[-1] // 2 :], cos, sin))


def encode_keys(k: jax.Array, cameras: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """`k` `[B, N, heads, head_dim]` encoded; other arguments as for `encode_queries`."""
    return _join(k, cameras[:, :, 1], rotate(k[..., k.shape[-1] // 2 :], cos, sin))


def encode_values(v: jax.Array, cameras: jax.Array) -> jax.Array:
    """Values `[B, N, heads, head_dim]`, taken from their cameras into the world's frame."""
    return _join(v, cameras[:, :, 1], v[..., v.shape[-1] // 2 :])


def decode(a: jax.Array, cameras: jax.Array) -> jax.Array:
    """The output of attention, `[B, N, heads, head_dim]`, taken into the frame of each query's camera."""
    return _join(a, cameras[:, :, 0], a[..., a.shape[-1] // 2 :])
