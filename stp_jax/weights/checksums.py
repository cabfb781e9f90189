"""SHA-256 of weights files, computed in threads while the files are read otherwise."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError

THREADS = 8  # hashlib releases Python's lock
BUFFER = 2**20  # bytes


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            if not threading.main_thread().is_alive():
                raise InputError(f"{path} was not read to its end: Python is ending.")  # nobody waits for it
            digest.update(buffer[:count])
    return digest.hexdigest()


def sha256_of(paths: Iterable[Path]) -> list[str]:
    """The SHA-256 of each file, several at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(sha256, paths))


def sha256_of_values(values: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON values, however they are written."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def verified(sums: Mapping[Path, str]) -> Iterator[None]:
    """Hashes files while the block runs, which reads them; both use the same pages of the system's cache.

    Args:
      sums: the SHA-256 that each file should have.

    Raises:
      InputError: at the end of the block; a file has another one, or is gone.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = {path: pool.submit(sha256, path) for path in sums}
        try:
            yield
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        for path, one in found.items():
            try:
                same = one.result() == sums[path]
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
            if not same:
                raise InputError(
                    f"{path} is damaged: its SHA-256 is not the one in the JSON beside it. "
                    "Copy the weights folder again."
                )
