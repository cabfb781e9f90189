"""Several processes as one run: connecting them, logging once, exchanging numbers."""

from __future__ import annotations

import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from stp_jax.devices.sharding import AXES
from stp_jax.errors import InputError


def connect(
    coordinator: str = "", processes: int = 0, process: int = -1, *, heartbeat_seconds: int = 60
) -> None:
    """Joins the run; returns when all processes have joined. Call it before anything else uses a device.

    Args:
      coordinator: "host:port" of the first process; "auto": as SLURM, Kubernetes or Cloud TPU provide it; "":
        a run of one process.
      processes, process: their number, and the number of this one from 0 on; not for "auto".
      heartbeat_seconds: after this time without a sign a process counts as dead.

    Raises:
      InputError: the numbers make no sense; the others did not come.
    """
    if not coordinator:
        return
    given: dict = {}
    if coordinator != "auto":
        if not re.fullmatch(r".+:\d{1,5}", coordinator):
            raise InputError(f"--coordinator {coordinator}: give host:port of the first process, or auto.")
        if processes < 1 or not 0 <= process < processes:
            raise InputError(
                f"--coordinator {coordinator}: give --processes, how many there are, and --process, which "
                f"one this is, from 0 on; they are {processes} and {process}."
            )
        given = dict(coordinator_address=coordinator, num_processes=processes, process_id=process)
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=heartbeat_seconds)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--coordinator {coordinator}: the processes of the run did not find each other ({reason})."
        ) from None


def log(line: str) -> None:
    """Prints a line beside progress bars, once for all processes."""
    if jax.process_index() == 0:
        tqdm.write(line)


def on_host(arrays: dict[str, jax.Array], dtype: str | None = None) -> dict[str, np.ndarray | jax.Array]:
    """Whole arrays on the first process, wherever their parts are; on the others an empty dict.

    Args:
      dtype: to cast to before several processes send their parts; None: no cast. No device holds more than
        one slice of a stacked array at a time.
    """
    found: dict[str, np.ndarray | jax.Array] = {}
    if jax.process_count() == 1:
        return found | arrays  # cast when they are written
    from jax.experimental import multihost_utils

    for name, array in arrays.items():
        array = array if dtype is None else array.astype(dtype)
        slices = list(array) if array.ndim > 2 else [array]
        whole = [np.asarray(multihost_utils.process_allgather(one, tiled=True)) for one in slices]
        if jax.process_index() == 0:
            found[name] = np.stack(whole) if array.ndim > 2 else whole[0]
    return found


def broadcast_from_first(value: float) -> float:
    """The first process's number, on all of them."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return float(multihost_utils.broadcast_one_to_all(np.float64(value)))


class Agreement:
    """Progress of a run and the signal that stops it, equal on all processes at the same step.

    Each process has its own clock and receives its own signals. With every step each sends its progress and
    its signal to the devices. The largest of them are read some steps later, with the step's other numbers,
    and decide for all.
    """

    def __init__(self, mesh: Mesh):
        self.alone = jax.process_count() == 1
        self.progress, self.signal = 0.0, 0
        self._mesh = mesh
        self._sharding = NamedSharding(mesh, P(AXES))
        self._largest = jax.jit(lambda wishes: wishes.max(0), out_shardings=NamedSharding(mesh, P()))

    def all_reduce(self, progress: float, signal: int) -> jax.Array | np.ndarray:
        """The maximum over processes of [progress, number of a signal or 0], for `update`."""
        wishes = np.array([progress, signal], np.float32)
        if self.alone:
            return wishes
        local = np.tile(wishes, (len(self._mesh.local_devices), 1))
        return self._largest(
            jax.make_array_from_process_local_data(self._sharding, local, (self._mesh.size, 2))
        )

    def update(self, agreed: np.ndarray | jax.Array) -> None:
        """Sets `progress` and `signal` from the result of `all_reduce`."""
        self.progress, self.signal = max(self.progress, float(agreed[0])), max(self.signal, int(agreed[1]))
