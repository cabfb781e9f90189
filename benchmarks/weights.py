"""How long weights take to read, and what their checks add: SHA-256 of every part, and finite numbers.

    python benchmarks/weights.py --gigabytes 8     # no GPU is needed; 8 GB of disk, and as much free memory

A folder of random bfloat16 numbers is written as `stp_jax.export --format ours` writes one, in parts of
1 GiB, and read as a model's parameters are, by turns: without checks, with finite numbers checked, and with
both. The files are in the system's cache; from a disk the checks cost less, as they wait for it, too.
The medians of five readings, after a first one.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from stp_jax.errors import exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import ml_dtypes
    import numpy as np

    from stp_jax.command_line import Parser
    from stp_jax.weights import native
    from stp_jax.weights.checksums import verified
    from stp_jax.weights.layouts import table
    from stp_jax.weights.layouts.table import Rule, lazy_parameters

PARAMETER = 2**27  # numbers of a parameter, as of the blocks of a large model
TIMES = 5


def write(folder: Path, gigabytes: float) -> None:
    """Random weights named `w00`, `w01`, .."""
    count = max(1, round(gigabytes * 1e9 / (2 * PARAMETER)))
    bits = np.random.default_rng(0).integers(0, 0x7F80, PARAMETER, np.uint16)  # positive finite numbers
    values = bits.view(ml_dtypes.bfloat16).reshape(32, -1, 1024)
    parameters = dict.fromkeys([f"w{i:02d}" for i in range(count)], values)
    native.save_weights(folder, "benchmark", parameters, {}, dtype=None, part_bytes=2**30)


def read(folder: Path, *, finite: bool, checksums: bool) -> float:
    """Seconds of reading all parameters, one after the other, as `stp_jax.weights.reading` does."""
    start = time.perf_counter()
    index, tensors = native.open_model(folder, "benchmark")
    pieces: dict[str, int] = {}
    for name in tensors:
        pieces[name.partition("#")[0]] = pieces.get(name.partition("#")[0], 0) + 1
    rules = [
        Rule(name, f"{name}#{{n}}", pieces=count, stacked=False)
        if f"{name}#0" in tensors
        else Rule(name, name)
        for name, count in pieces.items()
    ]
    check: Callable = table.all_finite
    try:
        if not finite:
            table.all_finite = lambda array: True  # type: ignore[attr-defined]
        with verified(native.sums_of(folder, index)) if checksums else nullcontext():
            for parameter in lazy_parameters(rules, tensors).values():
                np.asarray(parameter)
                parameter.release()
    finally:
        table.all_finite = check  # type: ignore[attr-defined]
    return time.perf_counter() - start


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python benchmarks/weights.py", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument(
        "--folder", help="for the files, which are removed at the end; default: a temporary one"
    )
    flags = parser.parse_args(arguments)
    kinds = {
        "without checks": dict(finite=False, checksums=False),
        "finite numbers": dict(finite=True, checksums=False),
        "finite numbers and SHA-256": dict(finite=True, checksums=True),
    }
    with tempfile.TemporaryDirectory(dir=flags.folder) as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        write(folder, flags.gigabytes)
        written = sum(path.stat().st_size for path in folder.iterdir())
        print(f"written: {written / 1e9:.1f} GB in {time.perf_counter() - start:.1f} s")
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for turn in range(TIMES + 1):
            for name, checks in kinds.items():
                one = read(folder, **checks)
                if turn:
                    seconds[name].append(one)
    print(
        f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; seconds of {TIMES} readings:"
    )
    for name, all_of in seconds.items():
        print(f"  {name:28} median {statistics.median(all_of):.2f}, {min(all_of):.2f} to {max(all_of):.2f}")


if __name__ == "__main__":
    main()
