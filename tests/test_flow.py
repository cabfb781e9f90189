import jax
import jax.numpy as jnp
import numpy as np

from stp_jax import flow


def test_sampling_sigmas_match_the_closed_form():
    n, s = 20, 5.0
    expected = [s * (1 - i / n) / (1 + (s - 1) * (1 - i / n)) for i in range(n + 1)]
    np.testing.assert_allclose(flow.sampling_sigmas(n, s), expected, rtol=1e-6)


def test_euler_with_the_true_velocity_recovers_the_clean_sample_from_any_noise():
    x0, noise = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    sigmas = flow.sampling_sigmas(7, 3.0)
    x = noise
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        np.testing.assert_allclose(x, flow.add_noise(x0, noise, jnp.full((3,), sigma)), atol=1e-5)
        x = flow.euler_step(x, flow.velocity(x0, noise), sigma, after)
    np.testing.assert_allclose(x, x0, atol=1e-5)


def test_velocity_is_the_derivative_of_the_noised_sample():
    x0, noise = jax.random.normal(jax.random.key(1), (2, 1, 6))
    up, down = (flow.add_noise(x0, noise, jnp.array([s])) for s in (0.51, 0.49))
    np.testing.assert_allclose((up - down) / 0.02, flow.velocity(x0, noise), atol=1e-4)


def test_random_sigmas_follow_the_shifted_uniform_distribution():
    sigmas = np.sort(np.asarray(flow.random_sigmas(jax.random.key(0), 4096, shift=3.0)))
    expected = flow.shift_sigma(np.linspace(0, 1, 4096), 3.0)
    assert 0 <= sigmas[0] and sigmas[-1] <= 1
    np.testing.assert_allclose(sigmas, expected, atol=2e-3)
