"""Models that are loaded onto the devices when they are needed, and the compiled functions of the VAE."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from stp_jax.devices.sharding import RULES, batch_sharding, gathered, size_of
from stp_jax.models.vae import VAE, to_deep_pixels, to_pixels
from stp_jax.official.clip import to_deep_official_pixels, to_official_pixels
from stp_jax.official.tiles import decode_tiled, encode_tiled
from stp_jax.weights import reading
from stp_jax.weights.recognition import Pretrained

# Pixels of the decoded video, by whether the model is official and whether they are deep.
FINISH = {
    (False, False): to_pixels,
    (False, True): to_deep_pixels,
    (True, False): to_official_pixels,
    (True, True): to_deep_official_pixels,
}


class ModelOnDevice:
    """A model that is loaded onto the devices of a mesh when it is first needed, or ahead of that."""

    def __init__(self, files: Pretrained, mesh: Mesh, dtype: str):
        self._load = lambda bar: reading.load(files, mesh, dtype, bar=bar)[1]
        self._was_read = False
        self.mesh, self.graph = mesh, reading.graph(files)
        #: shapes, dtypes and shardings of `state()`, to compile with before the weights are there
        self.shapes = reading.abstract_state(files, mesh, dtype)
        self._state: nnx.State | None = None
        self._ahead: Future[nnx.State] | None = None  # see `read_ahead`

    def _read(self) -> nnx.State:
        # Read again for each window of a long video, it would show a bar each time.
        bar, self._was_read = not self._was_read, True
        return self._load(bar)

    @property
    def loaded(self) -> bool:
        """Whether nothing is left to read."""
        return self._state is not None

    def begin(self, reader: Executor) -> Future[nnx.State] | None:
        """Begins to read its parameters in a thread, unless they are on the devices or are being read."""
        if self._state is None and self._ahead is None:
            self._ahead = reader.submit(self._read)
        return self._ahead

    def state(self) -> nnx.State:
        """Its parameters; read from their files, or waited for, unless they are on the devices."""
        if self._state is None:
            ahead, self._ahead = self._ahead, None
            self._state = self._read() if ahead is None else ahead.result()
        return self._state

    def offload(self, *wait_for: jax.Array) -> None:
        """Frees its memory, once these arrays are computed."""
        jax.block_until_ready(wait_for)
        self._state = None


def read_ahead(*models: ModelOnDevice) -> list[Future[nnx.State] | None]:
    """Begins to read models in the background, one after the other, so that the first is not delayed.

    What is wrong with a file is raised where the model's state is asked for. Where Python ends before that,
    no further parameter is read: a thread pool, which reading one takes, cannot be had any more. See also
    `stp_jax.weights.checksums.sha256`.
    """
    reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
    begun = [model.begin(reader) for model in models]
    reader.shutdown(wait=False)
    return begun


@functools.lru_cache(maxsize=8)  # models of one structure and size compile once
def vae_functions(
    graph: nnx.GraphDef[VAE],
    *,
    chunk: int | None,
    decode_chunk: int | None,
    tiled: bool = False,
    finish: Callable[[jax.Array], jax.Array] = to_pixels,
) -> tuple[Any, Any]:
    """Compiled `encode(state, uint8 video) -> latents, finite`, `decode(state, latents) -> video, finite`.

    `finish` makes the unsigned pixels of a video in [-1, 1]. `finite` is whether all numbers were, a bool [].
    """

    @jax.jit
    def encode(state: nnx.State, video: jax.Array) -> tuple[jax.Array, jax.Array]:
        vae = nnx.merge(graph, gathered(state))
        latents = encode_tiled(vae, video, chunk=chunk) if tiled else vae.encode(video, chunk=chunk)
        return latents, jnp.isfinite(latents).all()

    def marked(video: jax.Array) -> jax.Array:
        """Pixels, with a row below that tells where the floats were finite: pixels themselves cannot."""
        pixels = finish(jnp.clip(video, -1, 1))
        below = jnp.isfinite(video).all(2, keepdims=True).astype(pixels.dtype)
        return jnp.concatenate([pixels, below], axis=2)

    @jax.jit
    def decode(state: nnx.State, latents: jax.Array) -> tuple[jax.Array, jax.Array]:
        vae = nnx.merge(graph, gathered(state))
        if tiled:
            pixels = marked(decode_tiled(vae, latents, chunk=decode_chunk))
        else:  # as `VAE.decode`, which clips before `finish` sees it
            pixels = vae.decode_raw(vae.denormalise(latents), chunk=decode_chunk, finish=marked)
        return pixels[:, :, :-1], pixels[:, :, -1].all()

    return encode, decode


def put(array: np.ndarray, mesh: Mesh, *, whole: bool = False) -> jax.Array:
    """A batch on the devices, padded with its last entry until it divides among them.

    Args:
      whole: every device gets the whole batch, as `batched_guidance` needs; the batch then divides among half
        of the devices.
    """
    shards = size_of(RULES.batch, mesh) // (2 if whole else 1)
    padding = -len(array) % shards
    array = np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1), mode="edge")
    sharding = NamedSharding(mesh, P()) if whole else batch_sharding(mesh)
    return jax.device_put(array, sharding)
