"""The blocks of the DiT, one after the other: in a loop or unrolled, with rematerialisation or without."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from stp_jax.devices.sharding import cast_kernels, constrain, constrain_parameters, gathered, padded_tokens
from stp_jax.models.attention import attention_backend, fastest_backend
from stp_jax.models.block import Block, BlockConditioning, Conditioning
from stp_jax.models.config import BLOCK_INPUT, REMAT_POLICIES, DiTConfig
from stp_jax.models.fused import Stream, added


class Layers(NamedTuple):
    """Parameters and conditioning of a block; of several blocks with a leading [L]."""

    params: nnx.State
    conditioning: BlockConditioning


# (stream, one layer, number of tokens to return, whether updates may be deferred, attention) -> stream
RunBlock = Callable[..., Stream]


def prepare_blocks(
    blocks: Block,
    poses: jax.Array | None,
    animation_time: jax.Array | None,
    text: jax.Array | None,
) -> BlockConditioning:
    """The result of `Block.prepare` for each of the stacked blocks, with a leading `[L]`."""
    graph, stacked = nnx.split(blocks)

    def prepare(params: nnx.State) -> BlockConditioning:
        return _block(graph, params, blocks.config).prepare(poses, animation_time, text)

    return jax.vmap(prepare)(stacked) if blocks.config.unroll else jax.lax.map(prepare, stacked)


def run_blocks(
    blocks: Block,
    x: jax.Array,
    modulation: jax.Array,
    conditioning: Conditioning,
    *,
    tokens: int,
    target_tokens: int,
    differentiable: bool,
    keep_after: int = 0,
) -> tuple[Stream, jax.Array | None]:
    """The target's tokens after all blocks, and padding after them; and all tokens after some of the blocks.

    Args:
      blocks: stacked, every parameter with a leading `[L]`.
      x: `[B, N, D]`, tokens and padding.
      modulation: `[B, 6, D]`, from the timestep.
      conditioning: from `SpaceTimeDiT.condition`.
      tokens: the number of the N that are not padding.
      target_tokens: the number of these that are the target's; they come first.
      differentiable: False reads the stacked parameters in place, by index. A gradient through such indexing
        would write all of them in every block.
      keep_after: the number of blocks, from 1 to L - 1, after which all tokens `[B, N, D]` are returned, too;
        0: None is. Not for sampling.
    """
    c, dtype = blocks.config, jnp.dtype(blocks.config.dtype)
    graph, stacked = nnx.split(blocks)
    layers = Layers(stacked, conditioning.blocks)
    backend = fastest_backend(differentiable=differentiable)

    def run(
        stream: Stream, layer: Layers, out_tokens: int, defer: bool = False, mode: str = "exact"
    ) -> Stream:
        block = _block(graph, layer.params, c)
        stream = stream._replace(x=checkpoint_name(stream.x, BLOCK_INPUT))
        with attention_backend(backend):
            stream = block(
                stream,
                modulation,
                conditioning.shared,
                layer.conditioning,
                tokens=tokens,
                out_tokens=out_tokens,
                defer=defer,
                mode=mode,
            )
        return _constrained(stream)

    # After the last block only target tokens are read, so only they need queries there: exact, and cheaper.
    all_tokens, last_tokens = padded_tokens(tokens), padded_tokens(target_tokens)
    if not differentiable:
        return _run_in_place(run, Stream(x), layers, all_tokens, last_tokens, c), None
    if c.unroll:
        return _run_unrolled(run, Stream(x), layers, all_tokens, last_tokens, c.remat, keep_after)
    layers = layers._replace(params=cast_kernels(stacked, dtype))
    return _run_looped(run, Stream(x), layers, all_tokens, last_tokens, c.remat, keep_after)


def _block(graph: nnx.GraphDef, params: nnx.State, config: DiTConfig) -> Block:
    """One block, its kernels whole on every device that computes with them, and in the config's dtype."""
    return nnx.merge(graph, gathered(cast_kernels(params, jnp.dtype(config.dtype)), "blocks."))


def _at(layers: Layers, index: int | jax.Array | slice) -> Layers:
    return jax.tree.map(lambda a: a[index], layers)


