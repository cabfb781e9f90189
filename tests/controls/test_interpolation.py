"""Curves through keys, against scipy's own curves in float64, closed forms and finite differences."""

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation, Slerp

from stp_jax.controls import interpolation

TIMES = np.array([0.0, 2.0, 3.0, 7.0, 8.5, 12.0])
SMOOTH = ["smooth"] * 5
AT = np.linspace(0, 12, 241)


def keys(seed: int, dims: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (6, dims))


def turns(seed: int) -> Rotation:
    """Rotations of less than a half turn from one to the next."""
    steps = Rotation.from_rotvec(np.random.default_rng(seed).normal(0, 0.6, (6, 3)))
    all_of = [steps[0]]
    for step in steps[1:]:
        all_of.append(all_of[-1] * step)
    return Rotation.concatenate(all_of)


# Numbers --------------------------------------------------------------------------------------------------


def test_smooth_numbers_are_scipys_monotone_cubic():
    values = keys(1)
    made = interpolation.numbers(TIMES, values, SMOOTH, AT)
    np.testing.assert_allclose(made, PchipInterpolator(TIMES, values)(AT), atol=1e-12)
    one = interpolation.numbers(TIMES, values[:, 0], SMOOTH, AT)
    np.testing.assert_allclose(one, made[:, 0], atol=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_numbers_never_overshoot_whatever_the_ways(seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([0.0, 1.0, 1.0, 5.0, 20.0], 6)
    kinds = rng.choice(interpolation.KINDS, 5)
    made = interpolation.numbers(TIMES, values, kinds, AT)
    for i in range(5):
        inside = made[(AT >= TIMES[i]) & (AT < TIMES[i + 1])]
        low, high = sorted(values[i : i + 2])
        assert inside.min() >= low and inside.max() <= high
        assert np.all(np.diff(inside) * np.sign(values[i + 1] - values[i]) >= -1e-12)
    np.testing.assert_array_equal(interpolation.numbers(TIMES, values, kinds, TIMES), values)


def test_each_way_is_of_its_kind():
    values = np.array([0.0, 4.0, 4.0, 8.0, 1.0, 2.0])
    made = interpolation.numbers(TIMES, values, ["linear", "hold", "ease", "hold", "linear"], AT)
    part = (AT - 3) / 4
    expected = np.select(
        [AT < 2, AT < 3, AT < 7, AT < 8.5],
        [2 * AT, 4.0, 4 + 4 * (3 * part**2 - 2 * part**3), 8.0],
        1 + (AT - 8.5) / 3.5,
    )
    np.testing.assert_allclose(made, expected, atol=1e-12)


def test_values_are_held_outside_the_keys():
    at = np.array([-3.0, 0, 12, 20])
    np.testing.assert_array_equal(interpolation.numbers(TIMES, np.arange(6.0), SMOOTH, at), [0, 0, 5, 5])
    np.testing.assert_array_equal(interpolation.points(TIMES[:1], np.ones((1, 3)), [], at), np.ones((4, 3)))
    one = Rotation.from_rotvec([[0.1, 0.2, 0.3]])
    np.testing.assert_array_equal(
        interpolation.rotations(TIMES[:1], one, [], at).as_rotvec(), one.as_rotvec().repeat(4, 0)
    )


# Points ---------------------------------------------------------------------------------------------------


def test_points_pass_through_their_keys_and_are_as_smooth_as_promised():
    values = keys(2)
    np.testing.assert_array_equal(interpolation.points(TIMES, values, SMOOTH, TIMES), values)
    step = 1e-6
    before, after = (
        np.diff([interpolation.points(TIMES, values, SMOOTH, TIMES[1:-1] + shift) for shift in pair], axis=0)[
            0
        ]
        / step
        for pair in ((-step, 0), (0, step))
    )
    np.testing.assert_allclose(before, after, atol=1e-4)


def test_even_speed_and_parabolas_are_met():
    line = np.outer(TIMES, [1.0, -2, 0.5]) + 3
    np.testing.assert_allclose(
        interpolation.points(TIMES, line, SMOOTH, AT), np.outer(AT, [1.0, -2, 0.5]) + 3, atol=1e-12
    )
    curved = (TIMES**2)[:, None] + 40 * TIMES[:, None]  # of which no speed is limited
    inner = (AT >= 2) & (AT <= 8.5)
    np.testing.assert_allclose(
        interpolation.points(TIMES, curved, SMOOTH, AT)[inner, 0], (AT**2 + 40 * AT)[inner], atol=1e-10
    )


def test_a_path_stands_still_between_equal_keys_and_rests_beside_holds():
    values = keys(3)
    values[3] = values[2]
    still = interpolation.points(TIMES, values, SMOOTH, AT[(AT >= 3) & (AT <= 7)])
    np.testing.assert_allclose(still, np.tile(values[2], (len(still), 1)), atol=1e-12)
    kinds = ["smooth", "hold", "smooth", "ease", "smooth"]
    step = 1e-5
    for time in (2 - step, 3, 7 - step, 7, 8.5 - step, 8.5):
        moved = np.diff(interpolation.points(TIMES, keys(4), kinds, np.array([time, time + step])), axis=0)
        assert np.abs(moved).max() < 1e-8, time


def test_a_smooth_way_has_the_speed_of_the_linear_one_beside_it():
    values = np.outer(TIMES, [1.0, 0.5]) + 0.05 * keys(5, 2)
    kinds = ["linear", "smooth", "smooth", "linear", "linear"]
    step = 1e-6
    for time, way in ((2.0, 0), (7.0, 3)):
        slope = (values[way + 1] - values[way]) / (TIMES[way + 1] - TIMES[way])
        near = interpolation.points(TIMES, values, kinds, np.array([time - step, time, time + step]))
        np.testing.assert_allclose(np.diff(near, axis=0) / step, [slope, slope], atol=1e-4)


# Rotations ------------------------------------------------------------------------------------------------


def test_linear_rotations_are_scipys_slerp():
    made = interpolation.rotations(TIMES, turns(1), ["linear"] * 5, AT)
    np.testing.assert_allclose((Slerp(TIMES, turns(1))(AT).inv() * made).magnitude(), 0, atol=1e-7)


def test_rotations_about_one_axis_are_the_curve_of_their_angles():
    axis = np.array([1.0, 2, -2]) / 3
    angles = np.array([0.0, 0.5, 1.2, 2.9, 3.0, 1.8])
    for kinds in (SMOOTH, ["smooth", "smooth", "ease", "linear", "smooth"]):
        made = interpolation.rotations(TIMES, Rotation.from_rotvec(np.outer(angles, axis)), kinds, AT)
        alone = interpolation.points(TIMES, angles[:, None], kinds, AT)
        expected = Rotation.from_rotvec(alone * axis)
        np.testing.assert_allclose((expected.inv() * made).magnitude(), 0, atol=1e-7)


def test_rotations_pass_through_their_keys_without_a_jump_of_the_speed():
    through = interpolation.rotations(TIMES, turns(2), SMOOTH, TIMES)
    np.testing.assert_allclose((turns(2).inv() * through).magnitude(), 0, atol=1e-7)
    step = 1e-5
    at = np.concatenate([TIMES[1:-1] - step, TIMES[1:-1], TIMES[1:-1] + step])
    before, middle, after = np.split(interpolation.rotations(TIMES, turns(2), SMOOTH, at).as_matrix(), 3)
    slow = [(b.swapaxes(1, 2) @ a - np.eye(3)) / step for b, a in ((before, middle), (middle, after))]
    np.testing.assert_allclose(*slow, atol=1e-3)


def test_a_rotation_at_even_speed_is_met():
    spin = Rotation.from_rotvec(np.outer(TIMES, [0.1, 0.2, -0.15]))
    made = interpolation.rotations(TIMES, spin, SMOOTH, AT)
    expected = Rotation.from_rotvec(np.outer(AT, [0.1, 0.2, -0.15]))
    np.testing.assert_allclose((expected.inv() * made).magnitude(), 0, atol=1e-7)
