"""Weights inside optional packages: found without importing the package, and checked by their SHA-256."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from stp_jax.errors import InputError


def weights_of(package: str, version: str, file: str, sha256: str) -> Path | None:
    """The file `weights/<file>` of an installed package; `package` is its name for pip.

    Returns:
      None if the package is not installed.

    Raises:
      InputError: the file is not the one of this checksum.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "weights" / file
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        right = f"{package}=={version}"
        raise InputError(f"{path} is not that of {package} {version}: pip install --force-reinstall {right}")
    return path
