"""Checkpoints with checksums; one that is damaged or incomplete is never used.

Each checkpoint is a folder `<step>/` written by Orbax in the background: params, opt_state and ema (arrays),
meta (JSON: the step, the position in the data, ..). A manifest with the SHA-256 of every file goes into
the folder just before Orbax renames it to its final name, because flipped bits would otherwise load
unnoticed. A checkpoint that does not match its manifest is moved to `damaged/`, reported, and the one before
it is used. Of what is in `damaged/` the last few are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from stp_jax.devices.distributed import broadcast_from_first
from stp_jax.errors import InputError
from stp_jax.files import read_json, size_text
from stp_jax.training.state import TrainState

MANIFEST = "manifest.json"
# Orbax adds the time of completion to this one afterwards; it holds nothing that a restore needs.
MOST_DAMAGED = 4  # kept in damaged/
NOT_SUMMED = {MANIFEST, "_CHECKPOINT_METADATA"}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """Records the SHA-256 of every file below `folder`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_SUMMED)
    names = [path.relative_to(folder).as_posix() for path in paths]
    with ThreadPoolExecutor(8) as pool:
        sums = dict(zip(names, pool.map(_sha256, paths), strict=True))
    (folder / MANIFEST).write_text(json.dumps(sums, indent=1) + "\n")


def _is_below(folder: Path, name: str) -> bool:
    """Whether a name found in a manifest is that of a file in the folder."""
    try:
        path = (folder / name).resolve()
        return path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def find_damage(folder: Path) -> str | None:
    """What is wrong with the checkpoint in `folder`, or None if every file is as it was written."""
    if not (folder / MANIFEST).exists():
        return f"{MANIFEST} is missing"
    try:
        sums = read_json(folder / MANIFEST, dict)
    except InputError as error:
        return str(error).removeprefix(f"{folder}/")
    if not sums:
        return f"{MANIFEST} is damaged"
    missing = [name for name in sums if not _is_below(folder, name)]
    if missing:
        return f"{missing[0][:200]!r} is missing"
    try:
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(_sha256, (folder / name for name in sums))
            changed = [name for name, digest in zip(sums, found, strict=True) if digest != sums[name]]
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror}"
    return f"{changed[0]} does not match its checksum" if changed else None


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Orbax warns that a tree of a checkpoint has no metadata of its own, which only the whole one has."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def read_averaged(folder: Path, wanted: Callable[[str], bool]) -> tuple[int, dict[str, np.ndarray]]:
    """Some parameters of the latest checkpoint, by their average where there is one. Changes nothing.

    Args:
      folder: of the checkpoints.
      wanted: of a parameter's name, whether it is read.

    Returns:
      The step, and the parameters in host memory.

    Raises:
      InputError: there is no checkpoint; the latest one is damaged.
    """
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if not steps:
        raise InputError(f"{folder} holds no checkpoint. Give the --workdir of a run of train.py.")
    latest = folder.resolve() / str(max(steps))
    if damage := find_damage(latest):
        raise InputError(f"{latest} is damaged: {damage}. Remove it to take the one before.")
    found: dict[str, np.ndarray] = {}
    for tree in ("params", "ema"):
        if not (latest / tree).is_dir():
            continue
        with _without_warnings(), ocp.StandardCheckpointer() as checkpointer:
            names = checkpointer.metadata(latest / tree).item_metadata.tree
        item = {
            name: jax.ShapeDtypeStruct(one.shape, one.dtype) for name, one in names.items() if wanted(name)
        }
        as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in item}
        arguments = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
        with ocp.PyTreeCheckpointer() as checkpointer:
            found |= checkpointer.restore(latest / tree, args=arguments) if item else {}
    return max(steps), found


def _trees(state: TrainState) -> dict[str, Any]:
    """The parts of a state that Orbax stores; it takes no empty trees."""
    return {name: tree for name, tree in state._asdict().items() if name != "step" and jax.tree.leaves(tree)}


