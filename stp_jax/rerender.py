"""Re-renders a video from new cameras, at new moments: VAE, Euler steps of the space-time DiT, VAE."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from stp_jax import flow, weights
from stp_jax.cameras import Cameras, relative_to
from stp_jax.errors import InputError
from stp_jax.models.dit import Conditioning, DiTConfig, SpaceTimeDiT
from stp_jax.models.vae import VAE, VAEConfig, from_pixels, to_pixels
from stp_jax.sharding import RULES, batch_sharding, make_mesh, parameter_shardings

# What the VAE costs in steps of the DiT, with the demo on a CPU and compilation: for honest progress bars.
ENCODE_COST, DECODE_COST = 14, 18

Progress = Callable[[str, float], None]  # what comes next, and the share of the work done
M = TypeVar("M", VAE, SpaceTimeDiT)


class Rerenderer:
    """A trained model, ready to re-render videos; functions compile on first use, for each batch size.

    Args:
      folder: weights `dit` and `vae`, as train.py writes them.
      steps: Euler steps; default: as the weights' notes say.
      shift: of the noise levels, see `stp_jax.flow`; default: as the weights' notes say.
      dtype: "float32" or "bfloat16"; default: bfloat16 except on a CPU, where it is slow.
      mesh: a batch is spread over its devices, and filled up where it does not divide; default: one device.

    Raises:
      InputError: missing or damaged weights, of another model, or of models that do not fit together.
    """

    def __init__(
        self,
        folder: str | os.PathLike = weights.BUNDLED,
        *,
        steps: int | None = None,
        shift: float | None = None,
        dtype: str | None = None,
        mesh: Mesh | None = None,
    ):
        self.notes = weights.read_sampling_notes(folder)
        self.steps = self.notes.sampling_steps if steps is None else steps
        self.shift = self.notes.sampling_shift if shift is None else shift
        on_cpu = jax.default_backend() == "cpu"
        self.dtype = dtype or ("float32" if on_cpu else "bfloat16")
        self._mesh = mesh or make_mesh(devices=jax.devices()[:1])
        vae_config = _config(folder, "vae", VAEConfig, dtype=self.dtype)
        dit_config = _config(folder, "dit", DiTConfig, dtype=self.dtype, remat="none")
        if vae_config.z_dim != dit_config.channels:
            raise InputError(
                f"{folder}: the vae makes latents of {vae_config.z_dim} channels, the dit takes "
                f"{dit_config.channels}. Give weights that were trained together."
            )
        vae, vae_state = _load(folder, "vae", lambda: VAE(vae_config, rngs=nnx.Rngs(0)))
        dit, dit_state = _load(folder, "dit", lambda: SpaceTimeDiT(dit_config, rngs=nnx.Rngs(0)))
        self._vae_state = jax.device_put(vae_state, NamedSharding(self._mesh, P()))
        self._dit_state = jax.device_put(dit_state, parameter_shardings(dit_state, self._mesh))
        chunk = 1 if on_cpu else None  # the caches of a CPU are small

        @jax.jit
        def encode(state, video: jax.Array) -> jax.Array:
            return nnx.merge(vae, state).encode(from_pixels(video))

        @jax.jit
        def prepare(state, latents: jax.Array, key: jax.Array, *told: jax.Array):
            # Each video has its own key: what becomes of it does not depend on its batch.
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(latents)))
            noise = jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))(keys)
            size = latents.shape[1:4]
            return noise, nnx.merge(dit, state).condition(*told, latent_size=size)

        @jax.jit
        def step(
            state, x: jax.Array, source: jax.Array, sigma: jax.Array, following: jax.Array, told: Conditioning
        ) -> jax.Array:
            timestep = jnp.full(x.shape[:1], flow.MAX_TIMESTEP * sigma)
            return flow.euler_step(x, nnx.merge(dit, state)(x, source, timestep, told), sigma, following)

        @jax.jit
        def decode(state, latents: jax.Array) -> jax.Array:
            return to_pixels(nnx.merge(vae, state).decode(latents, chunk=chunk))

        self._encode, self._prepare, self._step, self._decode = encode, prepare, step, decode

    @property
    def device(self) -> str:
        """Where and how it computes, for people."""
        kinds = [device.device_kind for device in self._mesh.devices.flat]
        return f"{len(kinds)} x {kinds[0]}, {self.dtype}"

    def __call__(
        self,
        source_video: np.ndarray,
        source: Cameras,
        source_animation_time: np.ndarray,
        target: Cameras,
        target_animation_time: np.ndarray,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Re-renders one video, or a batch with a leading axis [B] on everything.

        Args:
          source_video: uint8 [F, H, W, 3], of the size that the model was trained on.
          source, target: cameras of F frames, in one world frame of any choice, metres.
          source_animation_time, target_animation_time: [F], in source frames.
          seed: of the noise that sampling starts from; videos of a batch get different noise.
          progress: called before each part of the work, and at the end.

        Returns:
          The target video, uint8 [F, H, W, 3].

        Raises:
          InputError: the video, the cameras or the animation times are of another shape.
        """
        if np.ndim(source_video) == 4:
            single = (source_video, source, source_animation_time, target, target_animation_time)
            batch = jax.tree.map(lambda array: np.asarray(array)[None], single)
            return self(*batch, seed=seed, progress=progress)[0]
        told = (*source, source_animation_time, *target, target_animation_time)
        self._check(source_video, told)
        reference = source.c2w[:, :1]
        told = (relative_to(told[0], reference), *told[1:3], relative_to(told[3], reference), *told[4:])
        sigmas = flow.sampling_sigmas(self.steps, self.shift)
        work, done = ENCODE_COST + self.steps + DECODE_COST, 0

        def report(what: str, cost: int, *wait_for: jax.Array) -> None:
            nonlocal done
            if progress:
                jax.block_until_ready(wait_for)
                progress(what, done / work)
                done += cost

        with jax.set_mesh(self._mesh):
            report("reading the clip", ENCODE_COST)
            latents = self._encode(self._vae_state, self._put(source_video))
            key = jax.random.key(seed)
            x, conditioning = self._prepare(
                self._dit_state, latents, key, *(self._put(np.asarray(array, np.float32)) for array in told)
            )
            for number, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
                report(f"step {number + 1} of {self.steps}", 1, x)
                x = self._step(self._dit_state, x, latents, sigma, following, conditioning)
            report("painting the frames", DECODE_COST, x)
            video = np.asarray(self._decode(self._vae_state, x))[: len(source_video)]
        report("done", 0)
        return video

    def reconstruct(self, video: np.ndarray) -> np.ndarray:
        """Videos uint8 [B, F, H, W, 3] through the VAE and back: no re-rendering can be sharper."""
        with jax.set_mesh(self._mesh):
            latents = self._encode(self._vae_state, self._put(video))
            return np.asarray(self._decode(self._vae_state, latents))[: len(video)]

    def _put(self, array: np.ndarray) -> jax.Array:
        """Spreads a batch over the devices; its last entry is repeated until it divides."""
        shards = math.prod(self._mesh.shape[axis] for axis in RULES.batch)
        fill = -len(array) % shards
        array = np.pad(array, [(0, fill)] + [(0, 0)] * (array.ndim - 1), mode="edge")
        return jax.device_put(array, batch_sharding(self._mesh))

    def _check(self, video: np.ndarray, told: tuple[np.ndarray, ...]) -> None:
        batch, frames, size = len(video), self.notes.frames, (self.notes.height, self.notes.width)
        if video.dtype != np.uint8 or video.shape[1:] != (frames, *size, 3):
            raise InputError(
                f"source video: {video.dtype} {list(video.shape[1:])}; the model takes uint8 "
                f"[{frames}, {size[0]}, {size[1]}, 3]. stp_jax.media.fit_clip cuts a video to size."
            )
        names = ("c2w", "intrinsics", "animation time")
        for i, (array, shape) in enumerate(zip(told, 2 * ((4, 4), (4,), ()), strict=True)):
            if np.shape(array) != (batch, frames, *shape):
                raise InputError(
                    f"{'source' if i < 3 else 'target'} {names[i % 3]}: shape {list(np.shape(array))}, not "
                    f"{[batch, frames, *shape]} as the source video asks for."
                )


def _config(folder: str | os.PathLike, name: str, kind: type, **changes):
    """The config of the weights `name`, with other values for some fields."""
    fields = weights.read_index(folder, name)["config"]
    known = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(fields, dict) or set(fields) - known:
        raise InputError(f"{Path(folder) / f'{name}.json'} is the config of another kind of model.")
    try:
        return kind(**fields | changes)
    except (ValueError, TypeError) as error:
        raise InputError(f"{Path(folder) / f'{name}.json'}: {error}.") from None


def _load(folder: str | os.PathLike, name: str, make: Callable[[], M]) -> tuple[nnx.GraphDef[M], nnx.State]:
    """The model's structure, and its parameters as on disk."""
    graph, state = nnx.split(nnx.eval_shape(make))
    model = nnx.merge(graph, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state))
    weights.load_into(model, weights.read_weights(folder, name), str(folder))
    return nnx.split(model)


def use_compilation_cache() -> None:
    """Keeps compiled functions in the user's cache folder, so that the next process starts faster."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "stp_jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
