"""What the command lines share: flags and configs. Mistakes in them are `InputError`, as all of a user."""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ml_collections import ConfigDict

from stp_jax.errors import InputError
from stp_jax.user_input import unknown


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


def check_fields(config: ConfigDict, where: str, known: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Raises `InputError` unless a part of a config has just the fields that are known."""
    if missing := [name for name in known if name not in config]:
        raise InputError(f"{where} lacks {', '.join(missing)}. configs/demo.py shows every field.")
    if strange := [name for name in config if name not in (*known, *optional)]:
        raise unknown(f"field of {where}", strange[0], [*known, *optional])


def read_config(spec: str) -> ConfigDict:
    """Runs get_config() of a file, `file.py` or `file.py:argument`. Raises `InputError` where it cannot."""
    path, _, argument = spec.partition(":")
    if not Path(path).is_file():
        raise InputError(f"--config {path}: there is no such file.")
    module_spec = importlib.util.spec_from_file_location("config", path)
    if module_spec is None or module_spec.loader is None:
        raise InputError(f"--config {path} is not a Python file.")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as error:
        raise InputError(f"--config {path}: {error}") from None
    if not hasattr(module, "get_config"):
        raise InputError(f"--config {path} has no function get_config().")
    try:
        return module.get_config(argument) if argument else module.get_config()
    except (TypeError, ValueError) as error:
        raise InputError(f"--config {spec}: {error}") from error
