"""Re-renders a video from new cameras and with a new animation time: VAE, Euler steps of the DiT, VAE."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from stp_jax import flow
from stp_jax.controls.view import View
from stp_jax.models.block import Conditioning
from stp_jax.models.config import DiTConfig
from stp_jax.models.flop import dit_flop, traced_flop
from stp_jax.models.vae import fitting_chunk
from stp_jax.rerender import given
from stp_jax.rerender.checks import check_finite
from stp_jax.rerender.given import NOTHING, Earlier, Embeddings, embed, lowest_known
from stp_jax.rerender.models_on_device import FINISH, ModelOnDevice, put, read_ahead, vae_functions
from stp_jax.rerender.pretrained import (
    available_attention,
    find_models,
    is_official,
    refuse_idle_guidance,
    refuse_idle_tiles,
    sampling_remarks,
    sized,
)
from stp_jax.rerender.progress import CPU_COSTS, GPU_COSTS, Progress, Report
from stp_jax.rerender.sampler import Latents, Sampler, batched_guidance, mesh_for_one_video
from stp_jax.rerender.speed import Speed, choose, for_model, guided_steps, refuse_idle_knobs
from stp_jax.weights import native, reading
from stp_jax.weights.adapters import Lora
from stp_jax.weights.recognition import Pretrained


class Rerenderer:
    """A trained model, ready to re-render videos. Functions compile on first use, for each batch size.

    The text encoder, the VAE and the DiT are loaded onto the device when they are first needed, the latter
    two in the background. The text encoder's memory is freed before that. Embeddings of prompts are cached
    on disk.

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
        refuse_idle_guidance(folder, self.guidance, takes_text=self.takes_text)
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
            finish=FINISH[self.official, deep],
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
    def memory(self) -> int:
        """Latent frames of earlier output that the DiT may be given; 0: none."""
        return self._dit_config.memory

    @property
    def _sigmas(self) -> np.ndarray:
        return flow.sampling_sigmas(self.steps, self.shift)

    @property
    def _knobs(self) -> dict[str, Any]:
        """Arguments of `Sampler.compile` and `Sampler.sample`."""
        knobs = self.speed._asdict() | {"guidance": self.guidance if self.guidance != 1 else None}
        return {name: knobs[name] for name in ("guidance", "guidance_interval", "cache_threshold")}

    @property
    def most_forwards(self) -> int:
        """Forwards of the DiT where none is left out by reuse, for one video or batch."""
        guided = guided_steps(self._sigmas, self.speed.guidance_interval) & (self.guidance != 1)
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
        texts = {"prompt": prompt, "negative_prompt": negative_prompt}
        make: Any = self.window if np.ndim(source_video) == 4 else self._make
        return make(source_video, source, target, NOTHING, **texts, seed=seed, progress=progress)[0]

    def window(
        self, source_video: np.ndarray, source: View, target: View, earlier: Earlier = NOTHING, **options: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """A window of a long video: it goes on from what was made earlier.

        Args:
          source_video, source, target, options: of one video, as in a call. The model sees cameras relative
            to the window's own first source camera, and animation time is to be counted from its first source
            frame, as in training.
          earlier: what was made earlier.

        Returns:
          The target video, uint8 [F, H, W, 3], and its latents, float32 [F', H', W', C].
        """
        batch = np.asarray(source_video)[None], source.as_batch(), target.as_batch(), earlier.as_batch()
        video, latents = self._make(*batch, **options)
        return video[0], latents[0]

    def _make(
        self,
        source_video: np.ndarray,
        source: View,
        target: View,
        earlier: Earlier,
        *,
        prompt: str | Sequence[str] = "",
        negative_prompt: str | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Videos of a batch, and their latents."""
        clips = source_video, source, target, earlier.memory_view
        views = given.views(*clips, self.notes, official=self.official)
        checks: list[tuple[str, jax.Array]] = []
        report = Report(progress, self._costs.encode + self.steps + self._costs.decode)
        batched = batched_guidance(self._always_guided, len(source_video), self._mesh)
        if self.takes_text:
            report("reading the prompt", 0)
        texts = len(source_video), prompt, negative_prompt
        embedded = embed(self._text_encoder, *texts, guided=self.guidance != 1, dtype=self.dtype)
        read_ahead(self._vae, *([] if self._low_memory else [self._dit]))
        with jax.set_mesh(self._mesh):
            note = "" if len(source_video) in self._compiled else ", compiling"
            report(f"reading the clip{note}", self._costs.encode)
            clip = self._put(source_video, whole=batched)
            if not self._vae.loaded:  # compiles while the weights are read
                self._encode.lower(self._vae.shapes, clip).compile()
            source_latents, finite = self._encode(self._vae.state(), clip)
            checks.append(("the source's latents", finite))
            known = self._known(earlier, batched, checks)
            if self._low_memory:
                self._vae.offload(source_latents, *known.values())
            read_ahead(self._dit)
            drawn = self.noise(seed, len(source_video)) if earlier.noise is None else earlier.noise
            noise = self._put(drawn, whole=batched)
            of_clips = noise, source_latents, known.get("memory")
            conditioning = self._condition(views, embedded, batched, of_clips)
            latents = self._sample(noise, source_latents, conditioning, batched, report, checks, known)
            report(f"decoding{note}", self._costs.decode, latents)
            if self._low_memory:
                self._dit.offload(latents)
            decoded, finite = self._decode(self._vae.state(), latents)
            checks.append(("the pixels of the decoded video", finite))
            made = tuple(np.asarray(array)[: len(source_video)] for array in (decoded, latents))
        check_finite(checks)
        self._compiled |= {len(source_video), len(source_latents)}  # these may be padded
        report("done", 0)
        return made[0], made[1]

    def _known(
        self, earlier: Earlier, batched: bool, checks: list[tuple[str, jax.Array]]
    ) -> dict[str, jax.Array]:
        """Latents of earlier output by their names in `Sampler.sample`: of the memory, and of the frames that
        the window begins with, which are encoded anew, as its first latent frame is of one frame."""
        known: dict[str, jax.Array] = {}
        if earlier.memory is not None:
            known["memory"] = self._put(np.asarray(earlier.memory, np.float32), whole=batched)
        if earlier.frames is not None:
            frames = self._put(np.asarray(earlier.frames), whole=batched)
            known["known"], finite = self._encode(self._vae.state(), frames)
            checks.append(("the latents of earlier frames", finite))
        return known

    def noise(self, seed: int, videos: int = 1) -> np.ndarray:
        """The noise that sampling starts from, float32 [B, F', H', W', C]."""
        shape = (videos, *self._latent_size(), self._vae_config.z_dim)
        return given.noise(seed, shape, official=self.official, dtype=self.dtype)

    def reconstruct(self, video: np.ndarray) -> np.ndarray:
        """Videos uint8 [B, F, H, W, 3] through the VAE and back: no re-rendering can be sharper."""
        with jax.set_mesh(self._mesh):
            latents, encoded = self._encode(self._vae.state(), self._put(video))
            pixels, decoded = self._decode(self._vae.state(), latents)
            check_finite([("the source's latents", encoded), ("the pixels of the decoded video", decoded)])
            return np.asarray(pixels)[: len(video)]

    def flop(self) -> tuple[float, float]:
        """Multiplications and additions of the steps of one video, and of the VAE there and back.

        The VAE's are counted by tracing it, a second or two.
        """
        size = self._latent_size()
        steps = self.most_forwards * dit_flop(self._dit_config, size)
        shape = (1, self.notes.frames, self.notes.height, self.notes.width, 3)
        video = jax.ShapeDtypeStruct(shape, jnp.uint8)
        latents = jax.ShapeDtypeStruct((1, *size, self._vae_config.z_dim), jnp.float32)
        with jax.set_mesh(self._mesh):
            calls = (self._encode, video), (self._decode, latents)
            traced = [function.trace(self._vae.shapes, x) for function, x in calls]
        return steps, sum(traced_flop(one.jaxpr) for one in traced)

    def matmul_shape(self) -> tuple[int, int, int]:
        """Rows, columns and outputs of a product as in the DiT's blocks: tokens of a video, widths."""
        c = self._dit_config
        return sum(c.clip_tokens(self._latent_size(), 0).values()), c.dim, c.ffn_dim

    def _condition(
        self, views: tuple[View, ...], embedded: Embeddings, batched: bool, latents: Latents
    ) -> Conditioning:
        """Everything that all steps are conditioned on, computed once; `latents`: see `Sampler.compile`."""
        put_views = jax.tree.map(lambda array: self._put(np.asarray(array, np.float32), whole=batched), views)
        text, negative = (None if rows is None else self._put(rows, whole=batched) for rows in embedded)
        given = put_views, text, negative
        if not self._dit.loaded:  # compiles while the weights are read
            options = {"batched_guidance": batched, **self._knobs}
            self._sampler.compile(self._dit.shapes, *given, *latents, self._sigmas, **options)
        return self._sampler.condition(
            self._dit.state(), *given, latent_size=self._latent_size(), batched_guidance=batched
        )

    def _sample(
        self,
        noise: jax.Array,
        source: jax.Array,
        conditioning: Conditioning,
        batched: bool,
        report: Report,
        checks: list[tuple[str, jax.Array]],
        known: dict[str, jax.Array],
    ) -> jax.Array:
        """Latents of the target, from those of the source; `checks` gets whether each step's are finite."""
        compiled = len(source) in self._compiled
        finite: list[jax.Array] = []
        forwards: list[int] = []
        latents = self._sampler.sample(
            self._dit.state(),
            noise,
            source,
            conditioning,
            self._sigmas,
            batched_guidance=batched,
            progress=lambda number, x: report(
                f"step {number + 1} of {self.steps}" + ("" if number or compiled else ", compiling"), 1, x
            ),
            finite=finite,
            forwards=forwards,
            lowest_known=lowest_known(known.get("known"), self.memory),
            **(self._knobs | known),
        )
        self.forwards = sum(forwards)
        checks += [(f"the latents of step {i + 1} of {self.steps}", one) for i, one in enumerate(finite)]
        return latents

    def _put(self, array: np.ndarray, *, whole: bool = False) -> jax.Array:
        return put(array, self._mesh, whole=whole)
