"""Which pictures of a scene are looked at, and which of them are compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from input_pipeline.inspect.conventions import Place

_CAMERAS = 12  # of a scene that are decoded
_COLUMNS = 7  # moments of a contact sheet
_ROWS = 4  # cameras of a contact sheet


def _even(count: int, most: int) -> list[int]:
    """At most `most` numbers out of `count`, spread evenly."""
    return sorted({round(float(place)) for place in np.linspace(0, count - 1, min(count, most))})


def shown(cameras: int, frames: int) -> list[list[Place]]:
    """The rows of a contact sheet: of some cameras some moments."""
    return [[Place(camera, time) for time in _even(frames, _COLUMNS)] for camera in _even(cameras, _ROWS)]


def compared(kind: str, cameras: int, frames: int) -> list[tuple[Place, Place]]:
    """Pairs of pictures that show one state of the world, or most of it; the best to be tried first.

    grid, synchronised: two cameras at one moment. static: any two pictures. single: two frames, in which only
    a part may stand still.
    """
    pairs: list[tuple[Place, Place]] = []
    if kind in ("grid", "synchronised", "static") and cameras > 1:
        places = _near_each_other(cameras) if kind == "grid" else _even(cameras, _CAMERAS)
        for time in _even(frames, 3 if kind == "synchronised" else 2):
            pairs += [(Place(a, time), Place(b, time)) for a, b in _pairs_of(places)]
        pairs = _interleaved(pairs, len({a.time for a, _ in pairs}))
    if kind in ("static", "single"):
        for camera in _even(cameras, 2):
            pairs += [(Place(camera, a), Place(camera, b)) for a, b in _along(frames)]
    return pairs


def _near_each_other(cameras: int) -> list[int]:
    """Cameras of a path, some near to each other and some far apart."""
    if cameras <= _CAMERAS:
        return list(range(cameras))
    middle = cameras // 2
    steps = (0, 1, 2, 4, 8, 16)
    chosen = {start + step for start in (0, middle) for step in steps if start + step < cameras}
    return sorted(chosen | {cameras - 1})


def _pairs_of(places: Sequence[int]) -> list[tuple[int, int]]:
    """All pairs, those a middle distance apart in front: near ones differ less, far ones match less."""
    pairs = [(a, b) for i, a in enumerate(places) for b in places[i + 1 :]]
    span = max(places) - min(places)
    return sorted(pairs, key=lambda pair: (abs(np.log((pair[1] - pair[0]) / max(span / 4, 1))), pair[0]))


def _interleaved(pairs: list[tuple[Place, Place]], parts: int) -> list[tuple[Place, Place]]:
    """The first of each of equal parts, then the second of each, and so on."""
    length = len(pairs) // max(parts, 1)
    return [pairs[part * length + i] for i in range(length) for part in range(parts)]


def _along(frames: int) -> list[tuple[int, int]]:
    """Pairs of frames of a video: from the beginning, the middle and the end, by steps that grow."""
    pairs = []
    for step in (32, 16, 8, 64, 4, 2, 1):
        for start in sorted({0, frames // 2, max(frames - 1 - step, 0)}):
            if start + step < frames and (start, start + step) not in pairs:
                pairs.append((start, start + step))
    return pairs
