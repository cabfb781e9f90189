"""Flow maps: the mean velocity of a sampling step of any length, so that few steps are enough.

Along a trajectory of the probability-flow ODE `dx/dt = v(x, t)` the mean velocity between the noise levels t
and r <= t is

    u(x_t, t, r) = 1 / (t - r) * integral of v(x_s, s) ds from r to t,   u(x_t, t, t) = v(x_t, t),

so that one Euler step with u, `x_r = x_t - (t - r) u(x_t, t, r)`, is exact however long it is.
Differentiating `(t - r) u` along the trajectory gives the identity that a model is trained on (MeanFlow, Geng
et al. 2025, arXiv 2505.13447, eq. 6):

    u = v - (t - r) du/dt,   du/dt = u(x_t + d v, t + d, r) - u(x_t - d v, t - d, r) over 2 d, d -> 0.

The central difference in place of a Jacobian-vector product is that of AnyFlow (Gu et al. 2026, arXiv
2605.13724): no kernel needs a derivative in forward mode. `sigma` is t, `target_sigma` is r; see
`stp_jax.flow`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

WEIGHT_FLOOR = 1e-3  # added to the mean squared error of an example before its weight is taken


class Ends(NamedTuple):
    """Two points of a trajectory, just after and just before a noise level: latents [B, ...], sigmas [B]."""

    x_above: Any
    sigma_above: Any
    x_below: Any
    sigma_below: Any


def ends(x: Any, velocity: Any, sigma: Any, target_sigma: Any, delta: float) -> Ends:
    """The points between which the derivative of the mean velocity is taken.

    They are `delta` away from `sigma`, but not above 1, where there is no more noise, nor below
    `target_sigma`, where the step would go backwards: there the difference is one-sided.

    Args:
      x: `[B, ...]` at the noise levels `sigma` `[B]`.
      velocity: of x there, of the same shape.
      target_sigma: `[B]`, at most `sigma`.
      delta: in units of sigma.
    """
    xp = sigma.__array_namespace__()
    above, below = xp.minimum(sigma + delta, 1.0), xp.maximum(sigma - delta, target_sigma)
    rest = (-1,) + (1,) * (x.ndim - 1)

    def at(level: Any) -> Any:
        return x + (level - sigma).reshape(rest) * velocity

    return Ends(at(above), above, at(below), below)


def mean_velocity_target(
    velocity: Any, u_above: Any, u_below: Any, sigma: Any, target_sigma: Any, points: Ends
) -> Any:
    """`v - (t - r) du/dt`, which equals the mean velocity where `u` is exact, up to the error of `ends`.

    Args:
      velocity: `[B, ...]` at the noise levels `sigma` `[B]`.
      u_above, u_below: mean velocities from both `points` to `target_sigma` `[B]`.
    """
    factor = (sigma - target_sigma) / (points.sigma_above - points.sigma_below)
    return velocity - factor.reshape((-1,) + (1,) * (velocity.ndim - 1)) * (u_above - u_below)


def instantaneous(batch: int, share: float) -> np.ndarray:
    """Which examples of a batch train the velocity itself, r = t: this share of them, evenly spread.

    The choice is fixed, so that no differences are computed for them. Returns bool `[batch]`.
    """
    count = np.floor(np.arange(batch + 1) * share + 1e-9)
    return np.diff(count) > 0


def random_target_levels(
    key: jax.Array, sigma: jax.Array, instant: np.ndarray, clean_share: float
) -> jax.Array:
    """Noise levels `[B]` to which the steps from `sigma` `[B]` go.

    Args:
      instant: bool `[B]`; for these examples it is `sigma` itself.
      clean_share: of the whole batch, that go to 0. The rest goes anywhere between 0 and `sigma`, uniformly.
    """
    share_key, level_key = jax.random.split(key)
    others = max(1e-9, 1 - float(np.mean(instant)))
    clean = jax.random.uniform(share_key, sigma.shape) < clean_share / others
    free = sigma * jax.random.uniform(level_key, sigma.shape)
    return jnp.where(instant, sigma, jnp.where(clean, 0.0, free))


def adaptive_weight(errors: jax.Array, power: float) -> jax.Array:
    """Weights `[B]` of examples with these mean squared errors: `1 / (error + WEIGHT_FLOOR)^power`.

    Long steps have errors many times those of short ones; with a power of 1 all count alike (MeanFlow).
    The weight is a constant to the gradient.
    """
    return jax.lax.stop_gradient((errors + WEIGHT_FLOOR) ** -power)
