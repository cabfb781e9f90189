"""Clocks of objects: clips in which each object is at its own point of its motion.

The motion of a scene is simulated once; an object's clock chooses which moment of it the object shows. So an
object with the times of a plain clip looks as it does there, and objects of different times may overlap.
Animation times are in source frames; they are rounded to 1/20, the step of the simulated motion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stp_jax.errors import InputError
from stp_jax.files import read_json

STEPS = 20  # of a clock, per source frame
MOST_CLIPS = 100  # of a scene
NAMES = ("figure_0", "figure_1", "body_0", "body_1", "body_2")  # what may have a clock

Clip = dict[str, list[float]]  # animation times [T] by object


def drawn(seed: int, number: int, names: Sequence[str], times: int) -> Clip:
    """Random clocks of all moving objects of a scene: one stands still, another runs, the rest are drawn.

    Args:
      seed: of the scene; the same seed and `number` of the clip give the same clocks.
      names: of the objects.
      times: T, half source frames apart.
    """
    rng = np.random.default_rng([seed, number, 1])
    clip = {}
    for place, index in enumerate(rng.permutation(len(names))):
        kind = "still" if place == 0 else str(rng.choice(KINDS[1:] if place == 1 else KINDS))
        clip[names[index]] = _rounded(_curve(rng, kind, times))
    return {name: clip[name] for name in names}


KINDS = ("still", "forward", "reverse", "slow", "there and back")


def _curve(rng: np.random.Generator, kind: str, times: int) -> np.ndarray:
    """float [T] source frames, from 0 to (T - 1) / 2."""
    forward = np.arange(times) / 2
    if kind == "still":
        return np.full(times, rng.uniform(0, forward[-1]))
    if kind == "reverse":
        return forward[::-1]
    if kind == "slow":
        speed = rng.uniform(0.25, 0.75)
        return rng.uniform(0, 1 - speed) * forward[-1] + speed * forward
    if kind == "there and back":
        turn = rng.uniform(0.3, 0.7) * forward[-1]
        back = rng.integers(2)
        curve = turn - np.abs(forward - turn)
        return forward[-1] - np.maximum(curve, 0) if back else np.maximum(curve, 0)
    return forward


def _rounded(curve: np.ndarray) -> list[float]:
    return (np.round(np.asarray(curve, float) * STEPS) / STEPS).tolist()


def of_scene(clips: int | Sequence[Clip], seed: int, names: Sequence[str], times: int) -> list[Clip]:
    """The clips of a scene whose moving objects are `names`: drawn, or those of given ones that it has."""
    if isinstance(clips, int):
        return [drawn(seed, number, names, times) for number in range(clips)]
    return [{name: clip[name] for name in names if name in clip} for clip in clips]


def parse(text: str, times: int) -> int | tuple[Clip, ...]:
    """`--object_clocks`: how many clips to draw for each scene, or a JSON file of them.

    The file is an object of animation times by the names of `NAMES`, each one number or `times` of them, or a
    list of such objects, one for each clip. Objects that are not named follow the grid.

    Raises:
      InputError: it is neither, or the file has another form.
    """
    if re.fullmatch(r"\d+", text):
        if not 0 <= int(text) <= MOST_CLIPS:
            raise InputError(f"--object_clocks {text}: must be from 0 to {MOST_CLIPS}.")
        return int(text)
    given = read_json(Path(text))
    clips = given if isinstance(given, list) else [given]
    if not 1 <= len(clips) <= MOST_CLIPS:
        raise InputError(f"--object_clocks {text}: holds {len(clips)} clips; give 1 to {MOST_CLIPS}.")
    return tuple(_checked(clip, times, text) for clip in clips)


def _checked(clip: object, times: int, path: str) -> Clip:
    if not isinstance(clip, Mapping) or not clip:
        raise InputError(
            f"--object_clocks {path}: give animation times by object, or a list of such objects."
        )
    curves = {}
    for name, values in clip.items():
        if name not in NAMES:
            raise InputError(f"--object_clocks {path}: no clock of {name!r}; there are {', '.join(NAMES)}.")
        try:
            curve = np.asarray(values, float)
        except (TypeError, ValueError):
            curve = np.zeros((0, 0))
        if curve.shape not in ((), (times,)):
            raise InputError(f"--object_clocks {path}: {name} must have one number, or {times} (--times).")
        last = (times - 1) / 2
        if not ((curve >= 0) & (curve <= last)).all():  # nor are NaNs
            raise InputError(f"--object_clocks {path}: {name} must be from 0 to {last:g} source frames.")
        curves[name] = _rounded(np.broadcast_to(curve, (times,)))
    return curves
