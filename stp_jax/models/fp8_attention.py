"""Self-attention in 8 bits, for sampling: cuDNN's kernel for e4m3, and the same arithmetic on any device.

Queries, keys, values, attention weights and output are rounded to e4m3, floats of 4 bits of exponent and 3 of
mantissa. What is done for accuracy:

- The mean over all tokens is subtracted from the keys. Softmax does not change, and offsets of channels,
  which would be rounded with all of their size, are gone (Zhang et al. 2024, SageAttention).
- The mean is subtracted from the values, too, and added to the output in float32: weights sum to 1. So the
  rounding of the output is a share of what differs between tokens.
- Channels of queries and keys are made equally large (a factor for a channel of the queries is divided out of
  the keys) and then mixed by a Hadamard matrix in both. It is orthogonal, so that logits stay what they are,
  and their errors shrink: rounding errs in proportion to each channel's part of a logit, and often a few
  channels have most of it. Mixing alone would be worse where channels are large in keys and small in queries.
  On the demo model's activations both together halve the error of the logits (docs/benchmarks.md).
- Scales are powers of two, from the largest number of each tensor. A float keeps its relative precision under
  any scale, so that one scale for a tensor serves as well as one for each head. Besides, numbers are rounded
  alike under any two powers of two, unless they are below 2^-6 after scaling. So each device takes the scale
  of its own videos and heads: none is exchanged, and a video hardly depends on the batch.

cuDNN's kernel takes no mask for e4m3. Padding is zero: a key equal to the mean, with the mean as its value.
The mean over keys of the exponentials of a query's logits is at least 1, that of a zero key (Jensen's
inequality, as the logits of smoothed keys have mean 0). So p keys of padding take at most p / (N + p) of the
weights, 0.02 % of 65,520 tokens, and pull the output that far towards the mean.

This is the only module of stp_jax that uses jax's private interface to that kernel; `unavailable` says why it
cannot be.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stp_jax.errors import InputError
from stp_jax.models.layers import pad

MODES = ("exact", "fp8", "fp8_simulated")
E4M3 = jnp.float8_e4m3fn
LARGEST = 448.0  # of e4m3; its smallest normal number is 2^-6
WEIGHTS_SCALE = 256.0  # of attention weights, which are at most 1 before they are divided by their sum
TOKEN_MULTIPLE = 128  # tokens of a block of the kernel
LEAST_KEYS = 16_384  # below that attention is a small part of the time, and padding may weigh more

# Versions whose interface is the one known here; it was run on a GPU with 0.11 alone.
KNOWN_JAX = ((0, 10), (0, 11), (0, 12))
CUDNN = "jax._src.cudnn.fused_attention_stablehlo"
PARAMETERS = {"query", "key", "value", "fp8_params", "scale", "use_fp8"}
LEAST_CUDNN = 90_101  # of which XLA says that it has e4m3 attention


class Quantised(NamedTuple):
    """Inputs of the kernel; an e4m3 array stands for its numbers divided by its scale."""

    q: jax.Array  # [B, N, heads, head_dim] e4m3, mixed
    k: jax.Array  # [B, M, heads, head_dim] e4m3, without their mean, mixed
    v: jax.Array  # [B, M, heads, head_dim] e4m3, without their mean
    scales: tuple[jax.Array, jax.Array, jax.Array]  # [] float32, powers of two
    mean: jax.Array  # [B, 1, heads, head_dim] float32, of the values
    softmax_scale: float  # of the products of q and k


def unavailable(head_dim: int, keys: int) -> str | None:
    """Why cuDNN's attention in 8 bits cannot serve here, a clause to print; None: it can."""
    problem = _device_problem() or interface_problem(jax.__version__)
    if problem:
        return problem
    if head_dim % 16 or head_dim > 256:
        return f"heads are {head_dim} wide, and cuDNN takes multiples of 16 up to 256"
    if keys < LEAST_KEYS:
        return f"videos have {keys:,} tokens, and it pays from {LEAST_KEYS:,}"
    return None


def _device_problem() -> str | None:
    device = jax.local_devices()[0]
    found = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    if device.platform != "gpu" or not found or int(found[1]) < 9:
        return f"it needs an NVIDIA GPU of Hopper's generation or later, and this is {device.device_kind}"
    return None


def interface_problem(version: str) -> str | None:
    """Why jax of this version cannot be asked for e4m3 attention in the way known here; None: it can."""
    found = re.match(r"(\d+)\.(\d+)", version)
    *others, last = (f"{major}.{minor}" for major, minor in KNOWN_JAX)
    known = f"{', '.join(others)} and {last}"
    unknown = f"jax {version} may ask for it in another way than jax {known}, for which this was written"
    if not found or (int(found[1]), int(found[2])) not in KNOWN_JAX:
        return unknown
    try:
        cudnn = importlib.import_module(CUDNN)
        complete = PARAMETERS <= set(inspect.signature(cudnn.dot_product_attention).parameters)
        if not complete or set(cudnn.fp8_params_keys_fwd) != set(_scales_by_name(1, 1, 1, 1)):
            return unknown
        release = cudnn.check_cudnn_version()
    except (ImportError, AttributeError):
        return unknown
    except RuntimeError:  # what jax raises
        return "jax finds no cuDNN"
    return f"cuDNN is older than 9.1.1 ({release})" if release < LEAST_CUDNN else None


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, mode: str) -> jax.Array:
    """Softmax attention in 8 bits, on one device; not differentiable.

    Args:
      q: `[B, N, heads, head_dim]`.
      k, v: `[B, M, heads, head_dim]`, all of which are attended to.
      mode: `fp8`, by cuDNN; `fp8_simulated`, for measurements: the same rounding by XLA's operations on any
        device, slower than exact attention.

    Returns:
      `[B, N, heads, head_dim]` in the dtype of `q`.

    Raises:
      InputError: cuDNN's kernel cannot serve here.
    """
    on_gpu = mode == "fp8"
    reason = unavailable(q.shape[-1], k.shape[1]) if on_gpu else None
    if reason:
        raise InputError(f"model.sampling_attention is fp8: {reason}. Set it to exact.")
    given = quantise(q, k, v)
    y = _cudnn(given)[:, : q.shape[1]] if on_gpu else simulated(given)
    # No output is larger than the largest value, so that its scale serves both.
    return (y.astype(jnp.float32) / given.scales[2] + given.mean).astype(q.dtype)


