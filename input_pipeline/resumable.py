"""A Grain data set whose saved position says which pipeline it belongs to."""

from __future__ import annotations

from typing import Any

import grain

from stp_jax.errors import InputError


class Resumable(grain.IterDataset):
    """Gives the elements of `parent`; its iterators' state also holds `settings` (JSON values).

    A state means another position, or none at all, once settings such as the batch size or the number of
    worker processes have changed: restoring it then raises `InputError` instead of going on with wrong
    examples.
    """

    def __init__(self, parent: grain.IterDataset, settings: dict[str, Any]):
        super().__init__(parent)
        self._settings = settings

    def __iter__(self) -> grain.DatasetIterator:
        return _ResumableIterator(iter(self._parent), self._settings)

    def __str__(self) -> str:
        return f"Resumable({self._settings})"


class _ResumableIterator(grain.DatasetIterator):
    def __init__(self, parent: grain.DatasetIterator, settings: dict[str, Any]):
        super().__init__(parent)
        self._settings = settings

    def __next__(self):
        return next(self._parent)

    def get_state(self) -> dict[str, Any]:
        return {"settings": self._settings, "position": self._parent.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        saved = state["settings"]
        changed = [
            f"{name} was {saved.get(name)}, now {value}"
            for name, value in self._settings.items()
            if saved.get(name) != value
        ]
        if changed:
            raise InputError(
                "the checkpoint's position in the data belongs to another pipeline: "
                f"{'; '.join(changed)}. Resume with the settings of the saved run, or start a new one"
            )
        self._parent.set_state(state["position"])
