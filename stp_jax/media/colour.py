"""Decoded frames of FFmpeg to 8-bit RGB of BT.709, by their colour tags."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from stp_jax.errors import InputError
from stp_jax.media import light

NO_ALPHA = "transparent parts are white: alpha is left out"
Notes = dict[str, None]  # remarks on how a video was read, each once, in their order
_THREAD = threading.local()
# FFmpeg's bicubic filter, widened where it makes pictures smaller, rounded exactly and the same on every
# processor: SWS_BICUBIC, SWS_ACCURATE_RND, SWS_BITEXACT. PyAV 17 has no names for the last two.
_FILTER = 4 | 0x40000 | 0x80000

# FFmpeg's AVColorSpace, which PyAV gives as a number (ITU-T H.273, MatrixCoefficients)
_UNTAGGED = {0, 2, 3}  # identity, unspecified, reserved; identity is for RGB and has no meaning for YUV
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,  # of constant luminance: hardly used, and close to it
}
_UNREAD = {8: "YCgCo", 11: "Y'D'zD'x", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-R", 17: "YCgCo-R"}
#: Kr, Kb of the same standards
_LUMA = {
    Colorspace.ITU709: (0.2126, 0.0722),
    Colorspace.FCC: (0.30, 0.11),
    Colorspace.ITU601: (0.299, 0.114),
    Colorspace.SMPTE240M: (0.212, 0.087),
    Colorspace.BT2020: (0.2627, 0.0593),
}
_TRANSFERS: dict[int, str] = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
_PRIMARIES: dict[int, str] = {
    ColorPrimaries.BT2020: "BT.2020",
    ColorPrimaries.SMPTE431: "Display P3",  # DCI-P3, but for its white
    ColorPrimaries.SMPTE432: "Display P3",
}


def rgb(frame: av.VideoFrame, width: int, notes: Notes) -> np.ndarray:
    """The picture as uint8 [H, `width`, 3]: SDR of BT.709, transparent parts white.

    HDR is tone-mapped and wide gamuts are converted (`stp_jax.media.light`). YUV without a tag is taken as
    players take it: HD (720 lines or more, or 1280 columns) as BT.709, smaller pictures as BT.601.

    Args:
      notes: gets a remark on each of these.

    Raises:
      InputError: a colour matrix that is not read.
    """
    transfer = _TRANSFERS.get(frame.color_trc, "SDR")
    primaries = _PRIMARIES.get(frame.color_primaries, "BT.709")
    if transfer != "SDR" and frame.color_primaries not in (ColorPrimaries.BT709, *_PRIMARIES):
        primaries = "BT.2020"  # as BT.2100 defines both
    matrix = _matrix(frame, primaries, notes)
    if transfer == "SDR" and primaries == "BT.709":
        if not _is_transparent(frame):
            return _reformat(frame, width, "rgb24", matrix)
        rgba = _reformat(frame, width, "rgba", matrix)
        return on_white(rgba[..., :3], rgba[..., 3:], notes)
    if transfer == "SDR":
        notes[f"wide gamut ({primaries}) converted to BT.709"] = None
    else:
        notes[f"HDR ({transfer}, {primaries}) tone-mapped to SDR"] = None
    rows = _rows(frame, width, matrix)
    picture = light.to_sdr(rows, frame.height, width, transfer=transfer, primaries=primaries)
    if _is_transparent(frame):
        picture = on_white(picture, _reformat(frame, width, "rgba", matrix)[..., 3:], notes)
    return picture


def is_plain(frame: av.VideoFrame) -> bool:
    """Whether FFmpeg alone makes the right picture: YUV, progressive, opaque, SDR, primaries of BT.709."""
    pixels = _pixels(frame.format.name)
    return (
        pixels.coloured
        and not pixels.transparent
        and not frame.interlaced_frame
        and frame.color_trc not in _TRANSFERS
        and frame.color_primaries not in _PRIMARIES
    )


def resized(frame: av.VideoFrame, height: int, width: int) -> list[np.ndarray]:
    """Red, green and blue of a plain frame, uint8 [height, width] each, colours read as by `rgb`.

    Brightness and colours are resized from where the file says that their samples are, in full resolution.

    Raises:
      InputError: a colour matrix that is not read.
    """
    matrix = _matrix(frame, "BT.709", {})
    # Not "rgb24", of which FFmpeg would make the colours in half of the width.
    to = {"width": width, "height": height, "format": "gbrp", "interpolation": _FILTER}
    made = _converted("resizer", frame, src_colorspace=matrix, **to)
    green, blue, red = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, :width]
        for plane in made.planes
    )
    return [red, green, blue]


def on_white(picture: np.ndarray, alpha: np.ndarray, notes: Notes) -> np.ndarray:
    """uint8 [H, W, 3] over white, by uint8 [H, W, 1]; 255 is opaque. `notes` gets a remark if any is not."""
    if (alpha == 255).all():
        return np.ascontiguousarray(picture)
    notes[NO_ALPHA] = None
    result = np.empty(picture.shape, np.uint8)
    for row in range(0, len(picture), 64):  # floats of a whole picture would take gigabytes
        part = slice(row, row + 64)
        share = alpha[part].astype(np.float32) / 255
        result[part] = np.round(picture[part] * share + 255 * (1 - share))
    return result


class _Pixels(NamedTuple):
    """What a pixel format has."""

    transparent: bool
    coloured: bool  # by YUV: it has a matrix


@functools.lru_cache(maxsize=64)
def _pixels(name: str) -> _Pixels:
    # Asked of every frame; PyAV makes its answers anew each time.
    pixels = av.VideoFormat(name)
    transparent = pixels.has_palette or any(part.is_alpha for part in pixels.components)
    # PyAV's is_chroma means planes of less than full size.
    has_chroma = sum(not part.is_alpha for part in pixels.components) > 1
    return _Pixels(transparent, has_chroma and not pixels.is_rgb and not pixels.has_palette)


def _is_transparent(frame: av.VideoFrame) -> bool:
    return _pixels(frame.format.name).transparent


def _matrix(frame: av.VideoFrame, primaries: str, notes: Notes) -> Colorspace | None:
    """The YUV matrix of a frame; None for RGB and grey."""
    if not _pixels(frame.format.name).coloured:
        return None
    number = int(frame.colorspace)
    if number in _UNREAD:
        raise InputError(f"colours in {_UNREAD[number]} are not read: convert it to BT.709 or BT.2020.")
    if number not in _UNTAGGED and number in _MATRICES:
        return _MATRICES[number]
    if primaries == "BT.2020":
        return Colorspace.BT2020
    if frame.height >= 720 or frame.width >= 1280:
        notes["no colour tags: read as BT.709, as players read HD"] = None
        return Colorspace.ITU709
    notes["no colour tags: read as BT.601, as players read less than HD"] = None
    return Colorspace.ITU601


def _reformat(frame: av.VideoFrame, width: int, pixel_format: str, matrix: Colorspace | None) -> np.ndarray:
    made = _converted("converter", frame, width=width, format=pixel_format, src_colorspace=matrix)
    return np.asarray(made.to_ndarray(), np.uint8)


def _converted(name: str, frame: av.VideoFrame, **to: Any) -> av.VideoFrame:
    """The frame as FFmpeg's converter of that name makes it, of which each thread has one."""
    # A frame's own converter would be prepared anew for each frame: of 128 px that takes 8 times as long as
    # the conversion. With threads FFmpeg would start one for each core, for each frame: 20 times as long.
    converter = getattr(_THREAD, name, None) or VideoReformatter()
    setattr(_THREAD, name, None)  # one that failed is not used again
    made = converter.reformat(frame, **to, threads=1)
    setattr(_THREAD, name, converter)
    return made


