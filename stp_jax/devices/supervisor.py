"""Exit statuses and messages of a program on the devices, for one process and for one of several.

JAX ends a process at once when another of the run is gone, without a message. So each process of several is
the child of one that waits for it and prints the message.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from stp_jax.errors import InputError, of_a_disk, starting

LOST = 75  # exit status: another process of the run is gone; starting all again may help (EX_TEMPFAIL)
CHILD = "STP_JAX_WORKER"  # set in the environment of the process that computes
LESS_MEMORY = (
    "docs/scaling.md says what needs less memory: a larger config.mesh.fsdp or sequence, "
    "config.train.accumulate, config.model.remat."
)


def is_child() -> bool:
    """Whether this process is the child that `run_as_child` started."""
    return bool(os.environ.get(CHILD))


def run_as_child() -> int:
    """Runs this same command as a child process, and returns its exit status.

    The child has its own session: a signal that a terminal sends to all must not reach it twice.
    """
    child = subprocess.Popen(
        [sys.executable, *sys.argv], env=os.environ | {CHILD: "1"}, start_new_session=True
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: child.send_signal(number))
    status = child.wait()
    if status == -signal.SIGABRT:
        print(
            "error: another process of this run is gone, or cannot be reached.\nStart all of them again with "
            "the same command: the run continues from its last checkpoint.",
            file=sys.stderr,
        )
        return LOST
    return 128 - status if status < 0 else status


def exit_as(work: Callable[[], signal.Signals | None]) -> None:
    """Does the work, which returns the signal that ended it early, and ends the process accordingly.

    Exit status 128 + number after SIGTERM, SIGUSR1 and a second Ctrl-C; 2 after a mistake of the user, and
    where the devices' memory is too small or a disk is full; else 0.

    Raises:
      InputError: a mistake or a full disk, in a run of one process.
    """
    # A shell starts background processes with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with starting():
        import jax

    try:
        stopped_by = work()
    except KeyboardInterrupt:
        print("Aborted; work since the last checkpoint is lost.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except InputError as error:
        _end_with_mistake(error)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        if "RESOURCE_EXHAUSTED" in str(error):
            stats = jax.local_devices()[0].memory_stats() or {}
            reason += in_pieces(reason, stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0))
            _end_with_mistake(InputError(f"the devices' memory is too small: {reason}\n{LESS_MEMORY}"))
        if jax.process_count() == 1:
            raise
        print(f"Process {jax.process_index()}: {reason}", file=sys.stderr, flush=True)
        os.abort()  # an orderly exit would wait for the others; `run_as_child` says the rest
    except Exception as error:  # a fault of the program, if not of a disk
        mistake = of_a_disk(error) if isinstance(error, OSError) else None
        if mistake is not None:
            _end_with_mistake(mistake)
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        sys.stderr.flush()
        os.abort()
    if stopped_by in (signal.SIGTERM, signal.SIGUSR1):
        sys.exit(128 + stopped_by)


def in_pieces(reason: str, free: int) -> str:
    """What to add to JAX's message where enough bytes are free, but not side by side.

    A step that takes more than half of the memory at once fits in one place only, and a batch that waits
    there for its turn is enough to keep it out.
    """
    asked = re.search(r"allocate ([\d.]+)GiB", reason)
    if asked is None or float(asked[1]) * 2**30 > free:
        return ""
    return f" ({free / 2**30:.1f} GiB are free, but not in one piece)"


def _end_with_mistake(error: InputError) -> NoReturn:
    """Ends one process of several at once: an orderly exit would wait minutes for the others."""
    import jax

    if jax.process_count() == 1:
        raise error from None
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(2)
