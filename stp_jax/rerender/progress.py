"""Progress of a re-rendering: shares of its work, and a bar that shows them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tqdm import tqdm

Progress = Callable[[str, float], None]  # the name of the next part, and the share of the work that is done


class VAECosts(NamedTuple):
    """Run time of the VAE, in steps of the DiT."""

    encode: float
    decode: float


CPU_COSTS = VAECosts(14, 18)  # the demo, with compilation
GPU_COSTS = VAECosts(1, 1)  # the full size


class Report:
    """Reports the next part of the work, and the share that is done.

    Args:
      progress: is called with both. None: nothing is reported.
      work: the sum of all costs.
    """

    def __init__(self, progress: Progress | None, work: float):
        self._progress, self._work, self._done = progress, work, 0.0

    def __call__(self, what: str, cost: float, *wait_for: Any) -> None:
        """Call it before the part `what`, of this cost; it waits for the arrays of the parts before."""
        if self._progress:
            for array in wait_for:
                array.block_until_ready()
            self._progress(what, self._done / self._work)
            self._done += cost


@contextlib.contextmanager
def bar() -> Iterator[Progress]:
    """Shows a bar on stderr; yields the function that moves it."""
    with tqdm(total=1.0, bar_format="{desc:28}{percentage:4.0f}%|{bar}| {elapsed}<{remaining}") as shown:

        def show(what: str, done: float) -> None:
            shown.n = done  # update() would leave out parts shorter than the longest so far
            shown.set_description_str(what)

        yield show
