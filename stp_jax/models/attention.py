"""One attention function for every device and every mesh."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib.util
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from stp_jax.devices.sharding import RULES, batch_axes, size_of
from stp_jax.errors import InputError
from stp_jax.models import fp8_attention
from stp_jax.models.layers import pad

LOGITS_BYTES = 2**30  # the most memory for attention weights where no fused kernel avoids them
SAVED = "attention"  # name of what rematerialisation may keep: outputs, and statistics of the softmax
CROSS_GROUPS = 16  # of queries, at least, in cuDNN's attention to few keys
SPLASH_BLOCK = 1024  # queries and keys of a block of the TPU kernel
BACKENDS = ("cudnn", "tokamax", "splash", "xla")

_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("attention_backend", default=None)


def fastest_backend(*, differentiable: bool) -> str | None:
    """The backend to prefer on this machine, if that depends on whether a gradient is taken; else None.

    On an H100 tokamax's kernel is 4 % faster forward and cuDNN's 3 % faster with its gradient, measured at 12
    heads of 128 over 65,520 tokens. Besides, gradients of tokamax 0.0.17 were wrong by up to 40 % at 1,024
    tokens on an H200, see docs/benchmarks.md. tokamax is optional.
    """
    if differentiable or jax.default_backend() != "gpu" or importlib.util.find_spec("tokamax") is None:
        return None
    return "tokamax"


@contextlib.contextmanager
def attention_backend(name: str | None) -> Iterator[None]:
    """Functions traced within the context compute attention with this backend; an outer context has priority.

    `None`: the default of the device.
    """
    if name is not None and name not in BACKENDS:
        raise ValueError(f"attention backend {name!r}; choose one of {', '.join(BACKENDS)}")
    token = _chosen.set(_chosen.get() or name)
    try:
        yield
    finally:
        _chosen.reset(token)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    keys: int | None = None,
    whole_keys: bool = False,
    mode: str = "exact",
) -> jax.Array:
    """Full bidirectional softmax attention, scaled by `1 / sqrt(head_dim)`.

    On NVIDIA GPUs in 16-bit precision it runs cuDNN's fused kernel (or tokamax's, see `fastest_backend`), on
    TPUs the splash kernel where heads are a multiple of 128 wide, elsewhere XLA's own operations with a
    float32 softmax.

    Under a mesh each device computes its own videos and heads. Where the `sequence` axis splits the tokens,
    devices first exchange heads for tokens (all-to-all) as far as the number of heads divides. They gather
    keys and values over the rest of the axis: 12 heads on 8 devices make 2 groups of 4.

    Args:
      q: `[B, N, heads, head_dim]`; `sequence` divides N, and M unless `whole_keys`.
      k, v: `[B, M, heads, head_dim]`.
      keys: the number of the M that are attended to; the others are padding. Default: all.
      whole_keys: whether every device has all keys and values, as for those of a prompt.
      mode: `exact`, or in 8 bits, see `fp8_attention.attention`; only for sampling.

    Returns:
      `[B, N, heads, head_dim]` in the dtype of `q`.

    Raises:
      InputError: the mesh does not divide the heads; there is no kernel for 8 bits here.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _local(q, k, v, keys, mode)
    sequence, tensor = size_of(RULES.tokens, mesh), size_of(RULES.heads, mesh)
    heads = q.shape[2]
    if heads % tensor:
        raise InputError(
            f"config.mesh.tensor is {tensor}: it does not divide the {heads} heads of the model."
        )
    batch = batch_axes(q.shape[0], mesh)
    own = P(batch, RULES.tokens, RULES.heads, None)
    other = P(batch, None, RULES.heads, None) if whole_keys else own
    local = _local if whole_keys or sequence == 1 else functools.partial(_over_sequence, size=sequence)
    local = functools.partial(local, keys=keys, mode=mode)
    return jax.shard_map(local, in_specs=(own, other, other), out_specs=own, check_vma=False)(q, k, v)


def _over_sequence(
    q: jax.Array, k: jax.Array, v: jax.Array, keys: int | None, mode: str, *, size: int
) -> jax.Array:
    """Attention of one device's tokens `[B, N / size, heads, head_dim]` to those of all."""
    (axis,) = RULES.tokens
    exchanging = math.gcd(size, q.shape[2])  # neighbours that exchange heads for tokens
    groups = [list(range(start, start + exchanging)) for start in range(0, size, exchanging)]
    same_heads = [list(members) for members in zip(*groups, strict=True)]

    def exchange(x: jax.Array, split: int, join: int) -> jax.Array:
        if exchanging == 1:
            return x
        return jax.lax.all_to_all(x, axis, split, join, tiled=True, axis_index_groups=groups)

    def gather(x: jax.Array) -> jax.Array:
        if len(groups) == 1:
            return x
        return jax.lax.all_gather(x, axis, axis=1, tiled=True, axis_index_groups=same_heads)

    q, k, v = (exchange(x, 2, 1) for x in (q, k, v))
    return exchange(_local(q, gather(k), gather(v), keys, mode), 1, 2)


