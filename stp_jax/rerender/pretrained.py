"""Finds the models that re-render a video, and checks that they fit together."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stp_jax import text
from stp_jax.errors import InputError
from stp_jax.models import fp8_attention
from stp_jax.models.config import DiTConfig
from stp_jax.models.vae import VAEConfig
from stp_jax.official.tiles import TILE
from stp_jax.weights import recognition
from stp_jax.weights.adapters import Lora, parse_lora, steps_in_name
from stp_jax.weights.merging import merge
from stp_jax.weights.native import SamplingNotes
from stp_jax.weights.recognition import Pretrained

FEW_STEPS = 10  # a LoRA that is distilled takes no more


class Models(NamedTuple):
    """The models' files, with the configs that the models are run with."""

    dit: Pretrained
    vae: Pretrained
    text_encoder: Path | None  # None: the DiT takes no text
    remarks: tuple[str, ...] = ()  # what a user should know about the files, a line each


def find_models(
    folder: str | os.PathLike,
    *,
    vae: str | os.PathLike | None,
    text_encoder: str | os.PathLike | None,
    dtype: str,
    official_rounding: bool | None,
    loras: Sequence[str | os.PathLike | Lora] = (),
) -> Models:
    """The models of a `Rerenderer`, which explains the arguments.

    Raises:
      InputError: missing or damaged weights, of another model, or of models that do not fit together.
    """
    found_dit = recognition.recognise(folder, "dit")
    found_vae = recognition.recognise(vae or folder, "vae")
    if not found_dit.config.source:
        raise InputError(
            f"{folder} is {found_dit.title}, which takes no source video, camera or animation time. It "
            "is a start for training: see configs/wan_1_3b_plucker.py."
        )
    if found_vae.config.z_dim != found_dit.config.channels:
        raise InputError(
            f"{vae or folder}: the vae makes latents of {found_vae.config.z_dim} channels, the dit of "
            f"{folder} takes {found_dit.config.channels}. Give weights that were trained together."
        )
    found_dit, merged = merge(found_dit, [parse_lora(one) for one in loras])
    if official_rounding is None:
        official_rounding = is_official(found_dit) and dtype == "bfloat16"
    used = {"dtype": dtype, "official_rounding": official_rounding}
    encoder = _find_text_encoder(found_dit, text_encoder or folder) if found_dit.config.text_dim else None
    found = [found_dit, found_vae, *([encoder] if encoder else [])]
    files = [one.lora.path.resolve() for one in merged]
    lines = [remark for one in found for remark in recognition.remarks(one, files)]
    dit_config = dataclasses.replace(found_dit.config, remat="none", sampling_attention="exact", **used)
    vae_config = dataclasses.replace(found_vae.config, **used)
    return Models(
        dataclasses.replace(found_dit, config=dit_config),
        dataclasses.replace(found_vae, config=vae_config),
        encoder.path if encoder else None,
        tuple(dict.fromkeys([*(one.remark() for one in merged), *lines])),
    )


def sized(notes: SamplingNotes, frames: int | None, height: int | None, width: int | None) -> SamplingNotes:
    """Notes of weights with the size that videos are to have; None: as the notes say."""
    size: dict[str, Any] = {"frames": frames, "height": height, "width": width}
    return notes._replace(**{name: value for name, value in size.items() if value is not None})


def sampling_remarks(
    loras: Sequence[str | os.PathLike | Lora], steps: int, guidance: float
) -> tuple[str, ...]:
    """Lines about LoRAs whose names say that they are for few steps, where many, or guidance, are used."""
    lines = []
    for path in (parse_lora(one).path for one in loras):
        number = steps_in_name(path)
        if number is None or (guidance == 1 and (steps == int(number) if number else steps <= FEW_STEPS)):
            continue
        wanted = f"--steps {number or '4 to 8'} --guidance 1"
        lines.append(
            f"{path.name} seems to be distilled for few steps without guidance: {wanted}. Used are {steps} "
            f"steps and guidance {guidance:g}."
        )
    return tuple(lines)


def available_attention(
    mode: str, config: DiTConfig, tokens: int, exact_blocks: int = 0
) -> tuple[DiTConfig, tuple[str, ...]]:
    """The config with the attention that was asked for, or else with exact attention and a line that says so.

    Args:
      tokens: of all clips of a video.
      exact_blocks: see `DiTConfig.sampling_exact_blocks`.

    Raises:
      InputError: there is no such mode.
    """
    if mode not in fp8_attention.MODES:
        raise InputError(f"attention {mode!r}; choose one of {', '.join(fp8_attention.MODES)}.")
    reason = fp8_attention.unavailable(config.dim // config.heads, tokens) if mode == "fp8" else None
    lines = (f"Attention is exact, not in 8 bits: {reason}.",) if reason else ()
    used: dict[str, Any] = {"sampling_attention": "exact" if reason else mode}
    return dataclasses.replace(config, sampling_exact_blocks=exact_blocks, **used), lines


def refuse_idle_guidance(folder: str | os.PathLike, guidance: float, *, takes_text: bool) -> None:
    """Raises `InputError` where a model that takes no text is to be guided by it."""
    if guidance != 1 and not takes_text:
        raise InputError(f"{folder} takes no text, so --guidance {guidance:g} has no meaning: leave it out.")


def refuse_idle_tiles(vae: VAEConfig, frames: int, height: int, width: int) -> None:
    """Raises `InputError` where the official tiles make no difference, as pictures fit in one."""
    cells = vae.latent_size(frames, height, width)[1:]
    if all(length <= tile for length, tile in zip(cells, TILE, strict=True)):
        raise InputError(
            f"--tiled has no effect: pictures of {width} x {height} fit in one tile; leave it out."
        )


def is_official(dit: Pretrained) -> bool:
    """Whether a model is sampled the official way: with its noise, poses and rounding."""
    return dit.config.camera.startswith("pose12")


def _find_text_encoder(dit: Pretrained, path: str | os.PathLike) -> Pretrained:
    found = recognition.recognise(path, "text_encoder")
    if found.config.dim != dit.config.text_dim:
        raise InputError(
            f"{found.path} is {found.title}; {dit.title} reads embeddings "
            f"{dit.config.text_dim} wide. Give the text encoder that it was trained with."
        )
    text.find_tokenizer(found.path)  # a missing tokenizer is an error now, not after long work
    return found
