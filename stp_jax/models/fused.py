"""Memory-bound parts of a DiT block as one GPU kernel each, forward and backward, written in Pallas.

XLA reads and writes the activations several times for a norm and its gradient: rows are summed in one kernel,
the result is computed in another, and sums over tokens for parameters in a third. Here every element is read
once and written once. Measured in docs/benchmarks.md.

They run on NVIDIA GPUs in 16 bits (`available`); elsewhere `Block` computes the same with XLA's operations.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.layout import Layout, with_layout_constraint
from jax.experimental.pallas import triton
from jax.sharding import PartitionSpec as P

from stp_jax.devices.sharding import RULES, batch_axes, size_of

ROWS = 32  # tokens that one program works on; partial sums over tokens are of that many
TILE = 1024  # elements of a tile: what a program holds of one array at a time
WARPS = 2


def available(dtype: jax.typing.DTypeLike) -> bool:
    """Whether the kernels run here: on an NVIDIA GPU, in 16 bits, where each device has whole videos."""
    mesh = jax.sharding.get_abstract_mesh()
    whole = mesh.empty or (size_of(RULES.tokens, mesh) == 1 and size_of(RULES.heads, mesh) == 1)
    return jax.default_backend() == "gpu" and jnp.dtype(dtype).itemsize == 2 and whole


def row_major(x: jax.Array) -> jax.Array:
    """The array with its last axis contiguous, as the kernels need it; the gradient, too.

    XLA would rather have the tokens contiguous between kernels, for its sums over tokens, and transpose.
    """
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _by_video(function: Any, *arrays: jax.Array, shared: tuple[int, ...] = ()) -> Any:
    """Runs a function of arrays with leading `[B]` on each device's own videos; `shared` ones have none."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(*arrays)
    own = P(batch_axes(len(arrays[0]), mesh))
    specs = tuple(P() if i in shared or len(a) == 1 else own for i, a in enumerate(arrays))
    return jax.shard_map(function, in_specs=specs, out_specs=own, check_vma=False)(*arrays)


def _call(kernel: Any, programs: int, outputs: Any, *arrays: jax.Array, interpret: bool) -> Any:
    """Runs a kernel on flat arrays; outputs are flat, too, and get their shapes afterwards."""
    flat = pl.pallas_call(
        kernel,
        grid=(programs,),
        out_shape=[jax.ShapeDtypeStruct((math.prod(o.shape),), o.dtype) for o in outputs],
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=2),
        interpret=interpret,
    )(*(array.reshape(-1) for array in arrays))
    return [array.reshape(output.shape) for array, output in zip(flat, outputs, strict=True)]


