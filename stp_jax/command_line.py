"""Flags and configs, as all command lines read them; a user's mistakes in them raise `InputError`."""

from __future__ import annotations

import argparse
import math
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

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


def shard_of_work(text: str) -> tuple[int, int]:
    """A flag's `type`: I/N, the part I of N, from 0 to N - 1."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not found or not int(found[1]) < int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no part I/N of a work, from 0/N to (N - 1)/N")
    return int(found[1]), int(found[2])


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

    made = _run_get_config(spec)
    values = flags.FlagValues()
    words = ["", *fields]
    try:
        config_flags.DEFINE_config_dict("config", made, flag_values=values, sys_argv=words)
        rest = values(words)
    except (KeyError, AttributeError) as error:
        reason = str(error).strip("'\"").replace("\\n", ". ").replace("\\'", "")  # quoted twice
        raise InputError(f"the config has no such field: {reason} (its file lists them)") from None
    except (flags.Error, TypeError, ValueError) as error:
        raise InputError(f"{_in_one_line(error)} (see --help)") from None
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]} (see --help)")
    return made


def _run_get_config(spec: str) -> ConfigDict:
    """The config of a file, as it is.

    `config_flags` would run the file in a module that earlier ones ran in, too: a file without get_config()
    would silently have that of the one before.
    """
    path, *argument = spec.split(":", 1)
    if not Path(path).is_file():
        raise InputError(f"--config {path}: there is no such file.")
    names: dict[str, Any] = {"__name__": "config", "__file__": path}
    try:
        exec(compile(Path(path).read_bytes(), path, "exec"), names)
        if "get_config" not in names:
            raise InputError("the file has no function get_config().")
        made = names["get_config"](*argument)
    except (InputError, SyntaxError, OSError) as error:
        raise InputError(f"--config {path}: {error}") from None
    except (Exception, SystemExit) as error:  # a config's file may raise anything
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path
        ]
        place = f"{path}:{lines[-1]}" if lines else path
        raise InputError(f"--config {place}: {type(error).__name__}: {_in_one_line(error)}") from None
    if not isinstance(made, ConfigDict):
        raise InputError(f"--config {path}: its get_config() returns no ConfigDict.")
    return made


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
