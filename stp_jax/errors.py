"""The error for a user's mistakes, as distinct from faults of the program."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable


class InputError(ValueError):
    """A mistake in what the user gave us: a file, a flag, a config.

    The message is one or two lines: what was wrong with which file or flag, and what to do.
    """


def exit_on_input_error(main: Callable[..., None]) -> Callable[..., None]:
    """Wraps a command line's `main`: an `InputError` is printed to stderr and ends it with exit status 2.

    What it prints may have letters that the terminal does not know.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> None:
        for stream in (sys.stdout, sys.stderr):
            # File names may have letters that a terminal's encoding lacks: shown as \xe9, not raised.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            main(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return wrapped
