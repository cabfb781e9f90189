"""What the one trainer can train: each task says how its model is made, what its loss is and what to show of
it."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any, Protocol

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from stp_jax import flow
from stp_jax.controls.view import view_of
from stp_jax.errors import InputError
from stp_jax.models.config import TEXT_TOKENS, DiTConfig
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.flop import dit_flop
from stp_jax.models.parameters import Params, bind, merge_lora
from stp_jax.models.vae import VAE, VAEConfig, fitting_chunk, from_pixels, to_pixels
from stp_jax.text import read_embeddings
from stp_jax.training.state import trained
from stp_jax.training.vae_loss import VAELossWeights, latent_statistics, vae_loss
from stp_jax.weights import kinds, native, reading, recognition

Batch = dict[str, jax.Array]


class Task(Protocol):
    """One kind of model to train. `frozen` are weights that it uses but does not train."""

    name: str  # of the weights: `dit`, `vae`
    frozen: dict[str, Any]
    tokens: int  # of an example, 0 if that means nothing
    flop: float  # of an example, forward and backward without recomputation; 0: not known

    def init(self, rngs: nnx.Rngs) -> nnx.Module:
        """The model with random parameters."""

    def may_start_random(self, name: str) -> bool:
        """Whether the weights that training starts from may lack this parameter."""

    def frozen_for(self, data: ConfigDict) -> dict[str, Any]:
        """What `loss` reads of `frozen` on examples of this kind of data."""

    def loss(
        self, model: Any, frozen: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The float32 loss on a batch and further numbers to log; runs inside jit."""

    def generate(self, model: Any, frozen: Params, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Videos to look at, `[B, F, H, W, 3]` in [-1, 1] by name; runs inside jit."""

    def show(self, videos: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Of what `generate` gave: uint8 videos `[F, H, W, 3]` by label, and figures."""

    def with_flow(self, flow: ConfigDict) -> Task:
        """The same task with other noise levels in its loss."""

    def to_export(self, params: Params) -> Params:
        """The parameters as others use them."""

    def final_config(self, model: Any, dataset: grain.IterDataset) -> dict[str, Any]:
        """The config that is saved with the model's weights."""

    def notes(self) -> dict[str, Any]:
        """What else is saved with them for those who use the model."""

    def companions(self) -> dict[str, tuple[Params, dict[str, Any]]]:
        """Weights and config of the frozen models, by name, that belong beside the trained one."""


def make_task(config: ConfigDict) -> Task:
    """The task named by `config.task`.

    Raises:
      InputError: an unknown task, or its frozen weights cannot be read.
    """
    tasks: dict[str, type[DiTTask] | type[VAETask]] = {"dit": DiTTask, "vae": VAETask}
    if config.task not in tasks:
        raise InputError(f"config.task is {config.task!r}; choose one of {', '.join(tasks)}.")
    return tasks[config.task](config)


def make_config(cls, values: ConfigDict):
    """The model's config dataclass of `config.model`.

    Raises:
      InputError: a field that it does not have, or a value that it cannot have.
    """
    fields = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - fields)
    if unknown:
        raise InputError(f"config.model has no field {unknown[0]!r}; it has {', '.join(sorted(fields))}.")
    try:
        return cls(**values.to_dict())
    except ValueError as error:
        raise InputError(f"config.model: {error}") from None


def random_crop(video: jax.Array, size: int, key: jax.Array) -> jax.Array:
    """Cuts a square of `size` pixels out of each clip `[B, F, H, W, 3]`, each at its own place; 0: all."""
    if not size:
        return video
    b, f, h, w, c = video.shape
    corners = jax.random.randint(key, (b, 2), 0, jnp.array([h - size + 1, w - size + 1]))
    cut = lambda clip, corner: jax.lax.dynamic_slice(clip, (0, *corner, 0), (f, size, size, c))  # noqa: E731
    return jax.vmap(cut)(video, corners)


