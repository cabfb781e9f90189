"""What a person enters in one tab, done in the order in which it was entered."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any


class Inputs:
    """Work for fields and buttons of viser, one after the other in a thread.

    viser itself calls back in several threads at once, in any order, and has only a field's latest value.
    Here the value is taken when it arrives. A field is not written while an input of it waits, which would
    be lost.

    Args:
      act: does one piece of work.
    """

    def __init__(self, act: Callable[[Callable[[], Any]], None]):
        self._act = act
        self._waiting: Counter[int] = Counter()  # inputs that are not done yet, by `id`: handles have no hash
        self._lock = threading.Lock()  # of the counts
        self._shown: dict[int, Any] = {}
        self._queue: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for work in iter(self._queue.get, None):
            self._act(work)

    def do(self, work: Callable[[], Any]) -> None:
        """Does something after all that was entered before."""
        self._queue.put(work)

    def listen(self, handle: Any, work: Callable[[Any], Any], on: str = "update") -> None:
        """Calls `work` with the value that a person enters, or with None for what has no value.

        Args:
          handle: a field, button or command of viser.
          on: "update", "click", "upload" or "trigger".
        """

        async def entered(event: Any) -> None:  # of viser's own thread: at once, and in order
            if event.client_id is None:
                return  # the program did it
            value = getattr(handle, "value", None)
            with self._lock:
                self._waiting[id(handle)] += 1

            def done() -> None:
                with self._lock:
                    self._waiting[id(handle)] -= 1
                work(value)

            self.do(done)

        getattr(handle, f"on_{on}")(entered)

    def show(self, field: Any, value: Any) -> None:
        """Writes a value into a field, unless a person's own waits."""
        if not self._waiting[id(field)]:
            field.value = value

    def show_unless_typed(self, field: Any, value: Any) -> None:
        """The same for a field that counts when a button is pressed: until then what was typed stays."""
        if self._shown.get(id(field)) != value:
            self._shown[id(field)] = value
            self.show(field, value)

    def used(self, *fields: Any) -> None:
        """What was typed into such fields has been used or refused."""
        for field in fields:
            self._shown.pop(id(field), None)

    def close(self, seconds: float) -> None:
        """Ends the thread after what was entered before, for which it waits so long at most."""
        self._queue.put(None)
        self._thread.join(seconds)
