"""The error for a user's mistakes, as distinct from faults of the program."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable


class InputError(ValueError):
    """A mistake in what the user gave us: a file, a flag, a config.

    The message is one or two lines: what was wrong with which file or flag, and what to do.
    """


def exit_on_input_error(main: Callable[..., None]) -> Callable[..., None]:
    """Wraps a command line's `main`: an `InputError` is printed to stderr and ends it with exit status 2."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> None:
        try:
            main(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return wrapped
