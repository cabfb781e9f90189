"""The clock of a demo run, and the processes that it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError
from stp_jax.files import read_json, replace_file

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS, SAVE_SECONDS = 0.2, 5.0
END_SECONDS = 120.0  # that a process has to save and end, before it is killed


class Stopped(Exception):
    """A signal ended the run early; what is done is saved."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Clock:
    """Seconds of a run, those of earlier calls included, and notes that outlive a call, in one file.

    Args:
      path: of the file.
      seconds: that the run may take in all.

    Attributes:
      notes: JSON values by name.
    """

    def __init__(self, path: Path, seconds: float):
        self._path, self._seconds = path, seconds
        self.notes: dict[str, Any] = read_json(path, dict) if path.exists() else {}
        self._before = self.notes.get("elapsed", 0.0)
        if not isinstance(self._before, (int, float)) or not 0 <= self._before < 1e9:
            raise InputError(f"{path}: damaged, its elapsed seconds are {self._before!r}"[:300])
        self._started = self._saved = time.monotonic()
        self._lock = threading.Lock()

    def elapsed(self) -> float:
        return self._before + time.monotonic() - self._started

    def left(self) -> float:
        return self._seconds - self.elapsed()

    def log(self, text: str) -> None:
        print(f"[{self.elapsed():5.0f} s, {self.left():5.0f} s left] {text}", flush=True)

    def save(self, **notes: Any) -> None:
        with self._lock:
            self.notes |= notes | {"elapsed": self.elapsed()}
            with replace_file(self._path) as partial:
                partial.write_text(json.dumps(self.notes, indent=1) + "\n")
            self._saved = time.monotonic()

    def save_sometimes(self) -> None:
        """So that a killed run knows what it has taken."""
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()


class Processes:
    """Starts processes with their output in files, and ends them when the run is to stop.

    Args:
      logs: folder of the outputs.
      devices: for CUDA_VISIBLE_DEVICES; empty: there is no GPU.
    """

    def __init__(self, logs: Path, devices: list[str], clock: Clock):
        self._logs, self._devices, self._clock = logs, devices, clock
        self._stop = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame) -> None:
        self._stop = self._stop or number

    def check_stop(self) -> None:
        """Raises `Stopped` once a signal came."""
        if self._stop:
            raise Stopped(self._stop)

    def run(
        self,
        commands: list[list[str]],
        name: str,
        *,
        environments: list[dict[str, str]] | None = None,
        ends_by: signal.Signals = signal.SIGINT,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Runs Python programs side by side until all have ended.

        Args:
          commands: arguments for Python.
          name: of the output files.
          environments: more variables for each.
          ends_by: the signal that ends them when the run is to stop; they may then finish what they do.
          while_waiting: called some times a second.

        Raises:
          InputError: one failed; the others are ended.
          Stopped: a signal came.
        """
        self.check_stop()
        self._logs.mkdir(parents=True, exist_ok=True)
        logs = [
            self._logs / f"{name}{f'_{i}' if len(commands) > 1 else ''}.log" for i in range(len(commands))
        ]
        running = []
        for i, (command, log) in enumerate(zip(commands, logs, strict=True)):
            with open(log, "ab") as file:
                running.append(
                    subprocess.Popen(
                        [sys.executable, *command],
                        cwd=ROOT,
                        env=self._environment() | (environments[i] if environments else {}),
                        stdout=file,
                        stderr=file,
                        start_new_session=True,  # a terminal's Ctrl-C is for this process to pass on
                    )
                )
        asked = 0.0  # when the processes were asked to end
        while any(process.poll() is None for process in running):
            failed = any(process.poll() for process in running)
            if (self._stop or failed) and not asked:
                asked = time.monotonic()
                for process in running:
                    process.send_signal(ends_by)
            if asked and time.monotonic() - asked > END_SECONDS:
                for process in running:
                    process.kill()
            while_waiting()
            self._clock.save_sometimes()
            time.sleep(POLL_SECONDS)
        self.check_stop()
        # The one that failed by itself first: the others were ended for it.
        for process, log in sorted(zip(running, logs, strict=True), key=lambda one: one[0].returncode < 0):
            if process.returncode:
                raise InputError(f"{name} failed with status {process.returncode}, see {log}:\n{_end(log)}")

    def _environment(self) -> dict[str, str]:
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        devices = {"CUDA_VISIBLE_DEVICES": ",".join(self._devices)}
        if not self._devices:
            devices = {"JAX_PLATFORMS": "cpu"}
        return os.environ | {"PYTHONPATH": paths} | devices


def _end(log: Path) -> str:
    """The last line of an output."""
    lines = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1][:300] if lines else "no output"


def find_gpus() -> list[tuple[str, str]]:
    """Number and kind of the NVIDIA GPUs that this process may use; JAX is not started for that."""
    command = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    found = [tuple(cell.strip() for cell in line.split(",", 2)) for line in out.splitlines() if line.strip()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [(index, kind) for index, _, kind in found]
    kinds = {key: kind for index, uuid, kind in found for key in (index, uuid)}
    return [(name, kinds[name]) for name in visible.split(",") if name in kinds]
