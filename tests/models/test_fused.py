"""The GPU kernels of the DiT's blocks, interpreted on the CPU, against the plain versions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stp_jax.models import fused

EPS = 1e-6


def close(got, expected, tolerance):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, atol=tolerance * scale)


def compare(function, reference, arrays, dtype, tolerance):
    """Values and gradients of a kernel in `dtype` against a float64 reference, for random cotangents."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        exact = [np.asarray(a, np.float64) for a in arrays]
        shapes = jax.eval_shape(reference, *exact)
        cotangents = jax.tree.map(lambda a: rng.standard_normal(a.shape), shapes)
        expected, gradients = jax.device_get(with_gradients(reference)(exact, cotangents))
    kinds = jax.eval_shape(function, *arrays)
    cotangents = jax.tree.map(lambda c, a: c.astype(a.dtype), tuple(cotangents), tuple(kinds))
    got, own = with_gradients(function)(arrays, cotangents)
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        close(one, other, tolerance)
    for number, (one, other) in enumerate(zip(own, gradients, strict=True)):
        assert one.dtype == arrays[number].dtype
        close(one, other, tolerance)


def with_gradients(function):
    """Of arrays and cotangents: the values and the gradients; compiled as one."""

    def run(arrays, cotangents):
        values, pull = jax.vjp(lambda *arrays: tuple(function(*arrays)), *arrays)
        return values, pull(tuple(cotangents))

    return jax.jit(run)


@pytest.mark.parametrize("runs", [None, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
def test_modulated_norm(dtype, tolerance, runs):
    rng, tokens, width = np.random.default_rng(0), 40 * (runs or 1), 24  # neither fills the kernels' tiles

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    x, product = (normal(2, tokens, width).astype(dtype) for _ in range(2))
    bias, gate, scale = normal(width), normal(2, width), normal(2, width)
    shift = normal(2, width) if runs is None else normal(2, runs, width)

    def kernel(x, product, bias, gate, shift, scale):
        return fused.modulated_norm(
            fused.Stream(x, fused.Update(product, bias, gate)), shift, scale, EPS, True
        )

    compare(kernel, modulated_norm, [x, product, bias, gate, shift, scale], dtype, tolerance)
    compare(
        lambda x, *a: fused.modulated_norm(fused.Stream(x), *a, EPS, True),
        lambda x, *a: modulated_norm(x, 0, 0, gate, *a),
        [x, shift, scale],
        dtype,
        tolerance,
    )


def modulated_norm(x, product, bias, gate, shift, scale):
    """In the dtype of its arguments, from the definition."""
    x = x + gate[:, None] * (product + bias)
    y = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + EPS)
    shift = shift.reshape(len(x), -1, x.shape[-1])
    return x, y * (1 + scale[:, None]) + jnp.repeat(shift, x.shape[1] // shift.shape[1], axis=1)
