"""Trains a model.

    python train.py --config configs/demo.py --workdir runs/demo [--config.train.steps=2000 ...]

Ctrl-C finishes the step, saves and exits with status 0; SIGTERM does the same and exits with status 143, so
that a scheduler sees that the run is not complete. A second Ctrl-C aborts at once. The same command continues
a stopped run.
"""

from __future__ import annotations

import signal
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from stp_jax.errors import InputError, exit_on_input_error

CONFIG = config_flags.DEFINE_config_file("config", None, "What to train: a file with get_config().")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, pictures, weights.")


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; raises `InputError` where it cannot."""
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is not None:
            CONFIG.value.keys()  # a file that cannot be read is only found out now
    except InputError:
        raise
    except AttributeError as error:  # a --config.field of an unknown name
        reason = str(error).strip("'\"").replace("\\n", ". ").replace("\\'", "")  # quoted twice
        raise InputError(f"the config has no such field: {reason} (its file lists them)") from None
    except (flags.Error, OSError, SyntaxError) as error:
        # At times the message is a whole traceback, with the reason at its end.
        reason = str(error).strip().splitlines()[-1].split("InputError: ")[-1].strip()
        raise InputError(f"{reason} (see --help)") from None
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]} (see --help)")
    if CONFIG.value is None:
        raise InputError("--config is missing: give a file such as configs/demo.py.")
    if not WORKDIR.value:
        raise InputError("--workdir is missing: give the folder of the run, new or to continue.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells every file that it renames
    return rest


def main(_: list[str]) -> None:
    from stp_jax.training.loop import train  # only now: --help need not wait for JAX

    try:
        stopped_by = train(CONFIG.value, str(WORKDIR.value))
    except KeyboardInterrupt:
        print("Aborted; work since the last checkpoint is lost.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    if stopped_by is signal.SIGTERM:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    exit_on_input_error(lambda: app.run(main, flags_parser=parse))()
