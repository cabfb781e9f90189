"""The VAE as Wan2.1 stores it, and as diffusers' AutoencoderKLWan does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from stp_jax.errors import InputError
from stp_jax.models.vae import WAN_LATENT_MEAN, WAN_LATENT_STD, VAEConfig
from stp_jax.weights import kinds
from stp_jax.weights.layouts.table import SAME, WEIGHT, Form, Rule, trailing_ones

LAYOUTS = ("official", "diffusers")

RESIDUAL = {"norm1": "0", "conv1": "2", "norm2": "3", "conv2": "6"}
# Replacements, one after the other, that make their name of ours.
OFFICIAL = (
    (
        r"(samples\.\d+|middle\.[02])\.(norm1|conv1|norm2|conv2)\.",
        lambda m: f"{m[1]}.residual.{RESIDUAL[m[2]]}.",
    ),
    (r"\.conv\.", ".resample.1."),
    ("head_norm", "head.0"),
    ("head_conv", "head.2"),
    (r"kernel$", "weight"),
)


def _upsampling(match: re.Match[str]) -> str:
    block, part = divmod(int(match[1]), 4)
    return f"decoder.up_blocks.{block}." + (f"resnets.{part}." if part < 3 else "upsamplers.0.")


DIFFUSERS = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"coder\.conv1\.", "coder.conv_in."),
    (r"encoder\.downsamples\.", "encoder.down_blocks."),
    (r"decoder\.upsamples\.(\d+)\.", _upsampling),
    (r"middle\.0", "mid_block.resnets.0"),
    (r"middle\.1", "mid_block.attentions.0"),
    (r"middle\.2", "mid_block.resnets.1"),
    ("head_norm", "norm_out"),
    ("head_conv", "conv_out"),
    ("shortcut", "conv_shortcut"),
    (r"\.conv\.", ".resample.1."),
    (r"kernel$", "weight"),
)


def stored_name(ours: str, layout: str) -> str:
    """The name of our parameter in a layout."""
    for pattern, replacement in OFFICIAL if layout == "official" else DIFFUSERS:
        ours = re.sub(pattern, replacement, ours)
    return ours


def rules(config: VAEConfig, layout: str) -> list[Rule]:
    """The table of a VAE in a layout.

    Raises:
      InputError: diffusers' layout and a number of residual blocks that it numbers in another way.
    """
    if layout == "diffusers" and config.res_blocks != 2:
        raise InputError("Only VAEs with two residual blocks for each level are stored in diffusers' layout.")
    return [Rule(name, stored_name(name, layout), _form(name)) for name in kinds.shapes("vae", config)]


def _form(name: str) -> Form:
    if name.endswith("kernel"):
        return WEIGHT
    if name.endswith("gamma"):
        return trailing_ones(2 if "middle.1." in name else 3)  # attention works on single frames
    return SAME


def read_config(
    tensors: Mapping[str, np.ndarray], layout: str, described: Mapping[str, Any], where: str
) -> VAEConfig:
    """The config that belongs to stored tensors.

    Args:
      tensors: by name.
      layout: theirs.
      described: what a config.json beside them says; the statistics of the latents stand there, where they
        are not Wan's.
      where: for messages.

    Raises:
      InputError: a tensor from which the config is read is missing; the latents' statistics are not known.
    """

    dim = len(_need("encoder.conv1.kernel", tensors, layout, where))
    z_dim = len(_need("conv2.kernel", tensors, layout, where))
    levels = _levels(tensors, layout, where)
    mean, std = described.get("latents_mean"), described.get("latents_std")
    if mean is None or std is None:
        if z_dim != len(WAN_LATENT_MEAN):
            raise InputError(
                f"{where}: a VAE with {z_dim} channels of latents. Put a config.json beside it with their "
                "latents_mean and latents_std."
            )
        mean, std = WAN_LATENT_MEAN, WAN_LATENT_STD
    return VAEConfig(
        dim=dim,
        z_dim=z_dim,
        dim_mult=tuple(width // dim for width in levels.widths),
        res_blocks=levels.blocks,
        temporal_downsample=tuple(levels.temporal),
        latent_mean=mean,
        latent_std=std,
    )


def _need(ours: str, tensors: Mapping[str, np.ndarray], layout: str, where: str) -> np.ndarray:
    name = stored_name(ours, layout)
    if name not in tensors:
        of_videos = any(len(tensor.shape) == 5 for tensor in tensors.values())
        hint = "Copy the file again." if of_videos else "It is a VAE of pictures, not of videos."
        raise InputError(f"{where}: {name} is missing. {hint}")
    return tensors[name]


class _Levels(NamedTuple):
    widths: list[int]  # of each level
    temporal: list[bool]  # between levels, whether the frames are halved, too
    blocks: int  # of a level


def _levels(tensors: Mapping[str, np.ndarray], layout: str, where: str) -> _Levels:
    """The encoder's part: residual blocks, and a downsampling after each level but the last."""

    def find(ours: str) -> np.ndarray | None:
        return tensors.get(stored_name(ours, layout))

    widths: list[int] = []
    temporal: list[bool] = []
    layers = blocks = 0
    while True:
        layer = f"encoder.downsamples.{layers}"
        conv1 = find(f"{layer}.conv1.kernel")
        if conv1 is not None:
            if len(widths) == len(temporal):
                widths.append(len(conv1))
            blocks += len(widths) == 1
        elif find(f"{layer}.conv.kernel") is not None:
            temporal.append(find(f"{layer}.time_conv.kernel") is not None)
        else:
            break
        layers += 1
    if len(widths) != len(temporal) + 1:
        raise InputError(
            f"{where}: {stored_name(f'encoder.downsamples.{layers}.conv1.kernel', layout)} is missing. "
            "Copy the file again."
        )
    return _Levels(widths, temporal, blocks)


def title(config: VAEConfig) -> str:
    """The common name of the model."""
    wan = (config.dim, config.z_dim) == (VAEConfig.dim, VAEConfig.z_dim)
    return "Wan2.1's VAE" if wan else f"a Wan VAE of width {config.dim}"
