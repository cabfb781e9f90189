"""Our own format of weights: safetensors parts of bounded size, and one JSON that describes the model.

A folder holds one or more models, each as `<name>.json`, `<name>-00001-of-00003.safetensors` and so on. The
JSON has the model's config, the part of each tensor, and notes such as the steps trained.

JAX is not imported, so that a command line can check a folder and refuse it at once.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stp_jax.errors import InputError
from stp_jax.files import replace_file
from stp_jax.weights.files import open_tensors
from stp_jax.weights.parts import write_parts

PART_BYTES = 16_000_000  # a folder of such parts can live in a git repository
BUNDLED = Path(__file__).parents[1] / "assets" / "demo"  # the demo model


class SamplingNotes(NamedTuple):
    """The size that a `dit` was trained on, and how to sample from it; fields of the notes of its weights."""

    frames: int
    height: int
    width: int
    sampling_steps: int  # Euler steps
    sampling_shift: float  # of the noise levels, see `stp_jax.flow`
    sampling_guidance: float = 1.0  # by text; 1 is none
    sampling_scaled_poses: bool = False  # see `scale_source` of `stp_jax.official.poses.official_poses`


def save_weights(
    folder: str | os.PathLike,
    name: str,
    parameters: Mapping[str, Any],
    config: dict[str, Any],
    *,
    dtype: str | None = "float32",
    notes: dict[str, Any] | None = None,
    part_bytes: int | None = None,
) -> None:
    """Writes `parameters` (dotted name -> array) as model `name`; an older one of that name is replaced.

    No more than one part is in host memory at a time.

    Args:
      folder: made if missing.
      name: `dit`, `vae`, ...
      parameters: arrays, or anything that has a shape and a dtype and is sliced like an array.
      config: fields of the model's config dataclass.
      dtype: what tensors are stored as; None: as they are.
      notes: anything a reader should know, such as `SamplingNotes`.
      part_bytes: size of a part; default: 16 MB.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    old = [path for path in folder.iterdir() if re.fullmatch(rf"{name}-\d+-of-\d+\.safetensors", path.name)]
    limit = part_bytes or PART_BYTES
    files = write_parts(
        folder,
        name,
        _pieces(parameters, dtype, limit),
        limit,
        lambda i, count: f"{name}-{i + 1:05d}-of-{count:05d}.safetensors",
    )
    index = {"config": config, "notes": notes or {}, "files": {f: sorted(keys) for f, keys in files.items()}}
    with replace_file(folder / f"{name}.json") as partial:
        partial.write_text(json.dumps(index, indent=1) + "\n")
    for path in old:
        if path.name not in files:
            path.unlink()


def _pieces(parameters: Mapping[str, Any], dtype: str | None, limit: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and value of each tensor to store; one larger than a part is split along its first axis."""
    for key, value in sorted(parameters.items()):
        stored = np.dtype(dtype or value.dtype)
        count = -(-math.prod(value.shape) * stored.itemsize // limit)
        if count < 2 or len(value.shape) < 2:
            yield key, np.asarray(value).astype(stored, order="C")
            continue
        bounds = piece_bounds(value.shape[0], min(count, value.shape[0]))
        for i, (start, stop) in enumerate(itertools.pairwise(bounds)):
            yield f"{key}#{i}", np.asarray(value[start:stop]).astype(stored, order="C")


def piece_bounds(length: int, pieces: int) -> list[int]:
    """Bounds of `pieces` of an axis whose lengths differ by at most 1, the longer ones first."""
    size, larger = divmod(length, pieces)
    return [i * size + min(i, larger) for i in range(pieces + 1)]


def read_index(folder: str | os.PathLike, name: str) -> dict[str, Any]:
    """The JSON of model `name`: config, notes, files.

    Raises:
      InputError: there is no such model in the folder, or its JSON cannot be read.
    """
    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        raise InputError(
            f"{folder} holds no {name} weights ({path.name} is missing). Give a folder that train.py wrote."
        )
    try:
        index = json.loads(path.read_text())
        index["config"], index["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a weights index: {error}. Copy the folder again.") from None
    return index


def read_sampling_notes(folder: str | os.PathLike) -> SamplingNotes:
    """The size of the videos of the `dit` in a folder, and how to sample from it.

    Raises:
      InputError: as `read_index`; the notes lack them.
    """
    notes = read_index(folder, "dit").get("notes") or {}
    needed = [field for field in SamplingNotes._fields if field not in SamplingNotes._field_defaults]
    missing = [field for field in needed if field not in notes]
    if missing:
        raise InputError(
            f"{Path(folder) / 'dit.json'}: its notes lack {', '.join(missing)}. "
            "Give a folder that train.py wrote."
        )
    return SamplingNotes(**{field: notes[field] for field in SamplingNotes._fields if field in notes})


def open_weights(folder: str | os.PathLike, name: str) -> dict[str, np.ndarray]:
    """All stored tensors of model `name`, memory-mapped; `key#0`, `key#1`, .. together are parameter `key`.

    Raises:
      InputError: a part is missing, truncated, or lacks a tensor.
    """
    tensors: dict[str, np.ndarray] = {}
    for file, keys in read_index(folder, name)["files"].items():
        path = Path(folder) / file
        if not path.is_file():
            raise InputError(f"{path} is missing. Copy the weights folder again.")
        part = open_tensors(path)
        if sorted(part) != keys:
            raise InputError(
                f"{path} belongs to other weights than {name}.json. Copy the weights folder again."
            )
        tensors |= part
    return tensors


def read_weights(folder: str | os.PathLike, name: str) -> dict[str, np.ndarray]:
    """All parameters of model `name` by dotted name, in the dtype they are stored in.

    Raises:
      InputError: see `open_weights`.
    """
    tensors = open_weights(folder, name)
    for key in sorted({key.split("#")[0] for key in tensors if "#" in key}):
        count = sum(other.startswith(f"{key}#") for other in tensors)
        tensors[key] = np.concatenate([tensors.pop(f"{key}#{i}") for i in range(count)])
    return tensors
