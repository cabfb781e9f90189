"""What the devices can do, by the name that JAX gives them."""

from __future__ import annotations

from typing import NamedTuple


class Chip(NamedTuple):
    tflops: float  # 10^12 bfloat16 operations a second, dense, of the makers' data sheets
    memory_gib: float
    bandwidth: float  # 10^12 bytes a second from its memory


# A part of `device_kind`, in lower case -> the chip; the first that is found counts.
CHIPS = {
    "h200": Chip(989, 141, 4.8),
    "h100": Chip(989, 80, 3.35),
    "a100": Chip(312, 80, 2.0),
    "tpu7x": Chip(2307, 192, 7.4),
    "v6 lite": Chip(918, 32, 1.64),
    "v6e": Chip(918, 32, 1.64),
    "v5 lite": Chip(197, 16, 0.82),
    "v5e": Chip(197, 16, 0.82),
    "v5p": Chip(459, 95, 2.77),
    "v5": Chip(459, 95, 2.77),
    "v4": Chip(275, 32, 1.23),
}


def chip(device_kind: str) -> Chip | None:
    """The chip of this name, or None if it is not known here."""
    return next((one for name, one in CHIPS.items() if name in device_kind.lower()), None)
