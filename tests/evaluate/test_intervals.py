"""Bootstrap intervals beside the normal approximation and scipy's."""

import numpy as np
import pytest
from scipy import stats

from stp_jax.evaluate.intervals import difference, draws, estimate, resampled_means, slope


def test_interval_of_normal_values_is_that_of_their_mean():
    values = np.random.default_rng(3).normal(20, 2, size=400)
    found = estimate(values)
    half = 1.959964 * np.std(values) / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean()) and found.scenes == 400
    assert [found.low, found.high] == pytest.approx([found.mean - half, found.mean + half], abs=0.03 * half)


def test_interval_of_few_skewed_values_equals_scipy():
    values = np.random.default_rng(4).exponential(size=12)
    found = estimate(values)
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=50_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = reference.high - reference.low
    assert [found.low, found.high] == pytest.approx(list(reference), abs=0.04 * width)
    assert found.high - found.mean > 1.1 * (found.mean - found.low)  # skewed, as the values
    assert estimate(values) == found  # drawn the same each time


def test_differences_are_paired():
    rng = np.random.default_rng(5)
    scene = rng.normal(20, 3, size=30)  # scenes differ much more than methods
    better, other = scene + rng.normal(0.3, 0.1, size=30), scene
    found = difference(better, other)
    half = 1.96 * np.std(better - other) / np.sqrt(30)
    assert found.mean == pytest.approx(np.mean(better - other))
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    assert found.low > 0 and estimate(better).low < estimate(other).high


def test_missing_values_do_not_count():
    values = np.array([1.0, np.nan, 3.0, np.nan, 8.0])
    found = estimate(values)
    assert found.mean == 4 and found.scenes == 3
    counts = draws(5)
    first = next(row for row in counts if row[1] and row[0])
    expected = (first[0] * 1 + first[2] * 3 + first[4] * 8) / (first[0] + first[2] + first[4])
    assert resampled_means(values)[np.flatnonzero((counts == first).all(1))] == pytest.approx(expected)


@pytest.mark.parametrize("values, mean", [([5.0], 5.0), ([np.inf, 2.0], np.inf), ([np.nan], np.nan)])
def test_where_there_is_no_interval(values, mean):
    found = estimate(np.array(values))
    np.testing.assert_equal(found[:3], (mean, np.nan, np.nan))
    assert difference(np.array([np.inf]), np.array([np.inf])).scenes == 0


def test_slope_is_that_of_least_squares_over_all_scenes():
    rng = np.random.default_rng(6)
    x = rng.uniform(0, 40, size=(50, 8))
    y = 1.3 * x + rng.normal(0, 1, size=x.shape)
    found = slope((x * y).sum(1), (x * x).sum(1))
    assert found.mean == pytest.approx(np.linalg.lstsq(x.reshape(-1, 1), y.ravel(), rcond=None)[0][0])
    half = 1.96 / np.sqrt((x * x).sum())  # of independent errors of deviation 1
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.25)
    assert np.isnan(slope(np.zeros(3), np.zeros(3)).mean)  # nothing moves
