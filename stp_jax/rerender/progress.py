"""How far a re-rendering is: shares of its work, and a bar that shows them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tqdm import tqdm

Progress = Callable[[str, float], None]  # what comes next, and the share of the work done


class VAECosts(NamedTuple):
    """What the VAE costs, in steps of the DiT."""

    encode: float
    decode: float


CPU_COSTS = VAECosts(14, 18)  # the demo, with compilation
GPU_COSTS = VAECosts(1, 1)  # the full size


class Report:
    """Says what comes next and what share of the work is done.

    Args:
      progress: called with both; None: nobody asks.
      work: the sum of all costs.
    """

    def __init__(self, progress: Progress | None, work: float):
        self._progress, self._work, self._done = progress, work, 0.0

    def __call__(self, what: str, cost: float, *wait_for: Any) -> None:
        """Before a part that costs `cost`; waits for the arrays of the parts before it."""
        if self._progress:
            for array in wait_for:
                array.block_until_ready()
            self._progress(what, self._done / self._work)
            self._done += cost


@contextlib.contextmanager
def bar() -> Iterator[Progress]:
    """A bar on stderr, moved by calling what is yielded."""
    with tqdm(total=1.0, bar_format="{desc:20}{percentage:4.0f}%|{bar}| {elapsed}<{remaining}") as shown:

        def show(what: str, done: float) -> None:
            shown.n = done  # update() would leave out parts shorter than the longest so far
            shown.set_description_str(what)

        yield show