# ---------------------------------------------------------------- residual, layer norm, modulation


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def modulated_norm(
    x: jax.Array,
    update: jax.Array | None,
    gate: jax.Array | None,
    shift: jax.Array,
    scale: jax.Array,
    eps: float,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """`x + gate * update`, and its layer norm times `1 + scale` plus `shift`.

    Args:
      x, update: `[B, N, D]`. Without an update the sum is `x`.
      gate, shift, scale: `[B, D]` float32; no gate without an update.
      interpret: whether to run the kernel's code slowly on any device, to test it.

    Returns:
      The sum and its modulated norm, `[B, N, D]` in the dtype of `x`; sums in float32.
    """
    return _modulated_norm_forward(x, update, gate, shift, scale, eps, interpret)[0]


def _tile(width: int) -> tuple[int, int]:
    """Rows and columns of a tile for rows of this width; sizes of arrays are powers of 2 in a kernel."""
    columns = pl.next_power_of_2(width)
    return max(1, min(ROWS, TILE // columns)), columns


def _modulated_norm_forward(x, update, gate, shift, scale, eps, interpret):
    updated = update is not None

    def run(x, shift, scale, *more):
        b, n, d = x.shape
        chunks = math.ceil(n / ROWS)
        rows, columns = _tile(d)

        def kernel(x_ref, shift_ref, scale_ref, *refs):
            program = pl.program_id(0)
            video, chunk = program // chunks, program % chunks
            column = jnp.arange(columns)
            inside = column < d

            def vector(ref):
                return triton.load(ref.at[video * d + column], mask=inside, other=0.0)[None]

            if updated:
                update_ref, gate_ref, y_ref, sum_ref = refs
                g = vector(gate_ref)
            else:
                (y_ref,) = refs
            s, m = vector(shift_ref), vector(scale_ref)

            def body(i, _):
                row = chunk * ROWS + i * rows + jnp.arange(rows)
                index = (video * n + row)[:, None] * d + column[None]
                mask = (row < n)[:, None] & inside[None]
                new = triton.load(x_ref.at[index], mask=mask, other=0.0)
                if updated:
                    added = triton.load(update_ref.at[index], mask=mask, other=0.0).astype(jnp.float32)
                    new = new + (g * added).astype(new.dtype)
                    triton.store(sum_ref.at[index], new, mask=mask)
                z, rstd = _normalized(new.astype(jnp.float32), mask, d, eps)
                triton.store(y_ref.at[index], (z * rstd * (1 + m) + s).astype(y_ref.dtype), mask=mask)

            jax.lax.fori_loop(0, ROWS // rows, body, None)

        outputs = (x, x) if updated else (x,)
        return tuple(_call(kernel, b * chunks, outputs, x, shift, scale, *more, interpret=interpret))

    more = (update, gate) if updated else ()
    y, new = (*_by_video(run, x, shift, scale, *more), x)[:2]
    return (new, y), (new, update, gate, scale)


def _normalized(x: jax.Array, mask: jax.Array, d: int, eps: float) -> tuple[jax.Array, jax.Array]:
    """Of rows `[R, columns]` the deviations from the mean, and the inverse standard deviations `[R, 1]`."""
    z = jnp.where(mask, x - jnp.sum(x, 1, keepdims=True) / d, 0.0)
    return z, jax.lax.rsqrt(jnp.sum(z * z, 1, keepdims=True) / d + eps)


def _modulated_norm_backward(eps, interpret, saved, gradients):
    x, update, gate, scale = saved
    updated = update is not None
    sums = 3 if updated else 2  # over tokens: for shift, scale and gate

    def run(x, d_sum, d_y, scale, *more):
        b, n, d = x.shape
        chunks = math.ceil(n / ROWS)
        rows, columns = _tile(d)

        def kernel(x_ref, d_sum_ref, d_y_ref, scale_ref, *refs):
            program = pl.program_id(0)
            video, chunk = program // chunks, program % chunks
            column = jnp.arange(columns)
            inside = column < d

            def vector(ref):
                return triton.load(ref.at[video * d + column], mask=inside, other=0.0)[None]

            if updated:
                update_ref, gate_ref, dx_ref, partial_ref, du_ref = refs
                g = vector(gate_ref)
            else:
                dx_ref, partial_ref = refs
            m = vector(scale_ref)

            def body(i, totals):
                row = chunk * ROWS + i * rows + jnp.arange(rows)
                index = (video * n + row)[:, None] * d + column[None]
                mask = (row < n)[:, None] & inside[None]

                def load(ref):
                    return triton.load(ref.at[index], mask=mask, other=0.0).astype(jnp.float32)

                x, d_sum, d_y = load(x_ref), load(d_sum_ref), load(d_y_ref)
                z, rstd = _normalized(x, mask, d, eps)
                z = z * rstd
                d_z = d_y * (1 + m)
                mean = jnp.sum(d_z, 1, keepdims=True) / d
                along = jnp.sum(d_z * z, 1, keepdims=True) / d
                dx = d_sum + rstd * (d_z - mean - z * along)
                triton.store(dx_ref.at[index], dx.astype(dx_ref.dtype), mask=mask)
                new = [jnp.sum(d_y, 0), jnp.sum(d_y * z, 0)]
                if updated:
                    triton.store(du_ref.at[index], (g * dx).astype(du_ref.dtype), mask=mask)
                    new.append(jnp.sum(dx * load(update_ref), 0))
                return tuple(a + b for a, b in zip(totals, new, strict=True))

            zeros = (jnp.zeros(columns, jnp.float32),) * sums
            for i, total in enumerate(jax.lax.fori_loop(0, ROWS // rows, body, zeros)):
                triton.store(partial_ref.at[(program * sums + i) * d + column], total, mask=inside)

        partial = jax.ShapeDtypeStruct((b, chunks, sums, d), jnp.float32)
        outputs = (x, partial, x) if updated else (x, partial)
        return tuple(_call(kernel, b * chunks, outputs, x, d_sum, d_y, scale, *more, interpret=interpret))

    more = (update, gate) if updated else ()
    dx, partial, du = (*_by_video(run, x, *gradients, scale, *more), None)[:3]
    d_shift, d_scale, d_gate = (*jnp.moveaxis(partial.sum(1), 1, 0), None)[:3]
    return dx, du, d_gate, d_shift, d_scale


modulated_norm.defvjp(_modulated_norm_forward, _modulated_norm_backward)


# ---------------------------------------------------------------- norm and rotation of queries and keys


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def norm_rotate(
    qkv: jax.Array,
    scales: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    heads: int,
    eps: float,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Root-mean-square norm over the width and rotary embedding of queries and keys.

    Args:
      qkv: `[B, N, 3 D]`, queries, keys and values, channels in the order of `layers.pairs_apart`.
      scales: `[2, D]` float32, of the norms of queries and of keys, in that order of channels.
      cos, sin: `[B or 1, N, head_dim / 2]` float32; no gradient is computed for them.
      interpret: whether to run the kernel's code slowly on any device, to test it.

    Returns:
      Queries, keys and values `[B, N, heads, head_dim]` in the dtype of `qkv`.
    """
    return _norm_rotate_forward(qkv, scales, cos, sin, heads, eps, interpret)[0]


class _Tiles(NamedTuple):
    """How queries, keys and values `[B, N, D]` are worked on: tiles of rows and of pairs of channels."""

    videos: int
    tokens: int
    width: int  # D
    half: int  # of a head
    tables: int  # rotary tables: one for each video, or one

    @property
    def programs(self) -> int:
        return math.ceil(self.videos * self.tokens / ROWS)

    @property
    def rows(self) -> int:
        return _tile(self.width // 2)[0]

    def channels(self) -> tuple[jax.Array, jax.Array]:
        """The first channel of each pair `[columns]`, and which of these there are."""
        pair = jnp.arange(_tile(self.width // 2)[1])
        return pair // self.half * 2 * self.half + pair % self.half, pair < self.width // 2

    def tokens_of(self, program, i) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of tile `i` of a program: tokens `[R, 1]`; which elements there are, and places in the tables."""
        pair = jnp.arange(_tile(self.width // 2)[1])[None]
        token = (program * ROWS + i * self.rows + jnp.arange(self.rows))[:, None]
        mask = (token < self.videos * self.tokens) & (pair < self.width // 2)
        table = token if self.tables == self.videos else token % self.tokens
        return token, mask, table * self.half + pair % self.half


def _tiles(qkv: jax.Array, cos: jax.Array) -> _Tiles:
    videos, tokens, width = qkv.shape
    return _Tiles(videos, tokens, width // 3, cos.shape[-1], len(cos))


def _norm_rotate_forward(qkv, scales, cos, sin, heads, eps, interpret):
    def run(qkv, cos, sin, scales):
        tiles = _tiles(qkv, cos)
        d, half = tiles.width, tiles.half

        def kernel(qkv_ref, cos_ref, sin_ref, scale_ref, q_ref, k_ref, v_ref):
            program = pl.program_id(0)
            channel, known = tiles.channels()

            def body(i, _):
                token, mask, angle = tiles.tokens_of(program, i)
                load = functools.partial(triton.load, mask=mask, other=0.0)
                c, s = load(cos_ref.at[angle]), load(sin_ref.at[angle])
                read, write = token * (3 * d) + channel[None], token * d + channel[None]
                for which, out_ref in enumerate((q_ref, k_ref)):
                    pair = [load(qkv_ref.at[read + which * d + o]).astype(jnp.float32) for o in (0, half)]
                    rstd = _inverse_rms(*pair, d, eps)
                    # Rounded in between, as XLA's operations would be.
                    x, y = (
                        (z * rstd * triton.load(scale_ref.at[which * d + channel + o], mask=known, other=0.0))
                        .astype(out_ref.dtype)
                        .astype(jnp.float32)
                        for z, o in zip(pair, (0, half), strict=True)
                    )
                    triton.store(out_ref.at[write], (x * c - y * s).astype(out_ref.dtype), mask=mask)
                    triton.store(out_ref.at[write + half], (x * s + y * c).astype(out_ref.dtype), mask=mask)
                for o in (0, half):
                    triton.store(v_ref.at[write + o], load(qkv_ref.at[read + 2 * d + o]), mask=mask)

            jax.lax.fori_loop(0, ROWS // tiles.rows, body, None)

        out = jax.ShapeDtypeStruct((*qkv.shape[:2], heads, 2 * half), qkv.dtype)
        return tuple(_call(kernel, tiles.programs, (out,) * 3, qkv, cos, sin, scales, interpret=interpret))

    return _by_video(run, qkv, cos, sin, scales, shared=(3,)), (qkv, scales, cos, sin)


def _inverse_rms(x: jax.Array, y: jax.Array, d: int, eps: float) -> jax.Array:
    """`[R, 1]` of the two halves `[R, columns]` of rows of `d` channels."""
    return jax.lax.rsqrt(jnp.sum(x * x + y * y, 1, keepdims=True) / d + eps)


def _norm_rotate_backward(heads, eps, interpret, saved, gradients):
    def run(qkv, dq, dk, dv, cos, sin, scales):
        tiles = _tiles(qkv, cos)
        d, half = tiles.width, tiles.half

        def kernel(qkv_ref, dq_ref, dk_ref, dv_ref, cos_ref, sin_ref, scale_ref, out_ref, partial_ref):
            program = pl.program_id(0)
            channel, known = tiles.channels()

            def body(i, totals):
                token, mask, angle = tiles.tokens_of(program, i)
                load = functools.partial(triton.load, mask=mask, other=0.0)
                c, s = load(cos_ref.at[angle]), load(sin_ref.at[angle])
                wide, narrow = token * (3 * d) + channel[None], token * d + channel[None]
                new = []
                for which, gradient_ref in enumerate((dq_ref, dk_ref)):
                    x, y = (load(qkv_ref.at[wide + which * d + o]).astype(jnp.float32) for o in (0, half))
                    rstd = _inverse_rms(x, y, d, eps)
                    x, y = x * rstd, y * rstd
                    a, b = (load(gradient_ref.at[narrow + o]).astype(jnp.float32) for o in (0, half))
                    a, b = a * c + b * s, b * c - a * s
                    new += [jnp.sum(a * x, 0), jnp.sum(b * y, 0)]
                    a, b = (
                        z * triton.load(scale_ref.at[which * d + channel + o], mask=known, other=0.0)
                        for z, o in ((a, 0), (b, half))
                    )
                    along = jnp.sum(a * x + b * y, 1, keepdims=True) / d
                    for z, w, o in ((a, x, 0), (b, y, half)):
                        out = (rstd * (z - w * along)).astype(out_ref.dtype)
                        triton.store(out_ref.at[wide + which * d + o], out, mask=mask)
                for o in (0, half):
                    triton.store(out_ref.at[wide + 2 * d + o], load(dv_ref.at[narrow + o]), mask=mask)
                return tuple(a + b for a, b in zip(totals, new, strict=True))

            zeros = (jnp.zeros(channel.shape, jnp.float32),) * 4
            totals = jax.lax.fori_loop(0, ROWS // tiles.rows, body, zeros)
            for i, total in enumerate(totals):
                at = (program * 2 + i // 2) * d + channel + i % 2 * half
                triton.store(partial_ref.at[at], total, mask=known)

        outputs = (qkv, jax.ShapeDtypeStruct((tiles.programs, 2, d), jnp.float32))
        arrays = (qkv, dq, dk, dv, cos, sin, scales)
        return tuple(_call(kernel, tiles.programs, outputs, *arrays, interpret=interpret))

    qkv, scales, cos, sin = saved
    dqkv, partial = _by_video(run, qkv, *gradients, cos, sin, scales, shared=(6,))
    return dqkv, partial.sum(0), jnp.zeros_like(cos), jnp.zeros_like(sin)


norm_rotate.defvjp(_norm_rotate_forward, _norm_rotate_backward)
