"""Animation time: the time of the source's motion that each frame of a video shows.

A curve is float32 [F], counted in source frames: 0 is the source's first frame, F - 1 its last, fractions lie
between. (It is not a diffusion model's timestep, which is the noise level.) A user gives a curve as a preset,
as keyframes or as a file; training draws random ones.

In the formulas below i = 0..L is the frame and L = F - 1 the last.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from stp_jax import user_input
from stp_jax.errors import InputError

FILE_TYPES = (".npy", ".json", ".txt", ".csv")
FILE_BYTES = 2 << 20  # the largest text that is read; 10,000 frames take a tenth of it
MOST_KEYFRAMES = 20_000

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
# What courses of time are called elsewhere, and here.
ELSEWHERE = {
    **dict.fromkeys(("freeze", "frozen", "bullet", "pause", "still", "static", "stop"), "bullet_time"),
    **dict.fromkeys(("normal", "original", "as_filmed", "none", "linear", "realtime"), "forward"),
    **dict.fromkeys(("backward", "backwards", "rewind", "reversed"), "reverse"),
    **dict.fromkeys(("slow", "slowmo", "slow_mo", "half_speed"), "slow_motion"),
    **dict.fromkeys(("fast", "double_speed", "speed_up", "time_lapse", "timelapse"), "fast_forward"),
    **dict.fromkeys(("boomerang", "bounce", "back_and_forth"), "zigzag"),
    **dict.fromkeys(("ping_pong",), "pingpong"),
    **dict.fromkeys(("ease_in", "faster"), "accelerate"),
    **dict.fromkeys(("ease_out", "slower"), "decelerate"),
}

# The five of the paper's test of time control. Their times are multiples of half a source frame, for which a
# rendered grid has ground truth.
EVALUATION_MODES = ("forward", "reverse", "bullet_time", "slow_motion", "zigzag")


def curve(spec: str | os.PathLike, frames: int) -> np.ndarray:
    """The animation time of each of F frames, float32 [F].

    Args:
      spec: one of
        - a preset: a name of PRESETS; `bullet_time:3` freezes at source frame 3;
        - keyframes `frame:animation time`, as "0:0, 16:16, 24:16, 32:32": linear in between, held before the
          first and after the last;
        - a file: .npy [F], .json (a list of F numbers, alone or under "animation_time"), .txt or .csv (F
          numbers between spaces, commas or line ends; or keyframes).
      frames: F, of the source and of the result. A file must have F values, because they count source frames.

    Raises:
      InputError: unknown preset, malformed or unordered keyframes, values outside 0..F-1, unreadable file.
    """
    spec = str(spec)
    where = f"animation time {user_input.short(spec)}"
    name, *numbers = [part.strip() for part in spec.split(":")]
    if name in _PRESETS:
        times = _PRESETS[name][1](np.arange(frames, dtype=np.float64), frames - 1.0)
        if numbers:
            value = user_input.number(numbers[0])
            if name == "bullet_time" and len(numbers) == 1 and value is None:
                raise InputError(
                    f"{where}: {user_input.short(numbers[0], 40)} is not a number; only bullet_time takes a "
                    f"number, a source frame counted from 0 to {frames - 1} (not seconds), as bullet_time:3"
                )
            if name != "bullet_time" or len(numbers) > 1 or value is None:
                raise InputError(f"{where}: only bullet_time takes a number, as bullet_time:3")
            times[:] = value
    elif user_input.is_file_name(spec, FILE_TYPES):
        where = spec
        times = _read(spec, frames)
    elif "," in spec or not spec.strip() or spec.strip()[0] in "+-.0123456789":
        times = _keyframes(spec, frames, where)
    else:
        raise user_input.unknown("animation time preset", name, PRESETS, ELSEWHERE)
    outside = ~((times >= 0) & (times <= frames - 1))
    if outside.any():
        frame = int(np.argmax(outside))
        raise InputError(
            f"{where}: frame {frame}: time {times[frame]:g} is outside the source, 0 to {frames - 1}"
        )
    return times.astype(np.float32)


def _keyframes(text: str, frames: int, where: str) -> np.ndarray:
    """The curve through keyframes "frame:animation time, ...", float64 [F]; `where` names them in errors."""
    if not text.strip():
        raise InputError(f"{where}: is empty; give a preset, a file, or keyframes as '0:0, 8:4.5'")
    if text.count(",") >= MOST_KEYFRAMES:
        raise InputError(
            f"{where}: {text.count(',') + 1:,} keyframes are too many; at most {MOST_KEYFRAMES:,}"
        )
    at: list[int] = []
    times: list[float] = []
    seen: set[int] = set()
    for pair in text.split(","):
        frame, time = (user_input.number(part) for part in (pair.split(":") + ["", ""])[:2])
        if pair.count(":") != 1 or frame is None or time is None or frame != int(frame):
            raise InputError(
                f"{where}: {user_input.short(pair.strip(), 40)} is not a keyframe; "
                "write frame:animation time, as '8:4.5'"
            )
        if int(frame) in seen:
            raise InputError(f"{where}: two keyframes for frame {frame:g}")
        if at and frame < at[-1]:
            raise InputError(
                f"{where}: keyframes out of order: frame {frame:g} comes after frame {at[-1]:.15g}"
            )
        at.append(int(frame))
        seen.add(int(frame))
        times.append(time)
    last = frames - 1
    for a, t in zip(at, times, strict=True):
        if not (0 <= a <= last and 0 <= t <= last):
            hint = _fitted(at, times, last)
            raise InputError(
                f"{where}: keyframe {a:.15g}:{t:g} is outside this video, frames 0 to {last}{hint}"
            )
    return np.interp(np.arange(frames), at, times)


def _fitted(at: list[int], times: list[float], last: int) -> str:
    """A hint for keyframes of a longer video: the same keyframes, scaled to this one."""
    if min(*at, *times) < 0 or len(at) > 20:
        return ""
    scale = last / max(*at, *times)
    frames = [round(frame * scale) for frame in at]
    if len(set(frames)) < len(frames):
        return ""
    pairs = (f"{frame}:{time * scale:.4g}" for frame, time in zip(frames, times, strict=True))
    return f"; scaled to it: '{', '.join(pairs)}'"


def _read(path: str, frames: int) -> np.ndarray:
    """A curve from a file, float64 [F]; its range is not checked."""
    data = user_input.load(path, FILE_TYPES, text_bytes=FILE_BYTES)
    if isinstance(data, str):
        if ":" in data:
            lines = [line.strip(" ,") for line in data.splitlines()]
            return _keyframes(",".join(line for line in lines if line), frames, path)
        items = data.replace(",", " ").split()
        data = [user_input.number(item) for item in items]
        if None in data:
            raise InputError(f"{path}: {user_input.short(items[data.index(None)], 40)} is not a number")
    if isinstance(data, dict):
        data = data.get("animation_time")
    times = user_input.table(data, (), path)
    if len(times) != frames:
        raise InputError(f"{path}: {len(times)} animation times, but the video has {frames} frames")
    return times


def _window(rng: np.random.Generator, times: np.ndarray, frames: int) -> np.ndarray:
    """A random run of `frames` values out of a longer list."""
    start = rng.integers(len(times) - frames + 1)
    return times[start : start + frames]


def _boomerang(rng: np.random.Generator, frames: int) -> np.ndarray:
    there = np.arange(frames)
    return _window(rng, np.concatenate([there, there[-2::-1]]), frames)


def _zigzag(rng: np.random.Generator, frames: int) -> np.ndarray:
    there = np.arange(int(rng.integers(frames // 2 + 1, frames)) + 1)
    return _window(rng, np.concatenate([there, there[-2::-1]]), frames)


def _slow_global(rng: np.random.Generator, frames: int) -> np.ndarray:
    return _window(rng, np.arange(2 * frames - 1) / 2, frames)


def _slow_segment(rng: np.random.Generator, frames: int) -> np.ndarray:
    length = int(rng.integers(max(frames // 4, 1), max(round(0.31 * frames), 1) + 1))
    start = int(rng.integers(frames - length))
    inside = start + np.arange(2 * length) / 2
    times = np.concatenate([np.arange(start), inside, np.arange(start + length, frames)])
    return _window(rng, times, frames)


def _fixed_frame(rng: np.random.Generator, frames: int) -> np.ndarray:
    return np.full(frames, rng.uniform(0, frames - 1))


def _travel(rng: np.random.Generator, progress: np.ndarray) -> np.ndarray:
    """Maps progress from 0 to 1 to at least half of the source, at random, forward or backward."""
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


# name: (probability, function that draws a curve)
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
    """Draws a temporal warp for training.

    The first seven modes of WARPS are those of SpaceTimePilot's augmentation, for F frames instead of 81.
    Where that repeats frames, ours has half steps:
      - forward and backward;
      - boomerang: a window of 0..L..0;
      - zigzag: a window of 0..p..0 with p in the later half;
      - slow_global: half speed;
      - slow_segment: half speed in a random quarter;
      - fixed_frame: frozen at a random time.
    The others are ours. Each goes over at least half of the source, in either direction:
      - acceleration and deceleration: powers of 1.5 to 3 of the frame number;
      - smooth: a random smooth speed.
    The probabilities are ours; frozen time is likelier than in that augmentation.

    Args:
      rng: numpy's generator; equal states draw equal warps.
      frames: F, at least 3.
      resolution: in source frames; times are rounded to multiples of it, as a rendered grid has only these.

    Returns:
      The mode, a name in WARPS, and the animation times float32 [F] in 0..F-1.
    """
    if frames < 3:
        raise ValueError(f"a warp needs at least 3 frames, not {frames}")
    mode = str(rng.choice(list(WARPS), p=list(WARPS.values())))
    times = _WARPS[mode][1](rng, frames)
    # Halves are rounded up, not to even: half speed on whole frames must show each frame twice.
    rounded = np.floor(times / resolution + 0.5) * resolution
    return mode, np.clip(rounded, 0, frames - 1).astype(np.float32)
