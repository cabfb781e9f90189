"""Re-renders a video from new cameras and with a new animation time: VAE, Euler steps of the DiT, VAE."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from stp_jax import flow, text
from stp_jax.controls.cameras import relative_to
from stp_jax.controls.view import View
from stp_jax.devices.sharding import RULES, batch_sharding, size_of
from stp_jax.errors import InputError
from stp_jax.models.block import Conditioning
from stp_jax.models.config import DiTConfig
from stp_jax.models.flop import dit_flop, traced_flop
from stp_jax.models.vae import fitting_chunk, to_deep_pixels, to_pixels
from stp_jax.official.clip import to_deep_official_pixels, to_official_pixels
from stp_jax.official.noise import official_noise
from stp_jax.official.poses import official_poses
from stp_jax.rerender.checks import check_finite, check_shapes
from stp_jax.rerender.models_on_device import ModelOnDevice, vae_functions
from stp_jax.rerender.pretrained import (
    available_attention,
    find_models,
    is_official,
    refuse_idle_tiles,
    sampling_remarks,
    sized,
)
from stp_jax.rerender.progress import CPU_COSTS, GPU_COSTS, Progress, Report
from stp_jax.rerender.sampler import Sampler, batched_guidance, jax_noise, mesh_for_one_video
from stp_jax.rerender.speed import Speed, choose, for_model, guided_steps, refuse_idle_knobs
from stp_jax.weights import native, reading
from stp_jax.weights.adapters import Lora
from stp_jax.weights.recognition import Pretrained

Embeddings = tuple[np.ndarray | None, np.ndarray | None]  # [B, T, D], of the prompts and of the negative one

# Pixels of the decoded video, by whether the model is official and whether they are deep.
_FINISH = {
    (False, False): to_pixels,
    (False, True): to_deep_pixels,
    (True, False): to_official_pixels,
    (True, True): to_deep_official_pixels,
}


class Rerenderer:
    """A trained model, ready to re-render videos. Functions compile on first use, for each batch size.

    The text encoder, the VAE and the DiT are loaded onto the device when they are first needed. The text
    encoder's memory is freed before the others are loaded. Embeddings of prompts are cached on disk.

    Args:
      folder: weights of a DiT in any layout that `stp_jax.weights` reads: a folder that train.py wrote,
        an official checkpoint, a diffusers folder.
      loras: LoRAs that are merged into the DiT while it is read: files, `"FILE:STRENGTH"`, or
        `stp_jax.weights.adapters.Lora`; see docs/official_weights.md.
      vae, text_encoder: weights of the VAE and the text encoder. None: they are beside the DiT's.
      frames, height, width: of the videos; default: as the weights' notes say.
      steps: Euler steps; default: as the weights' notes say.
      shift: of the noise levels, see `stp_jax.flow`; default: as the weights' notes say.
      guidance: by text, see `Sampler.sample`; 1 is none; default: as the weights' notes say.
      speed: a preset of the three knobs that follow, see `stp_jax.rerender.speed` and docs/speed.md; each
        that is given wins.
      guidance_interval: lowest and highest noise level, from 0 to 1, of steps with guidance.
      cache_threshold: steps reuse velocities, see `stp_jax.rerender.caching`; 0: none.
      attention: `exact`; `fp8`, in 8 bits, faster for long videos, see `stp_jax.models.fp8_attention`: where
        that cannot be, a remark says why, and attention is exact; `fp8_simulated`, for measurements.
      exact_blocks: first blocks, and as many last ones, whose attention is exact all the same.
      dtype: "float32" or "bfloat16"; default: bfloat16 except on a CPU, where it is slow.
      official_rounding: see `DiTConfig`; default: for the official weights in bfloat16.
      tiled: the VAE works in the official tiles, see `stp_jax.official.tiles`, to match official videos.
      low_memory: the VAE and the DiT are never on the device together, at the price of loading them again.
      deep: videos are made as uint16, whose 65535 is 255 of uint8, for forms of more than 8 bits.
      mesh: a batch is split over its devices, and padded where it does not divide. Default: all devices of
        this machine that a single video can use, see `mesh_for_one_video`.

    Raises:
      InputError: missing or damaged weights, of another model, or of models that do not fit together; sizes
        that the models cannot work at; knobs that are impossible, or have no effect.
    """

    def __init__(
        self,
        folder: str | os.PathLike = native.BUNDLED,
        *,
        loras: Sequence[str | os.PathLike | Lora] = (),
        vae: str | os.PathLike | None = None,
        text_encoder: str | os.PathLike | None = None,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        shift: float | None = None,
        guidance: float | None = None,
        speed: str = "exact",
        guidance_interval: tuple[float, float] | None = None,
        cache_threshold: float | None = None,
        attention: str | None = None,
        exact_blocks: int = 0,
        dtype: str | None = None,
        official_rounding: bool | None = None,
        tiled: bool = False,
        low_memory: bool = False,
        deep: bool = False,
        mesh: Mesh | None = None,
    ):
        on_cpu = jax.default_backend() == "cpu"
        self.dtype = dtype or ("float32" if on_cpu else "bfloat16")
        self._compiled: set[int] = set()  # batch sizes; functions compile on first use
        self._costs = CPU_COSTS if on_cpu else GPU_COSTS
        self._low_memory = low_memory
        files = {"vae": vae, "text_encoder": text_encoder}
        dit, vae_files, self._text_encoder, self.remarks = find_models(
            folder, loras=loras, dtype=self.dtype, official_rounding=official_rounding, **files
        )
        self.title = f"{dit.title}, {dit.path}"
        #: the official weights are sampled the official way: its noise, its poses, its rounding
        self.official = is_official(dit)
        notes = reading.sampling_notes(dit)
        self.steps = notes.sampling_steps if steps is None else steps
        self.shift = notes.sampling_shift if shift is None else shift
        self.guidance = notes.sampling_guidance if guidance is None else guidance
        self.remarks += sampling_remarks(loras, self.steps, self.guidance)
        self._check_guidance(folder)
        self.notes = sized(notes, frames, height, width)
        self._vae_config = vae_files.config
        size = self.notes.frames, self.notes.height, self.notes.width
        self._vae_config.check_video_size(*size, patch=dit.config.patch)
        knobs = choose(speed, attention, guidance_interval, cache_threshold)
        refuse_idle_knobs(guidance_interval, cache_threshold, self.guidance, flow_map=dit.config.flow_map)
        self._set_speed(knobs, dit.config, exact_blocks)
        target = dit.config.clip_tokens(self._latent_size())["target"]
        self._mesh = mesh or mesh_for_one_video(jax.local_devices(), target, guided=self._always_guided)
        self._load_when_needed(dataclasses.replace(dit, config=self._dit_config), vae_files, tiled, deep)

    def _set_speed(self, knobs: Speed, config: DiTConfig, exact_blocks: int) -> None:
        knobs, lines = for_model(knobs, guidance=self.guidance, flow_map=config.flow_map)
        tokens = sum(config.clip_tokens(self._latent_size()).values())
        self._dit_config, more = available_attention(knobs.attention, config, tokens, exact_blocks)
        self.remarks += lines + more
        #: the knobs of sampling as they are used
        self.speed = knobs._replace(attention=self._dit_config.sampling_attention)
        #: forwards of the DiT, made for the last video or batch; two for a step with guidance
        self.forwards = 0

    def _load_when_needed(self, dit: Pretrained, vae: Pretrained, tiled: bool, deep: bool) -> None:
        self._vae = ModelOnDevice(vae, self._mesh, self.dtype)
        self._dit = ModelOnDevice(dit, self._mesh, self.dtype)
        self._sampler = Sampler(self._dit.graph)
        chunk = fitting_chunk(self.notes.frames, self.notes.height, self.notes.width)
        self._encode, self._decode = vae_functions(
            self._vae.graph,
            chunk=chunk,
            decode_chunk=1 if jax.default_backend() == "cpu" else chunk,  # a CPU has small caches
            tiled=tiled,
            finish=_FINISH[self.official, deep],
        )

    def _check_guidance(self, folder: str | os.PathLike) -> None:
        if self.guidance != 1 and not self.takes_text:
            raise InputError(
                f"{folder} takes no text, so --guidance {self.guidance:g} has no meaning: leave it out."
            )

    def refuse_idle_tiles(self) -> None:
        """Raises `InputError` where `tiled` makes no difference, as pictures fit in one tile."""
        refuse_idle_tiles(self._vae_config, self.notes.frames, self.notes.height, self.notes.width)

    @property
    def device(self) -> str:
        """Number and kind of the devices and the dtype, to print."""
        kinds = [device.device_kind for device in self._mesh.devices.flat]
        return f"{len(kinds)} x {kinds[0]}, {self.dtype}"

    @property
    def takes_text(self) -> bool:
        """Whether the DiT is conditioned on prompts."""
        return self._text_encoder is not None

    @property
    def _guided(self) -> bool:
        return self.guidance != 1

    @property
    def _sigmas(self) -> np.ndarray:
        return flow.sampling_sigmas(self.steps, self.shift)

    @property
    def most_forwards(self) -> int:
        """Forwards of the DiT where none is left out by reuse, for one video or batch."""
        guided = guided_steps(self._sigmas, self.speed.guidance_interval) if self._guided else np.zeros(1)
        return self.steps + int(guided.sum())

    @property
    def _always_guided(self) -> bool:
        """Whether every step has guidance: only then halves of the devices compute one velocity each."""
        return self.most_forwards == 2 * self.steps

    def _latent_size(self) -> tuple[int, int, int]:
        return self._vae_config.latent_size(self.notes.frames, self.notes.height, self.notes.width)

    def __call__(
        self,
        source_video: np.ndarray,
        source: View,
        target: View,
        *,
        prompt: str | Sequence[str] = "",
        negative_prompt: str | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Re-renders one video, or a batch with a leading axis [B] on everything.

        Args:
          source_video: uint8 [F, H, W, 3], of the size that the model was made for.
          source, target: cameras and animation times of the two clips, F entries each. Cameras are in metres,
            in any one world frame. A target without `c2w` has the source's cameras; official models are then
            given them as in the official Cam x Time evaluation.
          prompt: what is to be seen, for a model that takes text; a batch may have one for each video.
          negative_prompt: what is not to be seen, with guidance. Default: `text.NEGATIVE_PROMPT`.
          seed: of the noise that sampling starts from. Each video of a batch has its own noise; official
            models have the same for all.
          progress: called before each part of the work, and at the end.

        Returns:
          The target video, uint8 [F, H, W, 3].

        Raises:
          InputError: the video, the cameras or the animation times are of another shape; numbers that are not
            finite on the way, at the step that it names.
        """
        if np.ndim(source_video) == 4:
            batch = np.asarray(source_video)[None], source.as_batch(), target.as_batch()
            options: Any = {"negative_prompt": negative_prompt, "seed": seed, "progress": progress}
            return self(*batch, prompt=prompt, **options)[0]
        views = self._views(source_video, source, target)
        checks: list[tuple[str, jax.Array]] = []
        report = Report(progress, self._costs.encode + self.steps + self._costs.decode)
        batched = batched_guidance(self._always_guided, len(source_video), self._mesh)
        embeddings = self._embed(len(source_video), prompt, negative_prompt, report)
        with jax.set_mesh(self._mesh):
            note = "" if len(source_video) in self._compiled else ", compiling"
            report(f"reading the clip{note}", self._costs.encode)
            source_latents, finite = self._encode(self._vae.state(), self._put(source_video, whole=batched))
            checks.append(("the source's latents", finite))
            if self._low_memory:
                self._vae.offload(source_latents)
            conditioning = self._condition(views, embeddings, batched)
            latents = self._sample(source_latents, conditioning, seed, batched, report, checks)
            report(f"decoding{note}", self._costs.decode, latents)
            if self._low_memory:
                self._dit.offload(latents)
            decoded, finite = self._decode(self._vae.state(), latents)
            checks.append(("the pixels of the decoded video", finite))
            video = np.asarray(decoded)[: len(source_video)]
        check_finite(checks)
        self._compiled |= {len(source_video), len(source_latents)}  # these may be padded
        report("done", 0)
        return video

    def reconstruct(self, video: np.ndarray) -> np.ndarray:
        """Videos uint8 [B, F, H, W, 3] through the VAE and back: no re-rendering can be sharper."""
        with jax.set_mesh(self._mesh):
            latents, encoded = self._encode(self._vae.state(), self._put(video))
            pixels, decoded = self._decode(self._vae.state(), latents)
            check_finite([("the source's latents", encoded), ("the pixels of the decoded video", decoded)])
            return np.asarray(pixels)[: len(video)]

    def flop(self) -> tuple[float, float]:
        """Multiplications and additions of the steps of one video, and of the VAE there and back.

        The VAE's are counted by tracing it, a second or two, for which its weights are loaded.
        """
        size = self._latent_size()
        steps = self.most_forwards * dit_flop(self._dit_config, size)
        video = (1, self.notes.frames, self.notes.height, self.notes.width, 3)
        latents = (1, *size, self._vae_config.z_dim)
        with jax.set_mesh(self._mesh):
            state = self._vae.state()
            traced = (
                self._encode.trace(state, jax.ShapeDtypeStruct(video, jnp.uint8)),
                self._decode.trace(state, jax.ShapeDtypeStruct(latents, jnp.float32)),
            )
        return steps, sum(traced_flop(one.jaxpr) for one in traced)

    def matmul_shape(self) -> tuple[int, int, int]:
        """Rows, columns and outputs of a product as in the DiT's blocks: tokens of a video, widths."""
        c = self._dit_config
        return sum(c.clip_tokens(self._latent_size(), 0).values()), c.dim, c.ffn_dim

    def _views(self, video: np.ndarray, source: View, target: View) -> tuple[View, View]:
        """Target and source with the poses that the DiT is conditioned on; raises `InputError` for shapes."""
        same_cameras = target.c2w is None
        if same_cameras:
            target = View(source.c2w, source.intrinsics, target.animation_time)
        check_shapes(video, source, target, self.notes)
        reference = source.c2w[:, :1]
        if self.official:
            source_c2w, target_c2w = official_poses(
                source.c2w,
                None if same_cameras else target.c2w,
                scale_source=self.notes.sampling_scaled_poses and not same_cameras,
                target_reference=reference,
            )
        else:
            source_c2w, target_c2w = relative_to(source.c2w, reference), relative_to(target.c2w, reference)
        return target._replace(c2w=target_c2w), source._replace(c2w=source_c2w)

    def _embed(
        self, videos: int, prompt: str | Sequence[str], negative_prompt: str | None, report: Report
    ) -> Embeddings:
        """Embeddings of the prompts and, with guidance, of the negative prompt."""
        if self._text_encoder is None:
            return None, None
        prompts = [prompt] * videos if isinstance(prompt, str) else list(prompt)
        negative = text.NEGATIVE_PROMPT if negative_prompt is None else negative_prompt
        report("reading the prompt", 0)
        guided = [negative] if self._guided else []
        embedded = text.embed([*prompts, *guided], self._text_encoder, dtype=self.dtype)
        positive = embedded[: len(prompts)]
        return positive, np.broadcast_to(embedded[-1:], positive.shape) if guided else None

    def _condition(self, views: tuple[View, View], embeddings: Embeddings, batched: bool) -> Conditioning:
        """Everything that all steps are conditioned on, computed once."""
        return self._sampler.condition(
            self._dit.state(),
            jax.tree.map(lambda array: self._put(np.asarray(array, np.float32), whole=batched), views),
            *(None if rows is None else self._put(rows, whole=batched) for rows in embeddings),
            latent_size=self._latent_size(),
            batched_guidance=batched,
        )

    def _sample(
        self,
        source: jax.Array,
        conditioning: Conditioning,
        seed: int,
        batched: bool,
        report: Report,
        checks: list[tuple[str, jax.Array]],
    ) -> jax.Array:
        """Latents of the target, from those of the source; `checks` gets whether each step's are finite."""
        compiled = len(source) in self._compiled
        finite: list[jax.Array] = []
        forwards: list[int] = []
        latents = self._sampler.sample(
            self._dit.state(),
            self._put(self._noise(seed, source.shape), whole=batched),
            source,
            conditioning,
            self._sigmas,
            guidance=self.guidance if self._guided else None,
            guidance_interval=self.speed.guidance_interval,
            cache_threshold=self.speed.cache_threshold,
            batched_guidance=batched,
            progress=lambda number, x: report(
                f"step {number + 1} of {self.steps}" + ("" if number or compiled else ", compiling"), 1, x
            ),
            finite=finite,
            forwards=forwards,
        )
        self.forwards = sum(forwards)
        checks += [(f"the latents of step {i + 1} of {self.steps}", one) for i, one in enumerate(finite)]
        return latents

    def _noise(self, seed: int, shape: tuple[int, ...]) -> np.ndarray:
        if not self.official:
            return np.asarray(jax_noise(seed, shape))
        noise = official_noise(seed, shape)
        if self.dtype == "bfloat16":
            noise = noise.astype(jnp.bfloat16)
        return noise.astype(np.float32)

    def _put(self, array: np.ndarray, *, whole: bool = False) -> jax.Array:
        """A batch on the devices, padded with its last entry until it divides among them.

        Args:
          whole: every device gets the whole batch, as `batched_guidance` needs; the batch then divides among
            half of the devices.
        """
        shards = size_of(RULES.batch, self._mesh) // (2 if whole else 1)
        padding = -len(array) % shards
        array = np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1), mode="edge")
        sharding = NamedSharding(self._mesh, P()) if whole else batch_sharding(self._mesh)
        return jax.device_put(array, sharding)
