"""fp8 checkpoints, with scales and without, as ComfyUI, Kijai's programs and lightx2v write them.

A weight in fp8 (e4m3 or e5m2) stands for its value times a scale, one for the tensor or one for each row. The
scale of `x.weight` is `x.scale_weight` (ComfyUI, with a tensor `scaled_fp8` that says so), or
`x.weight_scale` (newer ComfyUI, with a JSON in the bytes of `x.comfy_quant`; lightx2v). Without a scale the
value is that of the fp8 number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stp_jax.errors import InputError
from stp_jax.weights.encoded import Float8
from stp_jax.weights.untrusted import shown

SCALES = (".scale_weight", ".weight_scale")
# Scales of activations, which matter only where these are rounded to fp8; marks; a tokenizer.
_UNUSED = re.compile(r"(.*\.)?(scale_input|input_scale|scaled_fp8|spiece_model|comfy_quant)")
_FOREIGN = re.compile(
    r".*(scale_inv|weight_scale_2|wscales|wtscale|qweight|qzeros|\.absmax|quant_state\..*|smooth_factor.*)"
)
_KNOWN_FORMATS = ("float8_e4m3fn", "float8_e5m2")
_MOST_JSON = 10_000  # bytes of `comfy_quant`


def is_fp8(array: np.ndarray) -> bool:
    """Whether a tensor is stored in fp8."""
    return "float8" in array.dtype.name


def decoded(tensors: Mapping[str, np.ndarray], path: Path) -> dict[str, Any]:
    """Tensors with scales applied when they are read, and without what belongs to fp8 alone.

    Raises:
      InputError: numbers of few bits in a form that is not read.
    """
    foreign = next((name for name in tensors if _FOREIGN.fullmatch(name)), None)
    if foreign:
        raise _not_read(path, f"it has {foreign}")
    for name, array in tensors.items():
        if name.endswith(".comfy_quant"):
            _check_format(path, name, array)
    scales = {
        name.removesuffix(ending) + ".weight": name
        for name in tensors
        for ending in SCALES
        if name.endswith(ending)
    }
    found: dict[str, Any] = {}
    for name, array in tensors.items():
        if _UNUSED.fullmatch(name) or (name in scales.values() and _weight_of(name) in tensors):
            continue
        scale = tensors[scales[name]] if name in scales else None
        if scale is not None:
            _check_scale(path, scales[name], scale, array)
        found[name] = Float8(array, scale) if scale is not None or is_fp8(array) else array
    return found


def _weight_of(scale: str) -> str:
    return scale.rpartition(".")[0] + ".weight"


def _check_format(path: Path, name: str, array: np.ndarray) -> None:
    try:
        description = json.loads(array[:_MOST_JSON].tobytes()) if array.dtype == np.uint8 else None
    except (ValueError, RecursionError):
        description = None
    kind = description.get("format") if isinstance(description, dict) else None
    if kind not in _KNOWN_FORMATS:
        raise _not_read(path, f"{name} says {shown(kind)}")


def _check_scale(path: Path, name: str, scale: np.ndarray, weight: np.ndarray) -> None:
    if weight.dtype.kind in "iub":
        raise _not_read(path, f"it has weights in {weight.dtype}")
    rows = weight.shape[:1] if weight.ndim else ()
    if scale.dtype.kind not in "fV" or (scale.size != 1 and (scale.size,) != rows):
        raise _not_read(
            path, f"{name} is {scale.dtype} {list(scale.shape)} for a weight {list(weight.shape)}"
        )
    if scale.size != 1 and [n for n in scale.shape if n != 1] != list(rows):
        raise _not_read(path, f"{name} has the shape {list(scale.shape)}")


def _not_read(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} is quantised in a form that is not read ({reason}). Get the model in fp8 with one scale for "
        "a tensor or a row, in bfloat16 or float16, or as GGUF."
    )
