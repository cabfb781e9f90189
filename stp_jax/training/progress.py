"""Progress of a run, and what ends it: its steps, its seconds, or a signal."""

from __future__ import annotations

import signal
import time

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from stp_jax.devices.distributed import Agreement


class StopRequest:
    """Turns Ctrl-C, SIGTERM and SIGUSR1 into a request that the loop grants after the current step.

    A second Ctrl-C aborts at once.

    Attributes:
      number: of the signal that came, 0 before one does.
    """

    def __init__(self):
        self.number = 0

    def _note(self, number, _frame) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def __enter__(self) -> StopRequest:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Progress:
    """Steps and seconds of a run, and its end, the same on all processes.

    Seconds count from the creation of this object; `resume` adds those of earlier calls.

    Args:
      run: steps and seconds (0: no limit).
      stop: requests to end early.

    Attributes:
      first: steps that earlier calls have done.
      step: steps done.
      alone: whether the run has one process.
    """

    def __init__(self, run: ConfigDict, stop: StopRequest, mesh: Mesh):
        self._run, self._stop, self._agreement = run, stop, Agreement(mesh)
        self.alone = self._agreement.alone
        self._started, self._seconds_before = time.monotonic(), 0.0
        self.first = self.step = 0

    def resume(self, step: int, seconds: float) -> None:
        """Continues from what earlier calls have done."""
        self.first = self.step = step
        self._seconds_before = seconds
        self._agreement.progress = min(1.0, step / self._run.steps)

    def seconds(self) -> float:
        """Seconds of all calls together."""
        return self._seconds_before + self.seconds_of_call()

    def seconds_of_call(self) -> float:
        """Seconds of this call."""
        return time.monotonic() - self._started

    def share(self) -> float:
        """The share of the run that is done, in [0, 1]: of steps or of seconds, whichever is larger."""
        of_time = self.seconds() / self._run.seconds if self._run.seconds else 0.0
        return min(1.0, max(self.step / self._run.steps, of_time))

    def all_reduce(self) -> jax.Array | np.ndarray:
        """The furthest share and the largest signal of all processes, for `update` and for the step."""
        return self._agreement.all_reduce(self.share(), self._stop.number)

    def update(self, agreed: jax.Array | np.ndarray) -> None:
        """Takes the result of an `all_reduce`."""
        self._agreement.update(agreed)

    def ended(self) -> bool:
        """Whether no further step is to be done."""
        if self.alone:
            self.update(self.all_reduce())
        return self.at_last_step() or self._agreement.progress >= 1 or self._agreement.signal > 0

    def at_last_step(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self._run.steps

    def ends_now(self) -> bool:
        """Whether the loop is known to end here; with several processes signals and time are known later."""
        return self.at_last_step() or (self.alone and self.ended())

    def stopped_by(self) -> signal.Signals | None:
        """The signal that ended the run; asks all processes."""
        self.update(jax.device_get(self.all_reduce()))
        return signal.Signals(self._agreement.signal) if self._agreement.signal else None
