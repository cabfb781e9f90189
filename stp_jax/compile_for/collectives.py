"""Counts what a compiled program sends between devices, from the program's text.

A compiler's own figures count the body of a loop once. Here every computation counts as often as it runs.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict

KINDS = ("all-gather", "all-to-all", "reduce-scatter", "all-reduce", "collective-permute")
GIB = 2**30

BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s8": 1, "u8": 1, "pred": 1}
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|condition|body)=%?([\w.\-]+)")
_ALL_CALLED = re.compile(r"(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")


def count_collectives(program: str) -> dict[str, tuple[int, float]]:
    """For each kind of collective: the number that run in one execution, and GiB that each device receives.

    Sizes are those of the usual algorithms: in a ring of n devices each one receives (n - 1) / n of a
    gathered or exchanged array, and twice as much of a reduced one. A loop counts as often as the compiler
    notes. If it does not, the constant in the loop's condition counts, as for `jax.lax.scan`; without one,
    once.

    Args:
      program: `compiled.as_text()`.
    """
    computations = _computations(program)
    runs = _runs(computations)
    found: dict[str, tuple[int, float]] = {}
    chains = set()
    for name, (_, lines) in computations.items():
        for line in lines:
            match = _COLLECTIVE.search(line)
            if match is None or not runs[name]:
                continue
            # On TPUs one collective is spread over several fusions, to overlap it with arithmetic.
            if chain := re.search(r'chain_id="(\d+)"', line):
                if chain[1] in chains:
                    continue
                chains.add(chain[1])
            kind = match[2]
            count, size = found.get(kind, (0, 0.0))
            received = _result_bytes(match[1], kind, started=bool(match[3])) * _share(kind, _group_size(line))
            found[kind] = (count + runs[name], size + runs[name] * received / GIB)
    return {kind: found[kind] for kind in KINDS if kind in found}


def _computations(program: str) -> dict[str, tuple[bool, list[str]]]:
    """By name of a computation: whether the program begins there, and its instructions."""
    found: dict[str, tuple[bool, list[str]]] = {}
    lines: list[str] = []
    for line in program.splitlines():
        if not line.startswith(" ") and (match := _HEADER.match(line)):
            lines = []
            found[match[2]] = (match[1] is not None, lines)
        elif line.startswith(" "):
            lines.append(line)
    return found


def _runs(computations: dict[str, tuple[bool, list[str]]]) -> dict[str, int]:
    """How often each computation runs in one execution of the program."""
    callers: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, (_, lines) in computations.items():
        for line in lines:
            called = _CALLED.findall(line)
            called += [name.lstrip("%") for part in _ALL_CALLED.findall(line) for name in part.split(", ")]
            times = 1
            if " while(" in line:
                condition = re.search(r"condition=%?([\w.\-]+)", line)
                if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
                    times = int(noted[1])
                elif condition:
                    times = _trips(computations[condition[1]][1])
            for other in called:
                callers[other].append((name, times))
    known: dict[str, int] = {}

    def runs(name: str) -> int:
        if name not in known:
            entry = computations[name][0]
            known[name] = int(entry) + sum(times * runs(caller) for caller, times in callers[name])
        return known[name]

    return {name: runs(name) for name in computations}


def _trips(condition: list[str]) -> int:
    constants = [int(n) for line in condition for n in re.findall(r"= s32\[\]\S* constant\((\d+)\)", line)]
    return constants[0] if len(constants) == 1 else 1


def _result_bytes(result: str, kind: str, *, started: bool) -> int:
    """Bytes of a result of a type such as `(f32[8,1024]{1,0}, u32[])`, or with operands `((..), (..))`."""
    arrays = [(dtype, dims) for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", result) if dtype in BYTES]
    if started and kind == "collective-permute" and not result.startswith("(("):
        arrays = arrays[1:2]  # operand, result, and what it synchronises with
    elif started and (kind != "all-reduce" or result.startswith("((")):
        arrays = arrays[len(arrays) // 2 :]  # operands come first
    return sum(BYTES[dtype] * math.prod(map(int, filter(None, dims.split(",")))) for dtype, dims in arrays)


def _group_size(line: str) -> int:
    """The number of devices in each group of a collective; 0 where it is not given."""
    if groups := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(groups[1].split(","))
    if groups := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(groups[1])
    if groups := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", groups[1])}
        return math.prod(sizes[axis] for axis in re.findall(r"'([^']+)'", groups[2]))
    return 0


def _share(kind: str, devices: int) -> float:
    """Bytes that a device receives for each byte of a result."""
    if kind == "collective-permute" or devices == 0:
        return 1.0
    if kind == "reduce-scatter":
        return devices - 1.0
    return (2 if kind == "all-reduce" else 1) * (devices - 1) / devices
