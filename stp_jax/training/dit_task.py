"""The task of a `SpaceTimeDiT`."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from input_pipeline.caption_embeddings import CaptionEmbeddings
from input_pipeline.config import DEPTH_STRIDE
from input_pipeline.mixture import reads_latents
from stp_jax import flow
from stp_jax.controls.view import View, view_of
from stp_jax.devices.distributed import log
from stp_jax.errors import InputError
from stp_jax.models.config import TEXT_TOKENS, DiTConfig
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.flop import dit_flop
from stp_jax.models.parameters import bind, merge_lora, state_of
from stp_jax.models.vae import VAEConfig, fitting_chunk, from_pixels
from stp_jax.rerender.sampler import Sampler
from stp_jax.text import read_embeddings
from stp_jax.training import depth_head
from stp_jax.training.config import DiTLossConfig, FlowConfig, check_section, model_config
from stp_jax.training.state import graph_of, trained
from stp_jax.training.task import Batch
from stp_jax.training.videos import psnr, rows
from stp_jax.weights import kinds, native, reading, recognition

# Frames that windows of a long video have in common, for a model that has seen its own output as memory: it
# believes its memory less, so that one frame does not hold the windows together (docs/long_videos.md).
OWN_OUTPUT_OVERLAP = 5
MEMORY_ROLE = "camera_encoder.memory_role"  # all that a model with a memory has more than one without


class Noised(NamedTuple):
    """The latents of a batch, `[B, F', H', W', C]`, as a model is given them in training."""

    x: jax.Array  # the target with noise
    target: jax.Array
    noise: jax.Array
    source: jax.Array
    memory: jax.Array | None  # [B, K, H', W', C]
    levels: flow.NoiseLevels

    def velocity(self) -> jax.Array:
        return flow.velocity(self.target, self.noise)


class DiTTask:
    """Flow matching of the target's latents, given the source's and all cameras and animation times.

    A batch may have a memory, latent frames of earlier output. In use the memory has the errors of a model.
    So in training the memory of each video is mixed with noise, of a level drawn uniformly from 0 to
    `config.flow.memory_sigma`. The model is not given that level.

    Batches hold videos, which the frozen VAE encodes inside the step, or latents that were encoded before;
    source and target may differ in this. With `config.loss.depth` a head predicts the depth of both clips
    from tokens in the middle of the model, see `depth_head`. A model that takes text is given the captions of
    the batch, and videos without one the first prompt of `config.text`, which `stp_jax.text` embedded. A
    second prompt there is guidance's negative one.
    """

    name = "dit"

    def __init__(self, config: ConfigDict, *, load: bool = True):
        """`load=False` reads no weights, for compilation alone; the VAE's config is then Wan2.1's."""
        self.config = config
        self.model_config = model_config(DiTConfig, config.model)
        check_section(FlowConfig, config.flow, "config.flow")
        check_section(DiTLossConfig, config.loss, "config.loss")
        sigma = config.flow.get("memory_sigma", 0.2)
        if not 0 <= sigma <= 1:
            raise InputError(f"config.flow.memory_sigma is {sigma}; give 0 to 1.")
        drawn = config.data.get("memory_frames", 0)
        for name, count in (("data", drawn), ("pictures.data", _memory_of_pictures(config))):
            if count not in (0, self.model_config.memory):
                raise InputError(
                    f"config.{name}.memory_frames is {count}, but config.model.memory "
                    f"{self.model_config.memory}."
                )
        self.frozen: dict[str, Any] = {}
        text_dim = self.model_config.text_dim
        for name, value, unset in (
            ("text", config.text, ""),
            ("data.captions", config.data.get("captions", ""), ""),
            ("data.caption_dropout", config.data.get("caption_dropout", 0), 0),
            ("sampling.guidance", config.sampling.guidance, 1),
        ):
            if value != unset and not text_dim:
                raise InputError(f"config.{name} is {value}, but the model takes no text: leave it out.")
        if load:
            vae = recognition.recognise(config.vae, "vae")
            for remark in recognition.remarks(vae):
                log(remark)
            self._stored_vae_config = vae.config
            self.vae_config = dataclasses.replace(vae.config, dtype=self.model_config.dtype)
            self._vae_graph = reading.graph(dataclasses.replace(vae, config=self.vae_config))
            self.frozen["vae"] = reading.read(vae)
            if text_dim:
                prompts = read_embeddings(config.text, text_dim)
                _check_captions(config, prompts)
                self.frozen["text"] = prompts[:1]
                if len(prompts) > 1:
                    self.frozen["negative"] = prompts[1:2]
        else:
            self.vae_config = VAEConfig(dtype=self.model_config.dtype)
            if text_dim:
                self.frozen["text"] = jax.ShapeDtypeStruct((1, TEXT_TOKENS, text_dim), jnp.float32)
        if config.loss.depth:
            self._set_depth()
        self._set_cost()

    def _set_cost(self) -> None:
        """Sets `tokens` and `flop`, the means over examples with a memory and without."""
        data = self.config.data
        share = data.memory_share if data.get("memory_frames", 0) else 0.0
        pairs = zip(self.cost(memory=False), self.cost(memory=True), strict=True)
        tokens, self.flop = ((1 - share) * without + share * with_ for without, with_ in pairs)
        self.tokens = round(tokens)

    def _set_depth(self) -> None:
        """Where the head for depth is, and how many values it has for a token; see `depth_head`."""
        model = self.model_config
        if not model.source:
            raise InputError("config.loss.depth needs a model with a source: config.model.source is False.")
        if not re.fullmatch(self.config.train.trainable, f"{depth_head.NAME}.linear.kernel"):
            raise InputError(
                f"config.loss.depth: config.train.trainable must name the head, too, as in "
                f"'({self.config.train.trainable})|{depth_head.NAME}.*'."
            )
        self._depth_cells = depth_head.cells_of_token(model.patch, self.vae_config.spatial_stride)
        self._depth_layer = depth_head.layer_of_head(self.config.loss.depth_layer, model.layers)

    def latent_size(self) -> tuple[int, int, int]:
        """(F', H', W') of the latents of a clip."""
        data, stride = self.config.data, self.vae_config.spatial_stride
        frames = (data.frames - 1) // self.vae_config.frame_stride + 1
        return frames, data.height // stride, data.width // stride

    def example_shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and type of everything in an example of latents, with a memory if the model takes one."""
        data, frames = self.config.data, self.config.data.frames
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
        for clip in ("source", "target"):
            shapes |= {
                f"{clip}_latents": ((*self.latent_size(), self.vae_config.z_dim), jnp.float16),
                f"{clip}_c2w": ((frames, 4, 4), jnp.float32),
                f"{clip}_intrinsics": ((frames, 4), jnp.float32),
                f"{clip}_animation_time": ((frames,), jnp.float32),
            }
            if self.config.loss.depth:
                size = (data.height // DEPTH_STRIDE, data.width // DEPTH_STRIDE)
                shapes[f"{clip}_depth"] = ((frames, *size), jnp.float16)
        if self.config.data.get("captions"):
            shapes |= {
                "text": ((TEXT_TOKENS, self.model_config.text_dim), jnp.float16),
                "has_caption": ((), jnp.bool_),
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
        if self.config.loss.depth:
            return depth_head.DiTWithDepth(self.model_config, self._depth_cells, rngs=rngs)
        return SpaceTimeDiT(self.model_config, rngs=rngs)

    def check_start(self, config):
        theirs, own = config.heads, self.model_config.heads
        if theirs != own:
            raise InputError(
                f"config.init_from = {self.config.init_from}: weights of a model with heads = {theirs}; "
                f"config.model.heads is {own}.\nSet --config.model.heads={theirs}."
            )
        if config.flow_map and not self.model_config.flow_map:
            raise InputError(
                f"config.init_from = {self.config.init_from}: weights of a flow map, for few steps: train "
                "it with configs/demo_few_step.py, or set --config.model.flow_map=true."
            )
        for name in ("rope_frames", "scene_scale"):
            theirs, own = getattr(config, name), getattr(self.model_config, name)
            if theirs != own:
                log(f"The weights to start from were trained with {name} = {theirs!r}, not {own!r}.")

    def may_start_random(self, name):
        # What a text-to-video model lacks: conditioning on cameras and animation times. Projections of it
        # start at zero, and the projector of self-attention as the identity.
        added = ("camera", "animation_time", "projector", "interval_embedding", depth_head.NAME)
        return name.removeprefix("blocks.").startswith(added) or ".lora_" in name

    def may_leave_out(self, name):
        return name == MEMORY_ROLE

    def frozen_for(self, data):
        unused = {"negative"} | ({"vae"} if reads_latents(data) else set())
        return {name: value for name, value in self.frozen.items() if name not in unused}

    def _vae(self, frozen):
        return bind(self._vae_graph, frozen["vae"])

    def _latents(self, batch, name, frozen):
        if f"{name}_latents" in batch:
            return batch[f"{name}_latents"].astype(jnp.float32)
        video = batch[f"{name}_video"]
        chunk = fitting_chunk(*video.shape[1:4])
        return jax.lax.stop_gradient(self._vae(frozen).encode(video, chunk=chunk))

    def condition(self, model, frozen, batch, latent_size):
        """The conditioning of a model on a batch, see `SpaceTimeDiT.condition`; runs inside jit."""
        views = _views(batch)
        text = _texts(frozen, batch, len(views[0].animation_time))
        return model.condition(*views, text=text, latent_size=latent_size)

    def loss(self, model, frozen, batch, key):
        noised = self._noised(frozen, batch, key)
        conditioning = self.condition(model, frozen, batch, noised.target.shape[1:4])
        given = noised.x, noised.source, noised.levels.timestep, conditioning, noised.memory
        # Held-out examples have no depth: their loss is that of a model without the head.
        if with_depth := "target_depth" in batch:
            predicted, tokens = model.with_tokens(*given, after=self._depth_layer)
        else:
            predicted = model(*given)
        errors = jnp.mean(jnp.square(predicted - noised.velocity()), axis=(1, 2, 3, 4))
        loss = jnp.mean(noised.levels.weight * errors)
        if not with_depth:
            return loss, {}
        of_depth = depth_head.depth_loss(model, tokens, batch)
        return loss + self.config.loss.depth * of_depth, {"flow_loss": loss, "depth_loss": of_depth}

    def validation_loss(self, model, frozen, batch, key):
        return self.loss(model, frozen, batch, key)[0]

    def _noised(self, frozen: dict[str, Any], batch: Batch, key: jax.Array) -> Noised:
        target, source = (self._latents(batch, name, frozen) for name in ("target", "source"))
        noise_key, sigma_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, target.shape)
        levels = self._levels(sigma_key, target)
        memory = self._noisy_memory(batch, jax.random.fold_in(key, 1))
        return Noised(flow.add_noise(target, noise, levels.sigma), target, noise, source, memory, levels)

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

    def generator(self, sharding):
        sampler, sampling = Sampler(graph_of(self)), self.config.sampling
        sigmas = flow.sampling_sigmas(sampling.steps, sampling.shift)
        guidance = self._guidance()
        prepare = jax.jit(self._sampling_inputs, out_shardings=sharding)
        finish = jax.jit(self._videos, out_shardings=sharding)

        def generate(params, frozen, batch, key):
            state, memory = state_of(params), batch.get("memory_latents")
            noise, source, text, negative = prepare(frozen, batch, key)
            conditioning = sampler.condition(
                state,
                _views(batch),
                text,
                negative if guidance is not None else None,
                latent_size=source.shape[1:4],
            )
            sample = sampler.sample(
                state, noise, source, conditioning, sigmas, guidance=guidance, memory=memory
            )
            return finish(frozen, batch, sample)

        return generate

    def _guidance(self) -> float | None:
        """Guidance of the pictures, if there is any, and a negative prompt for it."""
        guidance = self.config.sampling.guidance
        if guidance == 1 or not self.model_config.text_dim:
            return None
        if "negative" not in self.frozen:
            log(f"Pictures are made without guidance: {self.config.text} has no second, negative prompt.")
            return None
        return guidance

    def _sampling_inputs(self, frozen, batch, key):
        """The noise, the source's latents, and embeddings of the prompt and the negative one, if any."""
        source = self._latents(batch, "source", frozen)
        text, negative = _texts(frozen, batch, len(source)), _for_all(frozen.get("negative"), len(source))
        return jax.random.normal(key, source.shape), source, text, negative

    def _videos(self, frozen, batch, sample):
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
        kept = {name: array for name, array in params.items() if not name.startswith(f"{depth_head.NAME}.")}
        return merge_lora(kept)

    def final_config(self, model, dataset):
        # Fields that only affect training or speed are reset: the weights may be used without these kernels.
        plain = dict(lora_rank=0, ffn_parts=1, unroll=False, fused=False, sampling_attention="exact")
        return dataclasses.asdict(dataclasses.replace(self.model_config, **plain))

    def notes(self):
        data, sampling = self.config.data, self.config.sampling
        size, steps = (data.frames, data.height, data.width), (sampling.steps, sampling.shift)
        overlap = OWN_OUTPUT_OVERLAP if self.model_config.memory and data.memory_outputs else 0
        return native.SamplingNotes(*size, *steps, sampling.guidance, sampling_overlap=overlap)._asdict()

    def companions(self):
        return {"vae": (self.frozen["vae"], dataclasses.asdict(self._stored_vae_config))}

    def show(self, videos):
        names = ("source", "target", "sample")
        return rows(videos, names), {"psnr": psnr(videos["sample"], videos["target"])}


def _views(batch: Batch) -> tuple[View, ...]:
    """The views of the target, the source and, if there is one, the memory."""
    names = ("target", "source", "memory") if "memory_latents" in batch else ("target", "source")
    return tuple(view_of(batch, name) for name in names)


def _texts(frozen: dict[str, Any], batch: Batch, videos: int) -> jax.Array | None:
    """The text of each video, [B, T, D]: its caption, or the prompt for those that have none."""
    prompt = _for_all(frozen.get("text"), videos)
    if prompt is None or "text" not in batch:
        return prompt
    return jnp.where(batch["has_caption"][:, None, None], batch["text"].astype(prompt.dtype), prompt)


def _check_captions(config: ConfigDict, prompts: np.ndarray) -> None:
    """Raises `InputError` where captions have another size than the prompts [P, T, D] of `config.text`."""
    sections = {"data": config.data} | (
        {"pictures.data": config.pictures.data} if "pictures" in config else {}
    )
    for name, data in sections.items():
        if not data.get("captions"):
            continue
        found = CaptionEmbeddings.open(data.captions)
        if (found.tokens, found.dim) != prompts.shape[1:]:
            raise InputError(
                f"config.{name}.captions = {data.captions}: embeddings of {found.tokens} x {found.dim}; "
                f"those of config.text have {prompts.shape[1]} x {prompts.shape[2]}."
            )


def _for_all(embedding: jax.Array | None, videos: int) -> jax.Array | None:
    """The embedding repeated for all videos, `[1, T, D]` -> `[B, T, D]`."""
    return None if embedding is None else jnp.broadcast_to(embedding, (videos, *embedding.shape[1:]))


def _memory_of_pictures(config: ConfigDict) -> int:
    return config.pictures.data.get("memory_frames", 0) if "pictures" in config else 0
