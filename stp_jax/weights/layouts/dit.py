"""The DiT as Wan2.1, ReCamMaster and SpaceTimePilot store it, and as diffusers does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig
from stp_jax.weights import kinds
from stp_jax.weights.layouts.table import (
    LEADING_ONE,
    SAME,
    WEIGHT,
    Rule,
    count_layers,
    patches,
)

LAYOUTS = ("official", "diffusers")
HEAD_DIM = 128  # of every published model
PUBLISHED_LAYERS = {1536: 30, 5120: 40}  # by width

# Ours; official; diffusers.
MODULES = {
    ours: theirs
    for ours, *theirs in (
        ("patch_embedding", "patch_embedding", "patch_embedding"),
        ("text_embedding.layer_in", "text_embedding.0", "condition_embedder.text_embedder.linear_1"),
        ("text_embedding.layer_out", "text_embedding.2", "condition_embedder.text_embedder.linear_2"),
        ("timestep_embedding.layer_in", "time_embedding.0", "condition_embedder.time_embedder.linear_1"),
        ("timestep_embedding.layer_out", "time_embedding.2", "condition_embedder.time_embedder.linear_2"),
        ("timestep_projection", "time_projection.1", "condition_embedder.time_proj"),
        ("blocks.modulation", "blocks.{n}.modulation", "blocks.{n}.scale_shift_table"),
        ("blocks.q", "blocks.{n}.self_attn.q", "blocks.{n}.attn1.to_q"),
        ("blocks.k", "blocks.{n}.self_attn.k", "blocks.{n}.attn1.to_k"),
        ("blocks.v", "blocks.{n}.self_attn.v", "blocks.{n}.attn1.to_v"),
        ("blocks.o", "blocks.{n}.self_attn.o", "blocks.{n}.attn1.to_out.0"),
        ("blocks.norm_q", "blocks.{n}.self_attn.norm_q", "blocks.{n}.attn1.norm_q"),
        ("blocks.norm_k", "blocks.{n}.self_attn.norm_k", "blocks.{n}.attn1.norm_k"),
        ("blocks.cross_attn.q", "blocks.{n}.cross_attn.q", "blocks.{n}.attn2.to_q"),
        ("blocks.cross_attn.k", "blocks.{n}.cross_attn.k", "blocks.{n}.attn2.to_k"),
        ("blocks.cross_attn.v", "blocks.{n}.cross_attn.v", "blocks.{n}.attn2.to_v"),
        ("blocks.cross_attn.o", "blocks.{n}.cross_attn.o", "blocks.{n}.attn2.to_out.0"),
        ("blocks.cross_attn.norm_q", "blocks.{n}.cross_attn.norm_q", "blocks.{n}.attn2.norm_q"),
        ("blocks.cross_attn.norm_k", "blocks.{n}.cross_attn.norm_k", "blocks.{n}.attn2.norm_k"),
        ("blocks.norm3", "blocks.{n}.norm3", "blocks.{n}.norm2"),
        ("blocks.ffn_in", "blocks.{n}.ffn.0", "blocks.{n}.ffn.net.0.proj"),
        ("blocks.ffn_out", "blocks.{n}.ffn.2", "blocks.{n}.ffn.net.2"),
        ("blocks.camera", "blocks.{n}.cam_encoder"),
        ("blocks.projector", "blocks.{n}.projector"),
        ("blocks.animation_time.embedding.layer_in", "blocks.{n}.frame_time_embedding.0"),
        ("blocks.animation_time.embedding.layer_out", "blocks.{n}.frame_time_embedding.2"),
        ("blocks.animation_time.downsampler.conv1", "blocks.{n}.temporal_downsampler.temporal_conv1"),
        ("blocks.animation_time.downsampler.norm1", "blocks.{n}.temporal_downsampler.norm1"),
        ("blocks.animation_time.downsampler.conv2", "blocks.{n}.temporal_downsampler.temporal_conv2"),
        ("blocks.animation_time.downsampler.norm2", "blocks.{n}.temporal_downsampler.norm2"),
        ("head_modulation", "head.modulation", "scale_shift_table"),
        ("head", "head.head", "proj_out"),
    )
}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def rules(config: DiTConfig, layout: str) -> list[Rule]:
    """The table of a DiT in a layout.

    Raises:
      InputError: this kind of DiT has no form in the layout.
    """
    if config.flow_map:
        raise InputError(
            f"this DiT is a flow map (few sampling steps): it is also given where a step ends, which the "
            f"{layout} models are not. Store it in our own form (--format ours)."
        )
    own = config.camera == "plucker" or config.animation_time in ("frames", "uniform")
    if own or not config.text_dim:
        raise InputError(
            f"this DiT (camera {config.camera}, animation time {config.animation_time}, text_dim "
            f"{config.text_dim}) is unlike the {layout} models. Store it in our own form (--format ours)."
        )
    if layout == "diffusers" and (config.camera, config.animation_time) != ("none", "none"):
        raise InputError(
            "diffusers' WanTransformer3DModel has no encoders of camera and animation time. "
            "Store this DiT under its official names."
        )
    return named_rules(config, layout)


def named_rules(config: DiTConfig, layout: str) -> list[Rule]:
    """The rows for those parameters of any DiT that have a name in a layout, as a LoRA may have it, too."""
    column, table = LAYOUTS.index(layout), []
    for name in kinds.shapes("dit", config):
        pieces = config.layers if name.startswith("blocks.") else 0
        whole = name in MODULES  # not the part of a module
        module, _, leaf = (name, "", "") if whole else name.rpartition(".")
        if len(MODULES.get(module, ())) <= column or not (whole or leaf in LEAVES):
            continue
        if whole:
            table.append(Rule(name, MODULES[name][column], LEADING_ONE, pieces))
            continue
        form = SAME
        if leaf == "kernel":
            form = patches(config.patch) if module == "patch_embedding" else WEIGHT
        table.append(Rule(name, f"{MODULES[module][column]}.{LEAVES[leaf]}", form, pieces))
    return table


def read_config(
    tensors: Mapping[str, np.ndarray], layout: str, described: Mapping[str, Any], where: str
) -> DiTConfig:
    """The config that belongs to stored tensors.

    Args:
      tensors: by name.
      layout: of the tensors, one of LAYOUTS.
      described: the contents of a config.json beside them; only it states the number of heads where a head
        is not 128 wide.
      where: for messages.

    Raises:
      InputError: a tensor from which the config is read is missing; an image-to-video model.
    """
    column = LAYOUTS.index(layout)

    def shape(module: str) -> tuple[int, ...]:
        name = MODULES[module][column] + ".weight"
        pattern = re.escape(name).replace(re.escape("{n}"), r"\d+")
        found = next((tensor for tensor in tensors if re.fullmatch(pattern, tensor)), None)
        if found is None or len(tensors[found].shape) < 2:
            problem = "missing" if found is None else "no matrix"
            raise InputError(f"{where}: {name.format(n=0)} is {problem}. Copy the file again.")
        return tensors[found].shape

    def has(*families: str) -> bool:
        pattern = re.compile(rf"blocks\.\d+\.({'|'.join(families)})\.")
        return any(pattern.match(name) for name in tensors)

    weight = shape("patch_embedding")
    if len(weight) != 5 or weight[2] != 1 or weight[3] != weight[4]:
        raise InputError(
            f"{where}: patch_embedding.weight has shape {list(weight)}, not [dim, channels, 1, side, side]."
        )
    dim, channels, patch = weight[0], weight[1], weight[4]
    if any(name.startswith(("img_emb.", "condition_embedder.image_embedder.")) for name in tensors):
        raise InputError(f"{where} is an image-to-video model. Give a text-to-video model.")
    described = described if _is_about(described, dim) else {}
    timed = has("frame_time_embedding", "temporal_downsampler")
    camera = timed or has("cam_encoder", "projector")
    return DiTConfig(
        dim=dim,
        ffn_dim=shape("blocks.ffn_in")[0],
        layers=count_layers(tensors, "blocks.", described, PUBLISHED_LAYERS.get(dim, 0)),
        heads=_heads(dim, described, where),
        channels=channels,
        patch=patch,
        freq_dim=shape("timestep_embedding.layer_in")[1],
        eps=float(described.get("eps", 1e-6)),
        text_dim=shape("text_embedding.layer_in")[1],
        source=camera,
        camera="none" if not camera else "pose12" if timed else "pose12_target",
        animation_time="official_conv" if timed else "none",
        rope_frames="stream",
    )


def _is_about(described: Mapping[str, Any], dim: int) -> bool:
    """Whether a config.json is that of a DiT of this width: other models may lie in the same folder."""
    heads, width = (described.get(name) for name in ("num_attention_heads", "attention_head_dim"))
    if isinstance(heads, int) and isinstance(width, int):  # as diffusers writes it
        return heads * width == dim
    return described.get("dim") == dim  # as Wan does


def _heads(dim: int, described: Mapping[str, Any], where: str) -> int:
    for name in ("num_heads", "num_attention_heads"):  # as Wan writes it, and diffusers
        if name in described:
            heads = described[name]
            if dim % heads:
                raise InputError(
                    f"{where}: the config.json beside it says {name} {heads}, which does not divide the "
                    f"model's width {dim}."
                )
            return heads
    if dim % HEAD_DIM:
        raise InputError(
            f"{where}: its width {dim} does not tell the number of heads. Put a config.json beside it: "
            f'{{"dim": {dim}, "num_heads": ...}}.'
        )
    return dim // HEAD_DIM


def title(config: DiTConfig) -> str:
    """The common name of the model."""
    size = {1536: "1.3B", 5120: "14B"}.get(config.dim, f"of width {config.dim}")
    names = {
        ("pose12", "official_conv"): "SpaceTimePilot",
        ("pose12_target", "none"): "ReCamMaster",
        ("none", "none"): "Wan2.1 text-to-video",
    }
    return f"{names.get((config.camera, config.animation_time), 'space-time DiT')} {size}"
