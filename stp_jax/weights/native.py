"""Our own format of weights: safetensors parts of bounded size, and one JSON that describes the model.

A folder holds one or more models, each as `<name>.json`, `<name>-0a1b2c3d-00001-of-00003.safetensors` and so
on. The JSON has the model's config, the part of each tensor, notes such as the steps trained, the SHA-256 of
each part, and one of its own values. The names of parts begin with the hash of all of them: parts of an older
and a newer model never have the same name, so that a reader, or a writer that is killed, never mixes them.

JAX is not imported, so that a command line can check a folder and refuse it at once.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stp_jax.errors import InputError
from stp_jax.files import replace_file
from stp_jax.weights import int8, schema
from stp_jax.weights.checksums import sha256_of, sha256_of_values, verified
from stp_jax.weights.files import open_tensors
from stp_jax.weights.parts import write_parts
from stp_jax.weights.untrusted import read_json

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
    sampling_overlap: int = 0  # of windows of a long video, frames; 0: see `stp_jax.rerender.windows`


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

    Its JSON is replaced when all parts are there, and the older parts are removed after that. No more than
    one part is in host memory at a time.

    Args:
      folder: made if missing.
      name: `dit`, `vae`, ...
      parameters: arrays, or anything that has a shape and a dtype and is sliced like an array.
      config: fields of the model's config dataclass.
      dtype: what tensors are stored as; None: as they are; int8: see `stp_jax.weights.int8`.
      notes: anything a reader should know, such as `SamplingNotes`.
      part_bytes: size of a part; default: 16 MB.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{name}.partial"
    shutil.rmtree(new, ignore_errors=True)  # of a writer that was killed
    new.mkdir()
    limit = part_bytes or PART_BYTES
    try:
        written = write_parts(new, name, _pieces(parameters, dtype, limit), limit, "{}-{:05d}".format)
        sums = sha256_of(new / file for file in written)
        of_all = sha256_of_values({"parts": sums})[:8]
        names = [f"{name}-{of_all}-{i + 1:05d}-of-{len(sums):05d}.safetensors" for i in range(len(sums))]
        for file, final in zip(written, names, strict=True):
            os.replace(new / file, folder / final)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    files = dict(zip(names, map(sorted, written.values()), strict=True))
    index = {"config": config, "notes": notes or {}, "files": files}
    _write_index(folder, name, index | {"sha256": dict(zip(names, sums, strict=True))})
    for path in folder.glob(f"{name}-*.safetensors"):
        part = re.fullmatch(rf"{re.escape(name)}-([0-9a-f]{{8}}-)?\d+-of-\d+\.safetensors", path.name)
        if part and path.name not in files:
            path.unlink()


def _write_index(folder: Path, name: str, index: dict[str, Any]) -> None:
    values = json.loads(json.dumps(index))
    with replace_file(folder / f"{name}.json") as partial:
        partial.write_text(json.dumps(index | {"checksum": sha256_of_values(values)}, indent=1) + "\n")


def add_checksums(folder: str | os.PathLike, name: str) -> None:
    """Gives weights of an earlier version the checksums that they lack; they are taken to be whole.

    Raises:
      InputError: see `open_weights`.
    """
    folder, index = Path(folder), read_index(folder, name)
    if "sha256" not in index:
        open_weights(folder, name)
        sums = sha256_of(folder / file for file in index["files"])
        _write_index(folder, name, index | {"sha256": dict(zip(index["files"], sums, strict=True))})


def _pieces(parameters: Mapping[str, Any], dtype: str | None, limit: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and value of each tensor to store; one larger than a part is split along its first axis."""
    for key, value in sorted(parameters.items()):
        stored = int8.dtype_of(value.shape) if dtype == "int8" else np.dtype(dtype or value.dtype)
        count = -(-math.prod(value.shape) * stored.itemsize // limit)
        if count < 2 or len(value.shape) < 2:
            pieces: Iterable[tuple[str, np.ndarray]] = [(key, np.asarray(value))]
        else:
            bounds = itertools.pairwise(piece_bounds(value.shape[0], min(count, value.shape[0])))
            pieces = ((f"{key}#{i}", np.asarray(value[slice(*ends)])) for i, ends in enumerate(bounds))
        for name, piece in pieces:
            if stored == np.int8:
                yield from int8.encode(name, piece).items()
            else:
                yield name, piece.astype(stored, order="C")


def piece_bounds(length: int, pieces: int) -> list[int]:
    """Bounds of `pieces` of an axis whose lengths differ by at most 1, the longer ones first."""
    size, larger = divmod(length, pieces)
    return [i * size + min(i, larger) for i in range(pieces + 1)]


def read_index(folder: str | os.PathLike, name: str) -> dict[str, Any]:
    """The JSON of model `name`: config, notes, files.

    Raises:
      InputError: there is no such model in the folder, or its JSON is damaged.
    """
    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        raise InputError(
            f"{folder} holds no {name} weights ({path.name} is missing). Give a folder that train.py wrote."
        )
    index = read_json(path)
    schema.check_index(index, name, path)
    values = {key: value for key, value in index.items() if key != "checksum"}
    if "checksum" in index and sha256_of_values(values) != index["checksum"]:
        raise InputError(
            f"{path} is damaged or was changed by hand: its checksum does not match. Copy the folder again."
        )
    return index


def sums_of(folder: str | os.PathLike, index: Mapping[str, Any]) -> dict[Path, str]:
    """The SHA-256 that each part should have; empty for weights of an earlier version, which have none."""
    return {Path(folder) / file: digest for file, digest in index.get("sha256", {}).items()}


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


def open_model(folder: str | os.PathLike, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON of model `name`, and its stored tensors, memory-mapped; `key#0`, `key#1`, .. are one `key`.

    The contents of the parts are not read, so checksums are not checked: see `sums_of`.

    Raises:
      InputError: see `read_index`; a part is missing, truncated, or lacks a tensor.
    """
    while True:
        index = read_index(folder, name)
        try:
            return index, _open_parts(Path(folder), name, index)
        except InputError:
            if read_index(folder, name) == index:  # otherwise it has just been replaced by another model
                raise


def _open_parts(folder: Path, name: str, index: Mapping[str, Any]) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for file, keys in index["files"].items():
        path = folder / file
        if not path.is_file():
            raise InputError(f"{path} is missing. Copy the weights folder again.")
        part = open_tensors(path)
        if sorted(part) != sorted(keys) or tensors.keys() & part.keys():
            raise InputError(
                f"{path} belongs to other weights than {name}.json. Copy the weights folder again."
            )
        tensors |= part
    return int8.decoded(tensors, str(folder / f"{name}.json"))


def open_weights(folder: str | os.PathLike, name: str) -> dict[str, np.ndarray]:
    """The stored tensors of model `name`, see `open_model`."""
    return open_model(folder, name)[1]


def is_whole(folder: str | os.PathLike, name: str, config: Mapping[str, Any]) -> bool:
    """Whether the folder holds a model `name` of this config with checksums, and all of them match."""
    try:
        index, _ = open_model(folder, name)
        with verified(sums_of(folder, index)):
            pass
    except InputError:
        return False
    return "sha256" in index and index["config"] == json.loads(json.dumps(config))


def read_weights(folder: str | os.PathLike, name: str) -> dict[str, np.ndarray]:
    """All parameters of model `name` by dotted name, in the dtype they are stored in; int8 becomes float32.

    Raises:
      InputError: see `open_model`; a part does not match its checksum.
    """
    index, tensors = open_model(folder, name)
    with verified(sums_of(folder, index)):
        for key in sorted({key.split("#")[0] for key in tensors if "#" in key}):
            count = sum(other.startswith(f"{key}#") for other in tensors)
            tensors[key] = np.concatenate([tensors.pop(f"{key}#{i}") for i in range(count)])
        return {key: np.asarray(array) for key, array in tensors.items()}