def quantise(q: jax.Array, k: jax.Array, v: jax.Array) -> Quantised:
    """Subtracts means, mixes the channels of queries and keys, and rounds all three to e4m3."""
    mean = jnp.mean(v, 1, keepdims=True, dtype=jnp.float32)
    v = v.astype(jnp.float32) - mean
    k = (k.astype(jnp.float32) - jnp.mean(k, 1, keepdims=True, dtype=jnp.float32)).astype(k.dtype)
    q, k, factor = mix(q, k)
    q, k = q.astype(jnp.float32), k.astype(jnp.float32)
    by_q, by_k, by_v = (power_of_two(jnp.max(jnp.abs(x))) for x in (q, k, v))
    q, k, v = ((x * scale).astype(E4M3) for x, scale in ((q, by_q), (k, by_k), (v, by_v)))
    return Quantised(q, k, v, (by_q, by_k, by_v), mean, q.shape[-1] ** -0.5 / factor)


def mix(q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array, int]:
    """Queries and keys with equally large, mixed channels, and by what their products grow.

    All factors are powers of two, and the matrix has entries of 1 and -1 (in blocks, where the width of a
    head is no power of two), so that only sums are rounded, to the dtype of the inputs.
    """
    width = q.shape[-1]
    block = width & -width  # the largest power of two that divides it
    bits = np.arange(block)
    hadamard = (-1.0) ** np.bitwise_count(bits[:, None] & bits)  # Sylvester's
    matrix = jnp.asarray(np.kron(np.eye(width // block), hadamard), q.dtype)
    squares = [jnp.mean(jnp.square(x.astype(jnp.float32)), 1, keepdims=True) + 1e-30 for x in (q, k)]
    exponent = jnp.clip(jnp.round(jnp.log2(squares[1] / squares[0]) / 4), -30, 30).astype(jnp.int32)
    by_channel = jnp.ldexp(jnp.float32(1), exponent).astype(q.dtype)
    q, k = (jnp.matmul(x, matrix, precision="highest") for x in (q * by_channel, k / by_channel))
    return q, k, block


def power_of_two(largest: jax.Array) -> jax.Array:
    """The largest power of two by which numbers up to `largest` can be multiplied in e4m3, at most 2^64."""
    _, exponent = jnp.frexp(LARGEST / jnp.maximum(largest, LARGEST * 2.0**-64))
    return jnp.ldexp(jnp.float32(1), exponent - 1)


def _scales_by_name(q: Any, k: Any, v: Any, one: Any) -> dict[str, Any]:
    """The scales that the forward pass takes; numbers are multiplied by a scale, divided by a descale."""
    return {
        "descale_q": one / q,
        "descale_k": one / k,
        "descale_v": one / v,
        "descale_s": one / WEIGHTS_SCALE,
        "scale_s": one * WEIGHTS_SCALE,
        "scale_o": one * v,
    }


def _cudnn(given: Quantised) -> jax.Array:
    """cuDNN's kernel; `[B, N and padding, heads, head_dim]` e4m3, multiplied by the scale of values."""
    cudnn = importlib.import_module(CUDNN)
    one = jnp.ones((1, 1, 1, 1), jnp.float32)
    # jax also asks for scales of the gradient, which is not taken here.
    parameters = dict.fromkeys(cudnn.fp8_params_keys, one) | _scales_by_name(*given.scales, one)
    q, k, v = (pad(x, TOKEN_MULTIPLE) for x in given[:3])
    options: dict[str, Any] = {"scale": given.softmax_scale, "fp8_params": parameters, "use_fp8": True}
    return cudnn.dot_product_attention(q, k, v, **options)[0]


def simulated(given: Quantised, output: jax.typing.DTypeLike = E4M3) -> jax.Array:
    """What cuDNN's kernel computes, but that it subtracts the largest logit so far instead of the largest."""
    q, k, v = (x.astype(jnp.float32) for x in given[:3])
    scale = given.softmax_scale / (given.scales[0] * given.scales[1])
    logits = scale * jnp.einsum("bqhd,bkhd->bhqk", q, k, precision="highest")
    weights = jnp.exp(logits - jnp.max(logits, -1, keepdims=True))
    small = (WEIGHTS_SCALE * weights).astype(E4M3).astype(jnp.float32)
    total = WEIGHTS_SCALE * jnp.sum(weights, -1)
    y = jnp.einsum("bhqk,bkhd->bqhd", small, v, precision="highest") / total.swapaxes(1, 2)[..., None]
    return y.astype(output)
