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

import argparse
import signal
import sys

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting():  # these take half a second
    from absl import logging

    from stp_jax.command_line import Parser, read_config
    from stp_jax.devices import supervisor


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and those that set fields of the config: `--config.FIELD=VALUE`."""
    parser = Parser(prog="python train.py", description=__doc__)
    add = parser.add_argument
    add("--config", metavar="FILE", help="what to train: a file with get_config()")
    add("--config.FIELD", metavar="VALUE", help="sets a field of the config, as --config.train.steps=2000")
    add("--workdir", metavar="FOLDER", help="of the run: checkpoints, metrics, pictures, weights")
    add("--coordinator", default="", help="of several processes: host:port of the first, or auto")
    add("--processes", type=int, default=0, help="how many there are, unless --coordinator=auto")
    add("--process", type=int, default=-1, help="which one this is, from 0 on, unless --coordinator=auto")
    add("--heartbeat_seconds", type=int, default=60, help="after which a silent process counts as dead")
    add("--profile", action="store_true", help="write a trace of three steps to the work directory")
    add("--verbosity", type=int, default=logging.WARNING, help="of the libraries; 1: all that they say")
    flags, fields = parser.parse_known_args(arguments)
    if flags.config is None:
        raise InputError("--config is missing: give a file such as configs/demo.py.")
    if flags.processes > 1 and not flags.coordinator:
        raise InputError(f"--processes={flags.processes} needs --coordinator, host:port of the first one.")
    if not flags.workdir:
        raise InputError("--workdir is missing: give the folder of the run, new or to continue.")
    logging.set_verbosity(flags.verbosity)  # by default without Orbax, which tells every file that it renames
    return flags, fields


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    with starting():
        flags, fields = parse(sys.argv[1:] if argv is None else argv)
    if flags.coordinator and not supervisor.is_child():
        sys.exit(supervisor.run_as_child())  # the child reads the config, which takes seconds and memory
    with starting():  # a config's file imports what it likes
        config = read_config(flags.config, fields)

    def work() -> signal.Signals | None:
        with starting():  # only now: --help need not wait for JAX
            from stp_jax.devices.distributed import connect
            from stp_jax.devices.hardware import use_compilation_cache
            from stp_jax.training.loop import train

            use_compilation_cache()
            seconds = flags.heartbeat_seconds
            connect(flags.coordinator, flags.processes, flags.process, heartbeat_seconds=seconds)
        return train(config, flags.workdir, profile=flags.profile)

    supervisor.exit_as(work)


if __name__ == "__main__":
    main()
