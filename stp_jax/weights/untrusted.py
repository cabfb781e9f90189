"""What the readers of files from outside share: mapping, JSON, and limits that are checked before reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stp_jax import files
from stp_jax.errors import InputError

AGAIN = "Download or copy it again."
#: of what describes the tensors of a file: a header, a pickle, a zip's directory, an index. The largest of a
#: published model has 0.3 MB.
DESCRIPTION_BYTES = 16_000_000
SHOWN = 80  # characters of something found in a file, in a message


def memory_map(path: Path) -> np.ndarray:
    """The bytes of a file that is not empty, of which nothing is read yet.

    Raises:
      InputError: it cannot be read.
    """
    try:
        return np.memmap(path, np.uint8, mode="r")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      InputError: it cannot be read, is larger than `DESCRIPTION_BYTES`, or is no JSON object.
    """
    try:
        return files.read_json(path, dict, most=DESCRIPTION_BYTES)
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{path} is damaged or cannot be read: {reason}. {AGAIN}") from None


def shown(value: Any) -> str:
    """Something found in a file, for a message of one line."""
    if isinstance(value, dict | list):
        return f"a {'list' if isinstance(value, list) else 'group'} of {len(value)}"
    if isinstance(value, int) and abs(value) > 10**30:  # Python refuses to print very long ones
        return "a huge number"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
