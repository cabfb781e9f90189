"""A model's own output for all clips of a latent cache of long paths, to be given as a memory in training.

In use a memory is what the model made before, with its errors. One that was only trained on the memory of
true latents takes it for truth. `python -m stp_jax.sample_dataset` writes such a folder for each split.

Files, for N scenes of K clips, which are windows of P = K / W long paths: latents.npy float16 [N, K, F', H',
W', C]; source_path.npy int32 [N, P], the camera path of the source that was given with all windows of a long
path; complete.npy bool [N], the scenes that have been written; meta.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from input_pipeline.latent_files import write_empty, write_entry
from input_pipeline.latents import LatentCache
from input_pipeline.remote import download, is_remote, local_path
from stp_jax.errors import InputError
from stp_jax.files import map_array, read_json

WHAT = "memory outputs"
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
        shapes = _shapes(cache)
        write_empty(path, meta, {name: (shape, DTYPES[name]) for name, shape in shapes.items()}, WHAT)
        return cls(path, cache, "r+")

    @classmethod
    def open(cls, path: str | Path, cache: LatentCache) -> MemoryOutputs:
        """Opens complete outputs for the clips of `cache`; those in object storage are downloaded as a whole
        at first.

        Raises:
          InputError: there are none, they are not complete, or of another cache.
        """
        path = download(str(path)) if is_remote(path) else local_path(path)
        if not (path / "meta.json").exists():
            raise InputError(f"{WHAT} {path}: not found; write them with {COMMAND}")
        if read_json(path / "meta.json", dict).get("cache") != cache.identity:
            raise InputError(
                f"{WHAT} {path}: not of the latent cache {cache.path}; write them again with {COMMAND}"
            )
        outputs = cls(path, cache, "r")
        if len(missing := outputs.missing()):
            raise InputError(
                f"{WHAT} {path}: {len(missing)} of {cache.scenes} scenes are not written yet; run "
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
        entries = {"latents": latents, "source_path": source_path, "complete": np.array(True)}
        for name, value in entries.items():
            assert value.shape == self._arrays[name].shape[1:]
            write_entry(self.path / f"{name}.npy", self._arrays[name], scene, value)

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
            raise InputError(f"{WHAT} {self.path}: damaged; write them again with {COMMAND}")
        return found


def _shapes(cache: LatentCache) -> dict[str, tuple[int, ...]]:
    return {
        "latents": (cache.scenes, cache.clips, *cache.latent_shape),
        "source_path": (cache.scenes, cache.clips // cache.windows),
        "complete": (cache.scenes,),
    }
