"""The blocks of the DiT, one after the other: in a loop or unrolled, with rematerialisation or without."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from stp_jax.devices.sharding import cast_kernels, constrain, constrain_parameters, gathered, padded_tokens
from stp_jax.models.attention import attention_backend, fastest_backend
from stp_jax.models.block import Block, BlockConditioning, Conditioning
from stp_jax.models.config import BLOCK_INPUT, REMAT_POLICIES, DiTConfig
from stp_jax.models.fused import Stream


class Layers(NamedTuple):
    """Parameters and conditioning of a block; of several blocks with a leading [L]."""

    params: nnx.State
    conditioning: BlockConditioning


# (stream, one layer, number of tokens to return, whether updates may be deferred) -> stream
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
) -> Stream:
    """The target's tokens after all blocks, and padding after them.

    Args:
      blocks: stacked, every parameter with a leading `[L]`.
      x: `[B, N, D]`, tokens and padding.
      modulation: `[B, 6, D]`, from the timestep.
      conditioning: from `SpaceTimeDiT.condition`.
      tokens: the number of the N that are not padding.
      target_tokens: the number of these that are the target's; they come first.
      differentiable: False reads the stacked parameters in place, by index. A gradient through such indexing
        would write all of them in every block.
    """
    c, dtype = blocks.config, jnp.dtype(blocks.config.dtype)
    graph, stacked = nnx.split(blocks)
    layers = Layers(stacked, conditioning.blocks)
    backend = fastest_backend(differentiable=differentiable)

    def run(stream: Stream, layer: Layers, out_tokens: int, defer: bool = False) -> Stream:
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
            )
        return _constrained(stream)

    # After the last block only target tokens are read, so only they need queries there: exact, and cheaper.
    all_tokens, last_tokens = padded_tokens(tokens), padded_tokens(target_tokens)
    if not differentiable:
        return _run_in_place(run, Stream(x), layers, all_tokens, last_tokens, c.layers)
    if c.unroll:
        return _run_unrolled(run, Stream(x), layers, all_tokens, last_tokens, c.remat)
    layers = layers._replace(params=cast_kernels(stacked, dtype))
    return _run_looped(run, Stream(x), layers, all_tokens, last_tokens, c.remat)


def _block(graph: nnx.GraphDef, params: nnx.State, config: DiTConfig) -> Block:
    """One block, its kernels whole on every device that computes with them, and in the config's dtype."""
    return nnx.merge(graph, gathered(cast_kernels(params, jnp.dtype(config.dtype)), "blocks."))


def _at(layers: Layers, index: int | jax.Array | slice) -> Layers:
    return jax.tree.map(lambda a: a[index], layers)


def _run_in_place(
    run: RunBlock, stream: Stream, layers: Layers, all_tokens: int, last_tokens: int, count: int
) -> Stream:
    """In a loop that reads the parameters where they are, for sampling."""
    stream = jax.lax.fori_loop(0, count - 1, lambda i, s: run(s, _at(layers, i), all_tokens), stream)
    return run(stream, _at(layers, count - 1), last_tokens)


def _run_unrolled(
    run: RunBlock, stream: Stream, layers: Layers, all_tokens: int, last_tokens: int, remat: str
) -> Stream:
    """Each block with code of its own."""
    if remat == "none":
        run = functools.partial(run, defer=True)
    else:  # a block's input is kept, so updates are added to make it smaller
        run = jax.checkpoint(run, policy=REMAT_POLICIES[remat], static_argnums=2)
    leaves, structure = jax.tree.flatten(layers)
    each = [jax.tree.unflatten(structure, layer) for layer in zip(*map(_unstack, leaves), strict=True)]
    for layer in each[:-1]:
        stream = run(stream, layer, all_tokens)
    return run(stream, each[-1], last_tokens)


def _run_looped(
    run: RunBlock, stream: Stream, layers: Layers, all_tokens: int, last_tokens: int, remat: str
) -> Stream:
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
    stream, _ = jax.lax.scan(lambda s, layer: (inner(s, layer, all_tokens), None), stream, first)
    return checkpoint(run)(stream, last, last_tokens)


def _constrained(stream: Stream) -> Stream:
    """A stream whose tokens `[B, N, D]` are split over the devices as those of all activations."""
    x, update = stream
    if update is not None:
        update = update._replace(product=constrain(update.product, "batch", "tokens", None))
    return Stream(constrain(x, "batch", "tokens", None), update)


def _unstack(x: jax.Array) -> list[jax.Array]:
    """`[L, ...]` -> L of `[...]`. Its gradient is one concatenation; that of indexing would sum L stacks."""
    return [part[0] for part in jax.lax.split(x, (1,) * len(x))]
