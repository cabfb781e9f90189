"""Norm and rotary embedding of queries and keys as one GPU kernel forward and one backward, as in `fused`."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from stp_jax.models.fused import ROWS, by_video, call, tile_of


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def norm_rotate(
    qkv: jax.Array,
    bias: jax.Array,
    scales: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    heads: int,
    eps: float,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Root-mean-square norm over the width and rotary embedding of queries and keys.

    Args:
      qkv: `[B, N, 3 D]`, queries, keys and values without their bias, channels of queries and keys in the
        order of `layers.half_split`.
      bias: `[3 D]` float32, added to `qkv`.
      scales: `[2, D]` float32, of the norms of queries and of keys, in that order of channels.
      cos, sin: `[B or 1, N, head_dim / 2]` float32; no gradient is computed for them.
      interpret: whether to run the kernel's code slowly on any device, to test it.

    Returns:
      Queries, keys and values `[B, N, heads, head_dim]` in the dtype of `qkv`.
    """
    return _norm_rotate_forward(qkv, bias, scales, cos, sin, heads, eps, interpret)[0]


class _Tiles(NamedTuple):
    """Division of queries, keys and values `[B, N, D]` into tiles of rows and of pairs of channels."""

    videos: int
    tokens: int
    width: int  # D
    half: int  # of a head
    tables: int  # rotary tables: one for each video, or one

    # Indices are divided by `lax.div` and `lax.rem`. `//` also handles negative numbers; the compiler then
    # does not see that neighbours are adjacent in memory, and reads each by itself.

    @property
    def programs(self) -> int:
        return math.ceil(self.videos * self.tokens / ROWS)

    @property
    def rows(self) -> int:
        return tile_of(self.width // 2)[0]

    def channels(self) -> tuple[jax.Array, jax.Array]:
        """The first channel of each pair `[columns]`, and the mask of those in range."""
        pair = jnp.arange(tile_of(self.width // 2)[1])
        head, place = jax.lax.div(pair, self.half), jax.lax.rem(pair, self.half)
        return head * (2 * self.half) + place, pair < self.width // 2

    def vector(self, ref, number: int, offset: int) -> jax.Array:
        """First (offset 0) or second (offset `half`) members of the pairs in row `number` of `[.., D]`."""
        channel, known = self.channels()
        return triton.load(ref.at[number * self.width + channel + offset], mask=known, other=0.0)

    def tokens_of(self, program, i) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Tokens `[R, 1]` of tile `i` of a program; a mask of elements in range; indices of the tables."""
        pair = jnp.arange(tile_of(self.width // 2)[1])[None]
        token = (program * ROWS + i * self.rows + jnp.arange(self.rows))[:, None]
        mask = (token < self.videos * self.tokens) & (pair < self.width // 2)
        table = token if self.tables == self.videos else token % self.tokens
        return token, mask, table * self.half + jax.lax.rem(pair, self.half)


def _tiles(qkv: jax.Array, cos: jax.Array) -> _Tiles:
    videos, tokens, width = qkv.shape
    return _Tiles(videos, tokens, width // 3, cos.shape[-1], len(cos))


def _norm_rotate_forward(qkv, bias, scales, cos, sin, heads, eps, interpret):
    def run(qkv, cos, sin, bias, scales):
        tiles = _tiles(qkv, cos)
        d, half = tiles.width, tiles.half

        def kernel(qkv_ref, cos_ref, sin_ref, bias_ref, scale_ref, q_ref, k_ref, v_ref):
            program = pl.program_id(0)
            channel, _ = tiles.channels()

            def body(i, _):
                token, mask, angle = tiles.tokens_of(program, i)
                load = functools.partial(triton.load, mask=mask, other=0.0)
                c, s = load(cos_ref.at[angle]), load(sin_ref.at[angle])
                read, write = token * (3 * d) + channel[None], token * d + channel[None]

                def biased(which, o):
                    x = load(qkv_ref.at[read + which * d + o]).astype(jnp.float32)
                    return x + tiles.vector(bias_ref, which, o)

                for which, out_ref in enumerate((q_ref, k_ref)):
                    pair = [biased(which, o) for o in (0, half)]
                    rstd = _inverse_rms(*pair, d, eps)
                    # Rounded in between, as XLA's operations would be.
                    x, y = (
                        (z * rstd * tiles.vector(scale_ref, which, o))
                        .astype(out_ref.dtype)
                        .astype(jnp.float32)
                        for z, o in zip(pair, (0, half), strict=True)
                    )
                    triton.store(out_ref.at[write], (x * c - y * s).astype(out_ref.dtype), mask=mask)
                    triton.store(out_ref.at[write + half], (x * s + y * c).astype(out_ref.dtype), mask=mask)
                for o in (0, half):
                    triton.store(v_ref.at[write + o], biased(2, o).astype(v_ref.dtype), mask=mask)

            jax.lax.fori_loop(0, ROWS // tiles.rows, body, None)

        out = jax.ShapeDtypeStruct((*qkv.shape[:2], heads, 2 * half), qkv.dtype)
        arrays = (qkv, cos, sin, bias, scales)
        return tuple(call(kernel, tiles.programs, (out,) * 3, *arrays, interpret=interpret))

    saved = (qkv, bias, scales, cos, sin)
    return by_video(run, qkv, cos, sin, bias, scales, shared=(3, 4)), saved


def _inverse_rms(x: jax.Array, y: jax.Array, d: int, eps: float) -> jax.Array:
    """The inverse root mean square `[R, 1]` of rows of `d` channels, given as two halves `[R, columns]`."""
    return jax.lax.rsqrt(jnp.sum(x * x + y * y, 1, keepdims=True) / d + eps)


def _norm_rotate_backward(heads, eps, interpret, saved, gradients):
    def run(qkv, dq, dk, dv, cos, sin, bias, scales):
        arrays = (qkv, dq, dk, dv, cos, sin, bias, scales)
        return _rotation_gradients(_tiles(qkv, cos), eps, interpret, arrays)

    qkv, bias, scales, cos, sin = saved
    dqkv, partial = by_video(run, qkv, *gradients, cos, sin, bias, scales, shared=(6, 7))
    sums = partial.sum(0)
    return dqkv, sums[2:].reshape(-1), sums[:2], jnp.zeros_like(cos), jnp.zeros_like(sin)


def _rotation_gradients(tiles: _Tiles, eps: float, interpret: bool, arrays: tuple[jax.Array, ...]) -> tuple:
    """The gradient `[B, N, 3 D]`, and each program's float32 sums over its tokens, `[programs, 5, D]`: those
    for the scales of queries and keys, and for the biases of queries, keys and values."""
    d, half = tiles.width, tiles.half

    def kernel(qkv_ref, dq_ref, dk_ref, dv_ref, cos_ref, sin_ref, bias_ref, scale_ref, out_ref, sums_ref):
        program = pl.program_id(0)
        channel, known = tiles.channels()

        def places(i):
            token, mask, angle = tiles.tokens_of(program, i)
            load = functools.partial(triton.load, mask=mask, other=0.0)
            return load, mask, angle, token * (3 * d) + channel[None], token * d + channel[None]

        def turned(which, gradient_ref, i, totals):
            load, mask, angle, wide, narrow = places(i)
            x, y = (
                load(qkv_ref.at[wide + which * d + o]).astype(jnp.float32) + tiles.vector(bias_ref, which, o)
                for o in (0, half)
            )
            rstd = _inverse_rms(x, y, d, eps)
            x, y = x * rstd, y * rstd
            c, s = load(cos_ref.at[angle]), load(sin_ref.at[angle])
            a, b = (load(gradient_ref.at[narrow + o]).astype(jnp.float32) for o in (0, half))
            a, b = a * c + b * s, b * c - a * s
            new = [jnp.sum(a * x, 0), jnp.sum(b * y, 0)]
            a, b = (z * tiles.vector(scale_ref, which, o) for z, o in ((a, 0), (b, half)))
            along = jnp.sum(a * x + b * y, 1, keepdims=True) / d
            for z, w, o in ((a, x, 0), (b, y, half)):
                out = rstd * (z - w * along)
                triton.store(out_ref.at[wide + which * d + o], out.astype(out_ref.dtype), mask=mask)
                new.append(jnp.sum(out, 0))
            return tuple(a + b for a, b in zip(totals, new, strict=True))

        def copied(i, totals):
            load, mask, _, wide, narrow = places(i)
            new = []
            for total, o in zip(totals, (0, half), strict=True):
                out = load(dv_ref.at[narrow + o])
                triton.store(out_ref.at[wide + 2 * d + o], out, mask=mask)
                new.append(total + jnp.sum(out.astype(jnp.float32), 0))
            return tuple(new)

        def summed(body, *rows):
            """Runs over all tiles; one loop for each of queries, keys and values, as sums take registers."""
            zeros = (jnp.zeros(channel.shape, jnp.float32),) * (2 * len(rows))
            totals = jax.lax.fori_loop(0, ROWS // tiles.rows, body, zeros)
            for i, total in enumerate(totals):
                at = (program * 5 + rows[i // 2]) * d + channel + i % 2 * half
                triton.store(sums_ref.at[at], total, mask=known)

        summed(functools.partial(turned, 0, dq_ref), 0, 2)
        summed(functools.partial(turned, 1, dk_ref), 1, 3)
        summed(copied, 4)

    outputs = (arrays[0], jax.ShapeDtypeStruct((tiles.programs, 5, d), jnp.float32))
    return tuple(call(kernel, tiles.programs, outputs, *arrays, interpret=interpret))


norm_rotate.defvjp(_norm_rotate_forward, _norm_rotate_backward)
