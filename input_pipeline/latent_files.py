"""The files of a latent cache, see `latents`: their shapes and what its meta.json must say."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from stp_jax.controls.view import View
from stp_jax.errors import InputError
from stp_jax.files import read_json, replace_file, size_text

ARRAYS = ("latents", *View._fields)
CLIP_ARRAYS = (*ARRAYS, "depth")  # all that a clip may have; depth is in some caches
CHECKSUMS = "crc32"  # how `checksums.npy` is computed, as meta.json has it; older caches have none


def dtype_of(name: str) -> type:
    types = {"latents": np.float16, "depth": np.float16, "complete": np.bool_, "checksums": np.uint32}
    return types.get(name, np.float32)


def all_shapes(meta: Mapping[str, Any]) -> dict[str, list[int]]:
    """The shapes of all arrays of a cache with this meta.json."""
    shapes = meta["shapes"]
    scenes, clips = shapes["latents"][:2]
    return shapes | ({"checksums": [scenes, clips + 1]} if "checksums" in meta else {})


def read_meta(path: Path) -> dict[str, Any]:
    """The meta.json of a cache; raises `InputError` unless it describes arrays that belong together."""
    file = path / "meta.json"
    meta = read_json(file, dict, most=2**24)
    shapes, per_path, windows = meta.get("shapes"), meta.get("clips_per_path"), meta.get("windows", 1)

    def whole(numbers: Any, count: int) -> bool:
        return isinstance(numbers, list) and [type(n) is int and n > 0 for n in numbers] == [True] * count

    if not isinstance(shapes, dict) or not whole(shapes.get("latents"), 6) or not whole(shapes.get("c2w"), 5):
        raise InputError(f"{file}: damaged, its shapes are missing or wrong; write the cache again")
    scenes, clips, *latent_shape = shapes["latents"]
    depth = shapes.get("depth") or []
    cells = depth[3:] if whole(depth, 5) else None
    if shapes != shapes_of(scenes, clips, shapes["c2w"][2], latent_shape, cells):
        raise InputError(f"{file}: damaged, its shapes do not belong together; write the cache again")
    fewest = 0 if meta.get("scene_kind") == "single" else 1  # clips beyond the first camera path
    if (
        not whole([per_path, windows], 2)
        or clips < per_path + fewest
        or clips % windows
        or per_path % windows
    ):
        raise InputError(f"{file}: damaged, clips_per_path or windows are wrong; write the cache again")
    known = {"seed": int, "flip": bool, "permute_channels": bool, "rules": str, "scene_kind": str}
    if wrong := [name for name, kind in known.items() if name in meta and type(meta[name]) is not kind]:
        raise InputError(f"{file}: damaged, its {wrong[0]} is wrong; write the cache again")
    if meta.get("checksums", CHECKSUMS) != CHECKSUMS:
        raise InputError(f"{file}: its checksums are of an unknown kind; a newer version may read it")
    return meta


def check_paths(path: Path, clips: int, clips_per_path: int, windows: int, meta: Mapping[str, Any]) -> None:
    """Raises `InputError` where a target would have no source in a new cache."""
    single = meta.get("scene_kind") == "single"
    if single and not clips == clips_per_path > windows == 1:
        raise InputError(
            f"latent cache {path}: scenes of one camera have one camera path; give clips_per_path = {clips}, "
            "the clips of a scene, two at least, and windows = 1"
        )
    if not single and clips <= clips_per_path:
        raise InputError(
            f"latent cache {path}: {clips} clips per scene give no second camera path; "
            f"ask for more than clips_per_path = {clips_per_path}"
        )


def shapes_of(
    scenes: int,
    clips: int,
    frames: int,
    latent_shape: Sequence[int],
    depth_size: Sequence[int] | None = None,
) -> dict[str, list[int]]:
    """The arrays of a cache; with a `depth_size` (h, w) it has depth."""
    depth = {} if depth_size is None else {"depth": [scenes, clips, frames, *depth_size]}
    return {
        "latents": [scenes, clips, *latent_shape],
        "c2w": [scenes, clips, frames, 4, 4],
        "intrinsics": [scenes, clips, frames, 4],
        "animation_time": [scenes, clips, frames],
        **depth,
        "complete": [scenes],
    }


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """While it lasts no other process creates this cache; waits until it is this one's turn.

    Raises:
      InputError: the folder cannot be written, or its disk knows no locks.
    """
    lock = filelock.FileLock(path / "create.lock", timeout=600)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"latent cache {path}: cannot be created by several processes ({reason})") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def alone(path: Path, shard: tuple[int, int]) -> Iterator[None]:
    """While it lasts no other process writes part (I, N) of a cache, or parts of another number N.

    The system releases the lock however the process ends.

    Raises:
      InputError: another process does.
    """
    names = "part_{}_of_{}.lock"
    with contextlib.ExitStack() as locks:
        try:
            locks.enter_context(filelock.FileLock(path / names.format(*shard), timeout=0))
            others = set(path.glob(names.format("*", "*"))) - set(path.glob(names.format("*", shard[1])))
            for other in sorted(others):  # after its own: of two that begin at once none misses the other
                with filelock.FileLock(other, timeout=0):
                    pass
        except filelock.Timeout as error:
            raise InputError(
                f"latent cache {path}: another process writes {Path(error.lock_file).stem}; all that write "
                "at once need the same N in --shard I/N, and each an I of its own"
            ) from None
        except (NotImplementedError, OSError) as error:
            print(f"{path} cannot be locked ({error}): see to it that no other process writes the same part")
        yield


def write_empty(
    path: Path,
    meta: dict[str, Any],
    arrays: Mapping[str, tuple[Sequence[int], type]],
    what: str = "latent cache",
) -> None:
    """Writes arrays of zeros, of these shapes and dtypes, and then a meta.json.

    Raises:
      InputError: the folder has something in it; it cannot be written, or the disk has no room for the
        whole, and nothing is left of it. Messages call it `what`.
    """
    if path.exists() and any(file.suffix != ".lock" for file in path.iterdir()):
        raise InputError(f"{what} {path}: the folder is not empty and holds no {what}")
    try:
        path.mkdir(parents=True, exist_ok=True)
        needed = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays.values())
        free = shutil.disk_usage(path).free
        if free < needed:
            raise InputError(
                f"{what} {path}: {size_text(needed)} are needed, {size_text(free)} are free there"
            )
        for name, (shape, dtype) in arrays.items():
            np.lib.format.open_memmap(path / f"{name}.npy", "w+", dtype, tuple(shape))
        # Written last: its presence says that the arrays are there.
        with replace_file(path / "meta.json") as partial:
            partial.write_text(json.dumps(meta, indent=1))
    except OSError as error:
        for name in arrays:
            with contextlib.suppress(OSError):
                (path / f"{name}.npy").unlink(missing_ok=True)
        raise InputError(f"{what} {path}: cannot be written ({error.strerror})") from None


def write_entry(path: Path, array: np.memmap, number: int, value: np.ndarray, *, sync: bool = True) -> None:
    """Writes entry `number` of a mapped .npy file through the file: on a full disk the map would end the
    process.

    Raises:
      InputError: it cannot be written.
    """
    data = np.ascontiguousarray(value, array.dtype)
    with writing(path), open(path, "r+b") as file:
        file.seek(array.offset + number * data.nbytes)
        file.write(data.data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises `InputError` for a file that cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}. Free some space there: the same command "
            "continues after the last complete scene."
        ) from None


def clip_shapes(meta: Mapping[str, Any]) -> dict[str, list[int]]:
    """The shapes of a scene's arrays."""
    return {name: shape[1:] for name, shape in meta["shapes"].items()}


def check_numbers(path: Path, clips: Mapping[str, np.ndarray], scenes: np.ndarray) -> None:
    """Raises `InputError` unless all numbers [B, ..] of these scenes [B] are finite, and c2w are poses:
    orthonormal rotations, above 0 0 0 1."""
    for name, values in clips.items():
        whole = np.isfinite(values)
        if name == "depth":
            whole &= values >= 0
        if name == "c2w":
            rotations = np.where(whole, values, 0)[..., :3, :3]
            product = rotations @ rotations.swapaxes(-1, -2)
            whole[..., :3, :3] &= np.abs(product - np.eye(3)) < 1e-2
            whole[..., 3, :] &= np.abs(values[..., 3, :] - [0, 0, 0, 1]) < 1e-3
        if not whole.all():
            wrong = int(scenes[np.argmin(whole.reshape(len(scenes), -1).all(1))])
            raise InputError(
                f"{path / f'{name}.npy'}: scene {wrong} is damaged, as its numbers are of no clip; "
                "write the cache again"
            )
