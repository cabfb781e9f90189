"""Times as people write them, in frames, seconds and per cent, and what they are in frames."""

from __future__ import annotations

import re
from typing import NamedTuple

from stp_jax import user_input
from stp_jax.errors import InputError

_UNIT = re.compile(r"(.*?)\s*(s|%)", re.DOTALL)


class Time(NamedTuple):
    """A time in a video: `unit` is "" for frames counted from 0, "s" for seconds, "%" for per cent.

    0 % is the first frame and 100 % the last. Seconds count from the first frame.
    """

    value: float
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.value:.15g}{' ' if self.unit == 's' else ''}{self.unit}"


class Rates(NamedTuple):
    """What seconds are counted by."""

    new: float  # frames per second of the new video, as it plays
    source: float  # frames of the source's clip for each of its seconds


def parse(text: str) -> Time | None:
    """The time that a text spells, such as `8`, `8.5`, `1.5s` or `50%`; None where it spells none."""
    found = _UNIT.fullmatch(text.strip()[:50])
    value = user_input.number(found[1] if found else text)
    return None if value is None else Time(value, found[2] if found else "")


def in_frames(time: Time, last: int, rate: float | None, where: str) -> float:
    """Frames from 0, for a video of frames 0..`last`; the range is not checked.

    The last frame is shown until `last + 1` frames are over, so seconds until then are the last frame.

    Args:
      rate: frames per second. None: not known.

    Raises:
      InputError: seconds, and the rate is not known; `where` names the time.
    """
    if time.unit == "%":
        return time.value / 100 * last
    if time.unit == "":
        return time.value
    if rate is None:
        raise InputError(f"{where}: {time} cannot be counted in frames without a video; give frames or %")
    frame = time.value * rate
    if abs(frame) < 1e9 and abs(frame - round(frame)) < 1e-6:
        frame = float(round(frame))  # seconds with a few digits mean a frame
    return float(last) if last < frame <= last + 1 else frame
