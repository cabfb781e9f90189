"""Files of LoRAs in the forms that programs write them in, read as data; without JAX.

A LoRA has, for each layer that it changes, a matrix down [rank, in], a matrix up [out, rank], and perhaps a
number alpha: it adds `alpha / rank * up @ down` to the weight. Files call them

| written by | names |
|---|---|
| diffusers, PEFT | `transformer.` MODULE `.lora_A.weight`, `.lora_B.weight`; alpha in its header or a JSON |
| Kohya, musubi-tuner | `lora_unet_` MODULE, `_` for `.`; `.lora_down.weight`, `.lora_up.weight`, `.alpha` |
| ComfyUI, lightx2v | `diffusion_model.` MODULE, `.lora_down.weight` or `.lora_A.weight`, .. |
| DiffSynth | MODULE `.lora_A.default.weight`, .., with or without `pipe.dit.` |

MODULE is a name of Wan's own or of diffusers'. Any of these may be mixed. Differences of whole tensors are
`.diff` (weights), `.diff_b` (biases) and `.diff_m` (modulations).
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stp_jax.errors import InputError
from stp_jax.weights.files import open_tensors, read_metadata
from stp_jax.weights.finite import all_finite
from stp_jax.weights.untrusted import AGAIN, read_json, shown

MOST_STRENGTH = 100.0
MOST_ALPHA = 1e9

# What is written before the name of a module, perhaps several of them.
PREFIXES = (
    *(
        "base_model.model.",
        "model.diffusion_model.",
        "diffusion_model.",
        "pipe.dit.",
        "transformer.",
        "unet.",
    ),
    *("dit.", "model.", "module.", "lora_unet_", "lora_transformer_", "lora_dit_", "lycoris_"),
)
_PAIR = re.compile(
    r"(?P<module>.+?)[._](?:lora_(?P<letter>A|B|down|up)|(?:lora|lora_linear_layer)\.(?P<word>down|up))"
    r"(?:\.(?!weight$|bias$)\w+)?(?:\.(?P<leaf>weight|bias))?"
)
_OTHERS = {"alpha": "alpha", "diff": "weight", "diff_b": "bias", "diff_m": "modulation"}
_OTHERS |= {"w_norm": "weight", "b_norm": "bias"}  # LyCORIS
_FOREIGN = {
    "LoHa": r"\.hada_[wt]\d",
    "LoKr": r"\.lokr_[wt]\d",
    "DoRA": r"\.dora_scale$|lora_magnitude_vector",
    "OFT": r"\.oft_|\.boft_",
    "GLoRA": r"\.[ab][12]\.weight$",
    "LoRA with a third matrix": r"\.lora_mid\.",
}
_STEPS = re.compile(r"(?<![0-9])(\d{1,2})[-_ ]?steps?(?![a-z])", re.IGNORECASE)
_DISTILLED = re.compile(r"distill|lightning|causvid|accvid|fastwan|turbo|dmd", re.IGNORECASE)
METADATA = "lora_adapter_metadata"  # where diffusers keeps PEFT's config


class Lora(NamedTuple):
    """A LoRA that a user asks for: its file, and a factor for what it adds."""

    path: Path
    strength: float = 1.0


class Layer(NamedTuple):
    """What a file has for one module; None: nothing.

    Attributes:
      down, up: of the low rank, `[rank, in, ..]` and `[out, rank, ..]`.
      scale: alpha / rank.
      bias_scale: of `bias`.
      weight, bias, modulation: differences of whole tensors.
    """

    down: np.ndarray | None = None
    up: np.ndarray | None = None
    scale: float = 1.0
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    bias_scale: float = 1.0
    modulation: np.ndarray | None = None


def parse_lora(text: str | os.PathLike | Lora) -> Lora:
    """`FILE` or `FILE:STRENGTH`.

    Raises:
      InputError: there is no such file; the strength is no number, zero, or huge.
    """
    if isinstance(text, Lora):
        return text
    given, strength = str(text), 1.0
    name, colon, number = given.rpartition(":")
    if colon and not Path(given).exists():
        try:
            strength = float(number)
        except ValueError:
            raise InputError(
                f"--lora {given}: there is no such file, and {number!r} is no strength."
            ) from None
        given = name
    if not Path(given).exists():
        raise InputError(f"--lora {given}: there is no such file. Give FILE or FILE:STRENGTH.")
    if not 0 < abs(strength) <= MOST_STRENGTH:
        hint = (
            "it has no effect: leave it out"
            if strength == 0
            else f"give one up to {MOST_STRENGTH:g}, often 1"
        )
        raise InputError(f"--lora {text}: a strength of {strength:g}: {hint}.")
    return Lora(Path(given), strength)


def is_adapter(names: Iterable[str]) -> bool:
    """Whether the names are those of an adapter's tensors (LoRA): small matrices to add to a model's."""
    names = list(names)
    kinds = re.compile(r"lora[_.]|hada_|lokr_|\.diff(_[bm])?$|\.alpha$")
    return sum(kinds.search(name) is not None for name in names) > len(names) / 2


def steps_in_name(path: Path) -> str | None:
    """What a file's name says of the steps that a LoRA was distilled for, such as `4`; "" if not how many."""
    found = _STEPS.search(path.name)
    return found[1] if found else "" if _DISTILLED.search(path.name) else None


