"""The loss of the VAE, and the statistics of its latents after training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stp_jax.models.vae import VAE
from stp_jax.weights import lpips


@dataclasses.dataclass(frozen=True)
class VAELossWeights:
    """Weights of the parts of the loss, each a mean over its elements, of video in [-1, 1].

    Attributes:
      l1: absolute error.
      l2: squared error.
      gradient: absolute error of the differences between neighbours in x, y and frames: sharp edges,
        no flicker.
      perceptual: LPIPS of every fourth frame, see `stp_jax.weights.lpips`: texture instead of blur.
      kl: Kullback-Leibler divergence from a unit normal, in nats per latent value. Small, so that it bounds
        the latents and smooths them at hardly any cost in sharpness.
    """

    l1: float = 1.0
    l2: float = 1.0
    gradient: float = 0.5
    perceptual: float = 0.0
    kl: float = 1e-5


def vae_loss(
    vae: VAE,
    video: jax.Array,
    key: jax.Array,
    weights: VAELossWeights = VAELossWeights(),
    lpips_weights: dict[str, Any] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a batch of clips, through latents drawn from the encoder's distribution.

    Args:
      video: [B, F, H, W, 3] in [-1, 1]; see `VAE.moments` for the sizes.
      key: random key for the noise of the latents.
      lpips_weights: of `lpips.read`, if `weights.perceptual` is not 0.

    Returns:
      loss: float32 scalar.
      metrics: its parts `l1`, `l2`, `gradient`, `kl` and, if asked for, `perceptual`, not weighted;
        `latent_rms` and `noise_rms`, root mean squares of the latents and of the noise on them; `psnr` in dB
        of the 8-bit video, from the mean squared error of each whole clip, averaged over clips.

    Raises:
      InputError: the shape does not fit.
    """
    video = video.astype(jnp.float32)
    mean, logvar = vae.moments(video)
    logvar = jnp.clip(logvar, -30.0, 20.0)
    std = jnp.exp(0.5 * logvar)
    z = mean + std * jax.random.normal(key, mean.shape, jnp.float32)
    output = vae.decode_raw(z)

    error = output - video
    parts = {
        "l1": jnp.mean(jnp.abs(error)),
        "l2": jnp.mean(error**2),
        "gradient": _mean_difference(error),
        "kl": 0.5 * jnp.mean(mean**2 + std**2 - 1.0 - logvar),
    }
    if weights.perceptual:
        assert lpips_weights is not None
        pictures = (_some_frames(x, key).reshape(-1, *x.shape[2:]) for x in (output, video))
        parts["perceptual"] = jnp.mean(lpips.distance(lpips_weights, *pictures))
    loss = sum((getattr(weights, name) * value for name, value in parts.items()), jnp.float32(0))
    metrics = parts | {
        "latent_rms": jnp.sqrt(jnp.mean(mean**2)),
        "noise_rms": jnp.sqrt(jnp.mean(std**2)),
        "psnr": jnp.mean(_psnr(output, video)),
    }
    return loss, metrics


def _some_frames(video: jax.Array, key: jax.Array) -> jax.Array:
    """Every fourth frame [B, F // 4, H, W, 3] from a random one on, as neighbours are alike.

    Videos of fewer than 8 frames are kept whole.
    """
    count = video.shape[1] // 4
    if count < 2:
        return video
    first = jax.random.randint(key, (), 0, video.shape[1] - 4 * (count - 1))
    return jnp.take(video, first + 4 * jnp.arange(count), axis=1)


def _mean_difference(error: jax.Array) -> jax.Array:
    """Mean absolute difference between neighbours in frames (if there are two), y and x.

    The difference of two videos' gradients is the gradient of their difference.
    """
    axes = [axis for axis in (1, 2, 3) if error.shape[axis] > 1]
    return jnp.mean(jnp.stack([jnp.mean(jnp.abs(jnp.diff(error, axis=axis))) for axis in axes]))


def _psnr(output: jax.Array, video: jax.Array) -> jax.Array:
    """PSNR in dB of each clip [B] after rounding to 8 bits, at most 100 (equal clips)."""
    a, b = (jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5) for x in (output, video))
    mse = jnp.mean((a - b) ** 2, axis=(1, 2, 3, 4))
    return jnp.minimum(10 * jnp.log10(255.0**2 / jnp.maximum(mse, 1e-12)), 100.0)


def latent_statistics(
    vae: VAE, batches: Iterable[jax.Array | np.ndarray]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel: `latent_mean` and `latent_std` of the trained VAE's config.

    Args:
      batches: videos [B, F, H, W, 3] in [-1, 1]. Each new shape is compiled.

    Raises:
      ValueError: no batches.
    """
    graph, state = nnx.split(vae)

    @jax.jit
    def mean_and_variance(state: nnx.State, video: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        mean, _ = nnx.merge(graph, state).moments(video)
        cells = (0, 1, 2, 3)
        return jnp.mean(mean, axis=cells), jnp.var(mean, axis=cells), mean[..., 0].size

    count = 0.0  # latent cells so far, with their mean and variance in float64
    average, spread = np.zeros(vae.config.z_dim), np.zeros(vae.config.z_dim)
    for video in batches:
        figures = mean_and_variance(state, jnp.asarray(video))
        mean, variance, cells = (np.asarray(x, np.float64) for x in figures)
        share = float(cells) / (count + float(cells))
        spread = (1 - share) * spread + share * variance + share * (1 - share) * (mean - average) ** 2
        average = (1 - share) * average + share * mean
        count += float(cells)
    if not count:
        raise ValueError("latent_statistics needs at least one batch")
    return tuple(average.tolist()), tuple(np.sqrt(spread).tolist())
