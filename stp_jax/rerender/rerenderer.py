"""Re-renders a video from new cameras, at new moments: VAE, Euler steps of the space-time DiT, VAE."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from stp_jax import flow, text
from stp_jax.controls.cameras import Cameras, relative_to
from stp_jax.controls.view import View
from stp_jax.devices.sharding import RULES, batch_sharding, gathered, size_of
from stp_jax.errors import InputError
from stp_jax.models.vae import VAE, fitting_chunk, to_pixels
from stp_jax.official.poses import pose12, to_official_pixels
from stp_jax.official.tiles import decode_tiled, encode_tiled
from stp_jax.rerender.sampler import Sampler, at_once, jax_noise, mesh_for_one_video, official_noise
from stp_jax.weights import native, reading, recognition

# What the VAE costs in steps of the DiT, for honest progress bars: the demo on a CPU, with compilation, and
# the full size on a GPU.
CPU_COSTS, GPU_COSTS = (14, 18), (1, 1)
Progress = Callable[[str, float], None]  # what comes next, and the share of the work done


class Rerenderer:
    """A trained model, ready to re-render videos; functions compile on first use, for each batch size.

    The text encoder, the VAE and the DiT come to the device when they are first needed. The text encoder
    leaves it again before the others come; embeddings of prompts are kept on disk.

    Args:
      folder: weights of a DiT in any layout that `stp_jax.weights` reads: a folder that train.py wrote,
        an official checkpoint, a diffusers folder.
      vae, text_encoder: where theirs are, if not beside the DiT's.
      frames, height, width: of the videos; default: as the weights' notes say.
      steps: Euler steps; default: as the weights' notes say.
      shift: of the noise levels, see `stp_jax.flow`; default: as the weights' notes say.
      guidance: by text, see `Sampler.sample`; 1 is none; default: as the weights' notes say.
      dtype: "float32" or "bfloat16"; default: bfloat16 except on a CPU, where it is slow.
      official_rounding: see `DiTConfig`; default: for the official weights in bfloat16.
      tiled: the VAE works in the official tiles, see `stp_jax.official.tiles`, to match official videos.
      low_memory: the VAE and the DiT are never on the device together, at the price of loading them again.
      mesh: a batch is spread over its devices, and filled up where it does not divide; default: all devices
        of this machine that a single video can use, see `mesh_for_one_video`.

    Raises:
      InputError: missing or damaged weights, of another model, or of models that do not fit together; sizes
        that the models cannot work at.
    """

    def __init__(
        self,
        folder: str | os.PathLike = native.BUNDLED,
        *,
        vae: str | os.PathLike | None = None,
        text_encoder: str | os.PathLike | None = None,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        shift: float | None = None,
        guidance: float | None = None,
        dtype: str | None = None,
        official_rounding: bool | None = None,
        tiled: bool = False,
        low_memory: bool = False,
        mesh: Mesh | None = None,
    ):
        on_cpu = jax.default_backend() == "cpu"
        self.dtype = dtype or ("float32" if on_cpu else "bfloat16")
        self._costs = CPU_COSTS if on_cpu else GPU_COSTS
        self._low_memory = low_memory

        dit_files = recognition.recognise(folder, "dit")
        vae_files = recognition.recognise(vae or folder, "vae")
        self.title = f"{dit_files.title}, {dit_files.path}"
        if not dit_files.config.source:
            raise InputError(
                f"{folder} is {dit_files.title}, which is told no source video, camera or animation time. It "
                "is a start for training: see configs/wan_1_3b_plucker.py."
            )
        #: the official weights are sampled the official way: its noise, its poses, its rounding
        self.official = dit_files.config.camera.startswith("pose12")
        if official_rounding is None:
            official_rounding = self.official and self.dtype == "bfloat16"
        self._dit_config = dataclasses.replace(
            dit_files.config, dtype=self.dtype, remat="none", official_rounding=official_rounding
        )
        self._vae_config = dataclasses.replace(
            vae_files.config, dtype=self.dtype, official_rounding=official_rounding
        )
        if self._vae_config.z_dim != self._dit_config.channels:
            raise InputError(
                f"{vae or folder}: the vae makes latents of {self._vae_config.z_dim} channels, the dit of "
                f"{folder} takes {self._dit_config.channels}. Give weights that were trained together."
            )
        notes = reading.sampling_notes(dit_files)
        self.steps = notes.sampling_steps if steps is None else steps
        self.shift = notes.sampling_shift if shift is None else shift
        self.guidance = notes.sampling_guidance if guidance is None else guidance
        self.notes = notes._replace(
            frames=notes.frames if frames is None else frames,
            height=notes.height if height is None else height,
            width=notes.width if width is None else width,
        )
        size = self.notes.frames, self.notes.height, self.notes.width
        self._vae_config.check_video_size(*size, patch=self._dit_config.patch)
        self._text_encoder: Path | None = None
        if self._dit_config.text_dim:
            encoder = recognition.recognise(text_encoder or folder, "text_encoder")
            if encoder.config.dim != self._dit_config.text_dim:
                raise InputError(
                    f"{encoder.path} is {encoder.title}; {dit_files.title} reads embeddings "
                    f"{self._dit_config.text_dim} wide. Give the text encoder that it was trained with."
                )
            self._text_encoder = encoder.path
            text.find_tokenizer(self._text_encoder)  # its absence is told now
        elif self.guidance != 1:
            raise InputError(
                f"{folder} takes no text, so --guidance {self.guidance:g} has no meaning: leave it out."
            )

        tokens = math.prod(self._latent_size()) // self._dit_config.patch**2
        self._mesh = mesh or mesh_for_one_video(jax.local_devices(), tokens, guided=self._guided)
        self._vae = _Resident(dataclasses.replace(vae_files, config=self._vae_config), self._mesh, self.dtype)
        self._dit = _Resident(dataclasses.replace(dit_files, config=self._dit_config), self._mesh, self.dtype)
        self._sampler = Sampler(self._dit.graph)
        chunk = fitting_chunk(self.notes.frames, self.notes.height, self.notes.width)
        self._encode, self._decode = vae_functions(
            self._vae.graph,
            chunk=chunk,
            decode_chunk=1 if on_cpu else chunk,  # whose caches are small
            tiled=tiled,
            finish=to_official_pixels if self.official else to_pixels,
        )

    @property
    def device(self) -> str:
        """Where and how it computes, for people."""
        kinds = [device.device_kind for device in self._mesh.devices.flat]
        return f"{len(kinds)} x {kinds[0]}, {self.dtype}"

    @property
    def _guided(self) -> bool:
        return self.guidance != 1

    def _latent_size(self) -> tuple[int, int, int]:
        return self._vae_config.latent_size(self.notes.frames, self.notes.height, self.notes.width)

    @property
    def takes_text(self) -> bool:
        return self._text_encoder is not None

    def __call__(
        self,
        source_video: np.ndarray,
        source: Cameras,
        source_animation_time: np.ndarray,
        target: Cameras | None,
        target_animation_time: np.ndarray,
        *,
        prompt: str | Sequence[str] = "",
        negative_prompt: str | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Re-renders one video, or a batch with a leading axis [B] on everything.

        Args:
          source_video: uint8 [F, H, W, 3], of the size that the model was made for.
          source, target: cameras of F frames, in one world frame of any choice, metres. No target: the
            source's; official models are then told so as in the official Cam x Time evaluation.
          source_animation_time, target_animation_time: [F], in source frames.
          prompt: says what is to be seen, for a model that takes text; a batch may have one for each video.
          negative_prompt: says what is not, where there is guidance; default: `text.NEGATIVE_PROMPT`.
          seed: of the noise that sampling starts from; videos of a batch get different noise, but for the
            official models.
          progress: called before each part of the work, and at the end.

        Returns:
          The target video, uint8 [F, H, W, 3].

        Raises:
          InputError: the video, the cameras or the animation times are of another shape.
        """
        if np.ndim(source_video) == 4:
            single = (source_video, source, source_animation_time, target, target_animation_time)
            batch = jax.tree.map(lambda array: np.asarray(array)[None], single)
            return self(*batch, prompt=prompt, negative_prompt=negative_prompt, seed=seed, progress=progress)[
                0
            ]
        source_view = View(*source, source_animation_time)
        target_view = View(*(target or source), target_animation_time)
        self._check(source_video, source_view, target_view)
        if self.official:
            poses = pose12(
                source.c2w,
                None if target is None else target.c2w,
                scale_source=self.notes.sampling_scaled_poses and target is not None,
                target_reference=source.c2w[:, :1],
            )
        else:
            reference = source.c2w[:, :1]
            poses = relative_to(source_view.c2w, reference), relative_to(target_view.c2w, reference)
        views = (target_view._replace(c2w=poses[1]), source_view._replace(c2w=poses[0]))
        prompts = [prompt] * len(source_video) if isinstance(prompt, str) else list(prompt)
        sigmas = flow.sampling_sigmas(self.steps, self.shift)
        encode_cost, decode_cost = self._costs
        work, done = encode_cost + self.steps + decode_cost, 0

        def report(what: str, cost: int, *wait_for: jax.Array) -> None:
            nonlocal done
            if progress:
                jax.block_until_ready(wait_for)
                progress(what, done / work)
                done += cost

        embedded = self._embed(prompts, negative_prompt, lambda: report("reading the prompt", 0))
        paired = at_once(self._guided, len(source_video), self._mesh)
        put = functools.partial(self._put, paired=paired)
        with jax.set_mesh(self._mesh):
            report("reading the clip", encode_cost)
            latents = self._encode(self._vae.state(), put(source_video))
            if self._low_memory:
                self._vae.leave(latents)
            words, negative = (None if rows is None else put(rows) for rows in embedded)
            conditioning = self._sampler.condition(
                self._dit.state(),
                jax.tree.map(lambda array: put(np.asarray(array, np.float32)), views),
                words,
                negative,
                latent_size=self._latent_size(),
                at_once=paired,
            )
            x = self._sampler.sample(
                self._dit.state(),
                put(self._noise(seed, latents.shape)),
                latents,
                conditioning,
                sigmas,
                guidance=self.guidance if self._guided else None,
                at_once=paired,
                progress=lambda number, x: report(f"step {number + 1} of {self.steps}", 1, x),
            )
            report("painting the frames", decode_cost, x)
            if self._low_memory:
                self._dit.leave(x)
            video = np.asarray(self._decode(self._vae.state(), x))[: len(source_video)]
        report("done", 0)
        return video

    def reconstruct(self, video: np.ndarray) -> np.ndarray:
        """Videos uint8 [B, F, H, W, 3] through the VAE and back: no re-rendering can be sharper."""
        with jax.set_mesh(self._mesh):
            latents = self._encode(self._vae.state(), self._put(video))
            return np.asarray(self._decode(self._vae.state(), latents))[: len(video)]

    def _embed(self, prompts: list[str], negative_prompt: str | None, report: Callable[[], None]):
        """Embeddings [B, T, D] of the prompts and, with guidance, of the negative prompt; or None, None."""
        if self._text_encoder is None:
            return None, None
        negative = text.NEGATIVE_PROMPT if negative_prompt is None else negative_prompt
        report()
        guided = [negative] if self._guided else []
        embedded = text.embed([*prompts, *guided], self._text_encoder, dtype=self.dtype)
        words = embedded[: len(prompts)]
        return words, np.broadcast_to(embedded[-1:], words.shape) if guided else None

    def _noise(self, seed: int, shape: tuple[int, ...]) -> np.ndarray:
        if not self.official:
            return np.asarray(jax_noise(seed, shape))
        noise = official_noise(seed, shape)
        if self.dtype == "bfloat16":
            noise = noise.astype(jnp.bfloat16)
        return noise.astype(np.float32)

    def _put(self, array: np.ndarray, *, paired: bool = False) -> jax.Array:
        """Brings a batch to the devices; its last entry is repeated until it divides.

        Args:
          paired: whether two halves of the devices shall have the whole batch, see `sampler.at_once`.
        """
        shards = size_of(RULES.batch, self._mesh) // (2 if paired else 1)
        fill = -len(array) % shards
        array = np.pad(array, [(0, fill)] + [(0, 0)] * (array.ndim - 1), mode="edge")
        whole = NamedSharding(self._mesh, P())
        return jax.device_put(array, whole if paired else batch_sharding(self._mesh))

    def _check(self, video: np.ndarray, source: View, target: View) -> None:
        batch, frames, size = len(video), self.notes.frames, (self.notes.height, self.notes.width)
        if video.dtype != np.uint8 or video.shape[1:] != (frames, *size, 3):
            raise InputError(
                f"source video: {video.dtype} {list(video.shape[1:])}; the model takes uint8 "
                f"[{frames}, {size[0]}, {size[1]}, 3]. stp_jax.media.fit_clip cuts a video to size."
            )
        shapes = View(c2w=(4, 4), intrinsics=(4,), animation_time=())
        for clip, view in (("source", source), ("target", target)):
            for name, array, shape in zip(View._fields, view, shapes, strict=True):
                if np.shape(array) != (batch, frames, *shape):
                    raise InputError(
                        f"{clip} {name.replace('_', ' ')}: shape {list(np.shape(array))}, not "
                        f"{[batch, frames, *shape]} as the source video asks for."
                    )


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


class _Resident:
    """A model that comes to the device when it is first needed."""

    def __init__(self, files: recognition.Pretrained, mesh: Mesh, dtype: str):
        self._load = lambda: reading.load(files, mesh, dtype)
        self.graph = reading.graph(files)
        self._state: nnx.State | None = None

    def state(self) -> nnx.State:
        if self._state is None:
            _, self._state = self._load()
        return self._state

    def leave(self, *wait_for: jax.Array) -> None:
        """Frees its memory, once what was computed with it is there."""
        jax.block_until_ready(wait_for)
        self._state = None
