"""The buckets of distances; the encoder itself is compared in tests/weights/test_same_outputs.py."""

import numpy as np
import pytest

from stp_jax.models.text_encoder import TextEncoderConfig, distance_buckets


def test_buckets_of_distances_in_whole_numbers():
    """T5's table: 8 exact distances in each direction, then 8 buckets whose bounds grow by 16^(1/8)."""
    found = distance_buckets(512, 32, 128)
    for query, key in ((0, 511), (511, 0), *np.random.default_rng(0).integers(0, 512, (300, 2)).tolist()):
        distance = abs(key - query)
        # distance >= 8 * 16^(n / 8), without a logarithm
        far = sum(distance**8 >= 8**8 * 16**n for n in range(1, 8))
        expected = distance if distance < 8 else 8 + far
        assert found[query, key] == expected + 16 * (key > query), (query, key)


def test_every_boundary_is_exact():
    first_row = distance_buckets(200, 32, 128)[0] - 16
    changes = [d for d in range(8, 200) if first_row[d] != first_row[d - 1]]
    assert changes == [8, 12, 16, 23, 32, 46, 64, 91]


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="not divisible by 5 heads"):
        TextEncoderConfig(heads=5)
