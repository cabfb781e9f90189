"""The latent cache: a folder of latents of clips, encoded once so that training handles no video.

Files, for N scenes of K clips each: latents.npy float16 [N, K, F', H', W', C]; c2w.npy [N, K, F, 4, 4] in
each scene's own world frame; intrinsics.npy [N, K, F, 4]; animation_time.npy [N, K, F]; complete.npy bool
[N], the scenes that have been written; checksums.npy uint32 [N, K + 1], the CRC-32 of each clip and of the
scene's captions; captions_*.jsonl, a line for each scene that has captions; meta.json.

Clips k with k % clips_per_path == 0 run forward in time; they and the clips_per_path - 1 warped ones that
follow show the same camera path (`pairs.random_clips`). One folder holds one split.

A cache of long paths has `windows` W > 1 in its meta.json: every W clips in a row, from k = 0 on, are windows
of one long path and curve of animation time, and each continues the one before it. The first W of each
clips_per_path run forward in time, window w from w (F - 1) to (w + 1) (F - 1).

A cache may have depth.npy, float16 [N, K, F, h, w]: coarse inverse depth, see `datasets.form`.

A cache of scenes of one camera has "scene_kind": "single" in its meta.json: all K = clips_per_path clips of a
scene are on the one path that there is.
"""

from __future__ import annotations

import contextlib
import functools
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from input_pipeline.latent_checksums import Checksums, append_captions, captions_checksum, clip_checksum
from input_pipeline.latent_files import (
    ARRAYS,
    CHECKSUMS,
    CLIP_ARRAYS,
    all_shapes,
    check_paths,
    clip_shapes,
    dtype_of,
    in_turn,
    read_meta,
    shapes_of,
    write_empty,
    write_entry,
    writing,
)
from input_pipeline.pairs import make_relative
from input_pipeline.remote import download, is_remote, local_path
from stp_jax.controls.view import View, named, view_of
from stp_jax.errors import InputError
from stp_jax.files import map_array


