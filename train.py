"""Trains a model.

    python train.py --config configs/demo.py --workdir runs/demo [--config.train.steps=2000 ...]

Ctrl-C finishes the step, saves and exits with status 0; SIGTERM does the same and exits with status 143, so that a scheduler
sees that the run is not complete. A second Ctrl-C aborts at once. The same command continues a stopped run.
"""

from __future__ import annotations

import signal
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from stp_jax.errors import exit_on_input_error

CONFIG = config_flags.DEFINE_config_file("config", "configs/demo.py", "What to train: a file with get_config().")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, pictures, weights.")


@exit_on_input_error
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells every file that it renames
    from stp_jax.training.loop import train  # after the flags: --help need not wait for JAX

    if train(CONFIG.value, WORKDIR.value) is signal.SIGTERM:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    app.run(main)
