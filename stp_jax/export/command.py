"""Writes models in the forms that others read: official names, diffusers' folders, our own, StableHLO.

    python -m stp_jax.export --weights runs/wan/weights --format official --out exported

| format    | what the folder then holds |
|-----------|----------------------------|
| official  | dit.safetensors, vae.safetensors under the names of the official code, and a config.json |
| ckpt      | the same as .ckpt files for torch.load (needs the extra `convert`) |
| diffusers | transformer/ and vae/ for `from_pretrained`: plain Wan models only |
| ours      | what sample.py and train.py read fastest, in this library's names |
| stablehlo | the denoiser as one program for CPU, CUDA and TPU, its parameters, and run.py that calls both |

Any model that this library reads goes in: its own, official checkpoints, diffusers' folders. Values are
copied bit by bit unless --dtype asks for another type.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stp_jax.command_line import Parser, count
from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.models.config import DiTConfig
from stp_jax.models.text_encoder import TextEncoderConfig
from stp_jax.models.vae import VAEConfig
from stp_jax.weights import native, reading, recognition
from stp_jax.weights.layouts.table import Rule, lazy_parameters, write_tensors
from stp_jax.weights.parts import write_parts
from stp_jax.weights.recognition import LAYOUTS, Pretrained

KINDS = ("dit", "vae", "text_encoder")
DIFFUSERS_FOLDERS = {"dit": "transformer", "vae": "vae"}
PART_BYTES = 8 * 2**30  # of a safetensors file; larger models are split, with an index
BAR_AFTER = 2.0  # seconds


def export_official(models: list[Pretrained], folder: Path, dtype: str | None = None) -> None:
    """Writes `<kind>.safetensors` under official names for each model, and config.json.

    Raises:
      InputError: a model that has no official form.
    """
    tables = {found.kind: _rules(found, "official") for found in models}
    for found in models:
        write_safetensors(folder, found.kind, _tensors(found, tables[found.kind], dtype))
    _write_json(folder / "config.json", official_config(models))


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
    _write_json(folder / "config.json", official_config(models))


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
        _write_json(sub / "config.json", diffusers_config(found.config))


def export_ours(models: list[Pretrained], folder: Path, dtype: str | None = None) -> None:
    """Writes a folder as train.py does, in parts of 1 GiB."""
    for found in models:
        notes: dict[str, Any] = {}
        if found.kind == "dit":
            notes = reading.sampling_notes(found)._asdict()
        if found.layout == "ours":
            notes = native.read_index(found.path, found.kind).get("notes") or {}
        parameters = lazy_parameters(found.rules, found.tensors)
        config = dataclasses.asdict(found.config)
        native.save_weights(
            folder, found.kind, parameters, config, dtype=dtype, notes=notes, part_bytes=2**30
        )


def official_config(models: Iterable[Pretrained]) -> dict[str, Any]:
    """What official files do not say of themselves, in the words of Wan's and diffusers' config.json."""
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


def write_safetensors(
    folder: Path, stem: str, tensors: Iterable[tuple[str, np.ndarray]], part_bytes: int | None = None
) -> None:
    """Writes `stem.safetensors`, or, where it would be larger than a part, parts and their index.

    No more than one part is in host memory at a time.
    """
    total = 0

    def counted() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal total
        for name, array in tensors:
            total += array.nbytes
            yield name, array

    def file_name(i: int, count: int) -> str:
        return f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" if count > 1 else f"{stem}.safetensors"

    limit = part_bytes or PART_BYTES
    files = write_parts(folder, stem, counted(), limit, file_name, {"format": "pt"})
    if len(files) > 1:
        places = {name: file for file, inside in files.items() for name in inside}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        _write_json(folder / f"{stem}.safetensors.index.json", index)


def _rules(found: Pretrained, layout: str) -> list[Rule]:
    try:
        return LAYOUTS[found.kind].rules(found.config, layout)
    except InputError as error:
        raise InputError(f"{found.path}: {error}") from None


def _tensors(found: Pretrained, rules: list[Rule], dtype: str | None) -> Iterator[tuple[str, np.ndarray]]:
    """Name and value of the tensors to write, under a progress bar."""
    parameters = lazy_parameters(found.rules, found.tensors)
    total = sum(math.prod(lazy.shape) * lazy.dtype.itemsize for lazy in parameters.values())
    with tqdm(total=total, desc=found.kind, unit="B", unit_scale=True, delay=BAR_AFTER) as bar:
        for name, array in write_tensors(rules, parameters):
            yield name, array if dtype is None else array.astype(dtype)
            bar.update(array.nbytes)


def _to_torch(array: np.ndarray) -> Any:
    import torch

    if array.dtype.name == "bfloat16":  # numpy's is unknown to PyTorch
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


FORMATS: dict[str, Callable[..., None]] = {
    "official": export_official,
    "ckpt": export_ckpt,
    "diffusers": export_diffusers,
    "ours": export_ours,
}


def find_models(path: str, only: list[str] | None) -> list[Pretrained]:
    """The models to export; of a folder, the DiT and the VAE where both are there.

    Raises:
      InputError: what was asked for is not there; nothing is.
    """
    kinds = only or recognition.kinds_in(path)
    if not only and "dit" in kinds:
        kinds = [kind for kind in kinds if kind != "text_encoder"]
    return [recognition.recognise(path, kind) for kind in kinds]


@contextmanager
def new_folder(path: Path, needed: int) -> Iterator[Path]:
    """A folder beside `path` that becomes it at the end; on failure it vanishes.

    Raises:
      InputError: `path` exists or cannot be made; the disk has less than `needed` bytes left.
    """
    given, path = path, path.resolve()  # a link stays one
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"--out {given}: exists and is not empty; name another folder.")
    if path == Path.cwd():
        raise InputError(f"--out {given} is the folder you are in; name another one.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < needed:
            raise InputError(f"--out {path}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free.")
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(f"--out {path} cannot be written: {error.strerror}.") from None
    try:
        yield temporary
        temporary.chmod(0o755)  # made for its owner alone
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"--out {path} cannot be written: {error.strerror}.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stp_jax.export", description=__doc__)
    add = parser.add_argument
    add("--weights", required=True, metavar="PATH", help="of any layout, see docs/official_weights.md")
    add("--format", required=True, choices=(*FORMATS, "stablehlo"), help="see above")
    add("--out", required=True, metavar="FOLDER", help="a new folder")
    add("--only", nargs="+", choices=KINDS, help="default: the DiT and the VAE, where there are")
    add("--dtype", choices=("float32", "bfloat16"), help="of the values; default: as they are stored")
    group = parser.add_argument_group("stablehlo: the sizes that the program is made for")
    group.add_argument("--batch", type=count, default=1, help="default 1")
    group.add_argument("--frames", type=count, help="of the video; default: as the weights say")
    group.add_argument(
        "--size", type=count, nargs=2, metavar=("WIDTH", "HEIGHT"), help="default: as the weights say"
    )
    flags = parser.parse_args(arguments)
    if flags.format == "stablehlo":
        if flags.only not in (None, ["dit"]):
            raise InputError("--format stablehlo exports the dit alone: leave --only out.")
        models = [recognition.recognise(flags.weights, "dit")]
    else:
        models = find_models(flags.weights, flags.only)
    size = {np.dtype(np.float32): 4, np.dtype("bfloat16"): 2}
    needed = 0
    for found in models:
        itemsize = size[np.dtype(flags.dtype)] if flags.dtype else None
        needed += sum(array.size * (itemsize or array.dtype.itemsize) for array in found.tensors.values())
    with new_folder(Path(flags.out), needed) as folder:
        if flags.format == "stablehlo":
            from stp_jax.export.stablehlo import export_stablehlo

            export_stablehlo(
                models[0],
                folder,
                dtype=flags.dtype,
                batch=flags.batch,
                frames=flags.frames,
                size=flags.size,
            )
        else:
            FORMATS[flags.format](models, folder, flags.dtype)
    print(f"{flags.out}: {', '.join(found.title for found in models)}, {needed / 1e9:.2f} GB")
