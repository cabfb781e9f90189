"""The folder of a run belongs to one config."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from stp_jax.errors import InputError

# Fields that may differ when a run is continued; a name stands for everything below it.
FREE_FIELDS = (
    *("train.steps", "train.seconds", "train.log_every", "train.checkpoint_every", "train.pictures_every"),
    *("train.export_every", "train.export_dtype", "train.keep_checkpoints", "train.validate_every"),
    *("train.max_skipped", "train.data_workers", "mesh", "pictures", "sampling"),
)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Makes the work directory, or checks that the run in it has the same config.

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
            return
        old = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"--workdir {workdir}: {error.strerror}. Give a folder you may write to.") from None
    except json.JSONDecodeError:
        raise InputError(f"--workdir {workdir}: config.json is damaged. Give a new --workdir.") from None
    old, new = _flat(old), _flat(json.loads(config.to_json_best_effort()))
    free = tuple(f"{field}." for field in FREE_FIELDS)
    changed = [
        f"{name} was {old.get(name, '(absent)')}, is {new.get(name, '(absent)')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not f"{name}.".startswith(free)
    ]
    if changed:
        more = f"; and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise InputError(
            f"--workdir {workdir} holds a run with another config: {'; '.join(changed[:8])}{more}.\n"
            "Give a new --workdir, or the old config to continue that run."
        )


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Writes config.json at once or not at all."""
    temporary = workdir / "config.json.tmp"
    temporary.write_text(json.dumps(json.loads(config.to_json_best_effort()), indent=1) + "\n")
    os.replace(temporary, workdir / "config.json")
