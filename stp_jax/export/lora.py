"""The LoRA of a run of train.py as a file that other programs take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from stp_jax.errors import InputError
from stp_jax.export.files import write_safetensors
from stp_jax.files import read_json
from stp_jax.models.config import DiTConfig
from stp_jax.training.checkpoints import read_averaged
from stp_jax.training.config import model_config
from stp_jax.training.state import trained
from stp_jax.weights import kinds
from stp_jax.weights.layouts import dit

PREFIX = "diffusion_model."  # what ComfyUI writes, and diffusers and DiffSynth read, too
MOST_CONFIG = 2**20  # bytes


def export_lora(workdir: Path, folder: Path, dtype: str | None = None) -> str:
    """Writes lora.safetensors: `diffusion_model.<official name>.lora_A.weight` and `.lora_B.weight`.

    There is no alpha: `lora_B @ lora_A` is what is added to a weight.

    Args:
      workdir: of the run; its latest checkpoint is read.
      folder: an empty one.
      dtype: of the matrices; default: float32.

    Returns:
      What was written, and what the run trained that is no LoRA, for the user.

    Raises:
      InputError: it is no work directory of a LoRA run; the checkpoint is damaged.
    """
    config, trainable = _config_of(workdir)
    step, arrays = read_averaged(workdir / "checkpoints", lambda name: ".lora_" in name)
    tensors: dict[str, np.ndarray] = {}
    for rule in dit.named_rules(config, "official"):
        module, _, leaf = rule.ours.rpartition(".")
        pair = {letter: f"{module}.lora_{letter.lower()}" for letter in "AB"}
        if leaf != "kernel" or not arrays.keys() >= set(pair.values()):
            continue
        for n, name in enumerate(rule.names()):
            for letter, ours in pair.items():
                matrix = arrays[ours]
                one = matrix[n] if rule.pieces else matrix
                key = f"{PREFIX}{name.removesuffix('.weight')}.lora_{letter}.weight"
                tensors[key] = np.ascontiguousarray(one.T, dtype or np.float32)
    write_safetensors(folder, "lora", tensors.items())
    others = [name for name in trained(kinds.shapes("dit", config), trainable) if ".lora_" not in name]
    more = ""
    if others:
        names = ", ".join(sorted({name.rpartition(".")[0] for name in others})[:3])
        more = (
            f"\nThe run also trained {len(others)} parameters that are no LoRA ({names}, ..): they are in "
            f"{workdir / 'weights'} alone."
        )
    return f"the LoRA of {len(tensors) // 2} layers, rank {config.lora_rank}, step {step}{more}"


def _config_of(workdir: Path) -> tuple[DiTConfig, str]:
    """The config of the model of a LoRA run, and which parameters it trains."""
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(f"{workdir} is no --workdir of train.py (config.json is missing): give one.")
    stored: dict[str, Any] = read_json(path, dict, most=MOST_CONFIG)
    model, train = stored.get("model"), stored.get("train")
    if stored.get("task") != "dit" or not isinstance(model, dict) or not isinstance(train, dict):
        raise InputError(f"{path} is not the config of a DiT's run.")
    try:
        config = model_config(DiTConfig, ConfigDict(model))
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {str(error)[:300]}") from None
    if not config.lora_rank:
        raise InputError(
            f"{workdir} is a run without LoRA (config.model.lora_rank is 0): export its weights."
        )
    return config, str(train.get("trainable", ".*"))
