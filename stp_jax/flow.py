"""Flow matching: noise levels, noising, and the Euler step that walks back.

Rectified flow as in Wan2.1: `x_sigma = (1 - sigma) * x0 + sigma * noise`, and the model predicts the velocity
`noise - x0`. `sigma` is in [0, 1]; `timestep = 1000 * sigma` is what the model is told.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

MAX_TIMESTEP = 1000.0


def shift_sigma(u, shift: float):
    """Moves noise levels `u` in [0, 1] towards 1 for `shift` > 1.

    `s u / (1 + (s - 1) u)` (Esser et al. 2024, eq. 23).
    """
    return shift * u / (1 + (shift - 1) * u)


def sampling_sigmas(steps: int, shift: float) -> np.ndarray:
    """Noise levels `[steps + 1]` float32 that sampling visits, from 1 down to 0."""
    u = np.linspace(1, 0, steps + 1)
    return shift_sigma(u, shift).astype(np.float32)


def random_sigmas(key: jax.Array, batch: int, *, shift: float, logit_normal: bool = False) -> jax.Array:
    """Noise levels `[batch]` for training: uniform (or logit-normal) levels, then shifted.

    The uniform ones are stratified over the batch, which lowers the variance of the loss at no cost.
    """
    if logit_normal:
        u = jax.nn.sigmoid(jax.random.normal(key, (batch,)))
    else:
        u = (jnp.arange(batch) + jax.random.uniform(key, (batch,))) / batch
    return shift_sigma(u, shift)


def _per_sample(sigma: jax.Array, like: jax.Array) -> jax.Array:
    return sigma.reshape(sigma.shape + (1,) * (like.ndim - sigma.ndim))


def add_noise(x0: jax.Array, noise: jax.Array, sigma: jax.Array) -> jax.Array:
    """`x_sigma` for clean `x0` `[B, ...]`, `noise` of the same shape and `sigma` `[B]`."""
    sigma = _per_sample(sigma, x0)
    return (1 - sigma) * x0 + sigma * noise


def velocity(x0: jax.Array, noise: jax.Array) -> jax.Array:
    """What the model learns to predict: `d x_sigma / d sigma`."""
    return noise - x0


def euler_step(x: jax.Array, velocity: jax.Array, sigma: jax.Array, next_sigma: jax.Array) -> jax.Array:
    """One step of the probability-flow ODE from noise level `sigma` to `next_sigma` (scalars)."""
    return x + velocity * (next_sigma - sigma)
