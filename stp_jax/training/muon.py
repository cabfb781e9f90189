"""The update rule of the Muon optimizer, for all matrices of a model together (Jordan et al. 2024)."""

from __future__ import annotations

import collections
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
RMS = 0.2  # of an update's elements, as Adam's have (Liu et al. 2025, "Muon is scalable for LLM training")


def orthogonalize(dtype: jax.typing.DTypeLike) -> optax.GradientTransformation:
    """Replaces updates by matrices with the same singular vectors and singular values near 1.

    Matrices stacked over layers, `[L, in, out]`, are orthogonalized each by itself. A convolution's kernel,
    `[*size, in, out]`, counts as one matrix `[size * in, out]`. Matrices of one shape are iterated together
    and split over all devices: one alone is too small to keep a GPU busy.

    Args:
      dtype: of the iterations; bfloat16 is enough for training.
    """

    def update(updates: dict[str, Any], state: optax.EmptyState, params: Any = None):
        del params
        flat = {name: _to_wide(array) for name, array in updates.items() if isinstance(array, jax.Array)}
        groups = collections.defaultdict(list)
        for name, stack in flat.items():
            groups[stack.shape[1:]].append(name)
        done = dict(updates)  # of parameters for other optimizers there are masks, which stay
        for shape, names in groups.items():
            joined = jnp.concatenate([flat[name] for name in names])
            joined = newton_schulz(joined, dtype) * (RMS * math.sqrt(shape[1]))
            parts = jax.lax.split(joined, [len(flat[name]) for name in names])
            done |= {name: _from_wide(part, updates[name]) for name, part in zip(names, parts, strict=True)}
        return done, state

    return optax.GradientTransformation(optax.init_empty_state, update)


def newton_schulz(x: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Steps of the quintic iteration of Jordan et al. 2024 on each matrix of `x` `[N, m, n]`, m <= n.

    `X <- a X + b (X X^T) X + c (X X^T)^2 X`, from an X of Frobenius norm 1. Singular values end between 0.7
    and 1.2. Under a mesh each device iterates its share of the matrices.

    Returns:
      `[N, m, n]` in `dtype`.
    """
    a, b, c = COEFFICIENTS
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2), keepdims=True))
    number, x = len(x), _spread((x / jnp.maximum(norm, 1e-8)).astype(dtype))
    for _ in range(STEPS):
        gram = jnp.einsum("nij,nkj->nik", x, x)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return _gather(x)[:number]


def _spread(x: jax.Array) -> jax.Array:
    """`[N, m, n]` with N split over all devices of the mesh, and matrices of zeros added until it divides."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    x = jnp.pad(x, ((0, -len(x) % mesh.size), (0, 0), (0, 0)))
    return jax.lax.with_sharding_constraint(x, P(mesh.axis_names))


def _gather(x: jax.Array) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty or mesh.size == 1 else jax.lax.with_sharding_constraint(x, P())


def _inputs(kernel: jax.Array) -> int:
    """The number of inputs of each output of a kernel: the rows of its matrix."""
    return kernel.shape[-2] if kernel.ndim <= 3 else math.prod(kernel.shape[:-1])


def _is_tall(kernel: jax.Array) -> bool:
    """Whether a kernel, as a matrix, has more inputs than outputs."""
    return _inputs(kernel) > kernel.shape[-1]


def _to_wide(kernel: jax.Array) -> jax.Array:
    """A kernel as a stack of matrices `[N, m, n]` with m <= n, transposed where need be."""
    stack = kernel.reshape(-1, _inputs(kernel), kernel.shape[-1])
    return stack.swapaxes(1, 2) if _is_tall(kernel) else stack


def _from_wide(stack: jax.Array, kernel: jax.Array) -> jax.Array:
    """Undoes `_to_wide`, in the dtype and shape of the kernel."""
    stack = stack.swapaxes(1, 2) if _is_tall(kernel) else stack
    return stack.astype(kernel.dtype).reshape(kernel.shape)
