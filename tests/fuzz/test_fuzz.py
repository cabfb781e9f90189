"""A short run of the fuzz test over all readers, and that the harness finds what it looks for.

The long one: python -m tests.fuzz --inputs 200000
"""

import random

import pytest

from tests.fuzz import inputs, mutators, runner

INPUTS = 400  # of all readers together


def test_readers_succeed_or_raise_input_errors():
    readers = runner.find_readers()
    whole = sum(reader.share for reader in readers.values())
    counts = {name: (0, 1 + int(INPUTS * reader.share / whole)) for name, reader in readers.items()}
    assert not runner.run(counts)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("raises", "KeyError: 'a'"),
        ("hangs", "hangs for more than 0.2 s"),
        ("crashes", "ends the process with status -11"),
        ("exits", "ends the process with status 0"),
        ("takes memory", "takes 1.2 GB"),
        ("hides a memory error", "took all of the memory allowed"),
        ("none", None),
    ],
)
def test_every_fault_is_found(fault, found):
    failures = runner.run(
        {fault: (0, 6)}, package="tests.fuzz.faulty", seconds=0.2 if fault == "hangs" else 60
    )
    assert bool(failures) == (found is not None)
    for failure in failures:
        assert failure.reader == fault and found in failure.what


def test_inputs_are_always_the_same():
    seeds = [inputs.Seed({"a": bytes(range(100))}, "a", mutators.BYTES)]
    made = [inputs.make_input(seeds, "x", 0, number) for number in range(50)]
    assert made == [inputs.make_input(seeds, "x", 0, number) for number in range(50)]
    assert len({content for _, content in made}) > 40


@pytest.mark.parametrize("name", [name for name in dir(mutators) if name.isupper()])
def test_mutators_take_any_bytes(name):
    group = getattr(mutators, name)
    if not (isinstance(group, tuple) and all(map(callable, group))):
        return
    draw = random.Random(0)
    for mutate in group:
        for content in (
            b"",
            b"{}",
            b"PK\x05\x06" + bytes(18),
            bytes(range(256)),
            b'{"a": [1, 2, {"b": "c"}]}',
        ):
            assert isinstance(mutate(content, draw), bytes)
