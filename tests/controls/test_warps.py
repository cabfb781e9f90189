"""Warps of animation time that training draws."""

import numpy as np
import pytest

from stp_jax.controls.animation_time import WARPS, random_warp

F = 17


def draws(frames: int, resolution: float, count: int = 600, seed: int = 0) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    warps: dict[str, list[np.ndarray]] = {}
    for _ in range(count):
        mode, times = random_warp(rng, frames, resolution)
        warps.setdefault(mode, []).append(times)
    return warps


@pytest.mark.parametrize(("frames", "resolution"), [(3, 0.5), (5, 1.0), (17, 0.5), (33, 0.25), (81, 1.0)])
def test_warps_of_all_modes_stay_in_the_source_at_the_resolution(frames, resolution):
    warps = draws(frames, resolution)
    assert set(warps) == set(WARPS)
    for mode, curves in warps.items():
        times = np.stack(curves)
        assert times.shape[1] == frames and times.dtype == np.float32, mode
        assert np.all((times >= 0) & (times <= frames - 1)), mode
        np.testing.assert_array_equal(times / resolution % 1, 0, mode)


def test_warps_are_as_frequent_as_they_should_be():
    assert abs(sum(WARPS.values()) - 1) < 1e-12
    count = 4000
    warps = draws(5, 0.5, count)
    for mode, probability in WARPS.items():
        spread = np.sqrt(probability * (1 - probability) / count)
        assert abs(len(warps[mode]) / count - probability) < 5 * spread, mode


def test_equal_random_states_draw_equal_warps():
    a, b = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(50):
        (mode_a, times_a), (mode_b, times_b) = random_warp(a, F), random_warp(b, F)
        assert mode_a == mode_b
        np.testing.assert_array_equal(times_a, times_b)
    assert a.bit_generator.state == b.bit_generator.state


@pytest.fixture(scope="module")
def warps():
    return draws(F, 0.5, 3000)


def test_modes_have_their_speeds(warps):
    speed = {mode: np.diff(np.stack(curves), axis=1) for mode, curves in warps.items()}
    assert (
        np.all(speed["forward"] == 1)
        and np.all(speed["backward"] == -1)
        and np.all(speed["fixed_frame"] == 0)
    )
    assert np.all(speed["slow_global"] == 0.5)
    for mode in ("boomerang", "zigzag"):  # at most one turn, from forward to backward
        assert np.all(np.abs(speed[mode]) == 1) and np.all(np.diff(speed[mode], axis=1) <= 0), mode
    # Its turn is always seen, anywhere in the later half.
    assert set(np.max(warps["zigzag"], axis=1)) == set(range(F // 2 + 1, F))
    slow = (speed["slow_segment"] == 0.5).sum(1)
    assert np.all(np.isin(speed["slow_segment"], [0.5, 1])) and slow.max() <= 2 * round(0.31 * F)
    assert np.mean(slow >= 2 * (F // 4) - 1) > 0.5, "most windows show the whole slow segment"


def test_frozen_times_are_spread_evenly_over_the_source(warps):
    times = np.stack(warps["fixed_frame"])[:, 0]
    assert times.min() == 0 and times.max() == F - 1
    assert abs(times.mean() - (F - 1) / 2) < 5 * (F - 1) / np.sqrt(12 * len(times))


def test_our_modes_go_both_ways_and_change_speed(warps):
    for mode in ("acceleration", "deceleration", "smooth"):
        times = np.stack(warps[mode])
        steps = np.diff(times, axis=1)
        rising = np.all(steps >= 0, axis=1)
        assert np.all(rising | np.all(steps <= 0, axis=1)), f"{mode} turns round"
        assert 0.3 < rising.mean() < 0.7, f"{mode} should be as often backward as forward"
        assert np.all(np.ptp(times, axis=1) >= (F - 1) / 2 - 0.5), f"{mode} shows at least half of the source"
        early, late = np.abs(steps[:, :4]).sum(1), np.abs(steps[:, -4:]).sum(1)
        if mode == "acceleration":
            assert np.all(late > early)
        elif mode == "deceleration":
            assert np.all(late < early)
        else:
            assert np.any(late > early) and np.any(late < early)


def test_warps_differ_within_a_mode(warps):
    for mode, curves in warps.items():
        if mode not in ("forward", "backward"):
            assert len({times.tobytes() for times in curves}) > 5, mode


def test_slow_motion_on_whole_frames_shows_each_frame_twice():
    for times in draws(F, 1.0)["slow_global"]:
        _, counts = np.unique(times, return_counts=True)
        assert np.all(counts[1:-1] == 2)


def test_too_few_frames_for_a_warp():
    with pytest.raises(ValueError, match="at least 3 frames"):
        random_warp(np.random.default_rng(0), 2)
