"""The umT5 encoder as Wan2.1 stores it, as transformers' UMT5EncoderModel and as llama.cpp do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stp_jax.errors import InputError
from stp_jax.models.text_encoder import TextEncoderConfig
from stp_jax.weights.layouts.table import SAME, WEIGHT, Rule, count_layers

# diffusers' folders hold transformers' files; GGUF files have llama.cpp's names.
LAYOUTS = ("official", "diffusers", "gguf")

ATTENTION, FEED_FORWARD = "encoder.block.{n}.layer.0.", "encoder.block.{n}.layer.1."
RELATIVE = ATTENTION + "SelfAttention.relative_attention_bias"
NAMES = {
    ours: theirs
    for ours, *theirs in (
        ("token_embedding", "token_embedding", "shared", "token_embd"),
        ("blocks.norm1.scale", "blocks.{n}.norm1", ATTENTION + "layer_norm", "enc.blk.{n}.attn_norm"),
        ("blocks.q.kernel", "blocks.{n}.attn.q", ATTENTION + "SelfAttention.q", "enc.blk.{n}.attn_q"),
        ("blocks.k.kernel", "blocks.{n}.attn.k", ATTENTION + "SelfAttention.k", "enc.blk.{n}.attn_k"),
        ("blocks.v.kernel", "blocks.{n}.attn.v", ATTENTION + "SelfAttention.v", "enc.blk.{n}.attn_v"),
        ("blocks.o.kernel", "blocks.{n}.attn.o", ATTENTION + "SelfAttention.o", "enc.blk.{n}.attn_o"),
        (
            "blocks.position_bias",
            "blocks.{n}.pos_embedding.embedding",
            RELATIVE,
            "enc.blk.{n}.attn_rel_b",
        ),
        ("blocks.norm2.scale", "blocks.{n}.norm2", FEED_FORWARD + "layer_norm", "enc.blk.{n}.ffn_norm"),
        (
            "blocks.ffn_gate.kernel",
            "blocks.{n}.ffn.gate.0",
            FEED_FORWARD + "DenseReluDense.wi_0",
            "enc.blk.{n}.ffn_gate",
        ),
        (
            "blocks.ffn_in.kernel",
            "blocks.{n}.ffn.fc1",
            FEED_FORWARD + "DenseReluDense.wi_1",
            "enc.blk.{n}.ffn_up",
        ),
        (
            "blocks.ffn_out.kernel",
            "blocks.{n}.ffn.fc2",
            FEED_FORWARD + "DenseReluDense.wo",
            "enc.blk.{n}.ffn_down",
        ),
        ("norm.scale", "norm", "encoder.final_layer_norm", "enc.output_norm"),
    )
}
PREFIXES = {"official": "blocks.", "diffusers": "encoder.block.", "gguf": "enc.blk."}  # of layers
PUBLISHED_LAYERS = {4096: 24}  # by width
# transformers stores the embedding once more under this name, or only under it.
TIED = "encoder.embed_tokens.weight"


def stored_name(ours: str, layout: str) -> str:
    """The name of our parameter in a layout, with {n} for the layer."""
    return NAMES[ours][LAYOUTS.index(layout)] + ".weight"


def rules(config: TextEncoderConfig, layout: str) -> list[Rule]:
    """The table of a text encoder in a layout."""
    return [
        Rule(
            ours,
            stored_name(ours, layout),
            WEIGHT if ours.endswith("kernel") else SAME,
            config.layers if ours.startswith("blocks.") else 0,
        )
        for ours in NAMES
    ]


def untie(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the second name of transformers' embedding."""
    untied = dict(tensors)
    if TIED in untied:
        untied.setdefault(stored_name("token_embedding", "diffusers"), untied.pop(TIED))
        untied.pop(TIED, None)
    return untied


def read_config(
    tensors: Mapping[str, np.ndarray], layout: str, described: Mapping[str, Any], where: str
) -> TextEncoderConfig:
    """The config that belongs to stored tensors.

    Args:
      tensors: by name.
      layout: theirs.
      described: what a config.json beside them says; only what the tensors do not is taken from it.
      where: for messages.

    Raises:
      InputError: a tensor from which the config is read is missing.
    """

    def shape(ours: str) -> tuple[int, ...]:
        name = stored_name(ours, layout).format(n=0)
        if name not in tensors or tensors[name].ndim != 2:
            raise InputError(f"{where}: {name} is missing or no matrix. Copy the file again.")
        return tensors[name].shape

    vocab, dim = shape("token_embedding")
    buckets, heads = shape("blocks.position_bias")
    about = described if described.get("d_model") == dim else {}  # it may be another model's
    return TextEncoderConfig(
        vocab=vocab,
        dim=dim,
        attn_dim=shape("blocks.q.kernel")[0],
        heads=heads,
        ffn_dim=shape("blocks.ffn_in.kernel")[0],
        layers=count_layers(tensors, PREFIXES[layout], about, PUBLISHED_LAYERS.get(dim, 0)),
        buckets=buckets,
        max_distance=described.get("relative_attention_max_distance", 128),
        eps=float(described.get("layer_norm_epsilon", 1e-6)),
    )


def title(config: TextEncoderConfig) -> str:
    """The common name of the model."""
    return "the umT5-xxl encoder" if config.dim == 4096 else f"a umT5 encoder of width {config.dim}"