class DiTTask:
    """Flow matching of the target's latents, given the source's and all cameras and animation times.

    A batch may have a memory, latent frames of earlier output. As that will have the mistakes of a model, the
    memory of each video is mixed with noise of a level drawn evenly from 0 to `config.flow.memory_sigma`. The
    model is not given that level.

    Batches hold videos, which the frozen VAE encodes inside the step, or latents that were encoded before;
    source and target each the one or the other. A model that takes text is told the same prompt for all,
    `config.text`, which `stp_jax.text` embedded.
    """

    name = "dit"

    def __init__(self, config: ConfigDict, *, load: bool = True):
        """`load=False` reads no weights: to compile for a machine; the VAE is taken to be Wan2.1's."""
        self.config = config
        self.model_config = make_config(DiTConfig, config.model)
        try:
            jax.eval_shape(lambda: self._levels(jax.random.key(0), jnp.zeros((1, 1, 2, 2, 1))))
        except ValueError as error:
            raise InputError(f"config.flow: {error}.") from None
        sigma = config.flow.get("memory_sigma", 0.2)
        if not 0 <= sigma <= 1:
            raise InputError(f"config.flow.memory_sigma is {sigma}; give 0 to 1.")
        drawn = config.data.get("memory_frames", 0)
        if drawn not in (0, self.model_config.memory):
            raise InputError(
                f"config.data.memory_frames is {drawn}, but config.model.memory {self.model_config.memory}."
            )
        self.frozen: dict[str, Any] = {}
        text_dim = self.model_config.text_dim
        if load:
            vae = recognition.recognise(config.vae, "vae")
            self._stored_vae_config = vae.config
            self.vae_config = dataclasses.replace(vae.config, dtype=self.model_config.dtype)
            self._vae_graph = reading.graph(dataclasses.replace(vae, config=self.vae_config))
            self.frozen["vae"] = reading.read(vae)
            if text_dim:
                self.frozen["text"] = read_embeddings(config.text, text_dim)[:1]
        else:
            self.vae_config = VAEConfig(dtype=self.model_config.dtype)
            if text_dim:
                self.frozen["text"] = jax.ShapeDtypeStruct((1, TEXT_TOKENS, text_dim), jnp.float32)
        share = config.data.memory_share if drawn else 0.0
        pairs = zip(self.cost(memory=False), self.cost(memory=True), strict=True)
        tokens, self.flop = ((1 - share) * without + share * with_ for without, with_ in pairs)
        self.tokens = round(tokens)

    def latent_size(self) -> tuple[int, int, int]:
        data = self.config.data
        return self.vae_config.latent_size(data.frames, data.height, data.width)

    def example_shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and type of everything in an example of latents, with a memory if the model takes one."""
        frames = self.config.data.frames
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
        for clip in ("source", "target"):
            shapes |= {
                f"{clip}_latents": ((*self.latent_size(), self.vae_config.z_dim), jnp.float16),
                f"{clip}_c2w": ((frames, 4, 4), jnp.float32),
                f"{clip}_intrinsics": ((frames, 4), jnp.float32),
                f"{clip}_animation_time": ((frames,), jnp.float32),
            }
        if count := self.model_config.memory:
            shapes |= {
                "memory_latents": ((count, *self.latent_size()[1:], self.vae_config.z_dim), jnp.float16),
                "memory_c2w": ((4 * count, 4, 4), jnp.float32),
                "memory_intrinsics": ((4 * count, 4), jnp.float32),
                "memory_animation_time": ((4 * count,), jnp.float32),
            }
        return shapes

    def cost(self, memory: bool) -> tuple[int, float]:
        """Tokens of an example, and floating-point operations of training on it, with a memory or without."""
        size, model = self.latent_size(), self.model_config
        chosen = trained(kinds.shapes("dit", model), self.config.train.trainable)
        tokens = sum(model.clip_tokens(size, model.memory if memory else 0).values())
        return tokens, dit_flop(model, size, memory=memory, trained=chosen)

    def init(self, rngs):
        return SpaceTimeDiT(self.model_config, rngs=rngs)

    def may_start_random(self, name):
        # What tells a text-to-video model of cameras and moments. Projections of it start at zero, and the
        # projector of self-attention as the identity.
        told = ("camera", "animation_time", "projector", "value_residual")
        return name.removeprefix("blocks.").startswith(told) or ".lora_" in name

    def frozen_for(self, data):
        return {name: value for name, value in self.frozen.items() if name != "vae" or data.kind != "latents"}

    def _vae(self, frozen):
        return bind(self._vae_graph, frozen["vae"])

    def _latents(self, batch, name, frozen):
        if f"{name}_latents" in batch:
            return batch[f"{name}_latents"].astype(jnp.float32)
        video = batch[f"{name}_video"]
        chunk = fitting_chunk(*video.shape[1:4])
        return jax.lax.stop_gradient(self._vae(frozen).encode(video, chunk=chunk))

    def _condition(self, model, frozen, batch, latents):
        text = None
        if "text" in frozen:
            text = jnp.broadcast_to(frozen["text"], (len(latents), *frozen["text"].shape[1:]))
        memory = view_of(batch, "memory") if "memory_latents" in batch else None
        target, source = view_of(batch, "target"), view_of(batch, "source")
        return model.condition(target, source, memory, text=text, latent_size=latents.shape[1:4])

    def loss(self, model, frozen, batch, key):
        target, source = (self._latents(batch, name, frozen) for name in ("target", "source"))
        noise_key, sigma_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, target.shape)
        levels = self._levels(sigma_key, target)
        conditioning = self._condition(model, frozen, batch, target)
        noisy = flow.add_noise(target, noise, levels.sigma)
        memory = self._noisy_memory(batch, jax.random.fold_in(key, 1))
        predicted = model(noisy, source, levels.timestep, conditioning, memory)
        errors = jnp.mean(jnp.square(predicted - flow.velocity(target, noise)), axis=(1, 2, 3, 4))
        return jnp.mean(levels.weight * errors), {}

    def _noisy_memory(self, batch: Batch, key: jax.Array) -> jax.Array | None:
        if "memory_latents" not in batch:
            return None
        noise_key, sigma_key = jax.random.split(key)
        memory = batch["memory_latents"].astype(jnp.float32)
        highest = self.config.flow.get("memory_sigma", 0.2)
        sigma = jax.random.uniform(sigma_key, (len(memory),), maxval=highest)
        return flow.add_noise(memory, jax.random.normal(noise_key, memory.shape), sigma)

    def _levels(self, key: jax.Array, latents: jax.Array) -> flow.NoiseLevels:
        f = self.config.flow
        shift = f.shift
        if f.base_tokens:
            tokens = math.prod(latents.shape[1:4]) // self.model_config.patch**2
            shift = flow.resolution_shift(tokens, f.base_tokens)
        return flow.random_levels(key, len(latents), sampling=f.sampling, shift=shift, weighting=f.weighting)

    def generate(self, model, frozen, batch, key):
        source, memory = self._latents(batch, "source", frozen), batch.get("memory_latents")
        conditioning = self._condition(model, frozen, batch, source)
        sigmas = flow.sampling_sigmas(self.config.sampling.steps, self.config.sampling.shift)

        def euler(x, pair):
            sigma, following = pair
            timestep = jnp.full(x.shape[:1], flow.MAX_TIMESTEP * sigma)
            velocity = model(x, source, timestep, conditioning, memory)
            return flow.euler_step(x, velocity, sigma, following), None

        noise = jax.random.normal(key, source.shape)
        sample, _ = jax.lax.scan(euler, noise, (jnp.asarray(sigmas[:-1]), jnp.asarray(sigmas[1:])))
        vae, data = self._vae(frozen), self.config.data
        chunk = fitting_chunk(data.frames, data.height, data.width)

        def decode(latents):
            return vae.decode(latents, chunk=chunk)

        def video(name):
            if f"{name}_video" in batch:
                return from_pixels(batch[f"{name}_video"])
            return decode(batch[f"{name}_latents"])

        return {"source": video("source"), "target": video("target"), "sample": decode(sample)}

    def with_flow(self, flow):
        other = copy.copy(self)
        other.config = self.config.copy_and_resolve_references()
        other.config.flow = flow
        return other

    def to_export(self, params):
        return merge_lora(params)

    def final_config(self, model, dataset):
        # What only says how to train is left out: the weights may go to a machine without these kernels.
        plain = dict(lora_rank=0, ffn_parts=1, unroll=False, fused=False)
        return dataclasses.asdict(dataclasses.replace(self.model_config, **plain))

    def notes(self):
        data, sampling = self.config.data, self.config.sampling
        return native.SamplingNotes(
            data.frames, data.height, data.width, sampling.steps, sampling.shift, sampling.guidance
        )._asdict()

    def companions(self):
        return {"vae": (self.frozen["vae"], dataclasses.asdict(self._stored_vae_config))}

    def show(self, videos):
        names = ("source", "target", "sample")
        return _rows(videos, names), {"psnr": psnr(videos["sample"], videos["target"])}


class VAETask:
    """Video through few latents and back; source and target of each example are two clips to learn from."""

    name = "vae"

    def __init__(self, config: ConfigDict):
        self.config = config
        largest = min(config.data.height, config.data.width)
        if not 0 <= config.crop <= largest:
            raise InputError(
                f"config.crop is {config.crop}; clips have room for 1 to {largest}, 0 keeps all."
            )
        self.model_config = make_config(VAEConfig, config.model)
        if jax.process_count() > 1:
            raise InputError("The VAE is trained by one process; its devices may be many.")
        self.loss_weights = VAELossWeights(**config.loss)
        self.tokens, self.flop = 0, 0.0
        self.frozen: dict[str, Any] = {}

    def init(self, rngs):
        return VAE(self.model_config, rngs=rngs)

    def may_start_random(self, name):
        return False

    def frozen_for(self, data):
        return self.frozen

    def _video(self, batch):
        return from_pixels(jnp.concatenate([batch["source_video"], batch["target_video"]]))

    def loss(self, model, frozen, batch, key):
        crop_key, noise_key = jax.random.split(key)
        video = random_crop(self._video(batch), self.config.crop, crop_key)
        return vae_loss(model, video, noise_key, self.loss_weights)

    def generate(self, model, frozen, batch, key):
        video = from_pixels(batch["target_video"])
        return {"target": video, "reconstruction": model.decode(model.encode(video))}

    def show(self, videos):
        names = ("target", "reconstruction")
        return _rows(videos, names), {"psnr": psnr(videos["reconstruction"], videos["target"])}

    def with_flow(self, flow):
        raise InputError("config.train.validation: a VAE has no noise levels.")

    def to_export(self, params):
        return params

    def final_config(self, model, dataset):
        """The model's config with the mean and spread of its latents, measured on training data."""
        iterator = iter(dataset)
        batches = (jax.device_get(self._video(next(iterator))) for _ in range(self.config.statistics_batches))
        mean, std = latent_statistics(model, batches)
        iterator.close()
        return dataclasses.asdict(self.model_config) | {"latent_mean": mean, "latent_std": std}

    def notes(self):
        return {}

    def companions(self):
        return {}


def psnr(video: np.ndarray, reference: np.ndarray) -> float:
    """PSNR in dB of videos `[B, ...]` in [-1, 1], from each whole video's mean squared error, averaged over
    B."""
    error = np.square((np.clip(video, -1, 1) - reference) / 2).reshape(len(video), -1).mean(1)
    return float(np.mean(-10 * np.log10(np.maximum(error, 1e-10))))


def _rows(videos: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A labelled uint8 video for each row of a picture: all of one example, then all of the next."""
    pixels = {name: np.asarray(to_pixels(videos[name])) for name in names}
    return {f"{name} {i}": pixels[name][i] for i in range(len(pixels[names[0]])) for name in names}
