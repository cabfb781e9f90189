r"""Compiles the real train step, or a velocity for sampling, for devices that are not there: will it fit?

    python -m stp_jax.compile_for --topology v5p:4x4x4 --config configs/wan_1_3b_plucker.py
    python -m stp_jax.compile_for --topology v6e:8x8 --config configs/wan_14b_plucker.py \
        --mesh fsdp=16 sequence=4
    python -m stp_jax.compile_for --topology gpu:8 --config configs/wan_14b_plucker.py --mesh sequence=8

For TPUs any machine does, with `pip install -e '.[tpu]'`: their compiler needs none. It takes some minutes
and a few GiB. Topologies are named as Cloud TPU names them: v4, v5e, v5p, v6e, tpu7x and the chips along each
axis. `gpu:8` are eight GPUs such as the one of this machine, joined by NVLink; their compiler needs one.
"""

from __future__ import annotations

import argparse
import os
import re

from stp_jax.command_line import Parser, count, number, read_config
from stp_jax.compile_for.topology import NO_POD, gpus_of
from stp_jax.errors import InputError, exit_on_input_error


def parse_mesh(texts: list[str]) -> dict[str, int]:
    """Raises `InputError` unless every text is as `fsdp=16`."""
    sizes = {}
    for text in texts:
        match = re.fullmatch(r"(data|fsdp|sequence|tensor)=(-?\d+)", text)
        if match is None:
            raise InputError(f"--mesh {text}: give sizes of data, fsdp, sequence, tensor, as fsdp=16.")
        sizes[match[1]] = int(match[2])
    return sizes


def parse_flags(arguments: list[str] | None) -> argparse.Namespace:
    """The command's flags. Raises `InputError` for an unknown flag or an impossible value."""
    parser = Parser(prog="python -m stp_jax.compile_for", description=__doc__)
    add = parser.add_argument
    add("--topology", required=True, help="such as v5p:4x4x4, or gpu:8")
    add("--config", required=True, metavar="FILE", help="such as configs/wan_1_3b_plucker.py")
    add("--mesh", nargs="+", default=[], metavar="AXIS=SIZE", help="default: that of the config")
    add("--batch_size", type=count, help="of all devices together; default: one video for each share of it")
    add("--accumulate", type=count, default=1, help="parts of the batch, one after the other")
    add("--remat", help="policy, see DiTConfig; default: that of the config")
    add("--sample", action="store_true", help="a velocity for sampling instead of the train step")
    add("--mfu", type=number(0.01, 1), default=0.45, help="assumed for the estimate; default 0.45")
    return parser.parse_args(arguments)


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    flags = parse_flags(arguments)
    if gpus_of(flags.topology):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    else:
        os.environ.update(NO_POD)
    config = read_config(flags.config)
    sizes = {"data": 1} | (parse_mesh(flags.mesh) or config.mesh.to_dict())
    if flags.remat:
        config.model.remat = flags.remat
    # Imports JAX, which reads the environment.
    from stp_jax.compile_for.compiling import compile_for, make_pod

    shares = make_pod(flags.topology, sizes).shape
    config.train.accumulate = flags.accumulate
    config.train.batch_size = flags.batch_size or flags.accumulate * shares["data"] * shares["fsdp"]
    print("Compiling: this takes some minutes ...", flush=True)
    result = compile_for(flags.topology, config, sizes, "sample" if flags.sample else "train")
    print(result.report(flags.mfu))
