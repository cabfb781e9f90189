"""What the JSON of weights may say: type and range of every field, checked before any of it is used.

JAX is not imported; a test compares the fields with those of the models' configs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stp_jax.errors import InputError
from stp_jax.weights.files import is_file_name
from stp_jax.weights.untrusted import AGAIN, shown


class Field(NamedTuple):
    """What a value may be.

    Attributes:
      kind: int, float (which a whole number is, too), bool or str.
      low, high: of a number, both included; of a text, its length.
      entries: fewest and most of a list of such values; None: it is a single one.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    entries: tuple[int, int] | None = None


WIDTH = Field(int, 1, 2**17)
FLAG = Field(bool)
NAME = Field(str, 1, 40)
EPS = Field(float, 1e-30, 1.0)
POSITIVE = Field(float, 1e-9, 1e9)

# The configs of the models: `DiTConfig`, `VAEConfig`, `TextEncoderConfig`.
CONFIGS: dict[str, dict[str, Field]] = {
    "dit": {
        "dim": WIDTH,
        "ffn_dim": WIDTH,
        "layers": Field(int, 1, 1000),
        "heads": Field(int, 1, 1024),
        "channels": Field(int, 1, 4096),
        "patch": Field(int, 1, 64),
        "freq_dim": Field(int, 2, 2**16),
        "eps": EPS,
        "text_dim": Field(int, 0, 2**17),
        "source": FLAG,
        "memory": Field(int, 0, 10_000),
        "flow_map": FLAG,
        "camera": NAME,
        "animation_time": NAME,
        "rope_frames": NAME,
        "conditioning_dim": WIDTH,
        "ray_samples": Field(int, 1, 64),
        "scene_scale": POSITIVE,
        "official_rounding": FLAG,
        "dtype": NAME,
        "remat": NAME,
        "unroll": FLAG,
        "fused": FLAG,
        "ffn_parts": Field(int, 1, 10_000),
        "lora_rank": Field(int, 0, 2**16),
        "sampling_attention": NAME,
        "sampling_exact_blocks": Field(int, 0, 1000),
    },
    "vae": {
        "dim": Field(int, 1, 4096),
        "z_dim": Field(int, 1, 1024),
        "dim_mult": Field(int, 1, 64, entries=(1, 8)),
        "res_blocks": Field(int, 1, 16),
        "temporal_downsample": Field(bool, entries=(0, 7)),
        "latent_mean": Field(float, -1e6, 1e6, entries=(1, 1024)),
        "latent_std": Field(float, 1e-6, 1e6, entries=(1, 1024)),
        "dtype": NAME,
        "remat": FLAG,
        "official_rounding": FLAG,
    },
    "text_encoder": {
        "vocab": Field(int, 1, 2**24),
        "dim": WIDTH,
        "attn_dim": WIDTH,
        "heads": Field(int, 1, 1024),
        "ffn_dim": WIDTH,
        "layers": Field(int, 1, 1000),
        "buckets": Field(int, 4, 4096),
        "max_distance": Field(int, 2, 2**20),
        "eps": EPS,
        "dtype": NAME,
    },
}
# Of a DiT: `SamplingNotes`, and what train.py adds. Others may stand there, too.
NOTES = {
    "frames": Field(int, 1, 100_000),
    "height": Field(int, 1, 2**16),
    "width": Field(int, 1, 2**16),
    "sampling_steps": Field(int, 1, 100_000),
    "sampling_shift": POSITIVE,
    "sampling_guidance": Field(float, -1e4, 1e4),
    "sampling_scaled_poses": FLAG,
    "sampling_overlap": Field(int, 0, 100_000),
    "steps": Field(int, 0, 10**12),
    "batch_size": Field(int, 1, 10**9),
    "seconds": Field(float, 0, 1e12),
    "validation_loss": Field(float, -1e30, 1e30),
}
# What is taken from the config.json of a published model, in Wan's names and in those of diffusers and
# transformers.
DESCRIBED = {
    "dim": WIDTH,
    "num_heads": Field(int, 1, 1024),
    "num_attention_heads": Field(int, 1, 1024),
    "attention_head_dim": WIDTH,
    "num_layers": Field(int, 1, 1000),
    "eps": EPS,
    "latents_mean": Field(float, -1e6, 1e6, entries=(1, 1024)),
    "latents_std": Field(float, 1e-6, 1e6, entries=(1, 1024)),
    "d_model": WIDTH,
    "relative_attention_max_distance": Field(int, 2, 2**20),
    "layer_norm_epsilon": EPS,
}
INDEX = ("config", "notes", "files", "sha256", "checksum")
SHA256 = re.compile("[0-9a-f]{64}")
NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def check_fields(values: Mapping[str, Any], fields: Mapping[str, Field], where: str) -> None:
    """Checks the values that have a field; others are not looked at.

    Raises:
      InputError: naming `where`, the value and what it may be.
    """
    for name, field in fields.items():
        if name in values and not _fits(values[name], field):
            raise InputError(f"{where}{name} is {shown(values[name])}; it should be {_wanted(field)}.")


