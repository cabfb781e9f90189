"""Readers with faults, to test that the harness finds each."""

import ctypes
import os
import time
from pathlib import Path

from stp_jax.errors import InputError
from tests.fuzz.inputs import Reader, Seed
from tests.fuzz.mutators import BYTES


def _seeds(work: Path) -> list[Seed]:
    return [Seed({"a": b"whole"}, "a", BYTES)]


def _of_damage(fault):
    """A reader that is right about whole files, and about every second damaged one."""

    def read(folder: Path) -> None:
        data = (folder / "a").read_bytes()
        if data != b"whole":
            if len(data) % 2:
                raise InputError("damaged")
            fault()

    return read


def _take_memory() -> None:
    bytearray(1_200_000_000)[::4096] = b"x" * 292_969


def _hide_memory_error() -> None:
    try:
        bytearray(10**11)
    except MemoryError:
        raise InputError("damaged") from None


FAULTS = {
    "raises": lambda: {}["a"],
    "hangs": lambda: time.sleep(100),
    "crashes": lambda: ctypes.string_at(0),
    "exits": lambda: os._exit(0),
    "takes memory": _take_memory,
    "hides a memory error": _hide_memory_error,
    "none": lambda: None,
}
READERS = [Reader(name, _seeds, _of_damage(fault)) for name, fault in FAULTS.items()]
