"""Writes a file of TensorBoard events. Imported by the process that writes: tensorboardX imports torch."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import RecordWriter, summary
from tensorboardX.proto.event_pb2 import Event, SessionLog


class EventFile:
    """A new file of events in a folder.

    A full disk kills the thread of tensorboardX's SummaryWriter, and later calls then block for ever. Its
    RecordWriter writes directly: every method may raise `OSError`.

    Args:
      folder: exists.
      first: steps that are done already; TensorBoard drops later ones of earlier files.
    """

    def __init__(self, folder: Path, first: int):
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._records = RecordWriter(str(folder / name))
        self._write(file_version="brain.Event:2")
        self._write(step=first + 1, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, step: int, name: str, value: float) -> None:
        """Adds a number of a step."""
        self._write(step=step, summary=summary.scalar(name, value))

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Adds a picture uint8 `[H, W, 3]`."""
        self._write(step=step, summary=summary.image(name, picture, dataformats="HWC"))

    def flush(self) -> None:
        """Hands what was added to the operating system."""
        self._records.flush()

    def close(self) -> None:
        """Closes the file."""
        self._records.close()

    def _write(self, **content: Any) -> None:
        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
