"""Whether numbers are finite, at the speed of memory, for every floating-point type that weights have."""

from __future__ import annotations

import ml_dtypes
import numpy as np

CHUNK = 2**18  # bytes, which stay in a core's cache

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
    flat = array.reshape(-1).view(f"u{array.itemsize}")
    step = CHUNK // array.itemsize
    shifted = np.empty(min(step, flat.size), flat.dtype)
    for start in range(0, flat.size, step):
        chunk = flat[start : start + step]
        # Without its sign the pattern of a larger number is larger, and those of inf and NaN are the largest.
        bits = np.left_shift(chunk, 1, out=shifted[: chunk.size])
        if int(bits.max()) >= 2 * first:
            return False
    return True
