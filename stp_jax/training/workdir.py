"""The work directory of a run: it belongs to one config, and to one run at a time."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
from ml_collections import ConfigDict

from stp_jax.errors import InputError
from stp_jax.files import read_json, replace_file
from stp_jax.training.config import with_defaults

# Fields that may differ when a run is continued; a name stands for everything below it.
FREE_FIELDS = (
    *("train.steps", "train.seconds", "train.log_every", "train.checkpoint_every", "train.pictures_every"),
    *("train.export_every", "train.export_dtype", "train.keep_checkpoints", "train.validate_every"),
    *("train.validation", "train.validation_batches"),
    *("train.max_skipped", "train.data_workers", "train.accumulate", "mesh", "pictures", "sampling"),
    # How, not what, is computed.
    *("model.remat", "model.ffn_parts", "model.unroll", "model.fused"),
    *("optimizer.ema_every", "optimizer.muon_dtype", "data.cached_scenes", "data.cached_gb"),
    *("data.path", "data.source_latents", "vae", "text", "init_from"),  # files may have moved
)
_FREE_PATTERN = "data.mixture.*.path"  # of each part
LOCK_SECONDS = 60  # a job that is started again may find the one before still ending


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def check_workdir(workdir: Path, config: ConfigDict) -> list[str]:
    """Makes the work directory, or checks that the run in it has the same config.

    Returns:
      The differences in fields that may differ, to log.

    Raises:
      InputError: the folder cannot be written, or belongs to a run with another config (the difference is
        shown).
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
        path = workdir / "config.json"
        if not path.exists():
            return []
        old = read_json(path, dict, most=2**20)
    except OSError as error:
        raise InputError(f"--workdir {workdir}: {error.strerror}. Give a folder you may write to.") from None
    except InputError as error:
        raise InputError(f"--workdir: {error}. Give a new --workdir, or that file's backup.") from None
    old, new = (_flat(with_defaults(one)) for one in (old, json.loads(config.to_json_best_effort())))
    free = tuple(f"{field}." for field in FREE_FIELDS)
    differences = {
        name: f"{_shown(name)} was {_shown(old.get(name, '(absent)'))}, is {new.get(name, '(absent)')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }
    changed = [
        line
        for name, line in differences.items()
        if not f"{name}.".startswith(free) and not fnmatch.fnmatchcase(name, _FREE_PATTERN)
    ]
    if changed:
        more = f"; and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise InputError(
            f"--workdir {workdir} holds a run with another config: {'; '.join(changed[:8])}{more}.\n"
            "Give a new --workdir, or the old config to continue that run."
        )
    return list(differences.values())


def _shown(value: Any) -> str:
    """A value of a file, which may be damaged, in part of a line."""
    return " ".join(str(value).split())[:100]


@contextlib.contextmanager
def locked(workdir: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Keeps other runs out of the work directory; waits a while for one that is just ending.

    The system releases the lock however the process ends.

    Raises:
      InputError: another run uses it, or it cannot be written.
    """
    lock, holder = filelock.FileLock(workdir / "lock"), workdir / "lock_holder"
    try:
        _acquire(lock, workdir, holder, report)
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    except OSError as error:
        raise InputError(f"--workdir {workdir}: {error.strerror}. Give one with room to write.") from None
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: filelock.BaseFileLock, workdir: Path, holder: Path, report: Callable[[str], None]) -> None:
    """Raises `InputError` where another process keeps the lock."""
    with contextlib.suppress(filelock.Timeout):
        lock.acquire(timeout=0)
        return
    name = _read_holder(holder)
    report(f"--workdir {workdir} is in use ({name}); waiting for {LOCK_SECONDS} s.")
    try:
        lock.acquire(timeout=LOCK_SECONDS, poll_interval=0.5)
    except filelock.Timeout:
        name = _read_holder(holder)
        raise InputError(
            f"--workdir {workdir} is in use by another run ({name}): stop that one first."
        ) from None


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()[:200] or "another process"
    except OSError:
        return "another process"


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Writes config.json whole or not at all. Raises `InputError` where it cannot."""
    try:
        with replace_file(workdir / "config.json") as partial:
            partial.write_text(json.dumps(json.loads(config.to_json_best_effort()), indent=1) + "\n")
    except OSError as error:
        raise InputError(f"--workdir {workdir}: {error.strerror}. Free some space there.") from None
