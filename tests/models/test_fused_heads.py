"""The GPU kernel of queries and keys, interpreted on the CPU, against its definition in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from stp_jax.models.fused_heads import norm_rotate
from tests.models.test_fused import EPS, compare


@pytest.mark.parametrize(
    ("heads", "half", "tables", "dtype", "tolerance"),
    [(3, 4, 2, jnp.float32, 2e-6), (2, 3, 1, jnp.bfloat16, 2e-2)],
)
def test_norm_rotate(heads, half, tables, dtype, tolerance):
    rng = np.random.default_rng(0)
    tokens, width = 35, 2 * heads * half
    qkv = rng.standard_normal((2, tokens, 3 * width)).astype(dtype)
    bias = rng.standard_normal(3 * width).astype(np.float32)
    scales = rng.standard_normal((2, width)).astype(np.float32)
    angle = rng.standard_normal((tables, tokens, half))
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    compare(
        lambda *a: norm_rotate(*a, cos, sin, heads, EPS, True),
        lambda *a: definition(*a, cos, sin, heads),
        [qkv, bias, scales],
        dtype,
        tolerance,
    )


def definition(qkv, bias, scales, cos, sin, heads):
    """In the dtype of its arguments, from the definition: complex numbers turned by their angles."""
    qkv, (b, n, _) = qkv + bias, qkv.shape
    done = []
    for x, scale in zip(jnp.split(qkv, 3, -1)[:2], scales, strict=True):
        x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + EPS) * scale
        x = x.reshape(b, n, heads, 2, -1)
        turned = (x[:, :, :, 0] + 1j * x[:, :, :, 1]) * (cos + 1j * sin)[:, :, None]
        done.append(jnp.concatenate([turned.real, turned.imag], -1))
    return *done, jnp.split(qkv, 3, -1)[2].reshape(b, n, heads, -1)
