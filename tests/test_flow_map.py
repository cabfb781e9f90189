"""The identity of mean velocities on Gaussian data, whose trajectories are known in closed form."""

import jax
import numpy as np
import pytest

from stp_jax import flow, flow_map

MEAN, STD = np.array([0.7, -1.2, 0.1]), np.array([0.5, 1.3, 2.0])  # of three independent values


def spread(t):
    """Standard deviations of `(1 - t) x0 + t noise`, [B, 3]."""
    return np.sqrt(((1 - t[:, None]) * STD) ** 2 + t[:, None] ** 2)


def velocity(x, t):
    """E[noise - x0 | x_t = x] of Gaussian data, by the covariance of `noise - x0` and x_t."""
    t = t[:, None]
    covariance = t - (1 - t) * STD**2
    return -MEAN + covariance / spread(t[:, 0]) ** 2 * (x - (1 - t) * MEAN)


def flow_to(x, t, r):
    """Where the trajectory through x at t is at r: at as many standard deviations from the mean."""
    centred = (x - (1 - t[:, None]) * MEAN) / spread(t)
    return (1 - r[:, None]) * MEAN + spread(r) * centred


def mean_velocity(x, t, r):
    return (x - flow_to(x, t, r)) / (t - r)[:, None]


def points(seed=0, count=200):
    rng = np.random.default_rng(seed)
    t = rng.uniform(0.05, 0.98, count)
    return 2 * rng.standard_normal((count, 3)), t, rng.uniform(0, t - 0.02)


def target(u, x, v, t, r, delta):
    ends = flow_map.ends(x, v, t, r, delta)
    above, below = u(ends.x_above, ends.sigma_above, r), u(ends.x_below, ends.sigma_below, r)
    return flow_map.mean_velocity_target(v, above, below, t, r, ends)


def test_the_closed_form_is_the_flow_of_the_velocity():
    x, t, r = points()
    steps, path = 2000, x
    for i in range(steps):  # midpoints
        now, then = t + (r - t) * i / steps, t + (r - t) * (i + 1) / steps
        half = path + velocity(path, now) * (then - now)[:, None] / 2
        path = path + velocity(half, (now + then) / 2) * (then - now)[:, None]
    np.testing.assert_allclose(path, flow_to(x, t, r), atol=1e-5)


def test_the_exact_mean_velocity_is_its_own_target():
    """Up to the error of central differences, which falls with the square of delta."""
    x, t, r = points()
    exact, errors = mean_velocity(x, t, r), []
    for delta in (0.01, 0.005):
        found = target(mean_velocity, x, velocity(x, t), t, r, delta)
        assert found.dtype == np.float64
        inside = (t - delta >= r) & (t + delta <= 1)
        errors.append(np.abs(found - exact)[inside].max())
    assert inside.sum() > 150 and errors[0] < 5e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_at_the_bounds_the_differences_are_one_sided_and_stay_there():
    t, r = np.array([1.0, 0.998, 0.5, 0.4]), np.array([0.0, 0.0, 0.497, 0.4])
    x = np.random.default_rng(1).standard_normal((4, 3))
    ends = flow_map.ends(x, velocity(x, t), t, r, 0.005)
    np.testing.assert_allclose(ends.sigma_above, [1, 1, 0.505, 0.405])
    np.testing.assert_allclose(ends.sigma_below, [0.995, 0.993, 0.497, 0.4])
    np.testing.assert_allclose(ends.x_below, x - (t - ends.sigma_below)[:, None] * velocity(x, t), rtol=1e-12)
    rows = slice(0, 3)
    found = target(mean_velocity, x[rows], velocity(x, t)[rows], t[rows], r[rows], 0.0025)
    np.testing.assert_allclose(found, mean_velocity(x[rows], t[rows], r[rows]), atol=0.02)


def test_training_on_the_targets_comes_to_rest_at_the_flow_of_gaussian_data():
    """A linear model: `u = c(t, r) x`, c a polynomial, in regression to its own targets.

    A small step of it moves the coefficients w by `b - A w`. Where all eigenvalues of A have positive real
    parts, training comes to rest at `A w = b` from anywhere.
    """
    rng, std, degree = np.random.default_rng(0), 0.8, 5
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    t = rng.uniform(0.002, 1, 4000)
    r = np.where(rng.random(4000) < 0.5, t, rng.uniform(0, t))
    x, deviation = np.ones((4000, 1)), np.sqrt(((1 - t) * std) ** 2 + t**2)
    v = ((t - (1 - t) * std**2) / deviation**2)[:, None]

    def features(t, r):
        return np.stack([(2 * t - 1) ** i * (2 * r - 1) ** j for i, j in powers], -1)

    project = np.linalg.pinv(features(t, r))

    def projected_target(weights):
        def u(x, t, r):
            return x * (features(t, r) @ weights)[:, None]

        return project @ target(u, x, v, t, r, 0.005)[:, 0]

    b = projected_target(np.zeros(len(powers)))
    a = np.eye(len(powers)) - np.stack([projected_target(e) - b for e in np.eye(len(powers))], -1)
    assert np.linalg.eigvals(a).real.min() > 0.1
    weights = np.linalg.solve(a, b)
    late, early = (axis.ravel() for axis in np.meshgrid(np.linspace(0.1, 1, 10), np.linspace(0, 0.95, 9)))
    late, early = late[late > early + 0.01], early[late > early + 0.01]
    ends, begins = (np.sqrt(((1 - s) * std) ** 2 + s**2) for s in (early, late))
    exact = (1 - ends / begins) / (late - early)
    np.testing.assert_allclose(features(late, early) @ weights, exact, atol=0.02)


def test_shares_of_a_batch_are_exact_and_spread():
    for batch, share, expected in ((8, 0.5, 4), (64, 0.5, 32), (12, 0.25, 3), (5, 0.0, 0), (2, 0.5, 1)):
        instant = flow_map.instantaneous(batch, share)
        assert instant.shape == (batch,) and instant.sum() == expected
    for half in np.split(flow_map.instantaneous(64, 0.5), 4):  # on each of four devices
        assert half.sum() == 8


def test_steps_end_below_their_beginning_at_the_shares_asked_for():
    sigma = flow.random_levels(jax.random.key(0), 4096).sigma
    instant = flow_map.instantaneous(4096, 0.5)
    ends = np.asarray(flow_map.random_target_levels(jax.random.key(1), sigma, instant, 0.25))
    np.testing.assert_array_equal(ends[instant], np.asarray(sigma)[instant])
    assert (ends <= np.asarray(sigma)).all() and (ends >= 0).all()
    assert (ends[~instant] == 0).mean() == pytest.approx(0.5, abs=0.03)
    free = ~instant & (ends > 0)
    ratio = np.sort(ends[free] / np.asarray(sigma)[free])
    np.testing.assert_allclose(ratio, np.linspace(0, 1, len(ratio)), atol=0.06)


def test_weights_make_errors_count_alike_and_are_constants():
    errors = np.float32([0.5, 0.02, 0.0])
    weight = np.asarray(flow_map.adaptive_weight(errors, 1.0))
    np.testing.assert_allclose(weight * errors, errors / (errors + 1e-3), rtol=1e-5)
    np.testing.assert_array_equal(flow_map.adaptive_weight(errors, 0.0), 1)
    gradient = jax.grad(lambda e: (flow_map.adaptive_weight(e, 1.0) * e).sum())(errors)
    np.testing.assert_allclose(gradient, weight, rtol=1e-6)
