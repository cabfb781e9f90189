"""Flags and configs, as all command lines read them; a user's mistakes in them raise `InputError`."""

from __future__ import annotations

import argparse
import math
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ml_collections import ConfigDict

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


def read_config(spec: str, fields: Sequence[str] = ()) -> ConfigDict:
    """Runs get_config() of a file, and sets fields of the config that it returns.

    Args:
      spec: `file.py`, or `file.py:argument` for get_config(argument).
      fields: flags such as `--config.train.steps=100`, as `ml_collections.config_flags` reads them.

    Raises:
      InputError: the file cannot be read, its get_config() fails, there is no such field, or its value is of
        another type.
    """
    from absl import flags
    from ml_collections import config_flags

    path = spec.partition(":")[0]
    if not Path(path).is_file():
        raise InputError(f"--config {path}: there is no such file.")
    words = ["", f"--config={spec}", *fields]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    try:
        rest = values(words)
        made = config.value  # a file that cannot be read is only found out now
    except Exception as error:  # a config's file may raise anything, absl often only a bare message
        raise _mistake_in_config(path, error) from None
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]} (see --help)")
    if not isinstance(made, ConfigDict):
        raise InputError(f"--config {path}: its get_config() returns no ConfigDict.")
    return made


def _mistake_in_config(path: str, error: Exception) -> Exception:
    """An `InputError` of one line for what the user can mend; any other error as it is."""
    from absl import flags

    if isinstance(error, (InputError, SyntaxError)):
        return InputError(f"--config {path}: {error}")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if os.path.abspath(frame.filename) == os.path.abspath(path)]
    if own:
        what = "" if isinstance(error, AttributeError) else f"{type(error).__name__}: "
        return InputError(f"--config {path}:{own[-1].lineno}: {what}{error}")
    if isinstance(error, (AttributeError, KeyError)):  # no such function, or no such field
        if "get_config" in str(error):
            return InputError(f"--config {path}: the file has no function get_config().")
        reason = str(error).strip("'\"").replace("\\n", ". ").replace("\\'", "")  # quoted twice
        return InputError(f"the config has no such field: {reason} (its file lists them)")
    if not isinstance(error, (flags.Error, OSError)):
        return error
    reason = str(error).strip().splitlines()[-1].strip()
    if "Traceback" in str(error):  # what get_config() raised, as text with the reason at its end
        return InputError(f"--config {path}: {reason.split('InputError: ')[-1]}")
    return InputError(f"{reason} (see --help)")
