"""A still picture as a clip, in which the scene stands still."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stp_jax.media import sources
from stp_jax.media.colour import Notes
from stp_jax.media.fit import fit_image
from stp_jax.media.sequences import PICTURES
from stp_jax.media.video import Clip

#: frames per second of a clip of a still picture where nobody says, as Wan2.1's videos have
FPS = 16.0


def read_still(
    path: str | os.PathLike,
    frames: int,
    height: int,
    width: int,
    *,
    fps: float | None = None,
    fit: Callable[[np.ndarray, int, int], np.ndarray] = fit_image,
) -> Clip:
    """Repeats a picture, brought to size as `read_clip` does it.

    Args:
      path: of a picture, see `stp_jax.media.sources.is_still`.
      fps: frames per second of the clip; None: `FPS`.
      fit: of picture, height, width; brings it to size.

    Raises:
      InputError: as `read_video`.
    """
    notes: Notes = {}
    with contextlib.closing(sources.frames(path, notes=notes)) as timed:
        picture = next(timed)[1]()
    neighbour = _neighbour(Path(path))
    if neighbour:
        notes[f"{neighbour} beside it is left out: for a sequence give its folder or a pattern"] = None
    clip = np.repeat(fit(picture, height, width)[None], frames, axis=0)
    return Clip(clip, fps or FPS, picture.shape[:2], tuple(notes), (0,) * frames)


def _neighbour(file: Path) -> str | None:
    """The next picture of the sequence that a picture belongs to by its name, if there is one."""
    numbers = list(re.finditer(r"\d+", file.stem))
    if not numbers or file.suffix.lower() not in PICTURES:
        return None
    start, end = numbers[-1].span()
    following = f"{int(numbers[-1][0]) + 1:0{end - start}d}"
    beside = file.with_name(file.name[:start] + following + file.name[end:])
    return beside.name if beside.is_file() else None
