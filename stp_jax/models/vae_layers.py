"""The layers of the causal video VAE, channels last.

Every layer is called as `layer(x, past) -> (y, past)` with x [B, F, H, W, C]. `past` is the layer's cache of
earlier frames: None at the start of a video, () for a layer that looks at single frames. So a whole video in
one call and the same video in pieces give the same result.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stp_jax.devices.sharding import constrain, constrain_columns
from stp_jax.models.attention import LOGITS_BYTES
from stp_jax.models.layers import add_bias

Padding = tuple[tuple[int, int], tuple[int, int]]
Past = Any  # a pytree of arrays; None before the first frame

lecun = nnx.initializers.lecun_normal()


def newest_frame(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Initialises a (3, 1, 1) convolution near "copy the newest frame", once for every `in` output channels.

    The first frame of a video bypasses these layers. So the other frames start in the same feature space.
    """
    inputs, outputs = shape[-2:]
    copy = jnp.tile(jnp.eye(inputs, dtype=dtype), (1, outputs // inputs))
    return (0.5 * lecun(key, shape, dtype)).at[-1, 0, 0].add(copy)


class Conv(nnx.Module):
    """A convolution of each frame, kernel [h, w, in, out], or over frames too, kernel [f, h, w, in, out].

    Frames are convolved as channels: the frames under a kernel are joined in the channels of a 2D
    convolution. GPUs (channels last, tensor cores) and CPUs run that faster than a 3D one.
    """

    def __init__(
        self, inputs: int, outputs: int, size: tuple[int, ...], *, dtype: str, rngs: nnx.Rngs, init=lecun
    ):
        self.kernel = nnx.Param(init(rngs.params(), (*size, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))
        self.dtype = dtype

    def __call__(
        self, x: jax.Array, *, stride: int = 1, frame_stride: int = 1, padding: Padding = ((0, 0), (0, 0))
    ) -> jax.Array:
        """x [B, F, H, W, in], padded by the caller along F and, with `padding`, by zeros along H and W."""
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...]
        if kernel.ndim == 5:
            x = side_by_side(x, len(kernel), frame_stride)
            kernel = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
        if kernel.shape[:2] == (1, 1):
            return add_bias(x @ kernel[0, 0], bias)
        y = jax.lax.conv_general_dilated(
            x.reshape(-1, *x.shape[2:]),
            kernel,
            window_strides=(stride, stride),
            padding=padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return add_bias(y.reshape(*x.shape[:2], *y.shape[1:]), bias)


class CausalConv(Conv):
    """A 3D convolution of stride 1 and unchanged size that sees only the current and earlier frames."""

    # Unlike its base, it also takes and returns the cache of earlier frames.
    def __call__(self, x: jax.Array, past: Past = None) -> tuple[jax.Array, Past]:  # type: ignore[override]
        frames, height, width = self.kernel.shape[:3]
        history = frames - 1
        before = jnp.zeros_like(x, shape=(x.shape[0], history, *x.shape[2:])) if past is None else past
        x = jnp.concatenate([before, x], axis=1)
        y = super().__call__(x, padding=((height // 2, height // 2), (width // 2, width // 2)))
        return y, x[:, -history:]


def side_by_side(x: jax.Array, count: int, stride: int = 1) -> jax.Array:
    """Joins runs of `count` frames: [B, F, H, W, C] -> [B, (F - count) // stride + 1, H, W, count * C]."""
    last = x.shape[1] - count
    return jnp.concatenate([x[:, i : i + last + 1 : stride] for i in range(count)], axis=-1)


class RMSNorm(nnx.Module):
    """x / |x| * sqrt(C) * gamma over the channels, computed in float32."""

    def __init__(self, channels: int):
        self.gamma = nnx.Param(jnp.ones((channels,), jnp.float32))

    def __call__(self, x: jax.Array, *, silu: bool = False) -> jax.Array:
        wide = x.astype(jnp.float32)
        # The norm is at least 1e-12, so its square at least 1e-24.
        scale = jax.lax.rsqrt(jnp.maximum(jnp.sum(wide * wide, axis=-1, keepdims=True), 1e-24))
        y = wide * scale * (self.gamma[...] * np.float32(np.sqrt(x.shape[-1])))
        if silu:
            y = jax.nn.silu(y)
        return y.astype(x.dtype)


class ResidualBlock(nnx.Module):
    """Norm, SiLU, causal 3x3x3 convolution, twice; plus the input (by a 1x1x1 convolution if C changes)."""

    def __init__(self, inputs: int, outputs: int, *, dtype: str, rngs: nnx.Rngs):
        self.norm1 = RMSNorm(inputs)
        self.conv1 = CausalConv(inputs, outputs, (3, 3, 3), dtype=dtype, rngs=rngs)
        self.norm2 = RMSNorm(outputs)
        self.conv2 = CausalConv(outputs, outputs, (3, 3, 3), dtype=dtype, rngs=rngs)
        self.shortcut = (
            None if inputs == outputs else Conv(inputs, outputs, (1, 1, 1), dtype=dtype, rngs=rngs)
        )

    def __call__(self, x: jax.Array, past: Past = None) -> tuple[jax.Array, Past]:
        past1, past2 = (None, None) if past is None else past
        y, past1 = self.conv1(self.norm1(x, silu=True), past1)
        y, past2 = self.conv2(self.norm2(y, silu=True), past2)
        return (x if self.shortcut is None else self.shortcut(x)) + y, (past1, past2)


class AttentionBlock(nnx.Module):
    """Single-head self-attention over the positions of each frame; starts as the identity."""

    def __init__(self, channels: int, *, dtype: str, rngs: nnx.Rngs):
        self.norm = RMSNorm(channels)
        self.to_qkv = Conv(channels, 3 * channels, (1, 1), dtype=dtype, rngs=rngs)
        self.proj = Conv(channels, channels, (1, 1), dtype=dtype, rngs=rngs, init=nnx.initializers.zeros)

    def __call__(self, x: jax.Array, past: Past = None) -> tuple[jax.Array, Past]:
        batch, frames, height, width, channels = x.shape
        positions = height * width
        # Every position looks at all others: frames are small here, and each device has them whole.
        x = constrain(x, "batch", None, None, None, None)
        qkv = self.to_qkv(self.norm(x)).reshape(batch * frames, positions, 1, 3 * channels)

        def attend(qkv: jax.Array) -> jax.Array:
            return jax.nn.dot_product_attention(*jnp.split(qkv, 3, axis=-1))  # softmax in float32

        # No fused kernel takes heads of this width. All weights are in memory, so few frames are done at a
        # time.
        block = min(len(qkv), max(1, LOGITS_BYTES // (4 * positions**2)))
        y = jax.lax.map(attend, qkv, batch_size=block) if block < len(qkv) else attend(qkv)
        return constrain_columns(x + self.proj(y.reshape(x.shape))), ()


class Downsample(nnx.Module):
    """Halves height and width; with `temporal` 1 + 2n frames become 1 + n."""

    def __init__(self, channels: int, *, temporal: bool, dtype: str, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, (3, 3), dtype=dtype, rngs=rngs)
        self.time_conv = (
            Conv(channels, channels, (3, 1, 1), dtype=dtype, rngs=rngs, init=newest_frame)
            if temporal
            else None
        )

    def __call__(self, x: jax.Array, past: Past = None) -> tuple[jax.Array, Past]:
        # Padding on the right and at the bottom only, as the official weights expect.
        x = self.conv(x, stride=2, padding=((0, 1), (0, 1)))
        if self.time_conv is None:
            return x, ()
        if past is None:
            first, seen = x[:, :1], x  # the first frame goes through as it is
        else:
            first, seen = x[:, :0], jnp.concatenate([past, x], axis=1)
        if seen.shape[1] > 1:
            x = jnp.concatenate([first, self.time_conv(seen, frame_stride=2)], axis=1)
        return x, seen[:, -1:]


class Upsample(nnx.Module):
    """Doubles height and width and halves the channels; with `temporal` 1 + n frames become 1 + 2n."""

    def __init__(self, channels: int, *, temporal: bool, dtype: str, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels // 2, (3, 3), dtype=dtype, rngs=rngs)
        self.time_conv = (
            CausalConv(channels, 2 * channels, (3, 1, 1), dtype=dtype, rngs=rngs, init=newest_frame)
            if temporal
            else None
        )

    def __call__(self, x: jax.Array, past: Past = None) -> tuple[jax.Array, Past]:
        x, past = (x, ()) if self.time_conv is None else self._double_frames(x, past)
        return self.conv(double_size(x), padding=((1, 1), (1, 1))), past

    def _double_frames(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        first, rest = (x[:, :1], x[:, 1:]) if past is None else (x[:, :0], x)
        if rest.shape[1] == 0:
            # The first frame is not part of the history.
            return x, jnp.zeros_like(x, shape=(x.shape[0], 2, *x.shape[2:]))
        assert self.time_conv is not None
        y, past = self.time_conv(rest, past)
        batch, frames, height, width, _ = y.shape
        y = jnp.moveaxis(y.reshape(batch, frames, height, width, 2, -1), 4, 2)
        return jnp.concatenate([first, y.reshape(batch, 2 * frames, height, width, -1)], axis=1), past


def double_size(x: jax.Array) -> jax.Array:
    """Repeats every pixel of [..., H, W, C] twice along both axes."""
    *batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[..., :, None, :, None, :], (*batch, height, 2, width, 2, channels))
    return x.reshape(*batch, 2 * height, 2 * width, channels)
