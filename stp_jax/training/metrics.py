"""Where a run's numbers and pictures go: JSON lines, TensorBoard, PNG files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from stp_jax.pictures import contact_sheet


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
        """A contact sheet of uint8 videos `[F, H, W, 3]` by label, as `pictures/<step>.png`."""
        if self._active:
            path = self._workdir / "pictures" / f"{step:08d}.png"
            path.unlink(missing_ok=True)  # of the same step, before the run was killed
            contact_sheet(path, videos)
            self._tensorboard.add_image("preview", np.asarray(Image.open(path)), step, dataformats="HWC")

    def close(self) -> None:
        if self._active:
            self._lines.close()
            self._tensorboard.close()


def mean_of(metrics: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The mean of each number over some steps."""
    return {name: float(np.mean([m[name] for m in metrics])) for name in metrics[0]} if metrics else {}