class Checkpoints:
    """The checkpoints of one run.

    All processes of a run call every method; only the first one changes the folder.

    Args:
      folder: made if missing.
      keep: how many of the latest to keep.
      report: called with one line for everything that a user should know about the checkpoints found.

    Raises:
      InputError: there are checkpoints, but every one is damaged.
    """

    def __init__(self, folder: str | os.PathLike, *, keep: int = 3, report: Callable[[str], None] = print):
        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.latest = self._agreed_latest(report)
        self._report, self._saving, self._before = report, -1, self.latest
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._before_rename),
        )
        self._manager = ocp.CheckpointManager(self.folder, options=self._options)

    def _agreed_latest(self, report: Callable[[str], None]) -> int | None:
        """The latest whole checkpoint that the first process finds, on all processes."""
        if jax.process_count() == 1:
            return self._latest_whole(report)
        from jax.experimental import multihost_utils

        found, error = -1, None
        if jax.process_index() == 0:
            try:
                latest = self._latest_whole(report)
                found = -1 if latest is None else latest
            except InputError as raised:
                found, error = -2, raised
        found = int(multihost_utils.broadcast_one_to_all(np.int64(found)))
        if found == -2:
            raise error or InputError(f"{self.folder}: no checkpoint is whole; see the first process.")
        return None if found == -1 else found

    def _latest_whole(self, report: Callable[[str], None]) -> int | None:
        for path in sorted(self.folder.glob("*.orbax-checkpoint-tmp*")):
            step, aside = path.name.split(".")[0], self._set_aside(path)
            report(f"The writing of checkpoint {step} was interrupted; what there is was moved to {aside}.")
        numbers = [int(path.name) for path in self.folder.iterdir() if path.name.isdigit()]
        for number in sorted(numbers, reverse=True):
            damage = find_damage(self.folder / str(number))
            if damage is None:
                self._clean(report)
                return number
            aside = self._set_aside(self.folder / str(number))
            report(
                f"Checkpoint {number} is damaged ({damage}) and was moved to {aside}; trying the one before."
            )
        self._clean(report)
        damaged = self.folder / "damaged"
        if any(path.name.isdigit() for path in damaged.glob("*")):
            raise InputError(
                f"{self.folder}: no checkpoint is whole; the damaged ones are in {damaged}. "
                "Restore one from a backup, or give another --workdir to start anew."
            )
        return None

    def _set_aside(self, path: Path) -> Path:
        damaged = self.folder / "damaged"
        damaged.mkdir(exist_ok=True)
        aside, count = damaged / path.name, 1
        while aside.exists():
            aside, count = damaged / f"{path.name}-{count}", count + 1
        return path.rename(aside)

    def _clean(self, report: Callable[[str], None]) -> None:
        """Removes all but the last few of the checkpoints in damaged/, those of interrupted writing first."""
        found = [path for path in (self.folder / "damaged").glob("*") if path.is_dir()]
        found.sort(key=lambda path: (path.name.partition("-")[0].isdigit(), path.stat().st_mtime))
        for path in found[: max(0, len(found) - MOST_DAMAGED)]:
            shutil.rmtree(path, ignore_errors=True)
            report(f"{path} was removed: the last {MOST_DAMAGED} are kept there.")

    def _before_rename(self) -> None:
        # Orbax calls this when all items are written but the folder still has its temporary name, so a
        # checkpoint never appears without its manifest.
        if jax.process_index() == 0:
            (temporary,) = self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*")
            write_manifest(temporary)

    def save(self, state: TrainState, meta: dict[str, Any]) -> bool:
        """Starts to write a checkpoint of `state` at `meta["step"]`; returns once the arrays may change.

        Returns:
          Whether it is being written. It is not if the disk has no room for it, which is reported. If writing
          fails later, the checkpoint before is kept, and `wait` or the next `save` reports it.
        """
        self.wait()
        step = meta["step"]
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        if not broadcast_from_first(free > 1.05 * needed):
            self._report(
                f"Checkpoint {step} is NOT written: it takes {size_text(needed)} and {self.folder} has "
                f"{size_text(free)} free. Free some space; the next one will be tried."
            )
            return False
        self._saving, self._before = step, self.latest
        self._manager.save(
            step,
            args=ocp.args.Composite(
                meta=ocp.args.JsonSave(meta),
                **{name: ocp.args.StandardSave(tree) for name, tree in _trees(state).items()},
            ),
        )
        self.latest = step
        return True

    def meta(self) -> dict[str, Any]:
        """The JSON stored with the latest checkpoint."""
        return self._manager.restore(self.latest, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta

    def restore(self, like: TrainState) -> TrainState:
        """The latest checkpoint, laid out like `like` (arrays or abstract arrays), whatever mesh wrote it.

        Raises:
          InputError: it is of another model or optimizer.
        """
        trees = _trees(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
        args = {name: ocp.args.StandardRestore(tree) for name, tree in trees.items()}
        try:
            restored = self._manager.restore(self.latest, args=ocp.args.Composite(**args))
        except ValueError as error:  # whose message is a list of differing leaves
            if "match" not in str(error):
                raise
            raise InputError(
                f"{self.folder}: checkpoint {self.latest} is of another model or optimizer, perhaps of an "
                "earlier version of this program, which can finish it.\nA new --workdir can start from "
                f"exported weights: --config.init_from={self.folder.parent / 'weights'}"
            ) from None
        step = jax.device_put(jax.numpy.int32(self.latest), like.step.sharding)
        return like._replace(step=step, **{name: restored[name] for name in trees})

    def wait(self) -> None:
        """Returns when the checkpoint being written is whole, or reports that it is not."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # whatever the file system and the libraries between raise
            reason = str(error).strip().splitlines()[0][:200]
            self._report(
                f"Checkpoint {self._saving} could not be written ({reason}). "
                + ("There is none before it." if self._before is None else f"{self._before} is the latest.")
            )
            self.latest = self._before
            self._manager = ocp.CheckpointManager(self.folder, options=self._options)

    def close(self) -> None:
        """Waits for the last checkpoint, as `wait` does, and closes Orbax's manager."""
        self.wait()
        self._manager.close()
