"""SpaceTimePilot's patterns of animation time, named `official:...`; they are made for 81 frames."""

from __future__ import annotations

import os

import numpy as np

from stp_jax import user_input
from stp_jax.controls import animation_time
from stp_jax.controls.times import Rates
from stp_jax.errors import InputError

PREFIX = "official:"
FRAMES = 81

# (name, name in its evaluation, explanation, animation times)
_TABLE: tuple[tuple[str, str, str, list[int]], ...] = (
    ("forward", "normal", "0..80", [*range(81)]),
    ("reverse", "reverse", "80..0", [*range(80, -1, -1)]),
    ("pingpong", "bounce_40", "40..80, 80..41", [*range(40, 81), *range(80, 40, -1)]),
    ("bounce_late", "zigzag_15_21_5", "60..84, 84..29", [*range(60, 85), *range(84, 28, -1)]),
    ("bounce_early", "zigzag_5_21_15", "20..84, 84..69", [*range(20, 85), *range(84, 68, -1)]),
    ("slowmo_first_half", "repeat_0to40_double", "0..40, each twice", [i // 2 for i in range(1, 82)]),
    ("slowmo_second_half", "start40_repeat_next", "40..80, each twice", [40 + i // 2 for i in range(1, 82)]),
    ("ramp_then_freeze", "go_and_freeze", "0..40, then 40", [min(i, 40) for i in range(81)]),
    ("freeze_start", "fixed_0", "0", [0] * 81),
    ("freeze_early", "fixed_5", "20", [20] * 81),
    ("freeze_mid", "fixed_10", "40", [40] * 81),
    ("freeze_late", "fixed_15", "60", [60] * 81),
    ("freeze_end", "fixed_20", "80", [80] * 81),
    ("zigzag_0_10_0", "zigzag_0_10_0", "0..40, 39..0", [*range(41), *range(39, -1, -1)]),
)
_PATTERNS = {name: times for *names, _, times in _TABLE for name in names}
#: explanations by name, for a list; each pattern stands once, under its first name
PATTERNS = {
    PREFIX + name: explanation if name == other else f"{explanation}; also {PREFIX}{other}"
    for name, other, explanation, _ in _TABLE
}


def pattern(name: str) -> np.ndarray:
    """The animation times of a pattern, float32 [81]; two of them run beyond the source's end, to frame 84.

    Raises:
      InputError: no pattern has this name.
    """
    if name not in _PATTERNS:
        raise user_input.unknown("official time pattern", name, _PATTERNS)
    return np.array(_PATTERNS[name], np.float32)


def curve(
    spec: str | os.PathLike, frames: int, rates: Rates | None = None, source_frames: int | None = None
) -> np.ndarray:
    """As `stp_jax.controls.animation_time.curve`, and `official:NAME`; float32 [F], in source frames.

    Raises:
      InputError: as there; no such pattern; a pattern for other than 81 frames.
    """
    spec = str(spec)
    if not spec.startswith(PREFIX):
        return animation_time.curve(spec, frames, rates, source_frames)
    times = pattern(spec.removeprefix(PREFIX).strip())
    if frames != FRAMES:
        raise InputError(
            f"animation time {spec!r}: the official patterns are made for {FRAMES} frames, "
            f"the video has {frames}"
        )
    return times
