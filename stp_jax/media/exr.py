"""Headers of OpenEXR files: what FFmpeg would read wrongly is refused, and primaries are read.

The layout is that of https://openexr.com/en/latest/OpenEXRFileLayout.html: a magic number, a version with
flags, then attributes "name, type, size, data" until an empty name.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, NamedTuple

import numpy as np

from stp_jax.errors import InputError
from stp_jax.media import light

_MAGIC = b"\x76\x2f\x31\x01"
_DEEP = 0x800
_NOT_LINES = 0x200 | 0x800 | 0x1000  # tiles, deep, several parts
_LINES_TOGETHER = (1, 1, 1, 16, 32, 16, 32, 32)  # by compression
_MOST_HEADER = 1 << 20  # bytes; those of renderers with all their settings take some 10 kB
# DWA, of which FFmpeg 8 decodes some pictures wrongly (the last lines, grey, alpha), and newer ones.
_UNREAD_FROM = 8
_BT709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)


class Header(NamedTuple):
    """What is read of a header."""

    channels: dict[str, int]  # name: type, 0 whole numbers, 1 half, 2 float
    compression: int
    deep: bool
    complete: bool  # False: lines are missing, as while a renderer writes it
    chromaticities: tuple[float, ...] | None  # x, y of red, green, blue, white


def read_header(path: str | os.PathLike) -> Header | None:
    """The header of an EXR file; None for other files, and where it is damaged, which FFmpeg says."""
    if not os.path.isfile(path):  # a pipe would be waited for
        return None
    try:
        with open(path, "rb") as file:
            if file.read(4) != _MAGIC:
                return None
            data = file.read(_MOST_HEADER)
            (version,) = struct.unpack_from("<I", data)
            attributes, end = _attributes(data)
            channels = _channels(attributes["channels"])
            complete = bool(version & _NOT_LINES) or _has_all_lines(file, attributes, 4 + end)
        chromaticities = attributes.get("chromaticities")
        return Header(
            channels,
            attributes["compression"][0],
            bool(version & _DEEP),
            complete,
            None if chromaticities is None else struct.unpack("<8f", chromaticities),
        )
    except (OSError, struct.error, ValueError, KeyError, IndexError):
        return None


def _has_all_lines(file: BinaryIO, attributes: dict[str, bytes], at: int) -> bool:
    """Whether blocks of lines lie where the table at this place of the file says, the last one whole."""
    _, top, _, bottom = struct.unpack("<4i", attributes["dataWindow"])
    together = _LINES_TOGETHER[min(attributes["compression"][0], len(_LINES_TOGETHER) - 1)]
    blocks = -(-(bottom - top + 1) // together)
    size = os.fstat(file.fileno()).st_size
    if not 0 < blocks <= (size - at) // 8:
        return False
    file.seek(at)
    table = np.frombuffer(file.read(8 * blocks), "<u8")
    if not table.all() or int(table.max()) + 8 > size:
        return False
    last = int(table.max())
    file.seek(last + 4)
    return last + 8 + int.from_bytes(file.read(4), "little") <= size


def _attributes(data: bytes) -> tuple[dict[str, bytes], int]:
    """Attributes by name, and where they end."""
    found, at = {}, 4
    while data[at] != 0:
        end = data.index(0, at)
        kind = data.index(0, end + 1)
        (size,) = struct.unpack_from("<I", data, kind + 1)
        found[data[at:end].decode("latin-1")] = data[kind + 5 : kind + 5 + size]
        at = kind + 5 + size
    return found, at + 1


def _channels(data: bytes) -> dict[str, int]:
    found, at = {}, 0
    while data[at] != 0:
        end = data.index(0, at)
        found[data[at:end].decode("latin-1")] = struct.unpack_from("<I", data, end + 1)[0]
        at = end + 17
    return found


def check(path: str | os.PathLike) -> None:
    """Raises `InputError` for an EXR file that FFmpeg does not read, or reads wrongly."""
    header = read_header(path)
    if header is None:
        return
    if header.compression >= _UNREAD_FROM:
        raise InputError(f"{path} has a compression that is not read well: use ZIP or PIZ.")
    names = set(header.channels)
    grey = "Y" in names and not names & {"R", "G", "B"}
    if not header.complete:
        raise InputError(f"{path} is truncated or damaged: give a whole file.")
    if header.deep:
        raise InputError(f"{path} is a deep EXR: flatten it first.")
    if not names >= {"R", "G", "B"} and not (grey and not names & {"RY", "BY"}):
        some = ", ".join(sorted(names)[:4])
        raise InputError(
            f"{path} has no channels R, G, B or Y, but {some}: write the layer to be seen as R, G, B."
        )
    kinds = {header.channels[name] for name in names & {"R", "G", "B", "A", "Y"}}
    if 0 in kinds:
        raise InputError(f"{path} holds whole numbers, not light: write it as half or float.")


def to_bt709(path: str | os.PathLike) -> np.ndarray | None:
    """float64 [3, 3] from the linear RGB of an EXR file's primaries to that of BT.709; None: it is that.

    Files that state no primaries have those of BT.709, as the format says. Whites are adapted by the
    Bradford transform.
    """
    header = read_header(path)
    stated = None if header is None else header.chromaticities
    if stated is None or np.allclose(stated, _BT709, atol=2e-3):
        return None
    red, green, blue, white = zip(stated[::2], stated[1::2], strict=True)
    try:
        return light.linear_to_bt709((red, green, blue), white)
    except (ZeroDivisionError, np.linalg.LinAlgError):
        raise InputError(f"{path}: its primaries {stated} are impossible.") from None
