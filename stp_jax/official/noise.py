"""The noise that the official code starts from: PyTorch's noise for a seed, drawn without PyTorch."""

from __future__ import annotations

import math

import numpy as np


def torch_randn(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """The result of `torch.randn(shape, generator=torch.Generator().manual_seed(seed))` on a CPU, float32.

    Bits of MT19937 become uniform numbers, and each 16 of these become 16 normal ones (Box and Muller,
    "A note on the generation of random normal deviates", 1958). The result differs from PyTorch's by rounding
    alone, at most 5e-7.

    Args:
      seed: PyTorch, too, takes only its lower 32 bits.
      shape: of 16 numbers at least; PyTorch draws fewer in another way.
    """
    count = math.prod(shape)
    if count < 16:
        raise ValueError(f"noise of shape {list(shape)} has {count} numbers; at least 16 are drawn")
    generator = np.random.RandomState(seed & 0xFFFFFFFF)
    uniform = _uniform(generator, count)
    noise = np.empty(count, np.float32)
    noise[: count - count % 16] = _normal(uniform[: count - count % 16])
    if count % 16:
        noise[-16:] = _normal(_uniform(generator, 16))  # the last 16 are drawn again
    return noise.reshape(shape)


def official_noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """The noise [B, F', H', W', C] float32 that the official code starts from, the same for each video."""
    batch, frames, height, width, channels = shape
    noise = torch_randn(seed, (1, channels, frames, height, width))
    return np.broadcast_to(noise.transpose(0, 2, 3, 4, 1), shape)


def _uniform(generator: np.random.RandomState, count: int) -> np.ndarray:
    bits = np.frombuffer(generator.bytes(4 * count), "<u4")
    return (bits & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)


def _normal(uniform: np.ndarray) -> np.ndarray:
    """Normal numbers from uniform ones: of each 16, eight are radii, eight angles; float32 as in PyTorch."""
    pairs = uniform.reshape(-1, 2, 8)
    radius = np.sqrt(-2 * np.log(1 - pairs[:, 0]))
    angle = np.float32(2 * np.pi) * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
