"""Feeds damaged and lying files to the readers: each must succeed or raise `InputError`.

    python -m tests.fuzz --inputs 200000            # all readers together
    python -m tests.fuzz --reader torch --inputs 5000
    python -m tests.fuzz --reader torch --only 1234 --keep /tmp/input    # one input again, and its files

An input is known by reader, seed of the run and number. More than 5 s of the processor (or 30 s in all), more
than 1 GB above the start, a crash or any other exception is a failure, and is printed with the command that
repeats it. Readers are registered in the modules of `tests/fuzz/readers`, each of which has a list `READERS`.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time

from tests.fuzz import runner


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--inputs", type=int, default=20_000, help="of all readers together")
    add("--reader", action="append", help="only these")
    add("--seed", type=int, default=0)
    add("--seconds", type=float, default=runner.SECONDS, help="allowed for one input")
    add("--only", type=int, metavar="N", help="the one input of this number")
    add("--keep", metavar="FOLDER", help="with --only: copy the input's files there, a new folder")
    add("--package", default=runner.PACKAGE, help=argparse.SUPPRESS)
    add("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        runner.child_main(flags.child)
        return 0
    readers = runner.find_readers(flags.package)
    unknown = set(flags.reader or ()) - set(readers)
    if unknown:
        parser.error(f"no reader {', '.join(unknown)}; there are {', '.join(readers)}")
    chosen = {name: one for name, one in readers.items() if not flags.reader or name in flags.reader}
    if flags.only is not None:
        counts = dict.fromkeys(chosen, (flags.only, flags.only + 1))
        if flags.keep:
            for one in chosen.values():
                with runner.Inputs(one, flags.seed) as inputs:
                    shutil.copytree(inputs.place(flags.only), flags.keep)
    else:
        whole = sum(one.share for one in chosen.values())
        counts = {name: (0, -int(-flags.inputs * one.share // whole)) for name, one in chosen.items()}
    start = time.perf_counter()
    failures = runner.run(
        counts,
        package=flags.package,
        seed=flags.seed,
        seconds=flags.seconds,
        report=lambda name, done: print(f"{name}: {done}", file=sys.stderr),
    )
    for failure in failures:
        again = f"python -m tests.fuzz --reader {shlex.quote(failure.reader)} --seed {flags.seed} "
        again += f"--only {failure.number}"
        package = "" if flags.package == runner.PACKAGE else f" --package {flags.package}"
        print(f"{failure.reader} {failure.number}: {failure.what}\n  again: {again}{package}\n")
    for name, (low, high) in counts.items():
        print(f"{name}: {high - low} inputs, {sum(one.reader == name for one in failures)} failures")
    total = sum(high - low for low, high in counts.values())
    print(f"{total} inputs in {time.perf_counter() - start:.0f} s, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
