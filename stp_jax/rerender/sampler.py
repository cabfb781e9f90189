"""From noise to latents: Euler steps along the velocity that a DiT predicts, with guidance by text.

Guidance needs two velocities in each step, one with the prompt and one with the negative prompt. On one
device they are computed one after the other. Where there are more devices than videos, they are computed at
the same time, each on half of the devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from stp_jax import flow
from stp_jax.controls.view import View
from stp_jax.devices.sharding import RULES, constrain, make_mesh, size_of
from stp_jax.models.block import Conditioning
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.rerender.caching import VelocityCache
from stp_jax.rerender.speed import EVERYWHERE, guided_steps

WORTH_SPREADING = 2048  # with at least this many target tokens several devices are faster than one


def mesh_for_one_video(
    devices: Sequence[jax.Device], target_tokens: int, *, guided: bool, least_tokens: int = WORTH_SPREADING
) -> Mesh:
    """A mesh that computes one video on all devices, if it is worth it.

    With guidance and an even number of devices, each half computes one velocity. Within a half the tokens are
    split. A video of fewer than `least_tokens` tokens stays on one device.
    """
    count = len(devices) if target_tokens >= least_tokens else 1
    halves = 2 if guided and count % 2 == 0 else 1
    return make_mesh(data=halves, sequence=count // halves, devices=devices[:count])


def batched_guidance(guided: bool, videos: int, mesh: Mesh) -> bool:
    """Whether both velocities of guidance are computed as one batch, each on half of the devices."""
    return guided and size_of(RULES.batch, mesh) >= 2 * videos


def twice(x: jax.Array) -> jax.Array:
    """`[B, ...]` -> `[2B, ...]`, for both velocities of guidance, each on its devices."""
    return constrain(jnp.concatenate([x, x]), "batch", *(None,) * (x.ndim - 1))


def jax_noise(seed: int, shape: tuple[int, ...]) -> jax.Array:
    """Normal noise [B, ...] float32 of JAX's generator; each video of a batch has its own."""
    # One key for each video: its result does not depend on the rest of the batch.
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(shape[0]))
    return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(keys)


Latents = tuple[jax.Array, jax.Array | None, jax.Array | None]  # noise, of the source, of the memory


class _Functions(NamedTuple):
    """Results of `jax.jit`, see `Sampler`."""

    condition: Any
    step: Any  # a whole Euler step
    velocity: Any  # the first half of one, where velocities are kept


@functools.lru_cache(maxsize=8)  # samplers of one structure compile once
def _compiled(graph: nnx.GraphDef[SpaceTimeDiT]) -> _Functions:
    def condition(state, views, text, negative, latent_size, batched_guidance) -> Conditioning:
        model = nnx.merge(graph, state)
        if batched_guidance:
            views = jax.tree.map(twice, views)
            text = constrain(jnp.concatenate([text, negative]), "batch", None, None)
            return model.condition(*views, text=text, latent_size=latent_size)
        positive = model.condition(*views, text=text, latent_size=latent_size)
        if negative is None:
            return positive
        other = model.condition(*views, text=negative, latent_size=latent_size)
        # Only the text differs: the rest is kept once.
        both = jax.tree.map(lambda *two: jnp.stack(two), positive.blocks, other.blocks)
        return positive._replace(blocks=both._replace(frames=positive.blocks.frames))

    def velocity(
        state, x, source, memory, sigma, following, conditioning, guidance, batched_guidance
    ) -> jax.Array:
        model = functools.partial(
            nnx.merge(graph, state),
            target_timestep=flow.MAX_TIMESTEP * following,  # a flow map's velocity is the mean of the step
            differentiable=False,
        )
        timestep = jnp.full(x.shape[:1], flow.MAX_TIMESTEP * sigma)
        if guidance is None:
            return model(x, source, timestep, conditioning, memory)
        if batched_guidance:
            videos, sources, timesteps, earlier = jax.tree.map(twice, (x, source, timestep, memory))
            both = model(videos, sources, timesteps, conditioning, earlier)
            predicted, without = jnp.split(constrain(both, None, None, None, None, None), 2)
            return without + guidance * (predicted - without)

        # One after the other: a batch of two would need twice the memory.
        def velocity_with(prompt: tuple[jax.Array, jax.Array]) -> jax.Array:
            return model(x, source, timestep, _with_prompt(conditioning, *prompt), memory)

        prompts = (conditioning.blocks.text_keys, conditioning.blocks.text_values)
        predicted, without = jax.lax.map(velocity_with, prompts)
        return without + guidance * (predicted - without)

    def step(
        state, x, source, memory, sigma, following, conditioning, guidance, batched_guidance
    ) -> tuple[jax.Array, jax.Array]:
        given = source, memory, sigma, following, conditioning, guidance, batched_guidance
        return _advance(x, velocity(state, x, *given), sigma, following)

    return _Functions(
        jax.jit(condition, static_argnames=("latent_size", "batched_guidance")),
        jax.jit(step, donate_argnames="x", static_argnames="batched_guidance"),
        jax.jit(velocity, static_argnames="batched_guidance"),
    )


