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

    For its sums over tokens XLA prefers contiguous tokens, and would transpose between the kernels.
    """
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def by_video(function: Any, *arrays: jax.Array, shared: tuple[int, ...] = ()) -> Any:
    """Runs a function of arrays with leading `[B]` on each device's own videos; `shared` ones have none."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(*arrays)
    own = P(batch_axes(len(arrays[0]), mesh))
    specs = tuple(P() if i in shared or len(a) == 1 else own for i, a in enumerate(arrays))
    return jax.shard_map(function, in_specs=specs, out_specs=own, check_vma=False)(*arrays)


def call(kernel: Any, programs: int, outputs: Any, *arrays: jax.Array, interpret: bool) -> Any:
    """Runs a kernel on flat arrays; outputs are flat, too, and get their shapes afterwards."""
    flat = pl.pallas_call(
        kernel,
        grid=(programs,),
        out_shape=[jax.ShapeDtypeStruct((math.prod(o.shape),), o.dtype) for o in outputs],
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=2),
        interpret=interpret,
    )(*(array.reshape(-1) for array in arrays))
    return [array.reshape(output.shape) for array, output in zip(flat, outputs, strict=True)]


def tile_of(width: int) -> tuple[int, int]:
    """Rows and columns of a tile for rows of this width; sizes of arrays are powers of 2 in a kernel."""
    columns = pl.next_power_of_2(width)
    return max(1, min(ROWS, TILE // columns)), columns


class Update(NamedTuple):
    """`gate * (product + bias)`, what a part of a block adds to its tokens."""

    product: jax.Array  # [B, N, D], in the dtype of the tokens
    bias: jax.Array  # [D] float32
    gate: jax.Array  # [B, D] float32


class Stream(NamedTuple):
    """Tokens on their way through the blocks, perhaps with an update that is not yet added.

    The kernel of the next norm adds the update. So the sum is not read again, and the gradients of gate and
    bias are summed in the kernel that computes the gradient of the sum.
    """

    x: jax.Array  # [B, N, D]
    update: Update | None = None


def added(stream: Stream) -> jax.Array:
    """The tokens `[B, N, D]` of a stream with its update added, if it has one; by XLA."""
    if stream.update is None:
        return stream.x
    product, bias, gate = stream.update
    update = gate[:, None] * (product.astype(jnp.float32) + bias)
    return (stream.x.astype(jnp.float32) + update).astype(stream.x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def modulated_norm(
    stream: Stream, shift: jax.Array, scale: jax.Array, eps: float, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The tokens with their update added, and their layer norm times `1 + scale` plus `shift`.

    Args:
      stream: N tokens of each of B videos, D wide.
      shift: `[B, D]` float32; or `[B, F, D]`, one for each of F runs of N / F tokens.
      scale: `[B, D]` float32.
      interpret: whether to run the kernel's code slowly on any device, to test it.

    Returns:
      The sum and its modulated norm, `[B, N, D]` in the dtype of the tokens; sums in float32.
    """
    return _modulated_norm_forward(stream, shift, scale, eps, interpret)[0]


class _Rows(NamedTuple):
    """Division of the tokens among programs: each takes up to ROWS of one run of tokens with equal shift."""

    videos: int
    runs: int  # of a video
    tokens: int  # of a run
    width: int

    @property
    def chunks(self) -> int:
        return math.ceil(self.tokens / ROWS)

    @property
    def programs(self) -> int:
        return self.videos * self.runs * self.chunks

    @property
    def tiles(self) -> int:
        return ROWS // tile_of(self.width)[0]

    def vector(self, ref: Any, number: Any) -> jax.Array:
        """Row `number` of vectors `[.., D]`, as `[1, columns]`."""
        column = jnp.arange(tile_of(self.width)[1])
        return triton.load(ref.at[number * self.width + column], mask=column < self.width, other=0.0)[None]

    def tile(self, program: Any, i: Any) -> tuple[jax.Array, jax.Array]:
        """Indices of the elements of tile `i` of a program, `[R, columns]`, and a mask of those in range."""
        rows, columns = tile_of(self.width)
        row, column = program % self.chunks * ROWS + i * rows + jnp.arange(rows), jnp.arange(columns)
        index = (program // self.chunks * self.tokens + row)[:, None] * self.width + column[None]
        return index, (row < self.tokens)[:, None] & (column < self.width)[None]


def _rows(x: jax.Array, shift: jax.Array) -> _Rows:
    b, n, d = x.shape
    runs = shift.size // (b * d)
    return _Rows(b, runs, n // runs, d)


def _modulated_norm_forward(stream, shift, scale, eps, interpret):
    x, update = stream

    def run(x, shift, scale, *more):
        rows = _rows(x, shift)

        def kernel(x_ref, shift_ref, scale_ref, *refs):
            program = pl.program_id(0)
            of_run = program // rows.chunks
            s, m = rows.vector(shift_ref, of_run), rows.vector(scale_ref, of_run // rows.runs)
            if update is not None:
                product_ref, gate_ref, bias_ref, y_ref, sum_ref = refs
                g, bias = rows.vector(gate_ref, of_run // rows.runs), rows.vector(bias_ref, 0)
            else:
                (y_ref,) = refs

            def body(i, _):
                index, mask = rows.tile(program, i)
                new = triton.load(x_ref.at[index], mask=mask, other=0.0)
                if update is not None:
                    added = triton.load(product_ref.at[index], mask=mask, other=0.0).astype(jnp.float32)
                    new = new + (g * (added + bias)).astype(new.dtype)
                    triton.store(sum_ref.at[index], new, mask=mask)
                z, rstd = _normalized(new.astype(jnp.float32), mask, rows.width, eps)
                triton.store(y_ref.at[index], (z * rstd * (1 + m) + s).astype(y_ref.dtype), mask=mask)

            jax.lax.fori_loop(0, rows.tiles, body, None)

        outputs = (x,) if update is None else (x, x)
        return tuple(call(kernel, rows.programs, outputs, x, shift, scale, *more, interpret=interpret))

    more = () if update is None else (update.product, update.gate, update.bias)
    y, new = (*by_video(run, x, shift, scale, *more, shared=(5,)), x)[:2]
    return (new, y), (new, update, shift, scale)


def _normalized(x: jax.Array, mask: jax.Array, d: int, eps: float) -> tuple[jax.Array, jax.Array]:
    """Rows' deviations from their mean `[R, columns]`, and their inverse standard deviations `[R, 1]`."""
    z = jnp.where(mask, x - jnp.sum(x, 1, keepdims=True) / d, 0.0)
    return z, jax.lax.rsqrt(jnp.sum(z * z, 1, keepdims=True) / d + eps)


def _modulated_norm_backward(eps, interpret, saved, gradients):
    x, update, shift, scale = saved
    more = () if update is None else (update.product, update.gate)

    def run(x, d_sum, d_y, shift, scale, *more):
        return _norm_gradients(_rows(x, shift), eps, interpret, (x, d_sum, d_y, scale, *more))

    dx, sums, *d_product = by_video(run, x, *gradients, shift, scale, *more)
    d_shift, (d_scale, *of_update) = sums[:, :, 0], jnp.moveaxis(sums[:, :, 1:].sum(1), 1, 0)
    d_update = None
    if update is not None:
        with_product, alone = of_update
        d_gate, d_bias = with_product + update.bias * alone, (update.gate * alone).sum(0)
        d_update = Update(*d_product, d_bias, d_gate)
    return Stream(dx, d_update), d_shift.reshape(shift.shape), d_scale


def _norm_gradients(rows: _Rows, eps: float, interpret: bool, arrays: tuple[jax.Array, ...]) -> tuple:
    """Gradients of tokens and product, between them float32 sums over the tokens of each run, `[B, F, S, D]`.

    The sums are those for shift and scale, and, with an update, of the tokens' gradient, times the product
    and alone.
    """
    updated = len(arrays) > 4
    count = 4 if updated else 2

    def kernel(x_ref, d_sum_ref, d_y_ref, scale_ref, *refs):
        program = pl.program_id(0)
        video = program // rows.chunks // rows.runs
        m = rows.vector(scale_ref, video)
        if updated:
            product_ref, gate_ref, dx_ref, partial_ref, d_product_ref = refs
            g = rows.vector(gate_ref, video)
        else:
            dx_ref, partial_ref = refs

        def body(i, totals):
            index, mask = rows.tile(program, i)

            def load(ref):
                return triton.load(ref.at[index], mask=mask, other=0.0).astype(jnp.float32)

            x, d_sum, d_y = load(x_ref), load(d_sum_ref), load(d_y_ref)
            z, rstd = _normalized(x, mask, rows.width, eps)
            z = z * rstd
            d_z = d_y * (1 + m)
            mean = jnp.sum(d_z, 1, keepdims=True) / rows.width
            along = jnp.sum(d_z * z, 1, keepdims=True) / rows.width
            dx = d_sum + rstd * (d_z - mean - z * along)
            triton.store(dx_ref.at[index], dx.astype(dx_ref.dtype), mask=mask)
            new = [jnp.sum(d_y, 0), jnp.sum(d_y * z, 0)]
            if updated:
                triton.store(d_product_ref.at[index], (g * dx).astype(d_product_ref.dtype), mask=mask)
                new += [jnp.sum(dx * load(product_ref), 0), jnp.sum(dx, 0)]
            return tuple(a + b for a, b in zip(totals, new, strict=True))

        column = jnp.arange(tile_of(rows.width)[1])
        zeros = (jnp.zeros(column.shape, jnp.float32),) * count
        for i, total in enumerate(jax.lax.fori_loop(0, rows.tiles, body, zeros)):
            at = (program * count + i) * rows.width + column
            triton.store(partial_ref.at[at], total, mask=column < rows.width)

    x = arrays[0]
    partial = jax.ShapeDtypeStruct((rows.videos, rows.runs, rows.chunks, count, rows.width), jnp.float32)
    outputs = (x, partial, x) if updated else (x, partial)
    dx, partial, *d_product = call(kernel, rows.programs, outputs, *arrays, interpret=interpret)
    return dx, partial.sum(2), *d_product


modulated_norm.defvjp(_modulated_norm_forward, _modulated_norm_backward)