def read_adapter(path: Path) -> dict[str, Layer]:
    """The layers of a LoRA by the name of the module, without prefixes; names have `.` or, of Kohya's, `_`.

    All numbers are read, and found to be finite.

    Raises:
      InputError: it is no LoRA, or one of a form that is not read; it is damaged.
    """
    tensors = open_tensors(path)
    if not is_adapter(tensors):
        names = ", ".join(list(tensors)[:3])
        raise InputError(
            f"--lora {path}: it is no LoRA: its tensors are {names}, ... Models go to --weights."
        )
    for form, pattern in _FOREIGN.items():
        found = next((name for name in tensors if re.search(pattern, name)), None)
        if found:
            raise InputError(
                f"--lora {path} is a {form} ({found}, ..), which is not read: LoRAs of two matrices and "
                "plain differences are. Merge it into the model with the program that it was made for."
            )
    parts: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
    for name, stored in tensors.items():
        array = np.asarray(stored)  # of GGUF, decoded
        module, part = _split(name)
        if part in parts.setdefault(module, {}):
            raise InputError(f"--lora {path} has two tensors for {shown(module)}: {name} and another one.")
        parts[module][part] = name, array
        if array.dtype.kind not in "fV" and part not in ("", "alpha"):
            raise InputError(f"--lora {path}: {name} is {array.dtype}, no floating-point numbers.")
        if not all_finite(np.ascontiguousarray(array)):
            raise InputError(f"--lora {path}: {name} has numbers that are NaN or infinite. {AGAIN}")
    alphas = _Alphas(path)
    layers: dict[str, Layer] = {}
    for module, named in parts.items():
        if _bare(module) in layers:
            raise InputError(
                f"--lora {path} has {shown(_bare(module))} under two names, {shown(module)} is one."
            )
        layers[_bare(module)] = _layer(path, module, named, alphas)
    return layers


def _split(name: str) -> tuple[str, str]:
    """Module and part (down, up, up bias, alpha, weight, bias, modulation) of a tensor; else name and ""."""
    if found := _PAIR.fullmatch(name):
        down = (found["letter"] or found["word"]) in ("A", "down")
        if found["leaf"] != "bias":
            return found["module"], "down" if down else "up"
        return (name, "") if down else (found["module"], "up bias")
    module, _, leaf = name.rpartition(".")
    return (module, _OTHERS[leaf]) if module and leaf in _OTHERS else (name, "")


def _bare(module: str) -> str:
    """A module's name without what programs write before it."""
    while True:
        prefix = next((one for one in PREFIXES if module.startswith(one) and module != one), None)
        if prefix is None:
            return module
        module = module.removeprefix(prefix)


def _layer(path: Path, module: str, named: Mapping[str, tuple[str, np.ndarray]], alphas: _Alphas) -> Layer:
    """The tensors of one module, checked to belong together."""
    arrays = {part: array for part, (_, array) in named.items()}
    down, up = arrays.get("down"), arrays.get("up")
    if (down is None) != (up is None):
        lone = named["up" if down is None else "down"][0]
        raise InputError(f"--lora {path} is damaged: {lone} has no counterpart. {AGAIN}")
    scale = 1.0
    if down is not None and up is not None:
        if down.ndim < 2 or up.ndim < 2 or down.shape[0] != up.shape[1] or not down.size or not up.size:
            shapes = f"{list(down.shape)} and {list(up.shape)}"
            raise InputError(
                f"--lora {path} is damaged: the matrices of {shown(module)} are {shapes}. {AGAIN}"
            )
        scale = alphas.scale(module, len(down), arrays.get("alpha"))
    if "up bias" in arrays and "bias" in arrays:
        raise InputError(f"--lora {path} has two differences of the bias of {shown(module)}. {AGAIN}")
    bias = arrays.get("up bias", arrays.get("bias"))
    bias_scale = scale if "up bias" in arrays else 1.0
    return Layer(down, up, scale, arrays.get("weight"), bias, bias_scale, arrays.get("modulation"))


class _Alphas:
    """The alphas of a LoRA that lie outside its tensors: PEFT's config, beside the file or in its header."""

    def __init__(self, path: Path):
        self._path = path
        folder = path if path.is_dir() else path.parent
        beside = folder / "adapter_config.json"
        self._config: dict[str, Any] = {}
        if beside.is_file() and (path.is_dir() or path.name.startswith("adapter_model.")):
            self._config = read_json(beside)
        elif text := read_metadata(path).get(METADATA):
            try:
                config = json.loads(text)
            except (ValueError, RecursionError):
                raise InputError(f"--lora {path} is damaged: {METADATA} in its header is no JSON.") from None
            of_dit = config.items() if isinstance(config, dict) else ()
            self._config = {
                key.removeprefix("transformer."): value for key, value in of_dit if "text_encoder" not in key
            }
        if self._config.get("use_dora"):
            raise InputError(f"--lora {path} is a DoRA, which is not read. Merge it with PEFT first.")

    def scale(self, module: str, rank: int, alpha: np.ndarray | None) -> float:
        """alpha / rank of a module: of its own tensor, else of the config, else 1.

        Raises:
          InputError: alpha is not a single finite number.
        """
        value: Any = self._config.get("lora_alpha")
        patterns = self._config.get("alpha_pattern")
        if isinstance(patterns, dict):
            for key, own in patterns.items():
                if module == key or module.endswith(f".{key}"):
                    value = own
        if alpha is not None:
            value = alpha.astype(np.float32).item() if alpha.size == 1 else list(alpha.shape)
        if value is None:
            return 1.0
        if type(value) not in (int, float) or not abs(value) <= MOST_ALPHA:
            raise InputError(f"--lora {self._path} is damaged: alpha of {shown(module)} is {shown(value)}.")
        return value / (math.sqrt(rank) if self._config.get("use_rslora") else rank)
