"""Whether numbers are finite, at the speed of memory, for every floating-point type that weights have."""

from __future__ import annotations

import ml_dtypes
import numpy as np

CHUNK = 2**22  # bytes; fewer would wait for Python's lock more often, where others compute meanwhile

# The bits, without the sign, of the smallest value that is not finite; all above are not finite either.
FIRST_NOT_FINITE = {
    np.dtype(np.float64): 0x7FF0_0000_0000_0000,
    np.dtype(np.float32): 0x7F80_0000,
    np.dtype(np.float16): 0x7C00,
    np.dtype(ml_dtypes.bfloat16): 0x7F80,
    np.dtype(ml_dtypes.float8_e5m2): 0x7C,
    np.dtype(ml_dtypes.float8_e4m3fn): 0x7F,
}


def all_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite. Whole numbers always are finite.

    Args:
      array: contiguous.
    """
    first = FIRST_NOT_FINITE.get(array.dtype)
    if first is None:
        return array.dtype.kind in "iub" or bool(np.isfinite(array).all())
    size, flat = array.itemsize, array.reshape(-1)
    sign = 1 << (8 * size - 1)
    for start in range(0, flat.size, CHUNK // size):
        chunk = flat[start : start + CHUNK // size]
        # As whole numbers, those of negative values are the largest without a sign, others with one.
        if int(chunk.view(f"u{size}").max()) >= sign + first or int(chunk.view(f"i{size}").max()) >= first:
            return False
    return True
