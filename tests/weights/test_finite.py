"""NaN and infinities are found in every type, and nothing else is."""

import math

import ml_dtypes
import numpy as np
import pytest

from stp_jax.errors import InputError
from stp_jax.weights import finite
from stp_jax.weights.finite import all_finite
from stp_jax.weights.layouts.table import WEIGHT, Rule, lazy_parameters

TYPES = list(finite.FIRST_NOT_FINITE)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_one_number_that_is_not_finite_is_found_wherever_it_stands(dtype, monkeypatch):
    monkeypatch.setattr(finite, "CHUNK", 64)
    finite_ones = np.array([0, -0.0, 1, -1, ml_dtypes.finfo(dtype).max, ml_dtypes.finfo(dtype).min], dtype)
    array = np.resize(finite_ones, 301)
    array[7] = ml_dtypes.finfo(dtype).smallest_subnormal
    assert all_finite(array) and all_finite(array[:0]) and all_finite(array.reshape(7, 43))
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for place in (0, 150, 300):
            changed = array.copy()
            changed[place] = value
            assert not all_finite(changed), (value, place)


def test_all_bit_patterns_of_narrow_types_agree_with_numpy():
    for dtype in TYPES:
        if dtype.itemsize > 2:
            continue
        patterns = np.arange(2 ** (8 * dtype.itemsize)).astype(f"u{dtype.itemsize}").view(dtype)
        expected = [math.isfinite(pattern) for pattern in patterns.tolist()]
        found = [
            all_finite(patterns[i : i + 1]) for i in range(0, len(patterns), 1 if dtype.itemsize == 1 else 97)
        ]
        assert np.array_equal(found, expected[:: 1 if dtype.itemsize == 1 else 97])


def test_whole_numbers_are_finite():
    assert all_finite(np.full(3, -1, np.int16)) and all_finite(np.ones(2, bool))


def test_the_stored_tensor_and_its_file_are_named(tmp_path):
    for n in range(3):
        values = np.zeros((4, 2), np.float32)
        values[3, 1] = np.nan if n == 1 else 0
        values.tofile(tmp_path / f"{n}")
    tensors = {f"w.{n}": np.memmap(tmp_path / f"{n}", np.float32, "r").reshape(4, 2) for n in range(3)}
    lazy = lazy_parameters([Rule("w", "w.{n}", WEIGHT, pieces=3)], tensors)["w"]
    assert lazy[0].shape == (2, 4) and lazy.read((slice(0, 3), slice(0, 2), slice(0, 3))).shape == (3, 2, 3)
    with pytest.raises(InputError, match=r"/1: w\.1 has numbers that are NaN or infinite\. The file is"):
        np.asarray(lazy)
    tensors = {"w": np.full(2, 1e6, np.float32)}
    with pytest.raises(InputError, match="w has numbers that are NaN or infinite as float16"):
        lazy_parameters([Rule("w", "w")], tensors)["w"].read((slice(0, 2),), np.float16)
