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


def test_random_levels_follow_the_shifted_uniform_distribution():
    sigmas = np.sort(np.asarray(flow.random_levels(jax.random.key(0), 4096, shift=3.0).sigma))
    expected = flow.shift_sigma(np.linspace(0, 1, 4096), 3.0)
    assert 0 <= sigmas[0] and sigmas[-1] <= 1
    np.testing.assert_allclose(sigmas, expected, atol=2e-3)


def test_logit_normal_levels_are_the_sigmoid_of_normal_numbers_then_shifted():
    levels = flow.random_levels(jax.random.key(0), 20_000, sampling="logit_normal", shift=2.0)
    u = np.asarray(levels.sigma) / (2 - np.asarray(levels.sigma))  # the shift undone
    logits = np.log(u / (1 - u))
    assert abs(logits.mean()) < 0.03 and abs(logits.std() - 1) < 0.03
    np.testing.assert_allclose(levels.timestep, 1000 * levels.sigma)
    assert (levels.weight == 1).all()


def test_official_levels_are_those_of_its_rounded_timesteps():
    """As the specification of the official training says, figure by figure."""
    sigmas, timesteps = flow.official_levels(5.0)
    plain = 1000 * flow.sampling_sigmas(1000, 5.0)[:-1].astype(np.float64)
    ids = np.array([np.abs(plain - t).argmin() for t in timesteps])
    moved = np.abs(ids - np.arange(1000))
    assert (moved > 0).sum() == 706 and moved.max() == 10
    assert np.abs(sigmas - plain / 1000).max() <= 0.0025
    np.testing.assert_allclose(sigmas, plain[ids] / 1000, rtol=1e-6)
    assert all(np.float32(t).view(np.uint32) & 0xFFFF == 0 for t in timesteps)  # bfloat16
    drawn = flow.random_levels(jax.random.key(0), 5000, sampling="official", shift=5.0)
    assert set(np.asarray(drawn.timestep).tolist()) <= set(timesteps.tolist())


def test_official_weights_have_mean_one_and_the_known_extremes():
    sigmas = flow.sampling_sigmas(1000, 5.0)[:-1]
    weights = np.asarray(flow.official_weight(jnp.asarray(sigmas), 5.0))
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-5)
    assert weights[0] == 0 and abs(weights.max() - 2.076) < 5e-4 and abs(weights[-1] - 0.03) < 5e-3


def test_resolution_shift_grows_with_the_root_of_tokens():
    assert flow.resolution_shift(4096, 1024) == 2 and flow.resolution_shift(1024, 1024) == 1
