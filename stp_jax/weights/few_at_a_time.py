"""Results of slow work, in order, computed in threads a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 4
AT_ONCE_BYTES = 2**31  # of all together, unless one alone is larger

Result = TypeVar("Result")


def few_at_a_time(
    function: Callable[[str], Result], sizes: Mapping[str, int]
) -> Iterator[tuple[str, Result]]:
    """Names and what the function makes of each, in order.

    One begins when the result of an earlier one is taken, so none does after the first error, or when Python
    ends: nothing can be given to a thread pool then.

    Args:
      sizes: by name, about the bytes of host memory that it takes.
    """
    begun: deque[tuple[str, Future[Result]]] = deque()

    def take() -> tuple[str, Result]:
        name, future = begun.popleft()
        return name, future.result()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name, size in sizes.items():
            while begun and (
                len(begun) == AT_ONCE or size + sum(sizes[other] for other, _ in begun) > AT_ONCE_BYTES
            ):
                yield take()
            begun.append((name, pool.submit(function, name)))
        while begun:
            yield take()
