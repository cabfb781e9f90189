"""Checksums of the clips in a latent cache, and the captions of its scenes, see `latents`."""

from __future__ import annotations

import functools
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from input_pipeline.latent_files import CLIP_ARRAYS, check_numbers, dtype_of
from stp_jax.errors import InputError
from stp_jax.files import read_json_lines

SEVERAL = "captions_*_of_*.jsonl"  # a file for each process that writes


class Checksums:
    """Compares the clips of a cache with their CRC-32, and looks at their numbers, when they are first read.

    Args:
      path: of the cache.
      arrays: all of its arrays; of an older cache, which has no `checksums`, nothing is compared.
    """

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray]):
        self._path = path
        # JAX does not take arrays of the type memmap as plain ones, whose slices also cost less.
        self._arrays = {name: np.asarray(arrays[name]) for name in CLIP_ARRAYS if name in arrays}
        self._sums = np.asarray(arrays["checksums"]) if "checksums" in arrays else None
        self._scenes, self._clips = self._arrays["latents"].shape[:2]
        self._verified = np.zeros(self._scenes * self._clips, bool)

    def verify(self, rows: np.ndarray) -> None:
        """Compares clips at rows of the N * K, each the first time that it is read.

        Raises:
          InputError: one of them is damaged: it differs from its checksum, or its numbers are of no clip.
        """
        for row in np.unique(rows[~self._verified[rows]]).tolist():
            scene, clip = divmod(row, self._clips)
            if self._sums is not None and not self._whole(scene, clip):
                raise InputError(
                    f"latent cache {self._path}: scene {scene} is damaged, it differs from its checksum; "
                    f"python -m stp_jax.encode_dataset.verify {self._path} lists all such scenes"
                )
            numbers = {name: array[scene, clip][None] for name, array in self._arrays.items()}
            check_numbers(self._path, numbers, np.array([scene]))
            self._verified[row] = True

    def damaged(self, scene: int) -> bool:
        """Whether a clip of a scene, or its captions, differ from their checksums."""
        if self._sums is None:
            return False
        numbers = all(self._whole(scene, clip) for clip in range(self._clips))
        return not numbers or captions_checksum(self._captions[scene]) != self._sums[scene, -1]

    def _whole(self, scene: int, clip: int) -> bool:
        assert self._sums is not None
        arrays = {name: array[scene] for name, array in self._arrays.items()}
        return clip_checksum(arrays, clip) == self._sums[scene, clip]

    def captions(self) -> list[tuple[str, ...]]:
        """The captions of each scene; an older cache has none. Raises `InputError` where they are damaged."""
        for scene, captions in enumerate(self._captions):
            if self._sums is not None and captions_checksum(captions) != self._sums[scene, -1]:
                raise InputError(
                    f"latent cache {self._path}: the captions of scene {scene} are missing or damaged"
                )
        return self._captions

    @functools.cached_property
    def _captions(self) -> list[tuple[str, ...]]:
        """The captions of each scene, of those in the files the ones that have their checksum."""
        found: list[tuple[str, ...]] = [()] * self._scenes
        if self._sums is None:
            return found
        for file in sorted(self._path.glob(SEVERAL)):
            for line in read_json_lines(file):
                scene, captions = line.get("scene"), line.get("captions")
                if type(scene) is not int or not 0 <= scene < len(found) or not isinstance(captions, list):
                    continue
                if captions_checksum(captions) == self._sums[scene, -1]:
                    found[scene] = tuple(captions)
        return found


def clip_checksum(arrays: Mapping[str, np.ndarray], clip: int) -> int:
    """The CRC-32 of one of the K clips in the arrays [K, ..] of a scene, as they are stored."""
    value = 0
    for name in CLIP_ARRAYS:
        if name not in arrays:
            continue
        value = zlib.crc32(np.ascontiguousarray(arrays[name][clip], dtype_of(name)).data, value)
    return value


def captions_checksum(captions: Sequence[str]) -> int:
    """The CRC-32 of a scene's captions; 0 where it has none."""
    return zlib.crc32(json.dumps(list(captions)).encode()) if captions else 0


def append_captions(path: Path, shard: tuple[int, int], scene: int, captions: Sequence[str]) -> None:
    """Adds a line with the captions of a scene to the file of this process. Raises `OSError`."""
    file = path / SEVERAL.replace("*", "{}").format(*shard)
    with open(file, "a+b") as lines:
        end = lines.seek(0, os.SEEK_END)
        lines.seek(max(0, end - 1))
        start = b"\n" if lines.read() not in (b"", b"\n") else b""  # of a line without an end: interrupted
        lines.write(start + json.dumps({"scene": scene, "captions": list(captions)}).encode() + b"\n")
        lines.flush()
        os.fsync(lines.fileno())
