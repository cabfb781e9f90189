"""Flow matching: noise levels, adding noise, and the Euler step that removes it.

Rectified flow as in Wan2.1: `x_sigma = (1 - sigma) * x0 + sigma * noise`, and the model predicts the velocity
`noise - x0`. `sigma` is in [0, 1]; the model is given `timestep = 1000 * sigma`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

MAX_TIMESTEP = 1000.0
SAMPLINGS, WEIGHTINGS = ("uniform", "logit_normal", "official"), ("none", "official")


def shift_sigma(u, shift: float):
    """Moves noise levels `u` in [0, 1] towards 1 for `shift` > 1.

    `s u / (1 + (s - 1) u)` (Esser et al. 2024, eq. 23).
    """
    return shift * u / (1 + (shift - 1) * u)


def sampling_sigmas(steps: int, shift: float) -> np.ndarray:
    """Noise levels `[steps + 1]` float32 that sampling visits, from 1 down to 0."""
    u = np.linspace(1, 0, steps + 1)
    return shift_sigma(u, shift).astype(np.float32)


class NoiseLevels(NamedTuple):
    """Noise levels of a batch, each `[B]` float32."""

    sigma: jax.Array  # how much noise is added
    timestep: jax.Array  # what the model is given
    weight: jax.Array  # of the example in the loss


def random_levels(
    key: jax.Array, batch: int, *, sampling: str = "uniform", shift: float = 1.0, weighting: str = "none"
) -> NoiseLevels:
    """Noise levels for training.

    Args:
      batch: their number, B.
      sampling: `uniform`: stratified over the batch, which lowers the variance of the loss at no cost.
        `logit_normal` (Esser et al. 2024): more levels near the middle. `official`: as in ReCamMaster's
        training, see `official_levels`.
      shift: see `shift_sigma`.
      weighting: `none`; `official`: a bell around timestep 500, see `official_weight`.

    Raises:
      ValueError: an unknown `sampling` or `weighting`.
    """
    if sampling not in SAMPLINGS or weighting not in WEIGHTINGS:
        raise ValueError(
            f"sampling {sampling!r} and weighting {weighting!r}: choose of {', '.join(SAMPLINGS)} and of "
            f"{', '.join(WEIGHTINGS)}"
        )
    if sampling == "official":
        sigmas, timesteps = official_levels(shift)
        index = jax.random.randint(key, (batch,), 0, len(sigmas))
        sigma, timestep = jnp.asarray(sigmas)[index], jnp.asarray(timesteps)[index]
    else:
        if sampling == "logit_normal":
            u = jax.nn.sigmoid(jax.random.normal(key, (batch,)))
        else:
            u = (jnp.arange(batch) + jax.random.uniform(key, (batch,))) / batch
        sigma = shift_sigma(u, shift)
        timestep = MAX_TIMESTEP * sigma
    weight = official_weight(sigma, shift) if weighting == "official" else jnp.ones_like(sigma)
    return NoiseLevels(sigma, timestep, weight)


def official_levels(shift: float, count: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Sigmas of the noise, and timesteps that the model is given, in ReCamMaster's training: `[count]`
    float32.

    A timestep of the shifted schedule is first rounded to bfloat16. The noise then has the level of the
    schedule that is nearest to the rounded timestep.
    """
    levels = sampling_sigmas(count, shift)[:-1]
    timesteps = (np.float32(MAX_TIMESTEP) * levels).astype(np.float32)
    rounded = timesteps.astype(ml_dtypes.bfloat16).astype(np.float32)
    nearest = np.abs(timesteps[None] - rounded[:, None]).argmin(1)
    return levels[nearest], rounded


def official_weight(sigma: jax.Array, shift: float, count: int = 1000) -> jax.Array:
    """The weight of noise levels in ReCamMaster's loss: a bell around timestep 500, of mean 1, 0 at 1000.

    `y = exp(-2 ((t - 500) / 1000)^2)`, less its least value over the `count` shifted timesteps, divided by
    the mean of that.
    """

    def bell(timestep):
        xp = timestep.__array_namespace__()
        return xp.exp(-2 * ((timestep - 500) / 1000) ** 2)

    table = bell(MAX_TIMESTEP * sampling_sigmas(count, shift)[:-1].astype(np.float64))
    least, mean = float(table.min()), float((table - table.min()).mean())
    return jnp.maximum(bell(MAX_TIMESTEP * sigma) - least, 0) / mean


def resolution_shift(tokens: int, base_tokens: int) -> float:
    """The shift at which noise hides a video of more tokens as much as one of `base_tokens` without a shift.

    `sqrt(tokens / base_tokens)` (Esser et al. 2024, eq. 23).
    """
    return math.sqrt(tokens / base_tokens)


def _per_sample(sigma: jax.Array, like: jax.Array) -> jax.Array:
    return sigma.reshape(sigma.shape + (1,) * (like.ndim - sigma.ndim))


def add_noise(x0: jax.Array, noise: jax.Array, sigma: jax.Array) -> jax.Array:
    """`x_sigma` for clean `x0` `[B, ...]`, `noise` of the same shape and `sigma` `[B]`."""
    sigma = _per_sample(sigma, x0)
    return (1 - sigma) * x0 + sigma * noise


def velocity(x0: jax.Array, noise: jax.Array) -> jax.Array:
    """The velocity that the model learns to predict: `d x_sigma / d sigma`."""
    return noise - x0


def euler_step(x: jax.Array, velocity: jax.Array, sigma: jax.Array, next_sigma: jax.Array) -> jax.Array:
    """One step of the probability-flow ODE from noise level `sigma` to `next_sigma` (scalars)."""
    return x + velocity * (next_sigma - sigma)