def _run_in_place(
    run: RunBlock, stream: Stream, layers: Layers, all_tokens: int, last_tokens: int, config: DiTConfig
) -> Stream:
    """In a loop that reads the parameters where they are, for sampling; both ends may attend exactly."""
    mode, before_last = config.sampling_attention, config.layers - 1
    exact = 0 if mode == "exact" else config.sampling_exact_blocks  # at each end
    first = min(exact, before_last)
    last = max(first, min(before_last, config.layers - exact))
    for start, stop, its_mode in ((0, first, "exact"), (first, last, mode), (last, before_last, "exact")):
        step = functools.partial(_one_in_place, run, layers, all_tokens, its_mode)
        stream = jax.lax.fori_loop(start, stop, step, stream) if start < stop else stream
    return run(stream, _at(layers, before_last), last_tokens, mode="exact" if exact else mode)


def _one_in_place(
    run: RunBlock, layers: Layers, out_tokens: int, mode: str, index: jax.Array, stream: Stream
) -> Stream:
    return run(stream, _at(layers, index), out_tokens, mode=mode)


def _run_unrolled(
    run: RunBlock,
    stream: Stream,
    layers: Layers,
    all_tokens: int,
    last_tokens: int,
    remat: str,
    keep_after: int,
) -> tuple[Stream, jax.Array | None]:
    """Each block with code of its own."""
    if remat == "none":
        run = functools.partial(run, defer=True)
    else:  # a block's input is kept, so updates are added to make it smaller
        run = jax.checkpoint(run, policy=REMAT_POLICIES[remat], static_argnums=2)
    leaves, structure = jax.tree.flatten(layers)
    each = [jax.tree.unflatten(structure, layer) for layer in zip(*map(_unstack, leaves), strict=True)]
    kept = None
    for done, layer in enumerate(each[:-1], 1):
        stream = run(stream, layer, all_tokens)
        kept = added(stream) if done == keep_after else kept
    return run(stream, each[-1], last_tokens), kept


def _run_looped(
    run: RunBlock,
    stream: Stream,
    layers: Layers,
    all_tokens: int,
    last_tokens: int,
    remat: str,
    keep_after: int,
) -> tuple[Stream, jax.Array | None]:
    """All blocks but the last in a loop, then the last.

    To split off the last block copies parameters and gradient, so `layers` are in the computation's dtype.
    """
    first, last = (
        part._replace(params=constrain_parameters(part.params, "blocks."))
        for part in (_at(layers, slice(-1)), _at(layers, -1))
    )
    # Without it XLA would delay the gradient's sums over tokens until it is joined to that of the other
    # blocks.
    last = jax.lax.optimization_barrier(last)
    checkpoint = functools.partial(jax.checkpoint, policy=REMAT_POLICIES[remat], static_argnums=2)
    inner = checkpoint(run, prevent_cse=False)  # a scan needs no guard against CSE
    if not keep_after:
        stream, _ = jax.lax.scan(lambda s, layer: (inner(s, layer, all_tokens), None), stream, first)
        return checkpoint(run)(stream, last, last_tokens), None

    # Carried through one loop: two loops would compile every block twice, and split its parameters.
    def step(carry: tuple[Stream, jax.Array], numbered: tuple[jax.Array, Layers]) -> tuple[Any, None]:
        (stream, kept), (number, layer) = carry, numbered
        stream = inner(stream, layer, all_tokens)
        return (stream, jnp.where(number == keep_after, stream.x, kept)), None

    numbers = jnp.arange(1, len(jax.tree.leaves(first.params)[0]) + 1)
    (stream, kept), _ = jax.lax.scan(step, (stream, jnp.zeros_like(stream.x)), (numbers, first))
    return checkpoint(run)(stream, last, last_tokens), kept


def _constrained(stream: Stream) -> Stream:
    """A stream whose tokens `[B, N, D]` are split over the devices as those of all activations."""
    x, update = stream
    if update is not None:
        update = update._replace(product=constrain(update.product, "batch", "tokens", None))
    return Stream(constrain(x, "batch", "tokens", None), update)


def _unstack(x: jax.Array) -> list[jax.Array]:
    """`[L, ...]` -> L of `[...]`. Its gradient is one concatenation; that of indexing would sum L stacks."""
    return [part[0] for part in jax.lax.split(x, (1,) * len(x))]
