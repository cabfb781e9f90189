"""Videos that were made, and how they leave the page."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stp_jax.controls.keyframes import Keyframes

MOST_BYTES = 1 << 30  # of videos that are held; the oldest are dropped, their files stay


class Take(NamedTuple):
    """A video uint8 [F, H, W, 3] with the keyframes that made it."""

    name: str
    video: np.ndarray
    keys: Keyframes
    folder: Path | None = None  # where a full render is; None: it is a preview


class Takes:
    """The latest preview, and what is kept."""

    def __init__(self, preview: str):
        self._preview_name = preview
        self.preview: Take | None = None
        self.kept: list[Take] = []

    def keep(self, take: Take) -> None:
        self.kept.append(take)
        while len(self.kept) > 1 and sum(one.video.nbytes for one in self.kept) > MOST_BYTES:
            self.kept.pop(0)

    def find(self, label: str) -> Take | None:
        """The take that a label of the page means."""
        if label == self._preview_name:
            return self.preview
        return next((take for take in self.kept if take.name == label), None)

    @property
    def names(self) -> list[str]:
        return [take.name for take in self.kept]


def packed(folder: Path, names: str = "*") -> bytes:
    """The files of a folder, and of the folders in it, that have such names, as a .zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob(names)):
            if path.is_file():
                archive.write(path, path.relative_to(folder.parent))
    return file.getvalue()
