import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs.demo_vae import get_config
from stp_jax.errors import InputError
from stp_jax.models.vae import VAE, VAEConfig
from stp_jax.training.vae_loss import VAELossWeights, _some_frames, latent_statistics, vae_loss
from stp_jax.training.vae_task import VAETask
from stp_jax.weights import lpips

CONFIG = VAEConfig(
    dim=4,
    z_dim=3,
    dim_mult=(1, 2, 2),
    res_blocks=1,
    temporal_downsample=(False, True),
    latent_mean=(0.0,) * 3,
    latent_std=(1.0,) * 3,
)


class FakeVAE:
    """Knows its latents and its reconstruction beforehand."""

    def __init__(self, mean, logvar, output):
        self.mean, self.logvar, self.output = mean, logvar, output

    def moments(self, video):
        return self.mean, self.logvar

    def decode_raw(self, z):
        self.z = z
        return self.output


@pytest.fixture(scope="module")
def vae():
    """With random kernels as at the start of training; numpy draws them without compilation."""
    graph, state = nnx.split(nnx.eval_shape(lambda: VAE(CONFIG, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)

    def start(path, leaf):
        if path[-1] != "kernel":
            return np.full(leaf.shape, float(path[-1] == "gamma"), np.float32)
        return (rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)

    shapes = nnx.to_flat_state(state)
    arrays = [(path, leaf.replace(jnp.asarray(start(path, leaf)))) for path, leaf in shapes]
    return nnx.merge(graph, nnx.from_flat_state(arrays))


def moving_square(frames=5, size=16):
    """A bright square that moves over a gradient, [1, F, H, W, 3]."""
    video = np.broadcast_to(np.linspace(-0.8, 0.2, size)[:, None], (1, frames, size, size, 3)).copy()
    for frame in range(frames):
        video[:, frame, 4:10, frame + 2 : frame + 8] = (0.9, 0.1, -0.5)
    return video


def test_the_parts_of_the_loss_equal_float64_formulas():
    rng = np.random.default_rng(0)
    video = np.round((rng.uniform(-1, 1, (2, 5, 8, 8, 3)) + 1) * 127.5) / 127.5 - 1
    output = video + rng.normal(0, 0.2, video.shape)
    mean, logvar = rng.standard_normal((2, 2, 1, 1, 3)), rng.standard_normal((2, 2, 1, 1, 3))
    arrays = [jnp.asarray(x, jnp.float32) for x in (mean, logvar, output)]
    weights = VAELossWeights(l1=0.7, l2=0.3, gradient=0.4, kl=0.05)
    loss, metrics = vae_loss(FakeVAE(*arrays), jnp.asarray(video), jax.random.key(0), weights)

    steps = [np.mean(np.abs(np.diff(output, axis=a) - np.diff(video, axis=a))) for a in (1, 2, 3)]
    expected = {
        "l1": np.mean(np.abs(output - video)),
        "l2": np.mean((output - video) ** 2),
        "gradient": np.mean(steps),
        "kl": np.mean(0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    total = sum(getattr(weights, name) * value for name, value in expected.items())
    np.testing.assert_allclose(loss, total, rtol=1e-5)

    a, b = (np.round((np.clip(x, -1, 1) + 1) * 127.5) for x in (output, video))
    psnr = [10 * np.log10(255**2 / np.mean((x - y) ** 2)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(metrics["psnr"], np.mean(psnr), rtol=1e-4)


def test_latents_are_drawn_from_the_encoders_distribution():
    shape = (1, 8, 50, 50, 3)
    mean = jnp.broadcast_to(jnp.asarray([1.0, -2.0, 0.0]), shape)
    logvar = jnp.broadcast_to(jnp.log(jnp.asarray([0.25, 1.0, 4.0])), shape)
    video = jnp.zeros((1, 1, 8, 8, 3))
    fake = FakeVAE(mean, logvar, video)
    vae_loss(fake, video, jax.random.key(0))
    np.testing.assert_allclose(fake.z.mean((0, 1, 2, 3)), [1, -2, 0], atol=0.06)
    np.testing.assert_allclose(fake.z.std((0, 1, 2, 3)), [0.5, 1, 2], rtol=0.03)


def test_a_perfect_reconstruction_of_one_frame_has_a_finite_score():
    video = jnp.zeros((1, 1, 8, 8, 3))
    latents = jnp.zeros((1, 1, 1, 1, 3))
    loss, metrics = vae_loss(FakeVAE(latents, latents, video), video, jax.random.key(0))
    assert loss == 0
    assert metrics["psnr"] == 100


def test_training_reaches_every_parameter_and_learns_a_clip(vae):
    graph, state = nnx.split(vae)
    video = jnp.asarray(moving_square(), jnp.float32)
    optimiser = optax.flatten(optax.adam(1e-2))  # in one array: one for each parameter compiles for seconds

    @jax.jit
    def step(state, opt_state, key):
        def loss(state):
            return vae_loss(nnx.merge(graph, state), video, key)

        (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state)
        updates, opt_state = optimiser.update(gradients, opt_state)
        return optax.apply_updates(state, updates), opt_state, metrics, gradients

    opt_state = optimiser.init(state)
    psnr = []
    for key in jax.random.split(jax.random.key(0), 120):
        state, opt_state, metrics, gradients = step(state, opt_state, key)
        psnr.append(float(metrics["psnr"]))
    for path, gradient in nnx.to_flat_state(gradients):
        assert np.any(np.asarray(gradient[...]) != 0), path
    assert np.mean(psnr[-5:]) > 23  # the still background alone reaches 17


def test_statistics_normalise_the_latents_of_all_batches_together(vae):
    rng = np.random.default_rng(0)
    batches = [
        rng.uniform(-1, 1, (size, 5, 16, 16, 3)).astype("f4") * scale for size, scale in ((2, 1), (1, 0.1))
    ]
    mean, std = latent_statistics(vae, batches)
    normalised = dataclasses.replace(CONFIG, latent_mean=mean, latent_std=std)
    graph = nnx.graphdef(nnx.eval_shape(lambda: VAE(normalised, rngs=nnx.Rngs(0))))
    encode = jax.jit(lambda state, video: nnx.merge(graph, state).encode(video))
    latents = encode(nnx.state(vae), jnp.asarray(np.concatenate(batches)))
    np.testing.assert_allclose(latents.mean((0, 1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(latents.std((0, 1, 2, 3)), 1, atol=1e-5)


def test_statistics_of_nothing_are_refused(vae):
    with pytest.raises(ValueError, match="at least one batch"):
        latent_statistics(vae, [])


def test_the_perceptual_part_is_the_lpips_of_some_frames():
    weights = lpips.read()
    if weights is None:
        pytest.skip("the extra eval is not installed")
    rng = np.random.default_rng(0)
    video = rng.uniform(-1, 1, (2, 3, 40, 40, 3)).astype(np.float32)
    output = np.clip(video + rng.normal(0, 0.3, video.shape), -1, 1).astype(np.float32)
    latents = jnp.zeros((2, 2, 1, 1, 3))
    chosen = dataclasses.replace(VAELossWeights(0, 0, 0, 0, 0), perceptual=2.0)
    loss, metrics = vae_loss(FakeVAE(latents, latents, output), video, jax.random.key(0), chosen, weights)
    expected = np.mean([lpips.distance(weights, a, b) for a, b in zip(output, video, strict=True)])
    assert metrics["perceptual"] == pytest.approx(expected, rel=1e-4) and expected > 0.01
    assert loss == pytest.approx(2 * expected, rel=1e-4)
    frames = jnp.arange(17.0)[None, :, None, None, None]
    shown = {tuple(_some_frames(frames, jax.random.key(i)).ravel().tolist()) for i in range(40)}
    assert shown == {tuple(range(first, first + 13, 4)) for first in range(5)}


def test_features_of_zero_have_a_gradient():
    features = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    gradient = jax.grad(lambda x: (lpips._normalised(x) * jnp.array([1.0, 2.0])).sum())(features)
    np.testing.assert_allclose(gradient[1], [(1 - 0.6 * 2.2) / 5, (2 - 0.8 * 2.2) / 5], rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_the_perceptual_part_needs_the_package_and_pictures_of_some_size(monkeypatch):
    config = get_config("cpu")
    config.loss.perceptual, config.crop = 1.0, 24
    if lpips.read() is not None:
        with pytest.raises(InputError, match="31 x 31"):
            VAETask(config)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="stp-jax.eval"):
        VAETask(config)


def test_a_pattern_that_is_none_is_refused():
    config = get_config("cpu")
    config.train.trainable = "("
    with pytest.raises(InputError, match="trainable '\\(' is not a regular expression"):
        VAETask(config)