def _advance(x, velocity, sigma, following) -> tuple[jax.Array, jax.Array]:
    """Latents after an Euler step, and whether they are finite."""
    x = flow.euler_step(x, velocity, sigma, following)
    return x, jnp.isfinite(x).all()


_advance_compiled = jax.jit(_advance, donate_argnames="x")


@jax.jit
def _put_in_place(x, known, noise, sigma) -> jax.Array:
    """Latents whose first frames are `known` ones at the noise level `sigma`."""
    count = known.shape[1]
    return x.at[:, :count].set(flow.add_noise(known, noise[:, :count], jnp.full(len(x), sigma)))


def _begun(x: jax.Array, known: jax.Array | None, noise: jax.Array, sigma: float, lowest: float) -> jax.Array:
    """Latents that begin with the `known` ones, if there are any and the level is not below `lowest`."""
    return x if known is None or sigma < lowest else _put_in_place(x, known, noise, sigma)


def _with_prompt(conditioning: Conditioning, keys: jax.Array, values: jax.Array) -> Conditioning:
    """Conditioning by one of the two prompts of guidance."""
    return conditioning._replace(blocks=conditioning.blocks._replace(text_keys=keys, text_values=values))


class Sampler:
    """Samples from a DiT; functions compile on first use, for each structure and shape.

    Args:
      graph: the model's structure; parameters are given to each call, as `state`.
    """

    def __init__(self, graph: nnx.GraphDef[SpaceTimeDiT]):
        self._compiled = _compiled(graph)

    def condition(
        self,
        state: nnx.State,
        views: tuple[View, ...],
        text: jax.Array | None = None,
        negative: jax.Array | None = None,
        *,
        latent_size: tuple[int, int, int],
        batched_guidance: bool = False,
    ) -> Conditioning:
        """The conditioning of all steps, computed once; see `SpaceTimeDiT.condition`.

        Args:
          views: of the target, the source and, if there is one, the memory.
          text, negative: embeddings [B, T, D] to go towards and, with guidance, away from.
          batched_guidance: whether both velocities of guidance are computed as one batch.
        """
        return self._compiled.condition(
            state, views, text, negative, latent_size=latent_size, batched_guidance=batched_guidance
        )

    def compile(
        self,
        state: nnx.State,
        views: tuple[View, ...],
        text: jax.Array | None,
        negative: jax.Array | None,
        noise: jax.Array,
        source: jax.Array | None,
        memory: jax.Array | None,
        sigmas: np.ndarray,
        *,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] = EVERYWHERE,
        cache_threshold: float = 0.0,
        batched_guidance: bool = False,
    ) -> None:
        """Compiles what `condition` and the first step of `sample` call with these arguments.

        Arguments may be `jax.ShapeDtypeStruct`s with shardings: `state`, while the weights are being read.
        """
        if guidance is not None and not guided_steps(sigmas, guidance_interval)[0]:
            return  # its conditioning is only known once there is one
        latent_size = noise.shape[1:4]
        lowered = self._compiled.condition.lower(
            state, views, text, negative, latent_size=latent_size, batched_guidance=batched_guidance
        )
        conditioning = jax.tree.map(
            lambda made, sharding: jax.ShapeDtypeStruct(made.shape, made.dtype, sharding=sharding),
            lowered.out_info,
            lowered.compile().output_shardings,
        )
        first = self._compiled.velocity if cache_threshold else self._compiled.step
        given = source, memory, sigmas[0], sigmas[1], conditioning, guidance, batched_guidance
        first.lower(state, noise, *given).compile()

    def sample(
        self,
        state: nnx.State,
        noise: jax.Array,
        source: jax.Array | None,
        conditioning: Conditioning,
        sigmas: np.ndarray,
        *,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] = EVERYWHERE,
        cache_threshold: float = 0.0,
        memory: jax.Array | None = None,
        known: jax.Array | None = None,
        lowest_known: float = 0.0,
        batched_guidance: bool = False,
        progress: Callable[[int, jax.Array], None] | None = None,
        finite: list[jax.Array] | None = None,
        forwards: list[int] | None = None,
    ) -> jax.Array:
        """Latents of the target, [B, F', H', W', C] float32.

        Args:
          noise: of that shape.
          source: clean latents of the source, of that shape.
          conditioning: from `condition`; made with `negative` if there is guidance.
          sigmas: noise levels from 1 down to 0, see `flow.sampling_sigmas`.
          guidance: g of `v = v_negative + g (v_text - v_negative)` (Ho and Salimans 2022). None: no guidance,
            which takes half the time.
          guidance_interval: noise levels of steps with guidance (Kynkäänniemi et al. 2024, arXiv 2404.07724);
            the others take `v_text` alone, which takes half the time. With `batched_guidance` all levels.
          cache_threshold: above 0 steps reuse velocities, see `stp_jax.rerender.caching`; not for flow maps.
          memory: clean latents [B, K, H', W', C] of earlier output, if `conditioning` has a memory.
          known: clean latents [B, k, H', W', C] of the target's first frames, which are put in their place at
            every noise level (as Lugmayr et al. 2022 do, arXiv 2201.09865).
          lowest_known: below this noise level they no longer are: the rest of their steps is the model's.
          batched_guidance: as for `condition`.
          progress: called before each step with its number and the latents so far.
          finite: after each step gets whether its latents are finite, a bool [] that is still being computed:
            read after the last step, it does not keep the devices waiting.
          forwards: after each step gets the forwards of the model that it took: 0, 1, or 2 with guidance.
        """
        guided = guided_steps(sigmas, guidance_interval) & (guidance is not None)
        unguided = _by_text_alone(conditioning, guided, guidance, batched_guidance)
        x = jnp.array(noise, jnp.float32)  # a copy, as each step's input is donated
        in_place = 0 if known is None else known.shape[1]
        cache = VelocityCache(x, guided, cache_threshold, in_place) if cache_threshold else None
        for number, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            if progress:
                progress(number, x)
            x = _begun(x, known, noise, sigma, lowest_known)
            by_text = (conditioning, guidance) if guided[number] else (unguided, None)
            given = (source, memory, sigma, following, *by_text, batched_guidance)
            x, is_finite, ran = self._take(cache, number, state, x, *given)
            if finite is not None:
                finite.append(is_finite)
            if forwards is not None:
                forwards.append((2 if guided[number] else 1) if ran else 0)
        return _begun(x, known, noise, 0.0, lowest_known)

    def _take(
        self, cache: VelocityCache | None, number: int, state: nnx.State, x: jax.Array, *given: Any
    ) -> tuple[jax.Array, jax.Array, bool]:
        """Latents after a step, whether they are finite, and whether the model ran."""
        if cache is None:
            return *self._compiled.step(state, x, *given), True
        sigma, following = given[2:4]
        wanted = cache.wanted(number, sigma)
        if wanted.any():
            cache.keep(number, sigma, wanted, self._compiled.velocity(state, x, *given))
        return *_advance_compiled(x, cache.velocity, sigma, following), bool(wanted.any())


def _by_text_alone(
    conditioning: Conditioning, guided: np.ndarray, guidance: float | None, batched_guidance: bool
) -> Conditioning:
    """The conditioning of steps without guidance, which may have been made for both prompts."""
    if guidance is None or guided.all():
        return conditioning
    if batched_guidance:
        raise ValueError("steps without guidance have no batch of both velocities")
    blocks = conditioning.blocks
    return _with_prompt(
        conditioning, *jax.tree.map(lambda both: both[0], (blocks.text_keys, blocks.text_values))
    )