class LatentCache:
    """A latent cache on disk, see `create` and `open`; with `depth` its clips come with their depth."""

    def __init__(self, path: Path, meta: dict[str, Any], mode: Literal["r", "r+"], depth: bool = False):
        self.path, self.meta, self._mode, self._depth = path, meta, mode, depth
        shapes: dict[str, Any] = all_shapes(meta)
        self._arrays = {
            key: map_array(path / f"{key}.npy", shape, dtype_of(key), mode) for key, shape in shapes.items()
        }
        self.scenes, self.clips = shapes["latents"][:2]
        self.frames = shapes["c2w"][2]
        self.latent_shape = tuple(shapes["latents"][2:])  # [F', H', W', C] of a clip
        self.latent_size = self.latent_shape[1:3]  # height and width
        self.depth_size = tuple(shapes["depth"][3:]) if "depth" in shapes else None  # (h, w) of a frame's
        self.clips_per_path = meta["clips_per_path"]
        self.windows = meta.get("windows", 1)
        self.has_checksums = "checksums" in meta
        self.checksums = Checksums(path, self._arrays)

    @functools.cached_property
    def captions(self) -> list[tuple[str, ...]]:
        """The captions of each scene. Raises `InputError` where they are damaged."""
        return self.checksums.captions()

    @property
    def one_path(self) -> bool:
        """Whether all clips of a scene are on one camera path."""
        return self.clips == self.clips_per_path

    def __reduce__(self):
        # A memory map pickles as all of its bytes: workers open the files themselves.
        return LatentCache, (self.path, self.meta, self._mode, self._depth)

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        scenes: int,
        clips: int,
        frames: int,
        latent_shape: tuple[int, int, int, int],
        clips_per_path: int,
        windows: int = 1,
        depth_size: tuple[int, int] | None = None,
        meta: Mapping[str, Any],
        shared: bool = False,
    ) -> LatentCache:
        """Creates an empty cache for N = `scenes` and K = `clips`, or continues an unfinished one.

        `latent_shape` is [F', H', W', C] of a clip, `depth_size` (h, w) of a frame's depth, if it is to have
        depth. `meta` (JSON values) says how the latents were made: an unfinished cache with another `meta` or
        other shapes is not continued. With `shared` several processes may create the same cache at once, and
        write different scenes of it; it may then be complete.

        Raises:
          InputError: the folder holds a finished cache, another cache, or something else; the disk has no
            room for it.
        """
        path = Path(path)
        if clips % windows or clips_per_path % windows:
            raise ValueError(f"{clips} clips, {clips_per_path} per path: no multiples of {windows} windows")
        check_paths(path, clips, clips_per_path, windows, meta)
        shapes = shapes_of(scenes, clips, frames, latent_shape, depth_size)
        wanted = {"clips_per_path": clips_per_path, "shapes": shapes, "checksums": CHECKSUMS, **meta}
        wanted |= {"windows": windows} if windows > 1 else {}
        wanted = json.loads(json.dumps(wanted))  # tuples come back as lists
        with in_turn(path) if shared else contextlib.nullcontext():
            if (path / "meta.json").exists():
                return cls._continue(path, wanted, shared)
            shapes = all_shapes(wanted)
            write_empty(path, wanted, {name: (shape, dtype_of(name)) for name, shape in shapes.items()})
            return cls(path, wanted, "r+")

    @classmethod
    def _continue(cls, path: Path, wanted: dict[str, Any], may_be_complete: bool) -> LatentCache:
        """The unfinished cache in a folder; raises `InputError` unless its meta.json is what is wanted."""
        found = read_meta(path)
        if "checksums" not in found:  # begun by an earlier version
            del wanted["checksums"]
        differing = sorted(key for key in found | wanted if found.get(key) != wanted.get(key))
        if differing:
            raise InputError(
                f"latent cache {path}: begun with other settings ({', '.join(differing)}); "
                "choose another folder or delete it"
            )
        cache = cls(path, found, "r+")
        if not cache.missing() and not may_be_complete:
            raise InputError(f"latent cache {path}: already complete; choose another folder or delete it")
        return cache

    @classmethod
    def join(cls, path: str | Path, parts: Sequence[LatentCache]) -> LatentCache:
        """Writes one complete cache of the scenes of others, in their order.

        Raises:
          InputError: the parts differ in anything but their scenes and seeds; the folder cannot be written,
            or is not empty.
        """
        path = Path(path)
        first, apart = parts[0], ("seed", "shapes", "checksums")
        for part in parts:
            differing = sorted(
                key
                for key in part.meta | first.meta
                if key not in apart and part.meta.get(key) != first.meta.get(key)
            )
            if differing or clip_shapes(part.meta) != clip_shapes(first.meta):
                raise InputError(
                    f"latent caches {first.path} and {part.path} differ "
                    f"({', '.join(differing) or 'shapes'}): they make no common cache"
                )
        known = (*apart, "clips_per_path", "windows", "checksums")
        joined = cls.create(
            path,
            scenes=sum(part.scenes for part in parts),
            clips=first.clips,
            frames=first.frames,
            latent_shape=first.latent_shape,
            clips_per_path=first.clips_per_path,
            windows=first.windows,
            depth_size=first.depth_size,
            # No one `seed`: rows of the parts are counted apart.
            meta={key: value for key, value in first.meta.items() if key not in known}
            | {"joined_seeds": [part.meta.get("seed") for part in parts]},
        )
        start, names = 0, [name for name in CLIP_ARRAYS if name in joined._arrays]
        for part in parts:
            for scene in range(part.scenes):
                part.checksums.verify(scene * part.clips + np.arange(part.clips))
                arrays = {name: part._arrays[name][scene] for name in names}
                joined._write_arrays(start + scene, arrays, part.captions[scene], sync=False)
            start += part.scenes
        for name in (*names, "checksums"):
            joined._arrays[name].flush()
        for scene in range(joined.scenes):
            joined._put("complete", scene, np.array(True), sync=False)
        joined._arrays["complete"].flush()
        return joined

    @classmethod
    def open(cls, path: str | Path, *, depth: bool = False) -> LatentCache:
        """Opens a complete cache for reading, with `depth` its clips have their depth; one in object storage
        is downloaded as a whole at first.

        Raises:
          InputError: there is no cache at `path`, it is damaged, it is not complete, or it lacks depth that
            is wanted.
        """
        path = download(str(path)) if is_remote(path) else local_path(path)
        if not (path / "meta.json").exists():
            raise InputError(
                f"latent cache {path}: not found; write it with python -m stp_jax.encode_dataset"
            )
        cache = cls(path, read_meta(path), "r", depth)
        if depth and cache.depth_size is None:
            raise InputError(
                f"latent cache {path}: has no depth; stp_jax.encode_dataset --depth keeps that of its scenes"
            )
        if cache.missing():
            raise InputError(
                f"latent cache {path}: {len(cache.missing())} of {cache.scenes} scenes are not written yet; "
                "run the same stp_jax.encode_dataset command again to finish it"
            )
        return cache

    def missing(self, shard: tuple[int, int] = (0, 1)) -> list[int]:
        """The scenes that are not written yet; of part (I, N) of them, the scenes I, I + N, I + 2 N ..."""
        first, step = shard
        return (first + step * np.flatnonzero(~self._arrays["complete"][first::step])).tolist()

    def write(
        self,
        scene: int,
        latents: np.ndarray,
        view: View,
        captions: Sequence[str] = (),
        shard: tuple[int, int] = (0, 1),
        depth: np.ndarray | None = None,
    ) -> None:
        """Writes the K clips of a scene, each array with a leading axis [K], and marks the scene complete.

        Args:
          shard: (I, N), the number of this process and of all that write at once.

        Raises:
          InputError: it cannot be written, as on a full disk; the scene is not marked then.
        """
        arrays = named("", view, latents=latents) | ({} if depth is None else {"depth": depth})
        assert (depth is None) == (self.depth_size is None)
        for name, value in arrays.items():
            shape = self._arrays[name].shape[1:]
            if value.shape != shape:
                raise ValueError(f"{name} has shape {value.shape}, not {shape}")
        self._write_arrays(scene, arrays, captions, shard)
        self._put("complete", scene, np.array(True))

    def _write_arrays(
        self,
        scene: int,
        arrays: Mapping[str, np.ndarray],
        captions: Sequence[str],
        shard: tuple[int, int] = (0, 1),
        *,
        sync: bool = True,
    ) -> None:
        """Writes the arrays of a scene, its captions, and the checksums of both."""
        for name, array in arrays.items():
            self._put(name, scene, array, sync=sync)
        if not self.has_checksums:
            return
        if captions:
            with writing(self.path / "captions"):
                append_captions(self.path, shard, scene, captions)
        sums = [clip_checksum(arrays, clip) for clip in range(self.clips)]
        self._put("checksums", scene, np.array([*sums, captions_checksum(captions)], np.uint32), sync=sync)

    def _put(self, name: str, scene: int, value: np.ndarray, *, sync: bool = True) -> None:
        """Writes a scene's part of an array."""
        write_entry(self.path / f"{name}.npy", self._arrays[name], scene, value, sync=sync)

    def damaged(self, scene: int) -> bool:
        """Whether the numbers or captions of a scene differ from their checksums; of an older cache, without
        any, false."""
        return self.checksums.damaged(scene)

    def reopen(self, scene: int) -> None:
        """Marks a scene as missing, so that it is written again."""
        self._put("complete", scene, np.array(False))

    def clips_at(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The clips at rows [B] of the N * K: latents [B, F', H', W', C], c2w [B, F, 4, 4] and so on.

        Raises:
          InputError: a clip is damaged, see `Checksums.verify`.
        """
        self.checksums.verify(rows)
        names = CLIP_ARRAYS if self._depth else ARRAYS
        # mode="clip" copies straight into the result and without the interpreter's lock
        return {name: np.take(self._flat(name), rows, axis=0, mode="clip") for name in names}

    @property
    def identity(self) -> int:
        """A number that caches of other clips do not have."""
        known = self._arrays["checksums" if self.has_checksums else "animation_time"]
        return zlib.crc32(np.ascontiguousarray(known).data)

    @property
    def animation_time(self) -> np.ndarray:
        """That of all clips, [N, K, F]; not a copy."""
        return self._arrays["animation_time"]

    def views_of(self, scene: int) -> View:
        """Cameras and animation times [K, F] of a scene's K clips; no latents are read."""
        return View(*(np.array(self._arrays[name][scene]) for name in View._fields))

    def memory_at(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Latent frames at rows [B, K] of the N * K * F': latents [B, K, H', W', C], and of the four pixel
        frames of each c2w [B, 4K, 4, 4], intrinsics [B, 4K, 4] and animation_time [B, 4K]."""
        latents = self._flat("latents")
        clips, frames = np.divmod(rows, latents.shape[1])
        self.checksums.verify(clips.ravel())
        pixel_frames = (4 * frames[..., None] + np.arange(-3, 1)).reshape(len(rows), -1)
        clips = np.repeat(clips, 4, axis=1)
        memory = {name: self._flat(name)[clips, pixel_frames] for name in View._fields}
        frames_of_all = latents.reshape(-1, *latents.shape[2:])
        memory["latents"] = np.take(frames_of_all, rows, axis=0, mode="clip")
        return memory

    def pairs_at(
        self, targets: np.ndarray, sources: np.ndarray, memory: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The training examples for rows of targets and sources [B], batched.

        Args:
          memory: rows [B, K] of latent frames, see `latent_choice`; None: without a memory.
        """
        clips = [self.clips_at(sources), self.clips_at(targets)]
        if memory is not None:
            clips.append(self.memory_at(memory))
        if self.windows > 1:  # animation time 0 is where the source begins, which is any window
            zero = view_of(clips[0]).animation_time[:, :1].copy()
            clips = [clip | {"animation_time": view_of(clip).animation_time - zero} for clip in clips]
        return make_relative(*clips)

    def _flat(self, name: str) -> np.ndarray:
        array = np.asarray(self._arrays[name])  # JAX does not take arrays of the type memmap as plain ones
        return array.reshape(-1, *array.shape[2:])
