"""Presets of speed, and the knobs of sampling that they set: what may be left out, and at what price.

`exact` leaves nothing out. docs/speed.md has the forwards and the quality of each. Without JAX, so that
mistakes are found at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stp_jax.errors import InputError

EVERYWHERE = (0.0, 1.0)
ROUNDING = 1e-6  # noise levels are float32: 0.9 of the schedule is the user's 0.9


class Speed(NamedTuple):
    """Knobs of sampling.

    Attributes:
      attention: see `Rerenderer`; `fp8` is exact where the device has no 8 bits.
      guidance_interval: lowest and highest noise level, from 0 to 1, of steps with guidance.
      cache_threshold: a step reuses the velocity of an earlier one while it is predicted to differ by less
        than this share, see `stp_jax.rerender.caching`. 0: all steps are computed.
    """

    attention: str = "exact"
    guidance_interval: tuple[float, float] = EVERYWHERE
    cache_threshold: float = 0.0


# Thresholds: 0.05 is EasyCache's own. Intervals: what is seen of a prompt is settled at high noise, and late
# steps differ least with and without guidance (Castillo et al. 2023, arXiv 2312.12487).
PRESETS = {
    "exact": Speed(),
    "fast": Speed("fp8", (0.75, 1.0), 0.05),
    "draft": Speed("fp8", (0.9, 1.0), 0.1),
}


def choose(
    preset: str | None = None,
    attention: str | None = None,
    guidance_interval: tuple[float, float] | None = None,
    cache_threshold: float | None = None,
) -> Speed:
    """The knobs of a preset, `exact` by default; a knob that is given wins.

    Raises:
      InputError: there is no such preset; an impossible interval or threshold.
    """
    if preset not in (None, *PRESETS):
        raise InputError(f"--speed {preset}: choose one of {', '.join(PRESETS)}.")
    given: dict[str, Any] = {
        "attention": attention,
        "guidance_interval": None if guidance_interval is None else tuple(guidance_interval),
        "cache_threshold": cache_threshold,
    }
    speed = PRESETS[preset or "exact"]._replace(**{k: v for k, v in given.items() if v is not None})
    low, high = speed.guidance_interval
    if not 0 <= low < high <= 1:
        raise InputError(
            f"--guidance_interval {low:g} {high:g}: give the lowest and the highest noise level with "
            "guidance, both from 0 to 1."
        )
    if not 0 <= speed.cache_threshold < np.inf:
        raise InputError(f"--cache_threshold {speed.cache_threshold:g}: give 0, for no reuse, or more.")
    return speed


def refuse_idle_knobs(
    guidance_interval: tuple[float, float] | None,
    cache_threshold: float | None,
    guidance: float,
    *,
    flow_map: bool,
) -> None:
    """Raises `InputError` for knobs that were given, other than by a preset, to no effect.

    Args:
      guidance_interval, cache_threshold: None: not given.
      guidance: by text; 1: none.
      flow_map: whether the model is one.
    """
    if guidance_interval is not None and guidance == 1:
        raise InputError(
            "--guidance_interval has no effect, as nothing is guided (--guidance is 1): leave it out."
        )
    if cache_threshold and flow_map:
        raise InputError(
            "--cache_threshold: the velocity of a flow map is that of one step, no other step can reuse it; "
            "give fewer --steps instead."
        )


def for_model(speed: Speed, *, guidance: float, flow_map: bool) -> tuple[Speed, tuple[str, ...]]:
    """The knobs of a preset as a model takes them, and a line where one of them is not for it.

    Without guidance it has no interval; most models have none, so nothing is said.
    """
    lines: tuple[str, ...] = ()
    if flow_map and speed.cache_threshold:
        speed = speed._replace(cache_threshold=0.0)
        lines = ("Every step is computed, as the model is a flow map: fewer --steps make it faster.",)
    return speed if guidance != 1 else speed._replace(guidance_interval=EVERYWHERE), lines


def guided_steps(sigmas: np.ndarray, interval: tuple[float, float]) -> np.ndarray:
    """Which steps, from noise levels `[steps + 1]`, are within an interval of guidance: bool `[steps]`."""
    low, high = interval
    return (sigmas[:-1] >= low - ROUNDING) & (sigmas[:-1] <= high + ROUNDING)
