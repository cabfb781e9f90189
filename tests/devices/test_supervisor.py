"""What is said of memory that runs out; exit statuses are tested with real processes in tests/training."""

import pytest

from stp_jax.devices.supervisor import in_pieces

GIB = 2**30
REASON = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 41.65GiB with allocator GPU_0_bfc"


@pytest.mark.parametrize(
    "reason, free, added",
    [
        (REASON, 58 * GIB, " (58.0 GiB are free, but not in one piece)"),
        (REASON, 12 * GIB, ""),
        ("RESOURCE_EXHAUSTED: Out of memory", 58 * GIB, ""),
    ],
)
def test_memory_in_pieces_is_told_from_memory_that_is_too_small(reason, free, added):
    assert in_pieces(reason, free) == added
