"""Which steps of sampling reuse an earlier velocity: EasyCache's rule (Zhou et al. 2025), for Euler steps.

EasyCache (arXiv 2507.02860) measures how fast the output of the model changes with its input, a rate that
changes little from step to step:

    k = |v_i - v_j| / |x_i - x_j|,     |.| the mean of the absolute values, j the computed step before i.

It predicts the relative change of the output from each change of the input, k |x_n - x_(n-1)| / |v|, adds
these up since the last computed step, and reuses that step's output while the sum is below a threshold. With
Euler steps that reuse the velocity v, the input changes by v times the step's length, so that the sum is

    k |x_n - x_i| / |v_i| = r (sigma_i - sigma_n),     r = |v_i - v_j| / (|v_j| (sigma_j - sigma_i)):

the rate r is the relative change of the velocity for a unit of noise level, and steps that reuse a velocity
become one longer step with the computed one. The original keeps v - x instead of v; on the demo the velocity
is the better one to keep (docs/speed.md).

Always computed are the first fifth of the steps (as in the original, 10 of 50), the last one, and one where
guidance begins or ends, as the velocity jumps there; such a jump does not count as a rate. Until there is
one, FIRST_RATE is taken.

Each video of a batch has its own rate, and reuses its own velocity or takes the new one as it would alone: it
does not depend on the others. The model runs where any of them wants a new one. Rates are whole on all
devices and processes, so that all decide alike.

Frames that are put in their place at every noise level are left out of the means: their velocity hardly
changes, and where a window begins with many of them, its new frames would be taken to change as little.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stp_jax.devices.sharding import constrain

FIRST_RATE = 1 / 3  # of the demo from its first step to its second, about: 0.08 to 0.5
WARM_UP = 5  # the first 1 / WARM_UP of the steps is computed


class Kept(NamedTuple):
    """What is kept of each video's last computed step."""

    velocity: jax.Array  # [B, F', H', W', C]
    sigma: jax.Array  # [B]
    rate: jax.Array  # [B]


class VelocityCache:
    """The velocities of a batch that are reused while it is sampled.

    Args:
      x: latents [B, F', H', W', C] before the first step.
      guided: bool [steps], steps with guidance.
      threshold: of the predicted change.
      first: the first latent frame that is not put in its place.
    """

    def __init__(self, x: jax.Array, guided: np.ndarray, threshold: float, first: int = 0):
        self._kept = Kept(jnp.zeros_like(x), jnp.ones(len(x)), jnp.full(len(x), FIRST_RATE))
        self._changes = np.append(True, guided[1:] != guided[:-1])
        self._always = self._changes | (np.arange(len(guided)) < -(-len(guided) // WARM_UP))
        self._always[-1] = True
        self._threshold, self._first = threshold, first

    @property
    def velocity(self) -> jax.Array:
        """[B, F', H', W', C], of the last computed steps."""
        return self._kept.velocity

    def wanted(self, number: int, sigma: float) -> np.ndarray:
        """Which videos need a new velocity at this noise level, bool [B]; waits for the step before."""
        if self._always[number]:
            return np.ones(len(self.velocity), bool)
        change = np.asarray(self._kept.rate) * (np.asarray(self._kept.sigma) - sigma)
        return ~(change < self._threshold)  # so that what is not a number is not reused

    def keep(self, number: int, sigma: float, wanted: np.ndarray, velocity: jax.Array) -> None:
        """Keeps the velocity [B, F', H', W', C] of a step, for the videos that want it."""
        comparable = not self._changes[number]
        self._kept = _keep(self._kept, velocity, sigma, wanted, comparable, first=self._first)


@functools.partial(jax.jit, static_argnames="first")
def _keep(
    kept: Kept, velocity: jax.Array, sigma: jax.Array, wanted: jax.Array, comparable: jax.Array, first: int
) -> Kept:
    """`comparable`: bool [], whether both velocities are of one kind, guided or not."""

    def size(x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.abs(x[:, first:]), axis=tuple(range(1, x.ndim)))

    rate = size(velocity - kept.velocity) / (size(kept.velocity) * (kept.sigma - sigma))
    return Kept(
        jnp.where(wanted.reshape(-1, *[1] * (velocity.ndim - 1)), velocity, kept.velocity),
        constrain(jnp.where(wanted, sigma, kept.sigma), None),
        constrain(jnp.where(wanted & comparable, rate, kept.rate), None),
    )