def _local(q: jax.Array, k: jax.Array, v: jax.Array, keys: int | None, mode: str) -> jax.Array:
    """Attention on one device."""
    k, v = k[:, :keys], v[:, :keys]
    if mode != "exact":
        return fp8_attention.attention(q, k, v, mode=mode)
    backend = _chosen.get() or {"gpu": "cudnn", "tpu": "splash"}.get(jax.default_backend(), "xla")
    if backend in ("cudnn", "tokamax") and q.dtype in (jnp.bfloat16, jnp.float16):
        if backend == "tokamax":
            return tokamax_attention(q, k, v)
        return _cudnn(q, k, v)
    if backend == "splash" and q.shape[-1] % 128 == 0:
        return splash_attention(q, k, v)
    y = _xla(q, k, v)
    return checkpoint_name(y, SAVED) if worth_keeping(q, k) else y


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """cuDNN's kernel; many queries to few keys are computed in groups of queries.

    Its gradient runs in parallel over blocks of keys only, so the few keys of a prompt would leave most of a
    GPU idle. It takes only even numbers of queries and keys; odd ones are padded, and padded keys are masked.
    """
    queries, keys = q.shape[1], k.shape[1]
    groups = 1
    if queries >= CROSS_GROUPS * keys:
        fitting = (n for n in range(CROSS_GROUPS, 2 * CROSS_GROUPS) if queries % (2 * n) == 0)
        groups = next(fitting, CROSS_GROUPS)
    q, k, v = pad(q, 2 * groups), pad(k, 2), pad(v, 2)
    batch = q.shape[0]
    grouped = q.reshape(batch * groups, q.shape[1] // groups, *q.shape[2:])
    # In float32, as each group adds to the gradients of keys and values.
    k, v = (jnp.repeat(x.astype(jnp.float32), groups, axis=0).astype(x.dtype) for x in (k, v))
    lengths = jnp.full(batch * groups, keys, jnp.int32) if keys % 2 else None
    y = jax.nn.dot_product_attention(grouped, k, v, key_value_seq_lengths=lengths, implementation="cudnn")
    return y.reshape(q.shape)[:, :queries]


def _xla(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention by XLA's own operations; in blocks of queries for long sequences."""
    batch, queries, heads, _ = q.shape
    bytes_per_query = 4 * batch * heads * k.shape[1]
    if queries * bytes_per_query <= LOGITS_BYTES:
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")

    @jax.checkpoint
    def one_query(q: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q[:, None], k, v, implementation="xla")[:, 0]

    block = max(1, LOGITS_BYTES // bytes_per_query)
    return jax.lax.map(one_query, q.swapaxes(0, 1), batch_size=block).swapaxes(0, 1)


def tokamax_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, implementation: tuple[str, ...] = ("mosaic", "cudnn")
) -> jax.Array:
    """The first of these kernels of tokamax that runs on this GPU; its own default could silently be XLA."""
    import tokamax

    return tokamax.dot_product_attention(q, k, v, implementation=implementation)


def splash_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, block: int = SPLASH_BLOCK, interpret: bool = False
) -> jax.Array:
    """The TPU kernel of JAX; tokens are padded to whole blocks, and padding is masked by segments.

    Shapes as for `attention`. `interpret` runs it anywhere, slowly.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (  # imports Pallas for TPUs
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    queries, keys, heads = q.shape[1], k.shape[1], q.shape[2]
    block_q, block_kv = (min(block, math.ceil(n / 128) * 128) for n in (queries, keys))

    def prepare(x: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
        """[B, heads, N, head_dim] with whole blocks of tokens, and 0 for tokens, 1 for padding."""
        tokens, x = x.shape[1], pad(x, block)
        return x.swapaxes(1, 2), (jnp.arange(x.shape[1]) >= tokens).astype(jnp.int32)

    q, q_segments = prepare(q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype), block_q)
    k, kv_segments = prepare(k, block_kv)
    v, _ = prepare(v, block_kv)
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([masks.FullMask((q.shape[2], k.shape[2]))] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_kv_compute=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_kv_dkv_compute=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        residual_checkpoint_name=SAVED if worth_keeping(q, k) else None,
        interpret=interpret,
    )
    segments = kernels.SegmentIds(q_segments, kv_segments)
    y = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q, k, v, segments)
    return y[:, :, :queries].swapaxes(1, 2)


def worth_keeping(q: Any, k: Any) -> bool:
    """Whether attention costs much more than its output: self-attention does, attention to a prompt does not.

    The sizes distinguish them. In self-attention some queries may be padding, but no keys.
    """
    return 2 * k.size > q.size


def keep_attention(primitive, *avals, **parameters) -> bool:
    """A rematerialisation policy: outputs of self-attention and statistics of its softmax are kept.

    Otherwise the backward pass would run the whole self-attention again. Attention to the few tokens of a
    prompt takes as much memory and hardly any time, so it is run again. cuDNN's kernel is recognised by its
    primitive, the others by the name of the arrays that they save.
    """
    if "dot_product_attention_fwd" in primitive.name:
        return worth_keeping(*avals[:2])
    return primitive.name == "name" and parameters.get("name") == SAVED
