"""Models under official names, in diffusers' folders, and in our own form."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stp_jax.errors import InputError
from stp_jax.export.files import write_json, write_safetensors
from stp_jax.models.config import DiTConfig
from stp_jax.models.text_encoder import TextEncoderConfig
from stp_jax.models.vae import VAEConfig
from stp_jax.weights import native, reading
from stp_jax.weights.checksums import verified
from stp_jax.weights.layouts.table import Rule, lazy_parameters, write_tensors
from stp_jax.weights.recognition import LAYOUTS, Pretrained

DIFFUSERS_FOLDERS = {"dit": "transformer", "vae": "vae"}
BAR_AFTER = 2.0  # seconds
LARGE = 100_000_000  # parameters; the parts of smaller models have a size that can live in a git repository


def export_official(models: list[Pretrained], folder: Path, dtype: str | None = None) -> None:
    """Writes `<kind>.safetensors` under official names for each model, and config.json.

    Raises:
      InputError: a model that has no official form.
    """
    tables = {found.kind: _rules(found, "official") for found in models}
    for found in models:
        write_safetensors(folder, found.kind, _tensors(found, tables[found.kind], dtype))
    write_json(folder / "config.json", official_config(models))


def export_ckpt(models: list[Pretrained], folder: Path, dtype: str | None = None) -> None:
    """Writes `<kind>.ckpt` under official names, as torch.save does, and config.json.

    Raises:
      InputError: a model that has no official form; PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError("--format ckpt needs PyTorch: pip install 'stp-jax[convert]'.") from None
    tables = {found.kind: _rules(found, "official") for found in models}
    for found in models:
        state = {name: _to_torch(array) for name, array in _tensors(found, tables[found.kind], dtype)}
        torch.save(state, folder / f"{found.kind}.ckpt")
    write_json(folder / "config.json", official_config(models))


def export_diffusers(models: list[Pretrained], folder: Path, dtype: str | None = None) -> None:
    """Writes transformer/ and vae/, each with its config.json, for WanTransformer3DModel and
    AutoencoderKLWan.

    Raises:
      InputError: a text encoder; a DiT with encoders of camera or animation time.
    """
    tables = {found.kind: _rules(found, "diffusers") for found in models}
    for found in models:
        if found.kind not in DIFFUSERS_FOLDERS:
            raise InputError("--format diffusers writes dit and vae; the text encoder is transformers' own.")
        sub = folder / DIFFUSERS_FOLDERS[found.kind]
        sub.mkdir()
        tensors = _tensors(found, tables[found.kind], dtype)
        write_safetensors(sub, "diffusion_pytorch_model", tensors)
        write_json(sub / "config.json", diffusers_config(found.config))


def export_ours(models: list[Pretrained], folder: Path, dtype: str | None = None) -> None:
    """Writes a folder as train.py does; large models in parts of 1 GiB."""
    for found in models:
        notes: dict[str, Any] = {}
        if found.kind == "dit":
            notes = reading.sampling_notes(found)._asdict()
        if found.layout == "ours":
            notes = native.read_index(found.path, found.kind).get("notes") or {}
        parameters = lazy_parameters(found.rules, found.tensors, None if dtype == "int8" else dtype)
        config = dataclasses.asdict(found.config)
        large = sum(math.prod(lazy.shape) for lazy in parameters.values()) > LARGE
        with verified(found.sums):
            native.save_weights(
                folder,
                found.kind,
                parameters,
                config,
                dtype=dtype,
                notes=notes,
                part_bytes=2**30 if large else None,
            )


def official_config(models: Iterable[Pretrained]) -> dict[str, Any]:
    """The config fields that tensors do not show, under the names of Wan's and diffusers' config.json."""
    described: dict[str, Any] = {}
    for found in models:
        if isinstance(c := found.config, DiTConfig):
            described |= {"dim": c.dim, "num_heads": c.heads, "num_layers": c.layers, "eps": c.eps}
        elif isinstance(c, VAEConfig):
            described |= {"latents_mean": c.latent_mean, "latents_std": c.latent_std}
        elif isinstance(c, TextEncoderConfig):
            described |= {"relative_attention_max_distance": c.max_distance, "layer_norm_epsilon": c.eps}
    return described


def diffusers_config(config: DiTConfig | VAEConfig) -> dict[str, Any]:
    """The config.json of diffusers' class for a model."""
    c = config
    if isinstance(c, VAEConfig):
        return {
            "_class_name": "AutoencoderKLWan",
            "base_dim": c.dim,
            "z_dim": c.z_dim,
            "dim_mult": c.dim_mult,
            "num_res_blocks": c.res_blocks,
            "attn_scales": [],
            "temperal_downsample": c.temporal_downsample,
            "dropout": 0.0,
            "latents_mean": c.latent_mean,
            "latents_std": c.latent_std,
        }
    return {
        "_class_name": "WanTransformer3DModel",
        "patch_size": [1, c.patch, c.patch],
        "num_attention_heads": c.heads,
        "attention_head_dim": c.dim // c.heads,
        "in_channels": c.channels,
        "out_channels": c.channels,
        "text_dim": c.text_dim,
        "freq_dim": c.freq_dim,
        "ffn_dim": c.ffn_dim,
        "num_layers": c.layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": c.eps,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "rope_max_seq_len": 1024,
    }


def _rules(found: Pretrained, layout: str) -> list[Rule]:
    try:
        return LAYOUTS[found.kind].rules(found.config, layout)
    except InputError as error:
        raise InputError(f"{found.path}: {error}") from None


def _tensors(found: Pretrained, rules: list[Rule], dtype: str | None) -> Iterator[tuple[str, np.ndarray]]:
    """Name and value of the tensors to write, under a progress bar; at the end the files are verified."""
    parameters = lazy_parameters(found.rules, found.tensors, dtype)
    total = sum(math.prod(lazy.shape) * lazy.dtype.itemsize for lazy in parameters.values())
    bar = tqdm(total=total, desc=found.kind, unit="B", unit_scale=True, delay=BAR_AFTER)
    with verified(found.sums), bar:
        for name, array in write_tensors(rules, parameters):
            yield name, array
            bar.update(array.nbytes)


def _to_torch(array: np.ndarray) -> Any:
    import torch

    if array.dtype.name == "bfloat16":  # numpy's is unknown to PyTorch
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


FORMATS: dict[str, Callable[..., None]] = {
    "official": export_official,
    "ckpt": export_ckpt,
    "diffusers": export_diffusers,
    "ours": export_ours,
}
