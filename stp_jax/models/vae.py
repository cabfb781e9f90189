"""The causal video VAE of Wan2.1, at any width: 4 x 8 x 8 compression, frame 0 on its own.

The parameters have the official names, with these changes: `residual.0`, `.2`, `.3`, `.6` of a residual
block are `norm1`, `conv1`, `norm2`, `conv2`; `head.0`, `head.2` are `head_norm`, `head_conv`; `resample.1`
is `conv`. The `weight` [out, in, *size] of a convolution is `kernel` [*size, in, out], and `gamma` has one
axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stp_jax.devices.sharding import constrain_columns
from stp_jax.errors import InputError
from stp_jax.models.vae_layers import (
    AttentionBlock,
    CausalConv,
    Conv,
    Downsample,
    Past,
    ResidualBlock,
    RMSNorm,
    Upsample,
)
from stp_jax.models.video_size import check_video_size

# Statistics of the latents of Wan2.1's own weights.
WAN_LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Size and precision of a `VAE`; the defaults are Wan2.1's.

    Attributes:
      dim: channels at full resolution; level i has dim * dim_mult[i].
      z_dim: channels of the latents.
      temporal_downsample: for each step between levels, whether it halves the frames too.
      latent_mean, latent_std: per channel, for normalised latents. A new VAE starts with 0 and 1.
      dtype: of the computation, "float32" or "bfloat16". Parameters, norms and softmax are float32.
      remat: whether the backward pass computes the residual blocks again instead of keeping their insides.
      official_rounding: whether latent_mean and 1 / latent_std are rounded to bfloat16, as in the official
        bfloat16 inference.
    """

    dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    latent_mean: tuple[float, ...] = WAN_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN_LATENT_STD
    dtype: str = "float32"
    remat: bool = False
    official_rounding: bool = False

    def __post_init__(self):
        for name in ("dim_mult", "temporal_downsample", "latent_mean", "latent_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists, from JSON, do not hash
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise InputError(
                f"VAE config: temporal_downsample has {len(self.temporal_downsample)} entries; "
                f"dim_mult has {len(self.dim_mult)} levels, so give {len(self.dim_mult) - 1}"
            )
        for name in ("latent_mean", "latent_std"):
            if len(getattr(self, name)) != self.z_dim:
                raise InputError(
                    f"VAE config: {name} has {len(getattr(self, name))} values but z_dim is {self.z_dim}; "
                    "give one per channel"
                )
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f'VAE config: dtype is {self.dtype!r}; use "float32" or "bfloat16"')

    @property
    def frame_stride(self) -> int:
        """Video frames per latent frame (the first frame has a latent frame of its own)."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along height and width."""
        return 2 ** len(self.temporal_downsample)

    def latent_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(F', H', W') of the latents of a video that `check_video_size` accepts."""
        stride = self.spatial_stride
        return (frames - 1) // self.frame_stride + 1, height // stride, width // stride

    def check_video_size(self, frames: int, height: int, width: int, *, patch: int = 1) -> None:
        """Refuses videos that have no whole latents.

        Args:
          patch: side in latent cells of the tokens of a DiT that works on the latents.

        Raises:
          InputError: frames are not 4n + 1, or height and width are not multiples of 8 (for Wan's strides).
        """
        cell = self.spatial_stride * patch
        check_video_size(frames, height, width, frame_stride=self.frame_stride, cell=cell)


def fitting_chunk(frames: int, height: int, width: int) -> int | None:
    """The number of latent frames to process at a time, for a video of this size; None: all together.

    Memory is then about that of one latent frame at 480 x 832, which is also the fastest at that size
    (docs/benchmarks.md).
    """
    chunk = max(1, 400_000 // (height * width))
    return None if 1 + 4 * chunk >= frames else chunk


def from_pixels(video: jax.Array) -> jax.Array:
    """uint8 pixels to float32 in [-1, 1]."""
    return video.astype(jnp.float32) / 127.5 - 1


def to_pixels(video: jax.Array | np.ndarray) -> jax.Array:
    """Float in [-1, 1] to uint8 pixels, rounded; what lies outside is clipped."""
    return jnp.round((jnp.clip(video, -1, 1) + 1) * 127.5).astype(jnp.uint8)


def to_deep_pixels(video: jax.Array | np.ndarray) -> jax.Array:
    """As `to_pixels`, of 16 bits."""
    return jnp.round((jnp.clip(video, -1, 1).astype(jnp.float32) + 1) * 32767.5).astype(jnp.uint16)


def _run(layers, x: jax.Array, past: Past, remat: bool = False) -> tuple[jax.Array, Past]:
    pasts = []
    for index, layer in enumerate(layers):
        call = _rematerialised(layer) if remat and isinstance(layer, ResidualBlock) else layer
        x, new = call(x, None if past is None else past[index])
        pasts.append(new)
    return x, tuple(pasts)


def _rematerialised(layer: nnx.Module) -> Callable:
    graph, state = nnx.split(layer)
    call = jax.checkpoint(lambda state, x, past: nnx.merge(graph, state)(x, past))
    return lambda x, past: call(state, x, past)


class Encoder(nnx.Module):
    """Video [B, 4n + 1, H, W, 3] to features [B, 1 + n, H / 8, W / 8, 2 * z_dim]."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        options: dict[str, Any] = {"dtype": config.dtype, "rngs": rngs}
        widths = [config.dim * mult for mult in (1, *config.dim_mult)]
        self.conv1 = CausalConv(3, widths[0], (3, 3, 3), **options)
        layers: list[nnx.Module] = []
        for level, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            for block in range(config.res_blocks):
                layers.append(ResidualBlock(outputs if block else inputs, outputs, **options))
            if level < len(config.temporal_downsample):
                layers.append(Downsample(outputs, temporal=config.temporal_downsample[level], **options))
        self.downsamples = nnx.List(layers)
        self.middle = _middle(widths[-1], **options)
        self.head_norm = RMSNorm(widths[-1])
        self.head_conv = CausalConv(widths[-1], 2 * config.z_dim, (3, 3, 3), **options)
        self.remat = config.remat

    def __call__(self, x: jax.Array, past: Past = None) -> tuple[jax.Array, Past]:
        return _run([self.conv1, *self.downsamples, *self.middle, self._head], x, past, self.remat)

    def _head(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        return self.head_conv(self.head_norm(x, silu=True), past)


class Decoder(nnx.Module):
    """Features [B, 1 + n, H / 8, W / 8, z_dim] to video [B, 4n + 1, H, W, 3]."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        options: dict[str, Any] = {"dtype": config.dtype, "rngs": rngs}
        widths = [config.dim * mult for mult in (config.dim_mult[-1], *reversed(config.dim_mult))]
        temporal = config.temporal_downsample[::-1]
        self.conv1 = CausalConv(config.z_dim, widths[0], (3, 3, 3), **options)
        self.middle = _middle(widths[0], **options)
        layers: list[nnx.Module] = []
        for level, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            if level:
                inputs //= 2  # the upsampling before halved them
            for block in range(config.res_blocks + 1):
                layers.append(ResidualBlock(outputs if block else inputs, outputs, **options))
            if level < len(temporal):
                layers.append(Upsample(outputs, temporal=temporal[level], **options))
        self.upsamples = nnx.List(layers)
        self.head_norm = RMSNorm(widths[-1])
        self.head_conv = CausalConv(widths[-1], 3, (3, 3, 3), **options)
        self.remat = config.remat

    def __call__(self, x: jax.Array, past: Past = None) -> tuple[jax.Array, Past]:
        return _run([self.conv1, *self.middle, *self.upsamples, self._head], x, past, self.remat)

    def _head(self, x: jax.Array, past: Past) -> tuple[jax.Array, Past]:
        return self.head_conv(self.head_norm(x, silu=True), past)


def _middle(channels: int, *, dtype: str, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List(
        [
            ResidualBlock(channels, channels, dtype=dtype, rngs=rngs),
            AttentionBlock(channels, dtype=dtype, rngs=rngs),
            ResidualBlock(channels, channels, dtype=dtype, rngs=rngs),
        ]
    )


class VAE(nnx.Module):
    """Video in [-1, 1] to latents and back.

    Every method takes `chunk`: None for the whole sequence together, or a number of latent frames to process
    at a time, after the first. The result is the same; memory then grows with `chunk`, not with the video's
    length. Under a mesh each device processes some columns of a video (`sharding.constrain_columns`).
    """

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.conv1 = Conv(2 * config.z_dim, 2 * config.z_dim, (1, 1, 1), dtype=config.dtype, rngs=rngs)
        self.conv2 = Conv(config.z_dim, config.z_dim, (1, 1, 1), dtype=config.dtype, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        # A new VAE starts with little noise on its samples: the decoder learns from the first step.
        self.conv1.bias[...] = self.conv1.bias[...].at[config.z_dim :].set(-4.0)

    def moments(self, video: jax.Array, *, chunk: int | None = None) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance of the latents, not normalised.

        Args:
          video: [B, F, H, W, 3] in [-1, 1], or uint8 pixels; F = 4n + 1, H and W multiples of 8 (for Wan's
            strides).
          chunk: latent frames at a time, see the class.

        Returns:
          mean, logvar: each [B, n + 1, H / 8, W / 8, z_dim], float32.

        Raises:
          InputError: the shape does not fit.
        """
        self.check_video(video.shape)
        video = constrain_columns(video, self.config.spatial_stride)

        def encode(video: jax.Array, past: Past) -> tuple[jax.Array, Past]:
            video = from_pixels(video) if video.dtype == jnp.uint8 else video
            return self.encoder(video.astype(self.config.dtype), past)

        features = _in_chunks(encode, video, chunk, self.config.frame_stride)
        mean, logvar = jnp.split(self.conv1(features).astype(jnp.float32), 2, axis=-1)
        return mean, logvar

    def encode(self, video: jax.Array, *, chunk: int | None = None) -> jax.Array:
        """Normalised latents (the mean, no sample) of a video. Shapes and errors as for `moments`."""
        mean, _ = self.moments(video, chunk=chunk)
        centre, scale = self._statistics()
        return (mean - centre) * scale

    def decode(
        self,
        latents: jax.Array,
        *,
        chunk: int | None = None,
        finish: Callable[[jax.Array], jax.Array] = lambda video: video,
    ) -> jax.Array:
        """Video [B, F, H, W, 3] in [-1, 1], float32, of normalised latents as `encode` gives.

        Args:
          latents: [B, F', H', W', z_dim].
          chunk: latent frames at a time, see the class.
          finish: of each chunk of the video; with `to_pixels` the result is uint8 and the whole clip is never
            held in float32.

        Raises:
          InputError: the shape does not fit.
        """
        z = self.denormalise(latents)
        return self.decode_raw(z, chunk=chunk, finish=lambda video: finish(jnp.clip(video, -1, 1)))

    def denormalise(self, latents: jax.Array) -> jax.Array:
        """Normalised latents -> latents as `decode_raw` takes them, float32."""
        centre, scale = self._statistics()
        return latents.astype(jnp.float32) / scale + centre

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean that normalisation subtracts, and the factor that it then multiplies with."""
        kind = jnp.bfloat16 if self.config.official_rounding else np.float32
        mean, std = np.asarray(self.config.latent_mean), np.asarray(self.config.latent_std)
        return mean.astype(kind).astype(np.float32), (1 / std).astype(kind).astype(np.float32)

    def decode_raw(
        self,
        z: jax.Array,
        *,
        chunk: int | None = None,
        finish: Callable[[jax.Array], jax.Array] = lambda video: video,
    ) -> jax.Array:
        """Video [B, F, H, W, 3], float32, not clamped, of latents that are not normalised: for training.

        `chunk` and `finish` are as for `decode`.
        """
        if z.ndim != 5 or z.shape[-1] != self.config.z_dim or 0 in z.shape:
            raise InputError(
                f"latents have shape {z.shape}; the VAE decodes [B, F, H, W, {self.config.z_dim}], none 0"
            )

        z = constrain_columns(z)

        def decode(z: jax.Array, past: Past) -> tuple[jax.Array, Past]:
            video, past = self.decoder(self.conv2(z.astype(self.config.dtype)), past)
            return finish(video.astype(jnp.float32)), past

        return _in_chunks(decode, z, chunk, 1)

    def check_video(self, shape: tuple[int, ...]) -> None:
        """Raises `InputError` unless videos of this shape can be encoded."""
        if len(shape) != 5 or shape[-1] != 3 or 0 in shape:
            raise InputError(f"video has shape {shape}; the VAE encodes [B, F, H, W, 3], none 0")
        self.config.check_video_size(*shape[1:4])


def _in_chunks(
    layer: Callable[[jax.Array, Past], tuple[jax.Array, Past]], x: jax.Array, chunk: int | None, stride: int
) -> jax.Array:
    """Runs a causal layer over x: the first frame, then `chunk * stride` frames at a time."""
    if chunk is None:
        return layer(x, None)[0]
    if chunk < 1:
        raise InputError(f"VAE: chunk is {chunk}; give the latent frames to work on at a time, at least 1")
    step = chunk * stride
    y, past = layer(x[:, :1], None)
    pieces = [y]
    whole, left = divmod(x.shape[1] - 1, step)
    if whole:

        def body(past: Past, index: jax.Array) -> tuple[Past, jax.Array]:
            y, past = layer(jax.lax.dynamic_slice_in_dim(x, 1 + index * step, step, axis=1), past)
            return past, y

        past, ys = jax.lax.scan(body, past, jnp.arange(whole))
        ys = jnp.moveaxis(ys, 0, 1)
        pieces.append(ys.reshape(ys.shape[0], -1, *ys.shape[3:]))
    if left:
        pieces.append(layer(x[:, -left:], past)[0])
    return jnp.concatenate(pieces, axis=1)
