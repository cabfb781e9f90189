"""One host's share of the examples of all hosts."""

from __future__ import annotations

from collections.abc import Sequence

import grain


class HostShare(grain.MapDataset):
    """The rows that one host reads of every global batch, in order.

    So the batches of all hosts, put together, are those of a single host, row by row. A run that has seen
    `first` examples continues with the next on any number of hosts. (Grain's slices take every H-th example
    instead.)

    Args:
      parent: all examples in order.
      batch_size: examples in a batch of all hosts.
      rows: those of them that this host reads, ascending; None: all.
      first: examples of `parent` to skip.
    """

    def __init__(
        self, parent: grain.MapDataset, batch_size: int, rows: Sequence[int] | None = None, first: int = 0
    ):
        super().__init__(parent)
        self._batch_size, self._first = batch_size, first
        self._rows = range(batch_size) if rows is None else rows
        whole, rest = divmod(max(0, len(parent) - first), batch_size)
        self._length = whole * len(self._rows) + sum(row < rest for row in self._rows)

    def __len__(self) -> int:
        return self._length

    def place(self, index: int) -> int:
        """The place of this host's example `index` in the order of all examples."""
        batch, row = divmod(index, len(self._rows))
        return self._first + batch * self._batch_size + self._rows[row]

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        return self._parent[self.place(index)]

    def __str__(self) -> str:
        return f"HostShare({len(self._rows)} of each {self._batch_size})"
