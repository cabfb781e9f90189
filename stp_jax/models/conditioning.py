"""Encoders of the two things a user directs: the camera and the animation time.

Ours give one small embedding per latent frame (animation time) or per token (camera rays), computed once per
video. Each block of the DiT adds its own zero-initialised projection of them. The encoders of the official
weights have all their parameters in the blocks.
"""

from __future__ import annotations

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from stp_jax.controls import cameras
from stp_jax.models.layers import MLP, Dense, add_bias, lecun_normal, sinusoid, zeros


def group_frames(x: jax.Array) -> jax.Array:
    """Gives each latent frame its four pixel frames: `[B, 1 + 4n, ...]` -> `[B, 1 + n, 4, ...]`.

    Latent frame 0 encodes pixel frame 0 alone, which is repeated four times.
    """
    first = jnp.repeat(x[:, :1, None], 4, axis=2)
    rest = einops.rearrange(x[:, 1:], "b (n four) ... -> b n four ...", four=4)
    return jnp.concatenate([first, rest], axis=1)


class PluckerEncoder(nnx.Module):
    """Camera rays at `samples x samples` points inside each token, for each of its four pixel frames."""

    def __init__(self, dim: int, *, samples: int, scene_scale: float, memory: bool = False, rngs: nnx.Rngs):
        self.embed = MLP(4 * samples * samples * 6, 2 * dim, dim, rngs=rngs)
        # Distinguishes target from source tokens, which rays alone do not.
        self.role = nnx.Param(0.02 * jax.random.normal(rngs.params(), (2, dim), jnp.float32))
        if memory:
            # Added to the source's role: until it is trained, a memory counts as more of the source.
            self.memory_role = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.samples = samples
        self.scene_scale = scene_scale

    def __call__(self, c2w: jax.Array, intrinsics: jax.Array, grid: tuple[int, int], role: int) -> jax.Array:
        """`c2w` `[B, F, 4, 4]`, `intrinsics` `[B, F, 4]`, `grid` (h, w) -> `[B, F', h, w, dim]` float32.

        `role` is 0 for the target, 1 for the source, 2 for a memory.
        """
        rays = cameras.token_rays(c2w, intrinsics, grid, samples=self.samples, scale=self.scene_scale)
        own = self.role[1] + self.memory_role[...] if role == 2 else self.role[role]
        return self.embed(rays) + own


class FramesEncoder(nnx.Module):
    """Embeds animation time by sinusoids of all four pixel frames of a latent frame; none is skipped."""

    def __init__(self, dim: int, *, freq_dim: int, rngs: nnx.Rngs):
        self.embed = MLP(4 * freq_dim, 2 * dim, dim, rngs=rngs)
        self.freq_dim = freq_dim

    def __call__(self, animation_time: jax.Array) -> jax.Array:
        """`animation_time` `[B, F]` in source frames -> `[B, F', dim]` float32."""
        waves = sinusoid(group_frames(animation_time), self.freq_dim)
        return self.embed(einops.rearrange(waves, "b f four d -> b f (four d)"))


class UniformEncoder(nnx.Module):
    """Ablation: sees only the last of each latent frame's four animation times."""

    def __init__(self, dim: int, *, freq_dim: int, rngs: nnx.Rngs):
        self.embed = MLP(freq_dim, 2 * dim, dim, rngs=rngs)
        self.freq_dim = freq_dim

    def __call__(self, animation_time: jax.Array) -> jax.Array:
        """`animation_time` `[B, F]` in source frames -> `[B, F', dim]` float32."""
        return self.embed(sinusoid(animation_time[:, ::4], self.freq_dim))


ANIMATION_TIME_ENCODERS = {"frames": FramesEncoder, "uniform": UniformEncoder}


class TemporalDownsampler(nnx.Module):
    """SpaceTimePilot's convolutions from pixel frames to latent frames, as its weights need them.

    Frame 0 passes unchanged. Of every four further frames the convolutions see three, and two of those only
    through the statistics of the first group norm. The fourth frame has no influence, and two of the three
    taps of `conv2` see only padding.
    """

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.conv1, self.conv2 = (Conv1D(dim, dim, 3, rngs=rngs) for _ in range(2))
        # Statistics over a group's channels and all positions of its chunk.
        self.norm1, self.norm2 = (
            nnx.GroupNorm(dim, num_groups=32, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
            for _ in range(2)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, F, D]` -> `[B, 1 + (F - 1) // 4, D]`; the remainder of F - 1 by 4 is dropped."""
        chunks = (x.shape[1] - 1) // 4
        if not chunks:
            return x[:, :1]
        y = einops.rearrange(x[:, 1 : 1 + 4 * chunks], "b (n four) d -> (b n) four d", four=4)
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            y = jax.nn.silu(norm(conv(y))).astype(x.dtype)
        return jnp.concatenate([x[:, :1], einops.rearrange(y, "(b n) 1 d -> b n d", n=chunks)], axis=1)


class Conv1D(nnx.Module):
    """A causal convolution over `[B, F, D]` of stride 2, padded with zeros before the first frame."""

    def __init__(self, inputs: int, outputs: int, size: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(lecun_normal(rngs.params(), (size, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(x.dtype)
        y = jax.lax.conv_general_dilated(
            x, kernel, (2,), [(len(kernel) - 1, 0)], dimension_numbers=("NWC", "WIO", "NWC")
        )
        return add_bias(y, self.bias[...])


class OfficialConvEncoder(nnx.Module):
    """SpaceTimePilot's animation-time encoder, one in each block."""

    def __init__(self, dim: int, *, freq_dim: int, rngs: nnx.Rngs):
        self.embedding = MLP(freq_dim, dim, dim, rngs=rngs)
        self.downsampler = TemporalDownsampler(dim, rngs=rngs)

    def __call__(self, waves: jax.Array) -> jax.Array:
        """Sinusoids `[2, B, F, freq_dim]` of target and source -> `[B, 2F', dim]`."""
        target, source = (self.downsampler(self.embedding(one)) for one in waves)
        return jnp.concatenate([target, source], axis=1)


def pose12(c2w: jax.Array) -> jax.Array:
    """Rotation and translation of each latent frame's last pixel frame: `[B, F, 4, 4]` -> `[B, F', 12]`."""
    return einops.rearrange(c2w[:, ::4, :3], "b f row column -> b f (row column)")


def zero_projection(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> Dense:
    """A projection that adds nothing until it is trained, so that it can be put into a trained model."""
    return Dense(inputs, outputs, rngs=rngs, init=zeros)
