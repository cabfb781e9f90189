"""SpaceTimePilot's patterns of animation time, against its lists written in another way."""

import numpy as np
import pytest

from stp_jax.controls import animation_time
from stp_jax.errors import InputError
from stp_jax.official.time_patterns import PATTERNS, curve, pattern


def run(first: int, last: int) -> list[int]:
    step = 1 if last >= first else -1
    return list(range(first, last + step, step))


@pytest.mark.parametrize(
    ("name", "evaluation_name", "expected"),
    [
        ("forward", "normal", run(0, 80)),
        ("reverse", "reverse", run(80, 0)),
        ("pingpong", "bounce_40", run(40, 80) + run(80, 41)),
        ("bounce_late", "zigzag_15_21_5", run(60, 84) + run(84, 29)),
        ("bounce_early", "zigzag_5_21_15", run(20, 84) + run(84, 69)),
        ("slowmo_first_half", "repeat_0to40_double", [0] + sorted(2 * run(1, 40))),
        ("slowmo_second_half", "start40_repeat_next", [40] + sorted(2 * run(41, 80))),
        ("ramp_then_freeze", "go_and_freeze", run(0, 40) + 40 * [40]),
        ("freeze_start", "fixed_0", 81 * [0]),
        ("freeze_early", "fixed_5", 81 * [20]),
        ("freeze_mid", "fixed_10", 81 * [40]),
        ("freeze_late", "fixed_15", 81 * [60]),
        ("freeze_end", "fixed_20", 81 * [80]),
        ("zigzag_0_10_0", "zigzag_0_10_0", run(0, 40) + run(39, 0)),
    ],
)
def test_official_patterns_under_both_names(name, evaluation_name, expected):
    assert len(expected) == 81
    for spec in (f"official:{name}", f"official:{evaluation_name}"):
        times = curve(spec, 81)
        assert times.dtype == np.float32
        np.testing.assert_array_equal(times, expected)
    assert f"official:{name}" in PATTERNS
    np.testing.assert_array_equal(pattern(evaluation_name), expected)


def test_official_patterns_are_of_81_frames_and_no_other():
    with pytest.raises(InputError, match="official:pingpong.*made for 81 frames, the video has 17"):
        curve("official:pingpong", 17)
    with pytest.raises(InputError, match="unknown official time pattern 'ping_pong': did you mean pingpong"):
        curve("official:ping_pong", 81)
    with pytest.raises(InputError, match="outside the source, 0 to 80"):  # which only they may leave
        curve("bullet_time:84", 81)


@pytest.mark.parametrize("spec", ["zigzag", "bullet_time:3", "0:0, 16:8"])
def test_everything_else_is_read_as_everywhere(spec):
    np.testing.assert_array_equal(curve(spec, 17), animation_time.curve(spec, 17))
