"""What the readers of cameras and animation time share: files of numbers, and names that may be misspelt."""

from __future__ import annotations

import difflib
import json
import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from stp_jax.errors import InputError


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the known ones: suggests the nearest, or lists them all."""
    known = list(known)
    near = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"
    return InputError(f"unknown {what} {name!r}: {hint}")


def number(text: str) -> float | None:
    """The finite number that `text` spells, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
