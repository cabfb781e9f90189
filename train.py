"""Trains a model.

    python train.py --config configs/demo.py --workdir runs/demo [--config.train.steps=2000 ...]

Ctrl-C finishes the step, saves and exits with status 0; SIGTERM and SIGUSR1 do the same and exit with status
143 or 138, so that a scheduler sees that the run is not complete and starts it again. A second Ctrl-C aborts
at once. The same command continues a stopped run.

A run of several processes, one on each host, has the same command everywhere with --coordinator=auto under
SLURM, Kubernetes and on Cloud TPU (launch/ has examples), or by hand

    python train.py ... --coordinator=10.0.0.1:1234 --processes=2 --process=0    # on the other --process=1

If one of them dies the others end with status 75, and all are started again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from stp_jax.errors import InputError, exit_on_input_error

CONFIG = config_flags.DEFINE_config_file("config", None, "What to train: a file with get_config().")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, pictures, weights.")
COORDINATOR = flags.DEFINE_string("coordinator", "", "Of several processes: host:port of the first, or auto.")
PROCESSES = flags.DEFINE_integer("processes", 0, "How many there are, unless --coordinator=auto.")
PROCESS = flags.DEFINE_integer("process", -1, "Which one this is, from 0 on, unless --coordinator=auto.")
HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds", 60, "After which a process that is silent counts as dead."
)
PROFILE = flags.DEFINE_bool("profile", False, "Write a trace of three steps to the work directory.")

LOST = 75  # exit status: another process of the run is gone; starting all again may help (EX_TEMPFAIL)
LESS_MEMORY = (
    "docs/scaling.md tells what makes a run smaller: a larger config.mesh.fsdp or sequence, "
    "config.train.accumulate, config.model.remat."
)
WORKER = "STP_JAX_WORKER"  # set in the environment of the process that trains


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; raises `InputError` where it cannot."""
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is not None:
            CONFIG.value.keys()  # a file that cannot be read is only found out now
    except InputError:
        raise
    except AttributeError as error:  # a --config.field of an unknown name
        if place := failing_line(error):
            raise InputError(f"--config {place}: {error}") from None
        if "get_config" in str(error):
            raise InputError("--config: the file has no function get_config().") from None
        reason = str(error).strip("'\"").replace("\\n", ". ").replace("\\'", "")  # quoted twice
        raise InputError(f"the config has no such field: {reason} (its file lists them)") from None
    except Exception as error:  # a config's file may raise anything, absl often only a bare message
        if place := failing_line(error):
            raise InputError(f"--config {place}: {type(error).__name__}: {error}") from None
        if not isinstance(error, (flags.Error, OSError, SyntaxError)):
            raise
        # At times the message is a whole traceback, with the reason at its end.
        reason = str(error).strip().splitlines()[-1].split("InputError: ")[-1].strip()
        raise InputError(f"{reason} (see --help)") from None
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]} (see --help)")
    if CONFIG.value is None:
        raise InputError("--config is missing: give a file such as configs/demo.py.")
    if PROCESSES.value > 1 and not COORDINATOR.value:
        raise InputError(f"--processes={PROCESSES.value} needs --coordinator, host:port of the first one.")
    if not WORKDIR.value:
        raise InputError("--workdir is missing: give the folder of the run, new or to continue.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells every file that it renames
    return rest


def failing_line(error: BaseException) -> str:
    """Where in a config file that was being run an error came from, as file:line; "": nowhere there."""
    frames = traceback.extract_tb(error.__traceback__)
    given = {os.path.abspath(word.split("=", 1)[-1].split(":")[0]) for word in sys.argv[1:]}
    own = [frame for frame in frames if os.path.abspath(frame.filename) in given]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def watch() -> int:
    """Runs this very command as a process of its own and gives its exit status.

    JAX ends a process at once when another of the run is gone, with no chance to say anything. The process
    has a session of its own: what a terminal sends to all must not reach it twice.
    """
    worker = subprocess.Popen(
        [sys.executable, *sys.argv], env=os.environ | {WORKER: "1"}, start_new_session=True
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: worker.send_signal(number))
    status = worker.wait()
    if status == -signal.SIGABRT:
        print(
            "error: another process of this run is gone, or cannot be reached.\nStart all of them again with "
            "the same command: the run goes on from its last checkpoint.",
            file=sys.stderr,
        )
        return LOST
    return 128 - status if status < 0 else status


def end_at_once(message: str) -> NoReturn:
    """Ends one process of several for a mistake; an orderly exit would wait minutes for the others."""
    print(message, file=sys.stderr, flush=True)
    os._exit(2)


def main(_: list[str]) -> None:
    if COORDINATOR.value and not os.environ.get(WORKER):
        sys.exit(watch())
    # A shell starts what runs in its background deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        # Only now: --help need not wait for JAX.
        import faulthandler

        import jax

        from stp_jax.devices.distributed import connect
        from stp_jax.devices.hardware import use_compilation_cache
        from stp_jax.training.loop import train

        use_compilation_cache()
        faulthandler.disable()  # the stacks of all threads say nothing when JAX ends a process
        connect(COORDINATOR.value, PROCESSES.value, PROCESS.value, heartbeat_seconds=HEARTBEAT.value)
        stopped_by = train(CONFIG.value, str(WORKDIR.value), profile=PROFILE.value)
    except KeyboardInterrupt:
        print("Aborted; work since the last checkpoint is lost.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except InputError as error:
        if jax.process_count() == 1:
            raise
        end_at_once(f"error: {error}")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            message = f"the devices' memory is too small: {str(error).splitlines()[0][:200]}\n{LESS_MEMORY}"
            if jax.process_count() == 1:
                raise InputError(message) from None
            end_at_once(f"error: {message}")
        if jax.process_count() == 1:
            raise
        print(
            f"Process {jax.process_index()}: {str(error).splitlines()[0][:200]}", file=sys.stderr, flush=True
        )
        os.abort()  # an orderly exit would wait for the others; `watch` says the rest
    if stopped_by in (signal.SIGTERM, signal.SIGUSR1):
        sys.exit(128 + stopped_by)


if __name__ == "__main__":
    exit_on_input_error(lambda: app.run(main, flags_parser=parse))()
