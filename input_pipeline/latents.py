"""The latent cache: a folder of latents of clips, encoded once so that training handles no video.

Files, for N scenes of K clips each: latents.npy float16 [N, K, F', H', W', C]; c2w.npy [N, K, F, 4, 4] in
each scene's own world frame; intrinsics.npy [N, K, F, 4]; animation_time.npy [N, K, F]; complete.npy bool
[N], the scenes that have been written; meta.json. Clips k with k % clips_per_path == 0 run forward in time;
they and the clips_per_path - 1 warped ones that follow show the same camera path (`pairs.random_clips`). One
folder holds one split.

A cache of long paths has `windows` W > 1 in its meta.json: every W clips in a row, from k = 0 on, are windows
of one long path and curve of animation time, and each continues the one before it. The first W of each
clips_per_path run forward in time, window w from w (F - 1) to (w + 1) (F - 1).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from input_pipeline.pairs import make_relative
from stp_jax.controls.view import View, named, view_of
from stp_jax.errors import InputError
from stp_jax.files import map_array, read_json, replace_file, size_text

_ARRAYS = ("latents", *View._fields)
_NAMES = (*_ARRAYS, "complete")


class LatentCache:
    """A latent cache on disk; see `create` to write one and `open` to read one."""

    def __init__(self, path: Path, meta: dict[str, Any], mode: Literal["r", "r+"]):
        self.path, self.meta, self._mode = path, meta, mode
        shapes = meta["shapes"]
        self._arrays = {
            name: map_array(path / f"{name}.npy", shapes[name], _dtype(name), mode) for name in _NAMES
        }
        self.scenes, self.clips = shapes["latents"][:2]
        self.frames = shapes["c2w"][2]
        self.latent_shape = tuple(shapes["latents"][2:])  # [F', H', W', C] of a clip
        self.latent_size = self.latent_shape[1:3]  # height and width
        self.clips_per_path = meta["clips_per_path"]
        self.windows = meta.get("windows", 1)

    def __reduce__(self):
        # A memory map pickles as all of its bytes: workers open the files themselves.
        return LatentCache, (self.path, self.meta, self._mode)

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
        meta: Mapping[str, Any],
    ) -> LatentCache:
        """Creates an empty cache for N = `scenes` and K = `clips`, or continues an unfinished one.

        `latent_shape` is [F', H', W', C] of one clip. `meta` (JSON values) says how the latents were made: an
        unfinished cache with another `meta` or other shapes is not continued.

        Raises:
          InputError: the folder holds a finished cache, another cache, or something else; the disk has no
            room for it.
        """
        path = Path(path)
        if clips % windows or clips_per_path % windows:
            raise ValueError(f"{clips} clips, {clips_per_path} per path: no multiples of {windows} windows")
        if clips <= clips_per_path:
            raise InputError(
                f"latent cache {path}: {clips} clips per scene give no second camera path; "
                f"ask for more than clips_per_path = {clips_per_path}"
            )
        shapes = _shapes(scenes, clips, frames, latent_shape)
        wanted = {"clips_per_path": clips_per_path, "shapes": shapes, **meta}
        wanted |= {"windows": windows} if windows > 1 else {}
        wanted = json.loads(json.dumps(wanted))  # tuples come back as lists
        if (path / "meta.json").exists():
            return cls._continue(path, wanted)
        _write_empty(path, wanted)
        return cls(path, wanted, "r+")

    @classmethod
    def _continue(cls, path: Path, wanted: dict[str, Any]) -> LatentCache:
        """The unfinished cache in a folder; raises `InputError` unless its meta.json is what is wanted."""
        found = _read_meta(path)
        differing = sorted(key for key in found | wanted if found.get(key) != wanted.get(key))
        if differing:
            raise InputError(
                f"latent cache {path}: begun with other settings ({', '.join(differing)}); "
                "choose another folder or delete it"
            )
        cache = cls(path, found, "r+")
        if not cache.missing():
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
        first, apart = parts[0], ("seed", "shapes")
        for part in parts:
            differing = sorted(
                key
                for key in part.meta | first.meta
                if key not in apart and part.meta.get(key) != first.meta.get(key)
            )
            if differing or part.latent_shape != first.latent_shape or part.clips != first.clips:
                raise InputError(
                    f"latent caches {first.path} and {part.path} differ "
                    f"({', '.join(differing) or 'shapes'}): they make no common cache"
                )
        known = (*apart, "clips_per_path", "windows")
        joined = cls.create(
            path,
            scenes=sum(part.scenes for part in parts),
            clips=first.clips,
            frames=first.frames,
            latent_shape=first.latent_shape,
            clips_per_path=first.clips_per_path,
            windows=first.windows,
            # No one `seed`: rows of the parts are counted apart.
            meta={key: value for key, value in first.meta.items() if key not in known}
            | {"joined_seeds": [part.meta.get("seed") for part in parts]},
        )
        start = 0
        for part in parts:
            for scene in range(part.scenes):
                for name in _ARRAYS:
                    joined._put(name, start + scene, part._arrays[name][scene], sync=False)
            start += part.scenes
        for name in _ARRAYS:
            joined._arrays[name].flush()
        for scene in range(joined.scenes):
            joined._put("complete", scene, np.array(True), sync=False)
        joined._arrays["complete"].flush()
        return joined

    @classmethod
    def open(cls, path: str | Path) -> LatentCache:
        """Opens a complete cache for reading.

        Raises:
          InputError: there is no cache at `path`, it is damaged, or it is not complete.
        """
        path = Path(path)
        if not (path / "meta.json").exists():
            raise InputError(
                f"latent cache {path}: not found; write it with python -m stp_jax.encode_dataset"
            )
        cache = cls(path, _read_meta(path), "r")
        if cache.missing():
            raise InputError(
                f"latent cache {path}: {len(cache.missing())} of {cache.scenes} scenes are not written yet; "
                "run the same stp_jax.encode_dataset command again to finish it"
            )
        return cache

    def missing(self) -> list[int]:
        """The scenes that are not written yet."""
        return np.flatnonzero(~self._arrays["complete"]).tolist()

    def write(self, scene: int, latents: np.ndarray, view: View) -> None:
        """Writes the K clips of a scene, each array with a leading axis [K], and marks the scene complete.

        Raises:
          InputError: it cannot be written, as on a full disk; the scene is not marked then.
        """
        for name, value in named("", view, latents=latents).items():
            array = self._arrays[name]
            if value.shape != array.shape[1:]:
                raise ValueError(f"{name} has shape {value.shape}, not {array.shape[1:]}")
            self._put(name, scene, value)
        self._put("complete", scene, np.array(True))

    def _put(self, name: str, scene: int, value: np.ndarray, *, sync: bool = True) -> None:
        """Writes a scene's part of an array through the file: on a full disk the memory map would end the
        process."""
        array, path = self._arrays[name], self.path / f"{name}.npy"
        data = np.ascontiguousarray(value, array.dtype)
        try:
            with open(path, "r+b") as file:
                file.seek(array.offset + scene * data.nbytes)
                file.write(data.data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
        except OSError as error:
            raise InputError(
                f"{path} cannot be written: {error.strerror}. Free some space there: the same command "
                "continues after the last complete scene."
            ) from None

    def choose_source(
        self, target: int, rng: np.random.Generator, *, same_path: float, source_warp: float
    ) -> int:
        """Draws the source clip for a target clip, both as rows of the N * K clips.

        A warped target takes the forward clip of its own camera path with probability `same_path`; otherwise,
        and for every forward target, the source has another path. With probability `source_warp` the source
        is a warped clip too, where its path has one that is not the target.

        Of long paths the source is the forward window that shows most of the target's animation times.
        """
        scene, clip = divmod(target, self.clips)
        path, place = divmod(clip, self.clips_per_path)
        source_path = path
        if place < self.windows or rng.random() >= same_path:
            paths = -(-self.clips // self.clips_per_path)
            source_path = (path + rng.integers(1, paths)) % paths
        source = source_path * self.clips_per_path
        if self.windows > 1:
            return scene * self.clips + source + self._best_window(scene, clip, rng)
        if rng.random() < source_warp:
            end = min(source + self.clips_per_path, self.clips)
            others = [k for k in range(source + 1, end) if k != clip]
            source = int(rng.choice(others)) if others else source
        return scene * self.clips + source

    def _best_window(self, scene: int, clip: int, rng: np.random.Generator) -> int:
        times = self._arrays["animation_time"][scene, clip]
        starts = (self.frames - 1) * np.arange(self.windows)[:, None]
        shown = ((times >= starts) & (times <= starts + self.frames - 1)).sum(1)
        return int(rng.choice(np.flatnonzero(shown == shown.max())))

    def choose_memory(self, count: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """Draws a target clip that continues others, evenly, and a memory for it.

        The memory is `count` latent frames, in their order, out of all windows before the target's on its
        path, without frame 0 of each, which encodes a single picture. The frames are given as rows [count] of
        the N * K * F' latent frames.

        Returns:
          The target's row of the N * K clips, and the rows of the memory.
        """
        path = int(rng.integers(self.scenes * self.clips // self.windows))
        window = int(rng.integers(1, self.windows))
        earlier = path * self.windows + np.arange(window)
        frames = self._arrays["latents"].shape[2]
        rows = (earlier[:, None] * frames + np.arange(1, frames)).ravel()
        return path * self.windows + window, np.sort(rng.choice(rows, count, replace=False))

    def choose_clip(self, rng: np.random.Generator, *, source_warp: float) -> int:
        """Draws one of a scene's K clips as a source: forward, or with probability `source_warp` a warped
        one."""
        forward = np.arange(self.clips) % self.clips_per_path == 0
        wanted = ~forward if rng.random() < source_warp and not forward.all() else forward
        return int(rng.choice(np.flatnonzero(wanted)))

    def clips_at(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The clips at rows [B] of the N * K: latents [B, F', H', W', C], c2w [B, F, 4, 4] and so on.

        Raises:
          InputError: a clip has numbers that no encoded clip has; the files have no checksums.
        """
        clips = {
            name: np.take(self._flat(name), rows, axis=0, mode="clip") for name in _ARRAYS
        }  # mode="clip" copies straight into the result and without the interpreter's lock
        self._check(clips, rows // self.clips)
        return clips

    def _check(self, clips: Mapping[str, np.ndarray], scenes: np.ndarray) -> None:
        """Raises `InputError` unless all numbers [B, ..] of these scenes [B] are finite, and c2w are poses:
        orthonormal rotations, above 0 0 0 1."""
        for name, values in clips.items():
            whole = np.isfinite(values)
            if name == "c2w":
                rotations = np.where(whole, values, 0)[..., :3, :3]
                product = rotations @ rotations.swapaxes(-1, -2)
                whole[..., :3, :3] &= np.abs(product - np.eye(3)) < 1e-2
                whole[..., 3, :] &= np.abs(values[..., 3, :] - [0, 0, 0, 1]) < 1e-3
            if not whole.all():
                wrong = int(scenes[np.argmin(whole.reshape(len(scenes), -1).all(1))])
                raise InputError(
                    f"{self.path / f'{name}.npy'}: scene {wrong} is damaged, as its numbers are of no clip; "
                    "write the cache again"
                )

    def memory_at(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Latent frames at rows [B, K] of the N * K * F': latents [B, K, H', W', C], and of the four pixel
        frames of each c2w [B, 4K, 4, 4], intrinsics [B, 4K, 4] and animation_time [B, 4K]."""
        latents = self._flat("latents")
        clips, frames = np.divmod(rows, latents.shape[1])
        pixel_frames = (4 * frames[..., None] + np.arange(-3, 1)).reshape(len(rows), -1)
        clips = np.repeat(clips, 4, axis=1)
        memory = {name: self._flat(name)[clips, pixel_frames] for name in View._fields}
        frames_of_all = latents.reshape(-1, *latents.shape[2:])
        memory["latents"] = np.take(frames_of_all, rows, axis=0, mode="clip")
        self._check(memory, clips[:, 0] // self.clips)
        return memory

    def pairs_at(
        self, targets: np.ndarray, sources: np.ndarray, memory: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The training examples for rows of targets and sources [B], batched.

        Args:
          memory: rows [B, K] of latent frames, see `choose_memory`; None: without a memory.
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


def _dtype(name: str) -> type:
    return {"latents": np.float16, "complete": np.bool_}.get(name, np.float32)


def _read_meta(path: Path) -> dict[str, Any]:
    """The meta.json of a cache; raises `InputError` unless it describes arrays that belong together."""
    file = path / "meta.json"
    meta = read_json(file, dict, most=2**24)
    shapes, per_path, windows = meta.get("shapes"), meta.get("clips_per_path"), meta.get("windows", 1)

    def whole(numbers: Any, count: int) -> bool:
        return isinstance(numbers, list) and [type(n) is int and n > 0 for n in numbers] == [True] * count

    if not isinstance(shapes, dict) or not whole(shapes.get("latents"), 6) or not whole(shapes.get("c2w"), 5):
        raise InputError(f"{file}: damaged, its shapes are missing or wrong; write the cache again")
    scenes, clips, *latent_shape = shapes["latents"]
    if shapes != _shapes(scenes, clips, shapes["c2w"][2], latent_shape):
        raise InputError(f"{file}: damaged, its shapes do not belong together; write the cache again")
    if not whole([per_path, windows], 2) or clips <= per_path or clips % windows or per_path % windows:
        raise InputError(f"{file}: damaged, clips_per_path or windows are wrong; write the cache again")
    known = {"seed": int, "flip": bool, "permute_channels": bool, "rules": str}
    if wrong := [name for name, kind in known.items() if name in meta and type(meta[name]) is not kind]:
        raise InputError(f"{file}: damaged, its {wrong[0]} is wrong; write the cache again")
    return meta


def _shapes(scenes: int, clips: int, frames: int, latent_shape: Sequence[int]) -> dict[str, list[int]]:
    return {
        "latents": [scenes, clips, *latent_shape],
        "c2w": [scenes, clips, frames, 4, 4],
        "intrinsics": [scenes, clips, frames, 4],
        "animation_time": [scenes, clips, frames],
        "complete": [scenes],
    }


def _write_empty(path: Path, meta: dict[str, Any]) -> None:
    """Writes the arrays of a new cache, zeros, and its meta.json.

    Raises:
      InputError: the folder has something in it; it cannot be written, or the disk has no room for the whole
        cache, and nothing is left of it.
    """
    if path.exists() and any(path.iterdir()):
        raise InputError(f"latent cache {path}: the folder is not empty and holds no latent cache")
    shapes: dict[str, list[int]] = meta["shapes"]
    try:
        path.mkdir(parents=True, exist_ok=True)
        needed = sum(math.prod(shape) * np.dtype(_dtype(name)).itemsize for name, shape in shapes.items())
        free = shutil.disk_usage(path).free
        if free < needed:
            raise InputError(
                f"latent cache {path}: {size_text(needed)} are needed, {size_text(free)} are free there"
            )
        for name, shape in shapes.items():
            np.lib.format.open_memmap(path / f"{name}.npy", "w+", _dtype(name), tuple(shape))
        # Written last: its presence says that the arrays are there.
        with replace_file(path / "meta.json") as partial:
            partial.write_text(json.dumps(meta, indent=1))
    except OSError as error:
        for name in shapes:
            with contextlib.suppress(OSError):
                (path / f"{name}.npy").unlink(missing_ok=True)
        raise InputError(f"latent cache {path}: cannot be written ({error.strerror})") from None
