"""What a reader is given: whole files as seeds, one of them mutated."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Mutator = Callable[[bytes, random.Random], bytes]


@dataclasses.dataclass(frozen=True)
class Seed:
    """Whole files that a reader reads, and what is done to one of them.

    Attributes:
      files: content by name, in a folder of their own.
      mutated: the name of the file that is mutated.
      mutators: one of them, drawn at random, is applied to it; see `tests.fuzz.mutators`.
    """

    files: Mapping[str, bytes]
    mutated: str
    mutators: Sequence[Mutator]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader of files from outside: it must succeed or raise `InputError`, whatever the file holds.

    Attributes:
      name: for reports and the command line.
      seeds: makes the seeds, given an empty folder to work in. Called once, in the child process.
      read: reads the files in a folder. It must use all that it reads, as a user of the reader would.
      share: of the inputs, relative to other readers'; less than 1 for slow ones.
      changes_files: whether reading changes the folder; it is then written anew for each input.
    """

    name: str
    seeds: Callable[[Path], Sequence[Seed]]
    read: Callable[[Path], object]
    share: float = 1.0
    changes_files: bool = False


def make_input(seeds: Sequence[Seed], reader: str, run: int, number: int) -> tuple[int, bytes]:
    """The place of the seed, and the mutated content: always the same for the same arguments."""
    draw = random.Random(f"{run} {reader} {number}")
    place = draw.randrange(len(seeds))
    seed = seeds[place]
    content = seed.files[seed.mutated]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = draw.choice(seed.mutators)(content, draw)
    return place, content
