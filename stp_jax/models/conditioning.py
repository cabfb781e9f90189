"""Encoders of the two things a user directs: where the camera is and which moment it sees.

Both give one small embedding per latent frame (animation time) or per token (camera rays), computed once per
video; each block of the DiT adds its own zero-initialised projection of them.
"""

from __future__ import annotations

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from stp_jax import cameras
from stp_jax.models.layers import MLP, Dense, sinusoid, zeros


def group_frames(x: jax.Array) -> jax.Array:
    """Gives each latent frame its four pixel frames: `[B, 1 + 4n, ...]` -> `[B, 1 + n, 4, ...]`.

    Latent frame 0 encodes pixel frame 0 alone, which is repeated four times.
    """
    first = jnp.repeat(x[:, :1, None], 4, axis=2)
    rest = einops.rearrange(x[:, 1:], "b (n four) ... -> b n four ...", four=4)
    return jnp.concatenate([first, rest], axis=1)


class PluckerEncoder(nnx.Module):
    """Camera rays at `samples x samples` points inside each token, for each of its four pixel frames."""

    def __init__(self, dim: int, *, samples: int, scene_scale: float, rngs: nnx.Rngs):
        self.embed = MLP(4 * samples * samples * 6, 2 * dim, dim, rngs=rngs)
        # Tells target tokens from source tokens, which rays alone do not.
        self.role = nnx.Param(0.02 * jax.random.normal(rngs.params(), (2, dim), jnp.float32))
        self.samples = samples
        self.scene_scale = scene_scale

    def __call__(self, c2w: jax.Array, intrinsics: jax.Array, grid: tuple[int, int], role: int) -> jax.Array:
        """`c2w` `[B, F, 4, 4]`, `intrinsics` `[B, F, 4]`, `grid` (h, w) -> `[B, F', h, w, dim]` float32.

        `role` is 0 for the target, 1 for the source.
        """
        rays = cameras.token_rays(c2w, intrinsics, grid, samples=self.samples, scale=self.scene_scale)
        return self.embed(rays) + self.role[role]


class FramesEncoder(nnx.Module):
    """Animation time from sinusoids of all four pixel frames of a latent frame: no frame is skipped."""

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


def zero_projection(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> Dense:
    """A projection that adds nothing until it is trained, so that it can be put into a trained model."""
    return Dense(inputs, outputs, rngs=rngs, init=zeros)
