"""Where a run's numbers and pictures go: JSON lines, TensorBoard, PNG files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from stp_jax import hardware
from stp_jax.media import write_video
from stp_jax.pictures import contact_sheet, side_by_side

FPS = 15  # of videos to look at


class Writer:
    """Appends to `metrics.jsonl` and `tensorboard/` and fills `pictures/`; only the first process writes.

    After a run was killed, steps since its last checkpoint are run again and appear twice in `metrics.jsonl`,
    with equal numbers.
    """

    def __init__(self, workdir: str | os.PathLike):
        self._active = jax.process_index() == 0
        if self._active:
            self._workdir = Path(workdir)
            (self._workdir / "pictures").mkdir(parents=True, exist_ok=True)
            self._lines = open(self._workdir / "metrics.jsonl", "a", buffering=1)
            self._tensorboard = SummaryWriter(str(self._workdir / "tensorboard"))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if self._active:
            self._lines.write(json.dumps({"step": step} | values) + "\n")
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def pictures(self, step: int, videos: dict[str, np.ndarray]) -> None:
        """Of uint8 videos `[F, H, W, 3]` by label: `pictures/<step>.png`, a contact sheet, and
        `pictures/<step>.mp4`, the videos side by side."""
        if self._active:
            sheet = self._workdir / "pictures" / f"{step:08d}.png"
            video = sheet.with_suffix(".mp4")
            for path in (sheet, video):
                path.unlink(missing_ok=True)  # of the same step, before the run was killed
            contact_sheet(sheet, videos)
            write_video(video, side_by_side(videos), FPS)
            self._tensorboard.add_image("preview", np.asarray(Image.open(sheet)), step, dataformats="HWC")

    def close(self) -> None:
        if self._active:
            self._lines.close()
            self._tensorboard.close()


class Meter:
    """The numbers of the steps since `restart`, and how fast they went.

    Args:
      batch_size: examples of a step.
      tokens, flop: of an example, see `tasks.Task`.
    """

    def __init__(self, batch_size: int, tokens: int, flop: float):
        self._batch_size, self._tokens, self._flop = batch_size, tokens, flop
        self._chip = hardware.chip(jax.devices()[0].device_kind)

    def restart(self, step: int) -> None:
        self.steps: list[dict[str, np.ndarray]] = []
        self.started, self._first, self.waited = time.monotonic(), step, 0.0

    def numbers(self, step: int) -> dict[str, float]:
        """The means of the steps' own numbers; speed, memory, and the share of time spent on other things."""
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
    """The mean of each number over the steps where it is finite; left out if it is nowhere."""
    means = {}
    for name in metrics[0] if metrics else ():
        values = np.array([m[name] for m in metrics])
        if np.isfinite(values).any():
            means[name] = float(np.mean(values[np.isfinite(values)]))
    return means
