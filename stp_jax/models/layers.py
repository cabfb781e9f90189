"""Small layers shared by the models: parameter containers with explicit compute precision."""

from __future__ import annotations

import functools
import math

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

lecun_normal = jax.nn.initializers.lecun_normal()
zeros = jax.nn.initializers.zeros

LONG_SEQUENCE = 4096  # with at least this many tokens it is cheaper to scale a kernel than its products


class Dense(nnx.Module):
    """`x @ kernel + bias`: parameters float32, arithmetic in the dtype of `x`.

    With a `lora_rank`, `(x @ lora_a) @ lora_b` is added (Hu et al. 2021): few parameters to train beside a
    frozen kernel. `lora_b` starts at zero, so nothing changes at first.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, init=lecun_normal, lora_rank: int = 0):
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))
        self.lora_rank = lora_rank
        if lora_rank:
            self.lora_a = nnx.Param(lecun_normal(rngs.params(), (inputs, lora_rank), jnp.float32))
            self.lora_b = nnx.Param(jnp.zeros((lora_rank, outputs), jnp.float32))

    def __call__(self, x: jax.Array, gate: jax.Array | None = None, *, rotary_heads: int = 0) -> jax.Array:
        """`[B, N, inputs]` -> `[B, N, outputs]`.

        Args:
          gate: `[B, 1, outputs]`, multiplied with the result. For a long sequence it is multiplied into the
            kernel, which is smaller than the product. Otherwise the gate's gradient would need the product,
            and rematerialisation would compute it again.
          rotary_heads: the number of heads, if outputs are to be in the order of `half_split`.
        """
        late = gate is not None and x.shape[1] < LONG_SEQUENCE

        def own(parameter: nnx.Param) -> jax.Array:
            array = parameter[...]
            array = array if gate is None or late else array * gate
            return half_split(array, rotary_heads) if rotary_heads else array

        y = add_bias(x @ own(self.kernel).astype(x.dtype), own(self.bias))
        if self.lora_rank:
            y = y + (x @ self.lora_a[...].astype(x.dtype)) @ own(self.lora_b).astype(x.dtype)
        return (gate * y).astype(x.dtype) if gate is not None and late else y

    def product(self, x: jax.Array) -> jax.Array:
        """`x @ kernel` without the bias, for callers that add it in a kernel of their own; not for LoRA."""
        if self.lora_rank:
            raise ValueError("a product without its bias has no LoRA")
        return x @ self.kernel[...].astype(x.dtype)


@jax.custom_vjp
def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """`y + bias` in the dtype of `y`, with the gradient to the bias summed in the dtype of the bias.

    In bfloat16 a sum over thousands of tokens stops growing, as each summand is below its precision. To the
    compiler the forward pass is that of any other bias, fused with the product before.
    """
    return y + bias.astype(y.dtype)


def _add_bias_backward(bias: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    _, summed = jax.vjp(lambda bias: jnp.broadcast_to(bias, gradient.shape), bias)
    return gradient, *summed(gradient.astype(bias.dtype))


add_bias.defvjp(lambda y, bias: (add_bias(y, bias), bias), _add_bias_backward)


def half_split(array: jax.Array, heads: int) -> jax.Array:
    """The last axis reordered from the interleaved to the half-split layout of rotary embeddings.

    Within each head all first members of the rotated pairs come first, then all second ones. The products of
    queries and keys do not change, as both are reordered alike. The interleaved layout makes slow code on
    GPUs and TPUs, and reordering parameters costs next to nothing.
    """
    return einops.rearrange(array, "... (heads pairs two) -> ... (heads two pairs)", heads=heads, two=2)


@functools.partial(jax.checkpoint, prevent_cse=False)
def gelu(x: jax.Array) -> jax.Array:
    """GELU by its tanh approximation, computed in float32; `x (1 + tanh(u)) / 2` is `x sigmoid(2 u)`.

    Rounding each of its operations to bfloat16 would cost accuracy and, on GPUs, more time than the function
    itself. Its gradient needs only `x`.
    """
    y = x.astype(jnp.float32)
    return (y * jax.nn.sigmoid(math.sqrt(8 / math.pi) * (y + 0.044715 * y**3))).astype(x.dtype)


class MLP(nnx.Module):
    """Dense, an activation (by default SiLU), Dense, whose second kernel begins as `init` makes it."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        activation=jax.nn.silu,
        init=lecun_normal,
    ):
        self.layer_in = Dense(inputs, hidden, rngs=rngs)
        self.layer_out = Dense(hidden, outputs, rngs=rngs, init=init)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer_out(self.activation(self.layer_in(x)))


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis, statistics in float32."""

    def __init__(self, dim: int, eps: float):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array, *, rotary_heads: int = 0) -> jax.Array:
        """`[..., D]` -> `[..., D]`, whose channels are in the order of `Dense`'s `rotary_heads`."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
        scale = self.scale[...]
        return (y * (half_split(scale, rotary_heads) if rotary_heads else scale)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer norm over the last axis with scale and bias, statistics in float32."""

    def __init__(self, dim: int, eps: float):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        return (layer_norm(x, self.eps) * self.scale[...] + self.bias[...]).astype(x.dtype)


def layer_norm(x: jax.Array, eps: float) -> jax.Array:
    """Layer norm over the last axis without parameters; float32 inside and out."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, -1, keepdims=True)
    return y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + eps)


def pad(x: jax.Array, multiple: int) -> jax.Array:
    """`[B, N, ...]` with zeros after its tokens, up to a multiple of this number."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), *((0, 0),) * (x.ndim - 2)))


def cos_sin(positions: jax.Array, frequencies: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of `positions * frequencies` as if the product were taken in float64.

    In float32 the angle of timestep 1000 would be off by 6e-5. So the product is taken in turns of the
    circle, with factors split into halves of 12 bits, whose products are exact. Only the fraction of a turn
    is kept. The result is within 1e-6 of float64.

    Args:
      positions: `[...]`, up to some thousands.
      frequencies: `[n]` float64, radians per unit of position, at most 1.

    Returns:
      Two arrays `[..., n]` float32.
    """

    def halves(x):
        high = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=11)
        return high, x - high

    turns = frequencies / (2 * np.pi)
    mantissa, exponent = np.frexp(turns)
    first = np.ldexp(np.round(mantissa * 2**12) / 2**12, exponent)
    mantissa, exponent = np.frexp(turns - first)
    second = np.ldexp(np.round(mantissa * 2**12) / 2**12, exponent)
    factors = [np.float32(part) for part in (first, second, turns - first - second)]

    positions = positions.astype(jnp.float32)[..., None]
    high, low = halves(positions)
    products = [high * factors[0], low * factors[0], high * factors[1], low * factors[1]]
    fraction = sum(product - jnp.round(product) for product in products) + positions * factors[2]
    angle = np.float32(2 * np.pi) * (fraction - jnp.round(fraction))
    return jnp.cos(angle), jnp.sin(angle)


def sinusoid(positions: jax.Array, dim: int) -> jax.Array:
    """`[cos(p a_0), .., sin(p a_0), ..]`, `a_i = 10000^(-2i/dim)` (Wan2.1).

    `positions` `[...]` -> `[..., dim]` float32, as accurate as computed in float64.
    """
    half = dim // 2
    return jnp.concatenate(cos_sin(positions, 10000.0 ** (-np.arange(half) / half)), -1)
