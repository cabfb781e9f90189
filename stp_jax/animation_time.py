"""Animation time: which moment of the source's motion each frame of a video shows.

A curve is float32 [F], counted in source frames: 0 is the source's first frame, F - 1 its last, fractions lie
between. (Never to be confused with a diffusion model's timestep, the noise level.) A user gives a curve as a
preset, as keyframes or as a file; training draws random ones.

In the formulas below i = 0..L is the frame and L = F - 1 the last.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stp_jax import user_input
from stp_jax.errors import InputError

# name: (explanation, curve of the frames i and the last frame L)
_PRESETS: dict[str, tuple[str, Callable[[np.ndarray, float], np.ndarray]]] = {
    "forward": ("as filmed: i", lambda i, last: i),
    "reverse": ("backwards: L - i", lambda i, last: last - i),
    "bullet_time": (
        "frozen at the middle; bullet_time:3 freezes at source frame 3",
        lambda i, last: last / 2 + 0 * i,
    ),
    "freeze_start": ("frozen at the first frame", lambda i, last: 0 * i),
    "freeze_end": ("frozen at the last frame", lambda i, last: last + 0 * i),
    "slow_motion": ("first half of the motion at half speed: i / 2", lambda i, last: i / 2),
    "fast_forward": ("twice the speed, then the last frame is held", lambda i, last: np.minimum(2 * i, last)),
    "zigzag": ("forward to the middle and back again", lambda i, last: np.minimum(i, last - i)),
    "pingpong": (
        "from the middle forward to the end and back again",
        lambda i, last: last - np.abs(i - last / 2),
    ),
    "accelerate": ("slow at first, then ever faster: i^2 / L", lambda i, last: i**2 / max(last, 1)),
    "decelerate": (
        "fast at first, then ever slower: L - (L - i)^2 / L",
        lambda i, last: last - (last - i) ** 2 / max(last, 1),
    ),
    "ramp_then_freeze": ("forward to the middle, then frozen there", lambda i, last: np.minimum(i, last / 2)),
    "freeze_middle": (
        "forward to the middle, frozen for a quarter, then on to the end at twice the speed",
        lambda i, last: np.interp(i, [0, last / 2, 3 * last / 4, last], [0, last / 2, last / 2, last]),
    ),
}
PRESETS = {name: explanation for name, (explanation, _) in _PRESETS.items()}

# The five of the paper's test of time control. All lie on half source frames, where a rendered grid has truth.
EVALUATION_MODES = ("forward", "reverse", "bullet_time", "slow_motion", "zigzag")


def curve(spec: str | os.PathLike, frames: int) -> np.ndarray:
    """The animation time of each of F frames, float32 [F]."""
    name, *numbers = [part.strip() for part in str(spec).split(":")]
    if name not in _PRESETS:
        raise user_input.unknown("animation time preset", name, PRESETS)
    return _PRESETS[name][1](np.arange(frames, dtype=np.float64), frames - 1.0).astype(np.float32)


def _window(rng: np.random.Generator, times: np.ndarray, frames: int) -> np.ndarray:
    """A random run of `frames` values out of a longer list."""
    start = rng.integers(len(times) - frames + 1)
    return times[start : start + frames]


def _boomerang(rng: np.random.Generator, frames: int) -> np.ndarray:
    there = np.arange(frames)
    return _window(rng, np.concatenate([there, there[-2::-1]]), frames)


def _zigzag(rng: np.random.Generator, frames: int) -> np.ndarray:
    there = np.arange(rng.integers(frames // 2 + 1, frames) + 1)
    return _window(rng, np.concatenate([there, there[-2::-1]]), frames)


def _slow_global(rng: np.random.Generator, frames: int) -> np.ndarray:
    return _window(rng, np.arange(2 * frames - 1) / 2, frames)


def _slow_segment(rng: np.random.Generator, frames: int) -> np.ndarray:
    length = rng.integers(max(frames // 4, 1), max(round(0.31 * frames), 1) + 1)
    start = rng.integers(frames - length)
    inside = start + np.arange(2 * length) / 2
    times = np.concatenate([np.arange(start), inside, np.arange(start + length, frames)])
    return _window(rng, times, frames)


def _fixed_frame(rng: np.random.Generator, frames: int) -> np.ndarray:
    return np.full(frames, rng.uniform(0, frames - 1))


def _travel(rng: np.random.Generator, progress: np.ndarray) -> np.ndarray:
    """Sends progress from 0 to 1 over a random half of the source or more, forward or backward."""
    last = len(progress) - 1
    span = rng.uniform(last / 2, last)
    start = rng.uniform(0, last - span)
    return start + span * (progress if rng.random() < 0.5 else 1 - progress)


def _acceleration(rng: np.random.Generator, frames: int) -> np.ndarray:
    return _travel(rng, np.linspace(0, 1, frames) ** rng.uniform(1.5, 3))


def _deceleration(rng: np.random.Generator, frames: int) -> np.ndarray:
    return _travel(rng, 1 - np.linspace(1, 0, frames) ** rng.uniform(1.5, 3))


def _smooth(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Always in one direction, at a speed exp(sum of three slow random waves)."""
    waves = np.arange(1, 4)[:, None]
    phase = np.pi * waves * (np.arange(frames - 1) / (frames - 1)) + rng.uniform(0, 2 * np.pi, (3, 1))
    speed = np.exp((rng.normal(0, 1, (3, 1)) / waves * np.cos(phase)).sum(0))
    return _travel(rng, np.append(0, np.cumsum(speed)) / speed.sum())


# name: (probability, drawing of a curve).
_WARPS: dict[str, tuple[float, Callable[[np.random.Generator, int], np.ndarray]]] = {
    "forward": (0.25, lambda rng, frames: np.arange(frames)),
    "backward": (0.10, lambda rng, frames: np.arange(frames)[::-1]),
    "boomerang": (0.08, _boomerang),
    "zigzag": (0.08, _zigzag),
    "slow_global": (0.10, _slow_global),
    "slow_segment": (0.08, _slow_segment),
    "fixed_frame": (0.10, _fixed_frame),
    "acceleration": (0.07, _acceleration),
    "deceleration": (0.07, _deceleration),
    "smooth": (0.07, _smooth),
}
WARPS = {name: probability for name, (probability, _) in _WARPS.items()}


def random_warp(rng: np.random.Generator, frames: int, resolution: float = 0.5) -> tuple[str, np.ndarray]:
    """Draws a temporal warp for training: its name in WARPS, and the animation times float32 [F]."""
    mode = str(rng.choice(list(WARPS), p=list(WARPS.values())))
    times = _WARPS[mode][1](rng, frames)
    rounded = np.floor(times / resolution + 0.5) * resolution
    return mode, np.clip(rounded, 0, frames - 1).astype(np.float32)
