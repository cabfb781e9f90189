"""The workloads of the benchmark: parts of the models and a whole video, with random parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from stp_jax import flow
from stp_jax.benchmark.operations import count_flop
from stp_jax.benchmark.settings import Settings
from stp_jax.controls.view import View
from stp_jax.devices.sharding import parameter_shardings
from stp_jax.errors import InputError
from stp_jax.models.config import TEXT_TOKENS
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.flop import dit_flop
from stp_jax.models.text_encoder import TextEncoder
from stp_jax.models.vae import VAE, to_pixels
from stp_jax.rerender.models_on_device import vae_functions
from stp_jax.rerender.sampler import Sampler, batched_guidance, jax_noise, mesh_for_one_video
from stp_jax.weights import kinds


class Workload(NamedTuple):
    """A function to measure; with `one_program` it is compiled as a whole, else it calls compiled ones."""

    function: Callable
    arguments: tuple
    flop: float
    one_program: bool = True


def random_state(make: Callable[[], nnx.Module], dtype: str) -> tuple[nnx.GraphDef, nnx.State]:
    """A model with random parameters made on the device: matrices in `dtype`, vectors float32."""
    graph, shapes = nnx.split(nnx.eval_shape(make))
    leaves, tree = jax.tree.flatten(shapes)

    @jax.jit
    def draw(key: jax.Array) -> nnx.State:
        # All from one draw: a generator for each parameter would compile longer than the model.
        noise = 0.02 * jax.random.normal(key, (max(leaf.size for leaf in leaves),), dtype)

        def one(leaf):
            kind = dtype if leaf.ndim > 1 else jnp.float32
            return noise[: leaf.size].reshape(leaf.shape).astype(kind)

        return jax.tree.unflatten(tree, [one(leaf) for leaf in leaves])

    return graph, draw(jax.random.key(0))


def dit_workload(settings: Settings) -> Workload:
    """One velocity of the DiT, with everything that does not depend on the timestep computed before."""
    config = settings.dit
    graph, state = random_state(lambda: SpaceTimeDiT(config, rngs=nnx.Rngs(0)), config.dtype)
    views, text = _conditioning_inputs(settings)

    @jax.jit
    def condition(state, views, text):
        return nnx.merge(graph, state).condition(*views, text=text, latent_size=settings.latent_size)

    def forward(state, noisy, source, conditioning):
        timestep = jnp.full((1,), 500.0)
        return nnx.merge(graph, state)(noisy, source, timestep, conditioning, differentiable=False)

    latents = jax.random.normal(jax.random.key(1), (1, *settings.latent_size, config.channels))
    arguments = (state, latents, latents if config.source else None, condition(state, views, text))
    return Workload(forward, arguments, dit_flop(config, settings.latent_size))


def _conditioning_inputs(settings: Settings) -> tuple[tuple[View, View], jax.Array | None]:
    """The views of target and source, and embedded text for a model that takes it."""
    config, frames = settings.dit, settings.frames
    poses = jnp.broadcast_to(jnp.eye(4), (1, frames, 4, 4))
    lenses = jnp.broadcast_to(jnp.array([0.8, 1.4, 0.5, 0.5]), (1, frames, 4))
    animation_time = jnp.arange(frames, dtype=jnp.float32)[None]
    view, text = View(poses, lenses, animation_time), None
    if config.text_dim:
        shape = (1, TEXT_TOKENS, config.text_dim)
        text = jax.random.normal(jax.random.key(2), shape, config.dtype)
    return (view, view), text


def encoding(settings: Settings, chunk: int | None) -> tuple[Callable, jax.Array]:
    """`encode(state, uint8 video) -> latents`, and a video."""
    graph, _ = kinds.abstract("vae", settings.vae)
    shape = (1, settings.frames, settings.height, settings.width, 3)
    video = jax.random.randint(jax.random.key(1), shape, 0, 256, jnp.uint8)
    return lambda state, video: nnx.merge(graph, state).encode(video, chunk=chunk), video


def decoding(settings: Settings, chunk: int | None) -> tuple[Callable, jax.Array]:
    """`decode(state, latents) -> uint8 video`, and latents."""
    graph, _ = kinds.abstract("vae", settings.vae)
    latents = jax.random.normal(jax.random.key(1), (1, *settings.latent_size, settings.vae.z_dim))
    return (
        lambda state, latents: nnx.merge(graph, state).decode(latents, chunk=chunk, finish=to_pixels),
        latents,
    )


def sampling(
    settings: Settings, graph: nnx.GraphDef, steps: int, guidance: float | None, mesh: Mesh
) -> Callable:
    """`sample(state, latents of the source) -> latents`, with embedded text on the devices."""
    (views, text), sampler = _conditioning_inputs(settings), Sampler(graph)
    negative = None if guidance is None else text
    sigmas = flow.sampling_sigmas(steps, shift=5.0)
    batched = batched_guidance(guidance is not None, 1, mesh)

    def sample(state, source):
        conditioning = sampler.condition(
            state, views, text, negative, latent_size=settings.latent_size, batched_guidance=batched
        )
        noise = jax_noise(0, source.shape)
        return sampler.sample(
            state, noise, source, conditioning, sigmas, guidance=guidance, batched_guidance=batched
        )

    return sample


def vae_workload(settings: Settings, part: Callable, chunk: int | None) -> Workload:
    """`part` is `encoding` or `decoding`."""
    _, state = random_state(lambda: VAE(settings.vae, rngs=nnx.Rngs(0)), settings.vae.dtype)
    function, x = part(settings, chunk)
    return Workload(function, (state, x), count_flop(function, state, x))


def text_workload(settings: Settings) -> Workload:
    """The embedding of one prompt of full length; the embedding table is looked up, not multiplied with."""
    config = settings.text
    graph, state = random_state(lambda: TextEncoder(config, rngs=nnx.Rngs(0)), config.dtype)

    def embed(state, ids, mask):
        return nnx.merge(graph, state)(ids, mask)

    ids = jax.random.randint(jax.random.key(1), (1, TEXT_TOKENS), 0, config.vocab)
    arguments = (state, ids, jnp.ones((1, TEXT_TOKENS), bool))
    return Workload(embed, arguments, count_flop(embed, *arguments))


def video_workload(
    settings: Settings, chunk: int | None, steps: int, guidance: float | None, devices: int
) -> Workload:
    """uint8 video to uint8 video, as `Rerenderer` makes it."""
    tokens = math.prod(settings.latent_size) // settings.dit.patch**2
    mesh = mesh_for_one_video(jax.devices()[:devices], tokens, guided=guidance is not None, least_tokens=0)
    if mesh.size != devices:
        raise InputError(f"--devices {devices}: this video takes {mesh.size} of {len(jax.devices())} devices")
    graph, state = random_state(lambda: SpaceTimeDiT(settings.dit, rngs=nnx.Rngs(0)), settings.dit.dtype)
    vae_graph, vae = random_state(lambda: VAE(settings.vae, rngs=nnx.Rngs(0)), settings.vae.dtype)
    state, vae = (jax.device_put(one, parameter_shardings(one, mesh)) for one in (state, vae))
    encode, decode = vae_functions(vae_graph, chunk=chunk, decode_chunk=chunk)
    sample = sampling(settings, graph, steps, guidance, mesh)

    def rerender(state, vae, video):
        with jax.set_mesh(mesh):
            return decode(vae, sample(state, encode(vae, video)[0]))[0]

    velocities = steps * (1 if guidance is None else 2)
    flop = velocities * dit_flop(settings.dit, settings.latent_size)
    for part in (encoding, decoding):
        function, x = part(settings, chunk)
        flop += count_flop(function, vae, x)
    _, video = encoding(settings, chunk)
    return Workload(rerender, (state, vae, video), flop, one_program=False)


def workloads(
    only: list[str], chunks: list[int | None], steps: int, guidance: float | None, devices: list[int]
) -> dict[str, Callable[[Settings], Workload]]:
    """The chosen workloads by name, as functions of the settings."""
    chosen: dict[str, Callable[[Settings], Workload]] = {}
    if "dit" in only:
        chosen["DiT forward"] = dit_workload
    for kind, part in (("encode", encoding), ("decode", decoding)):
        for chunk in chunks if kind in only else []:
            name = f"VAE {kind}, {'whole' if chunk is None else f'chunks of {chunk}'}"
            chosen[name] = functools.partial(vae_workload, part=part, chunk=chunk)
    if "text" in only:
        chosen["text encoder, one prompt"] = text_workload
    for used in devices if "video" in only else []:
        name = f"video, {steps} steps{'' if guidance is None else ' with guidance'}"
        name += "" if used == 1 else f", {used} devices"
        chosen[name] = functools.partial(
            video_workload, chunk=chunks[0], steps=steps, guidance=guidance, devices=used
        )
    return chosen
