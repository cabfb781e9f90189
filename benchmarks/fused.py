"""The kernels of stp_jax/models/fused.py on a GPU: their errors, and their time beside XLA's operations.

    python benchmarks/fused.py

Errors are the largest differences from float64, as shares of the largest value, of 4 videos; times are those
of 64 videos of 640 tokens, 768 wide, with 12 heads, in bfloat16, forward and backward together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from stp_jax.models import fused
    from stp_jax.models.fused_heads import norm_rotate
    from stp_jax.models.layers import add_bias, layer_norm
    from stp_jax.models.rope import rotate

VIDEOS, TOKENS, WIDTH, HEADS, EPS = 64, 640, 768, 12, 1e-6


def plain_modulated_norm(x, product, bias, gate, shift, scale):
    x = x + (gate[:, None] * add_bias(product, bias)).astype(x.dtype)
    return x, (layer_norm(x, EPS) * (1 + scale[:, None]) + shift[:, None]).astype(x.dtype)


def plain_norm_rotate(qkv, bias, scales, cos, sin):
    b, n, _ = qkv.shape
    q, k, v = jnp.split(add_bias(qkv, bias), 3, -1)
    done = []
    for x, scale in zip((q, k), scales, strict=True):
        y = x.astype(jnp.float32)
        y = (y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + EPS) * scale).astype(x.dtype)
        done.append(rotate(y.reshape(b, n, HEADS, -1), cos[:, :, None], sin[:, :, None]))
    return done[0], done[1], v.reshape(b, n, HEADS, -1)


def exact_modulated_norm(x, product, bias, gate, shift, scale):
    x = x + gate[:, None] * (product + bias)
    y = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + EPS)
    return x, y * (1 + scale[:, None]) + shift[:, None]


def exact_norm_rotate(qkv, bias, scales, cos, sin):
    b, n, _ = qkv.shape
    qkv = qkv + bias
    done = []
    for x, scale in zip(jnp.split(qkv, 3, -1)[:2], scales, strict=True):
        x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + EPS) * scale
        first, second = jnp.moveaxis(x.reshape(b, n, HEADS, 2, -1), 3, 0)
        c, s = cos[:, :, None], sin[:, :, None]
        done.append(jnp.concatenate([first * c - second * s, first * s + second * c], -1))
    return *done, jnp.split(qkv, 3, -1)[2].reshape(b, n, HEADS, -1)


def inputs(name: str, videos: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return np.asarray(rng.standard_normal(shape), np.float32)

    if name == "modulated_norm":
        vectors = [normal(WIDTH), *(normal(videos, WIDTH) for _ in range(3))]
        return [normal(videos, TOKENS, WIDTH) for _ in range(2)] + vectors
    angles = normal(videos, TOKENS, WIDTH // HEADS // 2)
    parameters = normal(3 * WIDTH), normal(2, WIDTH)
    return [normal(videos, TOKENS, 3 * WIDTH), *parameters, np.cos(angles), np.sin(angles)]


def with_gradients(function: Callable, differentiable: int) -> Callable:
    """A compiled function of arrays and cotangents to outputs and gradients of the first arrays."""

    def run(arrays, cotangents):
        first, rest = arrays[:differentiable], arrays[differentiable:]
        outputs, pull = jax.vjp(lambda *first: function(*first, *rest), *first)
        return outputs, pull(jax.tree.map(lambda c, o: c.astype(o.dtype), cotangents, outputs))

    return jax.jit(run)


class Case(NamedTuple):
    kernel: Callable
    plain: Callable
    exact: Callable
    differentiable: int  # arrays that have a gradient
    low: int  # arrays in bfloat16


CASES = {
    "modulated_norm": Case(
        lambda x, *a: fused.modulated_norm(fused.Stream(x, fused.Update(*a[:3])), *a[3:], EPS),
        plain_modulated_norm,
        exact_modulated_norm,
        6,
        2,
    ),
    "norm_rotate": Case(lambda *a: norm_rotate(*a, HEADS, EPS), plain_norm_rotate, exact_norm_rotate, 3, 1),
}


def rounded(array: Any) -> np.ndarray:
    """float32 numbers that bfloat16 has, too."""
    return np.asarray(jnp.asarray(array, jnp.bfloat16), np.float32)


def on_device(arrays: list[np.ndarray], low: int) -> list[jax.Array]:
    return [jnp.asarray(a, jnp.bfloat16 if i < low else jnp.float32) for i, a in enumerate(arrays)]


def errors(name: str, function: Callable) -> tuple[float, float]:
    """Of outputs and of gradients, against float64."""
    case, rng = CASES[name], np.random.default_rng(1)
    arrays = [rounded(a) if i < case.low else a for i, a in enumerate(inputs(name, 4))]
    with jax.enable_x64(True):
        wide = [jnp.asarray(a, jnp.float64) for a in arrays]
        shapes = jax.eval_shape(case.exact, *wide)
        cotangents = [rounded(rng.standard_normal(output.shape)) for output in shapes]
        right = jax.device_get(with_gradients(case.exact, case.differentiable)(wide, tuple(cotangents)))
    run = with_gradients(function, case.differentiable)
    got = jax.device_get(run(on_device(arrays, case.low), tuple(cotangents)))

    def worst(some: Any, others: Any) -> float:
        pairs = zip(jax.tree.leaves(some), jax.tree.leaves(others), strict=True)
        return max(float(np.abs(np.float64(a) - b).max() / np.abs(b).max()) for a, b in pairs)

    return worst(got[0], right[0]), worst(got[1], right[1])


def milliseconds(name: str, function: Callable, repeats: int = 10) -> float:
    case = CASES[name]
    run, arrays = with_gradients(function, case.differentiable), on_device(inputs(name, VIDEOS), case.low)
    ones = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), jax.eval_shape(function, *arrays))
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        for _ in range(repeats):
            result = run(arrays, ones)
        jax.block_until_ready(result)
        times.append(1e3 * (time.perf_counter() - begun) / repeats)
    return statistics.median(times[1:])  # the first compiles


@exit_on_input_error
def main() -> None:
    if not fused.available(jnp.bfloat16):
        raise InputError("the kernels need an NVIDIA GPU")
    print("| function | | error | of gradients | forward and backward, ms |\n|---|---|---|---|---|")
    for name, case in CASES.items():
        for label, function in (("kernel", case.kernel), ("XLA", case.plain)):
            error, of_gradients = errors(name, function)
            spent = milliseconds(name, function)
            print(f"| {name} | {label} | {error:.1e} | {of_gradients:.1e} | {spent:.3f} |", flush=True)


if __name__ == "__main__":
    main()
