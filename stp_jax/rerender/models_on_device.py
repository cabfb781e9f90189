"""Models that are loaded onto the devices when they are needed, and the compiled functions of the VAE."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx
from jax.sharding import Mesh

from stp_jax.devices.sharding import gathered
from stp_jax.models.vae import VAE, to_pixels
from stp_jax.official.tiles import decode_tiled, encode_tiled
from stp_jax.weights import reading
from stp_jax.weights.recognition import Pretrained


class ModelOnDevice:
    """A model that is loaded onto the devices of a mesh when it is first needed."""

    def __init__(self, files: Pretrained, mesh: Mesh, dtype: str):
        self._load = lambda: reading.load(files, mesh, dtype)
        self.graph = reading.graph(files)
        self._state: nnx.State | None = None

    def state(self) -> nnx.State:
        """Its parameters; read from their files unless they are on the devices."""
        if self._state is None:
            _, self._state = self._load()
        return self._state

    def offload(self, *wait_for: jax.Array) -> None:
        """Frees its memory, once these arrays are computed."""
        jax.block_until_ready(wait_for)
        self._state = None


def vae_functions(
    graph: nnx.GraphDef[VAE],
    *,
    chunk: int | None,
    decode_chunk: int | None,
    tiled: bool = False,
    finish: Callable[[jax.Array], jax.Array] = to_pixels,
) -> tuple[Callable, Callable]:
    """Compiled `encode(state, uint8 video) -> latents` and `decode(state, latents) -> finish(video)`."""

    @jax.jit
    def encode(state: nnx.State, video: jax.Array) -> jax.Array:
        vae = nnx.merge(graph, gathered(state))
        return encode_tiled(vae, video, chunk=chunk) if tiled else vae.encode(video, chunk=chunk)

    @jax.jit
    def decode(state: nnx.State, latents: jax.Array) -> jax.Array:
        vae = nnx.merge(graph, gathered(state))
        if tiled:
            return finish(decode_tiled(vae, latents, chunk=decode_chunk))
        return vae.decode(latents, chunk=decode_chunk, finish=finish)

    return encode, decode
