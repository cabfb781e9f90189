"""The error for a user's mistakes, as distinct from faults of the program, and how a command ends."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

# Of a disk that is full, of a quota, a limit or a mount that forbids writing: what a user can mend.
_OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}
# Of a name that is no place for what was meant: a file where a folder was expected, a name that is too long.
_OF_NAMES = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
_OURS = ("configs", "input_pipeline", "launch", "stp_jax")  # a module that is missing there is our fault
INTERRUPTED = 128 + signal.SIGINT  # exit status after Ctrl-C, as shells count it


class InputError(ValueError):
    """A mistake in what the user gave us: a file, a flag, a config.

    The message is one or two lines: what was wrong with which file or flag, and what to do.
    """


def exit_on_input_error(main: Callable[..., None]) -> Callable[..., None]:
    """Wraps a command line's `main`: an `InputError` is printed to stderr and ends it with exit status 2.

    So is the `OSError` of a full disk, of one that must not be written, or of a file in a folder's place.
    What it prints may have letters that the terminal does not know.
    Ctrl-C ends it with one line and exit status 130, unless `main` handles it; a reader of its output that
    goes away (`| head`) with status 141.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> None:
        for stream in (sys.stdout, sys.stderr):
            # File names may have letters that a terminal's encoding lacks: shown as \xe9, not raised.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            main(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read the output has gone, as in `| head`; Python would write the rest at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            mistake = of_a_disk(error)
            if mistake is None:
                raise
            print(f"error: {mistake}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
            sys.exit(INTERRUPTED)

    return wrapped


def of_a_disk(error: OSError) -> InputError | None:
    """The error to show for one of a disk: the file, if known, and what to do. None: it is another one."""
    of_a_name = error.errno in _OF_NAMES and error.filename is not None
    if error.errno not in _OF_DISKS and not of_a_name:
        return None
    file = "a file" if error.filename is None else os.fsdecode(error.filename)
    if of_a_name or error.errno in (errno.EACCES, errno.EROFS):
        return InputError(f"{file}: {error.strerror}. Choose a file or folder that you may use.")
    advice = "Free some space there, and give the command again."
    return InputError(f"{file} cannot be written: {error.strerror}. {advice}")


@contextlib.contextmanager
def starting(is_command: bool = True) -> Iterator[None]:
    """While a command imports modules and reads its flags, Ctrl-C ends it at once: a line, exit status 130.

    An exception would not do: it would come up inside some library's import, which may turn it into another,
    or abort the process. Nothing must have been begun yet that would have to be ended in order. See also
    `importing`. A library that is not installed ends the command, too, with exit status 2.

    Args:
      is_command: False: nothing is changed, as for a module that another program imports.
    """

    def stop(_number: int, _frame: object) -> NoReturn:
        os.write(2, b"Stopped.\n")
        os._exit(INTERRUPTED)

    if not is_command:
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    # The background processes of a shell ignore it.
    stops = before is signal.default_int_handler and in_main_thread
    if stops:
        signal.signal(signal.SIGINT, stop)
    try:
        with importing():
            yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise
        print(f"error: {_not_installed(error.name)}", file=sys.stderr)
        sys.exit(2)
    finally:
        if stops:
            signal.signal(signal.SIGINT, before)


def _not_installed(module: str) -> str:
    return (
        f"{sys.executable} lacks the module {module}.\nInstall this project for it with pip install -e . and "
        "the extras that README.md names for this command, or use the Python that has it."
    )


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """While modules are imported Python does not look for garbage, nor later in what they made.

    That is a million objects that stay, through which it would look for a sixth of the time of the imports.
    """
    collects, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:
            gc.freeze()
        if collects:
            gc.enable()


def run_command(module: str) -> None:
    """Imports a module under `starting`, and calls its `main`."""
    with starting():
        main = importlib.import_module(module).main
    main()
