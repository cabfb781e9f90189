"""What the command lines share: mistakes in flags are `InputError`, as all mistakes of a user."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

from stp_jax.errors import InputError


class Parser(argparse.ArgumentParser):
    """Shows descriptions as they are written, and raises its errors as `InputError`."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")


def number(least: float, most: float, kind: type = float) -> Callable[[str], float]:
    """A flag's `type`: a number of this kind, from `least` to `most`."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            what = "a whole number" if kind is int else "a number"
            bounds = " to ".join(f"{bound:.10g}" for bound in (least, most))
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} from {bounds}")
        return value

    return parse


def count(text: str) -> int:
    """A flag's `type`: a whole number, at least 1."""
    return int(number(1, 10**9, int)(text))
