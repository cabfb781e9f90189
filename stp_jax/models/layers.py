"""Small layers shared by the models: parameter containers with explicit compute precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

lecun_normal = jax.nn.initializers.lecun_normal()
zeros = jax.nn.initializers.zeros


class Dense(nnx.Module):
    """`x @ kernel + bias`: parameters float32, arithmetic in the dtype of `x`."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, init=lecun_normal):
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


class MLP(nnx.Module):
    """Dense, SiLU, Dense."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, rngs: nnx.Rngs):
        self.layer_in = Dense(inputs, hidden, rngs=rngs)
        self.layer_out = Dense(hidden, outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer_out(jax.nn.silu(self.layer_in(x)))


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis, statistics in float32."""

    def __init__(self, dim: int, eps: float):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
        return (y * self.scale[...]).astype(x.dtype)


def layer_norm(x: jax.Array, eps: float) -> jax.Array:
    """Layer norm over the last axis without parameters; float32 inside and out."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, -1, keepdims=True)
    return y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + eps)


def sinusoid(positions: jax.Array, dim: int) -> jax.Array:
    """`[cos(p a_0), .., sin(p a_0), ..]`, `a_i = 10000^(-2i/dim)` (Wan2.1).

    `positions` `[...]` -> `[..., dim]` float32.
    """
    half = dim // 2
    frequencies = 10000.0 ** (-np.arange(half, dtype=np.float64) / half)
    angles = positions.astype(jnp.float32)[..., None] * jnp.asarray(frequencies, jnp.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
