"""One host's share of the examples of all hosts."""

from __future__ import annotations

import grain


class HostShare(grain.MapDataset):
    """Of every batch of all hosts together the part of one host: part h of H, in order.

    So the batches of all hosts, put one after the other, are those of a single host, row by row; and a run
    that has seen `first` examples goes on with the next on any number of hosts. (Grain's slices take every
    H-th example instead.)

    Args:
      parent: all examples in order.
      batch_size: examples of this host in a batch.
      index, count: this host's number, and how many hosts there are.
      first: examples of `parent` to leave out.
    """

    def __init__(
        self, parent: grain.MapDataset, batch_size: int, index: int = 0, count: int = 1, first: int = 0
    ):
        super().__init__(parent)
        self._batch_size, self._index, self._count, self._first = batch_size, index, count, first
        whole, rest = divmod(max(0, len(parent) - first), batch_size * count)
        self._length = whole * batch_size + min(max(0, rest - index * batch_size), batch_size)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        batch, row = divmod(index, self._batch_size)
        place = (batch * self._count + self._index) * self._batch_size + row
        return self._parent[self._first + place]

    def __str__(self) -> str:
        return f"HostShare({self._index} of {self._count}, batches of {self._batch_size})"
