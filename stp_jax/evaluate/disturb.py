"""Ground truth degraded to the PSNR of a model's videos: it shows the own error of a measure."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from stp_jax.media.metrics import psnr

NOISE_WIDTH = 1.5  # pixels at 128: a model's errors are smears, not single pixels


def degrade(video: np.ndarray, decibels: float, seed: int = 0) -> np.ndarray:
    """The video, blurred and with noise, at a PSNR of `decibels` against itself (within 0.1).

    Half of the squared error comes from a Gaussian blur, half from Gaussian noise that is blurred by
    NOISE_WIDTH and independent from frame to frame. Where blur alone cannot do its half, noise does more.

    Args:
      video: uint8 [F, H, W, 3].
      seed: of the noise. Videos with the same seed have the same noise, and so the same errors, which do not
        average out over videos.
    """
    size = video.shape[1] / 128
    blur = _bisect(lambda width: psnr(_blurred(video, width * size), video), decibels + 3.01, 12.0)
    blurred = _blurred(video, blur * size)
    noise = np.random.default_rng(seed).normal(size=video.shape).astype(np.float32)
    noise = _blurred(noise, NOISE_WIDTH * size)
    noise /= noise.std()

    def noisy(amount: float) -> np.ndarray:
        return np.clip(blurred + amount * noise, 0, 255).round().astype(np.uint8)

    return noisy(_bisect(lambda amount: psnr(noisy(amount), video), decibels, 255.0))


def _blurred(video: np.ndarray, width: float) -> np.ndarray:
    return gaussian_filter(video.astype(np.float32), (0, width, width, 0), mode="nearest", truncate=3)


def _bisect(measure, wanted: float, most: float) -> float:
    """The argument in 0 .. most at which a falling function has the value `wanted`."""
    low, high = 0.0, most
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if measure(middle) > wanted else (low, middle)
    return (low + high) / 2
