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
        exact = [jnp.asarray(np.asarray(a, np.float64)) for a in arrays]
        expected, pull = jax.vjp(reference, *exact)
        cotangents = jax.tree.map(lambda a: rng.standard_normal(a.shape), expected)
        gradients = pull(jax.tree.map(jnp.asarray, cotangents))
        expected, gradients = jax.device_get((expected, gradients))
    given = [jnp.asarray(a) for a in arrays]
    got, pull = jax.vjp(function, *given)
    own = pull(jax.tree.map(lambda c, a: jnp.asarray(c, a.dtype), cotangents, got))
    for one, other in zip(got, expected, strict=True):
        close(one, other, tolerance)
    for number, (one, other) in enumerate(zip(own, gradients, strict=True)):
        assert one.dtype == given[number].dtype
        close(one, other, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
def test_modulated_norm(dtype, tolerance):
    rng, tokens, width = np.random.default_rng(0), 40, 24  # neither fills the kernels' tiles
    x, update = (jnp.asarray(rng.standard_normal((2, tokens, width)), dtype) for _ in range(2))
    vectors = [rng.standard_normal((2, width)).astype(np.float32) for _ in range(3)]
    compare(
        lambda *a: fused.modulated_norm(*a, EPS, True),
        modulated_norm,
        [x, update, *vectors],
        dtype,
        tolerance,
    )
    compare(
        lambda x, *a: fused.modulated_norm(x, None, None, *a, EPS, True),
        lambda x, *a: modulated_norm(x, 0, vectors[0], *a),
        [x, *vectors[1:]],
        dtype,
        tolerance,
    )


@pytest.mark.parametrize(
    ("heads", "half", "tables", "dtype", "tolerance"),
    [(3, 4, 2, jnp.float32, 2e-6), (2, 3, 1, jnp.bfloat16, 2e-2)],
)
def test_norm_rotate(heads, half, tables, dtype, tolerance):
    rng = np.random.default_rng(0)
    tokens, width = 35, 2 * heads * half
    qkv = jnp.asarray(rng.standard_normal((2, tokens, 3 * width)), dtype)
    scales = rng.standard_normal((2, width)).astype(np.float32)
    angle = rng.standard_normal((tables, tokens, half))
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    compare(
        lambda qkv, scales: fused.norm_rotate(qkv, scales, cos, sin, heads, EPS, True),
        lambda qkv, scales: norm_rotate(qkv, scales, cos, sin, heads),
        [qkv, scales],
        dtype,
        tolerance,
    )


def norm_rotate(qkv, scales, cos, sin, heads):
    """In the dtype of its arguments, from the definition: complex numbers turned by their angles."""
    b, n, _ = qkv.shape
    done = []
    for x, scale in zip(jnp.split(qkv, 3, -1)[:2], scales, strict=True):
        x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + EPS) * scale
        x = x.reshape(b, n, heads, 2, -1)
        turned = (x[:, :, :, 0] + 1j * x[:, :, :, 1]) * (cos + 1j * sin)[:, :, None]
        done.append(jnp.concatenate([turned.real, turned.imag], -1))
    return *done, jnp.split(qkv, 3, -1)[2].reshape(b, n, heads, -1)


def modulated_norm(x, update, gate, shift, scale):
    """In the dtype of its arguments, from the definition."""
    x = x + gate[:, None] * update
    y = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + EPS)
    return x, y * (1 + scale[:, None]) + shift[:, None]
