"""Animation time: the time of the source's motion that each frame of a video shows.

A curve is float32 [F], counted in source frames: 0 is the source's first frame, F - 1 its last, fractions lie
between. (It is not a diffusion model's timestep, which is the noise level.) A user gives a curve as a preset,
as keyframes or as a file; training draws random ones.

In the formulas below i = 0..L is the frame and L = F - 1 the last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from stp_jax import user_input
from stp_jax.controls import times as times_of
from stp_jax.controls.times import Rates, Time
from stp_jax.errors import InputError

FILE_TYPES = (".npy", ".json", ".txt", ".csv")
FILE_BYTES = 2 << 20  # the largest text that is read; 10,000 frames take a tenth of it
MOST_KEYFRAMES = 20_000


class _Preset(NamedTuple):
    """A curve of the frames i, the last frame L and, for some, a number n."""

    explanation: str
    curve: Callable[[np.ndarray, float, float], np.ndarray]
    default: Callable[[float], float] | None = None  # the number, from L; None: it takes none
    number: str = ""  # what the number is
    valid: Callable[[float], bool] = lambda n: True


_PRESETS: dict[str, _Preset] = {
    "forward": _Preset("as filmed: i", lambda i, last, n: i),
    "reverse": _Preset("backwards: L - i", lambda i, last, n: last - i),
    "bullet_time": _Preset(
        "frozen at the middle; at source frame 3: bullet_time:3, also bullet_time:0.8s and bullet_time:25%",
        lambda i, last, n: n + 0 * i,
        lambda last: last / 2,
        "a source frame counted from 0 to {last}, seconds as 0.8s or per cent as 25%",
    ),
    "freeze_start": _Preset("frozen at the first frame", lambda i, last, n: 0 * i),
    "freeze_end": _Preset("frozen at the last frame", lambda i, last, n: last + 0 * i),
    "slow_motion": _Preset("first half of the motion at half speed: i / 2", lambda i, last, n: i / 2),
    "fast_forward": _Preset(
        "twice the speed, then the last frame is held", lambda i, last, n: np.minimum(2 * i, last)
    ),
    "zigzag": _Preset("forward to the middle and back again", lambda i, last, n: np.minimum(i, last - i)),
    "pingpong": _Preset(
        "from the middle forward to the end and back again",
        lambda i, last, n: last - np.abs(i - last / 2),
    ),
    "accelerate": _Preset("slow at first, then ever faster: i^2 / L", lambda i, last, n: i**2 / max(last, 1)),
    "decelerate": _Preset(
        "fast at first, then ever slower: L - (L - i)^2 / L",
        lambda i, last, n: last - (last - i) ** 2 / max(last, 1),
    ),
    "ramp": _Preset(
        "all of the motion: fast, smoothly down to a quarter of the speed in the middle, and up again; "
        "ramp:0.1 down to a tenth",
        # The speed is 1 + (1 - n) cos(2 pi i / L): 2 - n at the ends, n in the middle.
        lambda i, last, n: i + (1 - n) * last / (2 * np.pi) * np.sin(2 * np.pi * i / max(last, 1)),
        lambda last: 0.25,
        "the slowest speed, from 0 to 1",
        lambda n: 0 <= n <= 1,
    ),
    "ramp_then_freeze": _Preset(
        "forward to the middle, then frozen there", lambda i, last, n: np.minimum(i, last / 2)
    ),
    "freeze_middle": _Preset(
        "forward to the middle, frozen for a quarter, then on to the end at twice the speed",
        lambda i, last, n: np.interp(i, [0, last / 2, 3 * last / 4, last], [0, last / 2, last / 2, last]),
    ),
    "stutter": _Preset(
        "as filmed, but each fourth frame alone, held for four; stutter:2 each second one",
        lambda i, last, n: i - i % n,
        lambda last: 4,
        "a number of frames, 2 or more",
        lambda n: n >= 2 and n == int(n),
    ),
    "loop": _Preset(
        "the first half of the motion twice; loop:3 its first third three times",
        lambda i, last, n: i % np.ceil((last + 1) / n),
        lambda last: 2,
        "a number of times, 2 or more",
        lambda n: n >= 2 and n == int(n),
    ),
}
PRESETS = {name: preset.explanation for name, preset in _PRESETS.items()}
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
    **dict.fromkeys(("speed_ramp", "velocity_ramp"), "ramp"),
    **dict.fromkeys(("step", "stop_motion", "frame_hold"), "stutter"),
    **dict.fromkeys(("repeat", "cycle"), "loop"),
}

# The five of the paper's test of time control. Their times are multiples of half a source frame, for which a
# rendered grid has ground truth.
EVALUATION_MODES = ("forward", "reverse", "bullet_time", "slow_motion", "zigzag")


def curve(
    spec: str | os.PathLike, frames: int, rates: Rates | None = None, source_frames: int | None = None
) -> np.ndarray:
    """The animation time of each of F frames, float32 [F].

    Args:
      spec: one of
        - a preset: a name of PRESETS; some take a number, as `bullet_time:3`, `ramp:0.1`;
        - keyframes `time: animation time`, as "0:0, 16:16, 24:16, 32:32": linear in between, held before the
          first and after the last. Both in frames, seconds or per cent: "0s:0s, 1.5s:0.8s, 100%:50%";
        - a file: .npy [F], .json (a list of F numbers, alone or under "animation_time"), .txt or .csv (F
          numbers between spaces, commas or line ends; or keyframes).
      frames: F, of the result. A file must have F values, because they count source frames.
      rates: what seconds are counted by. None: seconds are refused.
      source_frames: those of the source. None: F. Of another number, presets are those of F frames all the
        same, except for `bullet_time`, whose middle is the source's.

    Raises:
      InputError: unknown preset, malformed or unordered keyframes, times outside the source, unreadable file.
    """
    spec = str(spec)
    where = f"animation time {user_input.short(spec)}"
    name = spec.split(":")[0].strip()
    last_source = (source_frames or frames) - 1
    if name in _PRESETS:
        times = _preset(spec, frames, where, rates, last_source)
    elif user_input.is_file_name(spec, FILE_TYPES):
        where = spec
        times = _read(spec, frames, rates, last_source)
    elif "," in spec or not spec.strip() or spec.strip()[0] in "+-.0123456789":
        times = _keyframes(spec, frames, where, rates, last_source)
    else:
        raise user_input.unknown("animation time preset", name, PRESETS, ELSEWHERE)
    return in_source(times, where, last_source)


def in_source(times: np.ndarray, where: str, last: int | None = None) -> np.ndarray:
    """A curve [F] as float32; raises `InputError` for a time outside the source, 0 to `last`, F - 1 by
    default."""
    last = len(times) - 1 if last is None else last
    outside = ~((times >= 0) & (times <= last))
    if outside.any():
        frame = int(np.argmax(outside))
        raise InputError(f"{where}: frame {frame}: time {times[frame]:g} is outside the source, 0 to {last}")
    return times.astype(np.float32)


def needs_rates(spec: str | os.PathLike) -> bool:
    """Whether a curve has times in seconds, so that it needs rates. Raises `InputError` as `curve`."""
    text = str(spec)
    if text.split(":")[0].strip() not in _PRESETS and user_input.is_file_name(text, FILE_TYPES):
        data = user_input.load(text, FILE_TYPES, text_bytes=FILE_BYTES)
        text = data if isinstance(data, str) else ""
    return re.search(r"[\d.]\s*s\b", text) is not None


def _preset(spec: str, frames: int, where: str, rates: Rates | None, last_source: int) -> np.ndarray:
    """The curve of a preset, float64 [F]; its range is not checked."""
    name, *numbers = [part.strip() for part in spec.split(":")]
    preset, last = _PRESETS[name], last_source if name == "bullet_time" else frames - 1
    i = np.arange(frames, dtype=np.float64)
    if preset.default is None or len(numbers) > 1:
        if numbers:
            some = [other for other, one in _PRESETS.items() if one.default is not None]
            raise InputError(f"{where}: only {', '.join(some)} take a number, and one")
        return preset.curve(i, float(last), 0.0)
    if not numbers:
        return preset.curve(i, float(last), preset.default(last))
    time = times_of.parse(numbers[0])
    if time is None or (time.unit and name != "bullet_time") or not preset.valid(time.value):
        raise InputError(
            f"{where}: {user_input.short(numbers[0], 40)} is not {preset.number.format(last=last)}"
        )
    value = times_of.in_frames(time, last, rates and rates.source, where)
    if time.unit and not 0 <= value <= last:
        seconds = f", 0 to {last / rates.source:.4g} s" if rates else ""
        raise InputError(f"{where}: {time} is outside the source's clip, frames 0 to {last}{seconds}")
    return preset.curve(i, float(last), value)


def _keyframes(text: str, frames: int, where: str, rates: Rates | None, last_source: int) -> np.ndarray:
    """The curve through keyframes "time: animation time, ...", float64 [F]; `where` names them in errors."""
    if not text.strip():
        raise InputError(f"{where}: is empty; give a preset, a file, or keyframes as '0:0, 8:4.5'")
    if text.count(",") >= MOST_KEYFRAMES:
        raise InputError(
            f"{where}: {text.count(',') + 1:,} keyframes are too many; at most {MOST_KEYFRAMES:,}"
        )
    last, pairs = frames - 1, text.split(",")
    at: list[float] = []
    times: list[float] = []
    seen: set[float] = set()
    before: Time | None = None
    for pair in pairs:
        place, shown = (times_of.parse(part) for part in (pair.split(":") + ["", ""])[:2])
        if pair.count(":") != 1 or place is None or shown is None or (place.unit == "" and place.value % 1):
            raise InputError(
                f"{where}: {user_input.short(pair.strip(), 40)} is not a keyframe; "
                "write time:animation time, as '8:4.5' in whole frames, '1.5s:0.8s' or '50%:25%'"
            )
        frame = times_of.in_frames(place, last, rates and rates.new, where)
        if frame in seen:
            raise InputError(f"{where}: two keyframes for {_named(place)}")
        if before is not None and frame < at[-1]:
            raise InputError(f"{where}: keyframes out of order: {_named(place)} comes after {_named(before)}")
        at.append(frame)
        seen.add(frame)
        before = place
        times.append(times_of.in_frames(shown, last_source, rates and rates.source, where))
    for pair, a, t in zip(pairs, at, times, strict=True):
        if not (0 <= a <= last and 0 <= t <= last_source):
            fitted = _fitted(at, times, last) if _only_frames(text) and last == last_source else ""
            raise InputError(
                f"{where}: keyframe {user_input.short(pair.strip(), 40)[1:-1]} is outside this video, "
                f"{_extent(text, last, rates, last_source)}{fitted}"
            )
    return np.interp(np.arange(frames), at, times)


def _named(time: Time) -> str:
    return str(time) if time.unit else f"frame {time}"


def _only_frames(text: str) -> bool:
    return not re.search(r"[s%]", text)


def _extent(text: str, last: int, rates: Rates | None, last_source: int) -> str:
    extent = f"frames 0 to {last}" + (f", source frames 0 to {last_source}" if last_source != last else "")
    if rates is not None and not _only_frames(text):
        extent += f", 0 to {(last + 1) / rates.new:.4g} s"
        extent += f"; its source's clip 0 to {last_source / rates.source:.4g} s"
    return extent


def _fitted(at: list[float], times: list[float], last: int) -> str:
    """A hint for keyframes of a longer video: the same keyframes, scaled to this one."""
    if min(*at, *times) < 0 or len(at) > 20:
        return ""
    scale = last / max(*at, *times)
    frames = [round(frame * scale) for frame in at]
    if len(set(frames)) < len(frames):
        return ""
    pairs = (f"{frame}:{time * scale:.4g}" for frame, time in zip(frames, times, strict=True))
    return f"; scaled to it: '{', '.join(pairs)}'"


def _read(path: str, frames: int, rates: Rates | None, last_source: int) -> np.ndarray:
    """A curve from a file, float64 [F]; its range is not checked."""
    data = user_input.load(path, FILE_TYPES, text_bytes=FILE_BYTES)
    if isinstance(data, str):
        if ":" in data:
            lines = [line.strip(" ,") for line in data.splitlines()]
            return _keyframes(",".join(line for line in lines if line), frames, path, rates, last_source)
        items = data.replace(",", " ").split()
        data = [user_input.number(item) for item in items]
        if None in data:
            i = data.index(None)
            raise InputError(f"{path}: frame {i}: {user_input.short(items[i], 40)} is not a number")
    if isinstance(data, dict):
        if "keyframes" in data:
            raise InputError(f"{path}: is a file of keyframes: give it as --keyframes")
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