def _rows(frame: av.VideoFrame, width: int, matrix: Colorspace | None) -> Callable[[slice], np.ndarray]:
    """A function that gives rows of a frame as non-linear RGB, float32 [3, rows * width], at full depth.

    FFmpeg only brings chroma to the size of luma here: its RGB of 16 bits is too dark by 1/256.
    """
    if matrix is None:
        green, blue, red = _planes(frame.reformat(width=width, format="gbrp16le", threads=1), width)
        planes, to_rgb, offset = [red, green, blue], np.eye(3, dtype=np.float32) / 65535, np.zeros((3, 1))
    else:
        whole = ColorRange.JPEG if _is_full_range(frame) else ColorRange.MPEG
        made = frame.reformat(
            width=width, format="yuv444p16le", src_color_range=whole, dst_color_range=whole, threads=1
        )
        planes = _planes(made, width)
        bits = frame.format.components[0].bits
        to_rgb, offset = _yuv_to_rgb(matrix, whole == ColorRange.JPEG, bits)

    def rows(part: slice) -> np.ndarray:
        values = to_rgb @ np.stack([plane[part].ravel() for plane in planes]).astype(np.float32)
        values += offset.astype(np.float32)
        return values

    return rows


def _planes(frame: av.VideoFrame, width: int) -> list[np.ndarray]:
    return [
        np.frombuffer(memoryview(plane), np.uint16).reshape(plane.height, plane.line_size // 2)[:, :width]
        for plane in frame.planes
    ]


def _is_full_range(frame: av.VideoFrame) -> bool:
    return frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")


def _yuv_to_rgb(matrix: Colorspace, full: bool, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [3, 3] and [3, 1]: a matrix and an offset from YUV of `bits` bits, shifted to 16, to RGB 0..1.

    ITU-R BT.709, BT.601 and BT.2020: Y' = Kr R' + Kg G' + Kb B', Cb = (B' - Y') / 2 (1 - Kb), Cr likewise;
    limited range has 219 steps of Y' from 16 and 224 of Cb, Cr around 128, in units of 8 bits.
    """
    kr, kb = _LUMA[matrix]
    kg = 1 - kr - kb
    to_rgb = np.array(
        [
            [1, 1, 1],
            [0, -2 * kb * (1 - kb) / kg, 2 * (1 - kb)],
            [2 * (1 - kr), -2 * kr * (1 - kr) / kg, 0],
        ]
    )
    most = 65536 - 2 ** (16 - bits)
    steps = np.array([most] * 3 if full else [219 * 256, 224 * 256, 224 * 256], np.float64)
    zero = np.array([0 if full else 16 * 256, 32768, 32768], np.float64)
    scaled = (to_rgb / steps[:, None]).T
    return scaled.astype(np.float32), -(scaled @ zero[:, None]).astype(np.float32)
