"""Writes a run's numbers and pictures: JSON lines, TensorBoard, PNG files."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from stp_jax.devices import hardware
from stp_jax.devices.distributed import log
from stp_jax.errors import InputError
from stp_jax.files import parse_json, replace_file
from stp_jax.media.pictures import contact_sheet, side_by_side
from stp_jax.media.writing import write_video

FPS = 15  # of videos to look at


class Writer:
    """Appends to `metrics.jsonl` and `tensorboard/` and fills `pictures/`; only the first process writes.

    After a run was killed, steps since its last checkpoint are run again: their lines are removed first, and
    TensorBoard is given an event to drop them, too. A full disk costs numbers and pictures, never the run:
    that is logged, once until writing works again.

    Args:
      workdir: of the run.
      first: steps that are done already.

    Raises:
      InputError: the work directory cannot be written to begin with.
    """

    def __init__(self, workdir: str | os.PathLike, first: int = 0):
        self._active, self._works = jax.process_index() == 0, True
        if not self._active:
            return
        from stp_jax.training.tensorboard import EventFile  # takes seconds where torch is installed

        self._workdir = Path(workdir)
        try:
            (self._workdir / "pictures").mkdir(parents=True, exist_ok=True)
            (self._workdir / "tensorboard").mkdir(exist_ok=True)
            self._first, self._known = first, cut_lines(self._workdir / "metrics.jsonl", first)
            self._lines = open(self._workdir / "metrics.jsonl", "a", buffering=1)
            self._events = EventFile(self._workdir / "tensorboard", first)
        except OSError as error:
            raise InputError(f"--workdir {workdir}: {error.strerror}. Free some space there.") from None

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes numbers of a step to `metrics.jsonl` and TensorBoard, each once."""
        if not self._active:
            return
        if step == self._first:  # the last step of a run that is complete
            values = {name: value for name, value in values.items() if name not in self._known}
        if not values:
            return
        with self._written():
            self._lines.write(json.dumps({"step": step} | values) + "\n")
            for name, value in values.items():
                self._events.scalar(step, name, value)
            self._events.flush()

    def pictures(self, step: int, videos: dict[str, np.ndarray]) -> None:
        """Writes uint8 videos `[F, H, W, 3]`, by label.

        `pictures/<step>.png` is a contact sheet, `pictures/<step>.mp4` has the videos side by side.
        """
        if not self._active:
            return
        with self._written():
            sheet = self._workdir / "pictures" / f"{step:08d}.png"
            video = sheet.with_suffix(".mp4")
            for path in (sheet, video):
                path.unlink(missing_ok=True)  # of the same step, before the run was killed
            contact_sheet(sheet, videos)
            write_video(video, side_by_side(videos), FPS)
            with Image.open(sheet) as image:
                picture = np.asarray(image)
            self._events.picture(step, "preview", picture)
            self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        if not self._active:
            return
        # Both are closed, also where the disk is full.
        with self._written(), contextlib.closing(self._lines), contextlib.closing(self._events):
            self._events.flush()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
            self._works = True
        except (OSError, InputError) as error:
            if self._works:
                reason = str(error).splitlines()[0]
                log(f"Numbers or pictures could not be written ({reason}); training continues.")
            self._works = False


def cut_lines(path: Path, step: int) -> set[str]:
    """Removes the lines after `step` from a metrics.jsonl, and a last one that is not complete.

    Returns:
      The names of the numbers of `step` itself.

    Raises:
      OSError: it cannot be written.
    """
    if not path.exists():
        return set()
    data = path.read_bytes()
    kept: list[bytes] = []
    known: set[str] = set()
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        try:
            found = parse_json(line, str(path), dict)
        except InputError:
            found = {}  # damaged; all that read the file leave it out
        number = found.get("step")
        if isinstance(number, int) and number > step:
            continue
        known |= found.keys() if number == step else set()
        kept.append(line)
    if b"".join(kept) != data:
        with replace_file(path) as partial:
            partial.write_bytes(b"".join(kept))
    return known


class Meter:
    """The numbers of the steps since `restart`, and their speed.

    Args:
      batch_size: examples of a step.
      tokens, flop: of an example, see `task.Task`.
    """

    def __init__(self, batch_size: int, tokens: int, flop: float):
        self._batch_size, self._tokens, self._flop = batch_size, tokens, flop
        self._chip = hardware.chip(jax.devices()[0].device_kind)

    def restart(self, step: int) -> None:
        """Begins a new interval after `step` steps."""
        self.steps: list[dict[str, np.ndarray]] = []
        self.started, self._first, self.waited = time.monotonic(), step, 0.0

    def numbers(self, step: int) -> dict[str, float]:
        """The means of the steps' own numbers; speed, memory, and the share of time waiting for data."""
        numbers = mean_of(self.steps)
        if step > self._first:  # else its only step compiled
            seconds = time.monotonic() - self.started
            per_step = seconds / (step - self._first)
            numbers["step_seconds"] = per_step
            numbers["examples_per_second"] = self._batch_size / per_step
            numbers["data_wait_share"] = self.waited / seconds
            if self._tokens:
                numbers["tokens_per_second"] = self._tokens * self._batch_size / per_step
            if self._flop and self._chip:
                peak = self._chip.tflops * 1e12 * jax.device_count()
                numbers["mfu"] = self._flop * self._batch_size / per_step / peak
        in_use = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
        if max(in_use):
            numbers["device_memory_gib"] = max(in_use) / 2**30
        return numbers

    def summary(self, numbers: dict[str, float]) -> str:
        """For the progress bar."""
        parts = [f"loss {numbers['loss']:.4f}"] if "loss" in numbers else []
        if "step_seconds" in numbers:
            parts.append(f"{1000 * numbers['step_seconds']:.0f} ms/step")
            parts.append(f"{numbers['examples_per_second']:.1f} examples/s")
        if "mfu" in numbers:
            parts.append(f"MFU {numbers['mfu']:.0%}")
        if numbers.get("skipped"):
            parts.append(f"{numbers['skipped']:.0%} skipped")
        return ", ".join(parts)


def mean_of(metrics: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The mean of each number over the steps where it is finite; without numbers that never are."""
    means = {}
    for name in metrics[0] if metrics else ():
        values = np.array([m[name] for m in metrics])
        if np.isfinite(values).any():
            means[name] = float(np.mean(values[np.isfinite(values)]))
    return means
