"""A model's own output for all clips of a latent cache of long paths, to be given as a memory in training.

In use a memory is what the model made before, with its errors. One that was only trained on the memory of
true latents takes it for truth. `python -m stp_jax.sample_dataset` writes such a folder for each split.

Files, for N scenes of K clips, which are windows of P = K / W long paths: latents.npy float16 [N, K, F', H',
W', C]; source_path.npy int32 [N, P], the camera path of the source that was given with all windows of a long
path; complete.npy bool [N], the scenes that have been written; meta.json.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from input_pipeline.latent_files import writing
from input_pipeline.latents import LatentCache
from stp_jax.errors import InputError
from stp_jax.files import map_array, read_json, replace_file, size_text

COMMAND = "python -m stp_jax.sample_dataset"
DTYPES = {"latents": np.float16, "source_path": np.int32, "complete": np.bool_}


class MemoryOutputs:
    """The outputs in a folder, for one cache; see `create` and `open`."""

    def __init__(self, path: Path, cache: LatentCache, mode: Literal["r", "r+"]):
        self.path, self._cache, self._mode = path, cache, mode
        self._arrays = {
            name: map_array(path / f"{name}.npy", shape, DTYPES[name], mode)
            for name, shape in _shapes(cache).items()
        }

    def __reduce__(self):
        return MemoryOutputs, (self.path, self._cache, self._mode)

    @classmethod
    def create(cls, path: Path, cache: LatentCache, made_by: Mapping[str, Any]) -> MemoryOutputs:
        """Creates empty outputs, or continues unfinished ones.

        Args:
          made_by: JSON values that say how they are made; ones made otherwise are not continued.

        Raises:
          InputError: the folder holds complete outputs, others, or something else; it cannot be written.
        """
        meta = {"cache": cache.identity, "made_by": dict(made_by)}
        if (path / "meta.json").exists():
            if read_json(path / "meta.json", dict) != meta:
                raise InputError(
                    f"{path}: begun with another model, cache or settings; choose another folder or delete it"
                )
            outputs = cls(path, cache, "r+")
            if not len(outputs.missing()):
                raise InputError(f"{path}: already complete; choose another folder or delete it")
            return outputs
        if path.exists() and any(path.iterdir()):
            raise InputError(f"{path}: the folder is not empty and holds no output of a model")
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            needed, free = 2 * int(np.prod(_shapes(cache)["latents"])), shutil.disk_usage(path).free
            if free < needed:
                raise InputError(f"{path}: {size_text(needed)} are needed, {size_text(free)} are free there")
            for name, shape in _shapes(cache).items():
                np.lib.format.open_memmap(path / f"{name}.npy", "w+", DTYPES[name], shape)
            with replace_file(path / "meta.json") as partial:  # last: it says that the arrays are there
                partial.write_text(json.dumps(meta, indent=1))
        return cls(path, cache, "r+")

    @classmethod
    def open(cls, path: Path, cache: LatentCache) -> MemoryOutputs:
        """Opens complete outputs for the clips of `cache`.

        Raises:
          InputError: there are none, they are not complete, or of another cache.
        """
        if not (path / "meta.json").exists():
            raise InputError(f"memory outputs {path}: not found; write them with {COMMAND}")
        if read_json(path / "meta.json", dict).get("cache") != cache.identity:
            raise InputError(
                f"memory outputs {path}: not of the latent cache {cache.path}; write them again with "
                f"{COMMAND}"
            )
        outputs = cls(path, cache, "r")
        if len(missing := outputs.missing()):
            raise InputError(
                f"memory outputs {path}: {len(missing)} of {cache.scenes} scenes are not written yet; run "
                f"the same {COMMAND} again to finish them"
            )
        return outputs

    def missing(self) -> np.ndarray:
        """The scenes that are not written yet."""
        return np.flatnonzero(~self._arrays["complete"])

    def write(self, scene: int, latents: np.ndarray, source_path: np.ndarray) -> None:
        """Writes a scene's latents [K, F', H', W', C] and source paths [P], and marks it complete.

        Raises:
          InputError: it cannot be written, as on a full disk.
        """
        for name, value in (("latents", latents), ("source_path", source_path), ("complete", True)):
            array, path = self._arrays[name], self.path / f"{name}.npy"
            data = np.ascontiguousarray(value, array.dtype)
            assert data.shape == array.shape[1:] or name == "complete"
            with writing(path), open(path, "r+b") as file:  # a full disk would end a process that maps it
                file.seek(array.offset + scene * data.nbytes)
                file.write(data.data)

    def source_path(self, target: int) -> int:
        """The camera path of the source that was given for a clip, the row `target` of the N * K."""
        return int(self._arrays["source_path"].reshape(-1)[target // self._cache.windows])

    def latents_at(self, rows: np.ndarray) -> np.ndarray:
        """Latent frames at rows [B, M] of the N * K * F': [B, M, H', W', C] float16.

        Raises:
          InputError: their numbers are not finite.
        """
        latents = np.asarray(self._arrays["latents"])
        found = np.take(latents.reshape(-1, *latents.shape[3:]), rows, axis=0, mode="clip")
        if not np.isfinite(found).all():
            raise InputError(f"memory outputs {self.path}: damaged; write them again with {COMMAND}")
        return found


def _shapes(cache: LatentCache) -> dict[str, tuple[int, ...]]:
    return {
        "latents": (cache.scenes, cache.clips, *cache.latent_shape),
        "source_path": (cache.scenes, cache.clips // cache.windows),
        "complete": (cache.scenes,),
    }
