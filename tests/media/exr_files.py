"""Writes uncompressed OpenEXR files from the layout in the format's documentation, and nothing else."""

import struct
from pathlib import Path

import numpy as np

HALF, FLOAT = 1, 2


def write_exr(path: Path, channels: dict[str, np.ndarray], *, compression=0, version=2, **attributes) -> Path:
    """Channels [H, W] of float16 or float32; `attributes` are further ones, by name: (type, bytes)."""
    height, width = next(iter(channels.values())).shape
    names = sorted(channels)  # as the format wants them
    kinds = {name: HALF if channels[name].dtype == np.float16 else FLOAT for name in names}
    listed = b"".join(name.encode() + b"\0" + struct.pack("<IIII", kinds[name], 0, 1, 1) for name in names)
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    header = {
        "channels": ("chlist", listed + b"\0"),
        "compression": ("compression", bytes([compression])),
        "dataWindow": ("box2i", window),
        "displayWindow": ("box2i", window),
        "lineOrder": ("lineOrder", b"\0"),
        "pixelAspectRatio": ("float", struct.pack("<f", 1)),
        "screenWindowCenter": ("v2f", struct.pack("<2f", 0, 0)),
        "screenWindowWidth": ("float", struct.pack("<f", 1)),
        **attributes,
    }
    data = b"\x76\x2f\x31\x01" + struct.pack("<I", version)
    for name, (kind, value) in header.items():
        data += name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(value)) + value
    data += b"\0"
    lines = [b"".join(channels[name][y].tobytes() for name in names) for y in range(height)]
    at = len(data) + 8 * height
    offsets = [at + y * (8 + len(lines[0])) for y in range(height)]
    data += struct.pack(f"<{height}Q", *offsets)
    data += b"".join(struct.pack("<iI", y, len(line)) + line for y, line in enumerate(lines))
    path.write_bytes(data)
    return path