def check_index(index: Mapping[str, Any], kind: str, path: Path) -> None:
    """Checks the JSON of weights in our own format, apart from config fields that no version knows.

    Raises:
      InputError: it is damaged, naming what is wrong.
    """
    unknown = [name for name in index if name not in INDEX]
    if unknown:
        raise InputError(f"{path} is damaged or of a newer version: {shown(unknown[0])} in it is not known.")
    for name in ("config", "files"):
        if not isinstance(index.get(name), dict):
            raise InputError(f"{path} is not a weights index: it has no {name}. {AGAIN}")
    if not isinstance(index.get("notes"), dict | None):
        raise InputError(f"{path} is damaged: its notes are {shown(index['notes'])}. {AGAIN}")
    check_fields(index["config"], CONFIGS.get(kind, {}), f"{path}: its config's ")
    check_fields(index.get("notes") or {}, NOTES, f"{path}: its note ")
    files = index["files"]
    for file, tensors in files.items():
        if not is_file_name(file) or not file.endswith(".safetensors"):
            raise InputError(f"{path} names {shown(file)}, which is not a part in its own folder. {AGAIN}")
        if not isinstance(tensors, list) or not all(isinstance(name, str) for name in tensors):
            raise InputError(f"{path} is damaged: {file} has {shown(tensors)} as its tensors. {AGAIN}")
    if not files:
        raise InputError(f"{path} is damaged: it has no files. {AGAIN}")
    if ("sha256" in index) != ("checksum" in index):
        raise InputError(f"{path} is damaged: some of its checksums are missing. {AGAIN}")
    if "sha256" not in index:
        return
    sums = index["sha256"]
    if not isinstance(sums, dict) or sums.keys() != files.keys() or not _are_sums([*sums.values()]):
        raise InputError(f"{path} is damaged: its checksums are not those of its files. {AGAIN}")
    if not _are_sums([index["checksum"]]):
        raise InputError(f"{path} is damaged: its checksum is {shown(index['checksum'])}. {AGAIN}")


def _are_sums(values: list[Any]) -> bool:
    return all(isinstance(value, str) and SHA256.fullmatch(value) for value in values)


def _fits(value: Any, field: Field) -> bool:
    if field.entries is not None:
        fewest, most = field.entries
        single = field._replace(entries=None)
        right = isinstance(value, list | tuple) and fewest <= len(value) <= most
        return right and all(_fits(one, single) for one in value)
    if field.kind is bool or isinstance(value, bool):
        return field.kind is bool and isinstance(value, bool)
    if field.kind is str:
        return isinstance(value, str) and field.low <= len(value) <= field.high
    kinds = (int, float) if field.kind is float else (int,)
    return isinstance(value, kinds) and field.low <= value <= field.high  # NaN is neither


def _wanted(field: Field) -> str:
    if field.entries is not None:
        fewest, most = field.entries
        return f"a list of {fewest} to {most} entries, each {_wanted(field._replace(entries=None))}"
    if field.kind in (bool, str):
        return NOUNS[field.kind]
    return f"{NOUNS[field.kind]} from {field.low:g} to {field.high:g}"
