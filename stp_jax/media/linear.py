"""Pictures of linear light in floats (EXR and others) to 8-bit sRGB."""

from __future__ import annotations

import av
import numpy as np
from PIL import Image

from stp_jax.media.colour import NO_ALPHA, Notes

_ROWS = 64  # at a time: floats of a whole picture would take gigabytes


def is_linear(frame: av.VideoFrame) -> bool:
    """Whether a decoded frame is of floats, which formats of pictures use for linear light."""
    return _dtype(frame) is not None


def _dtype(frame: av.VideoFrame) -> np.dtype | None:
    name = frame.format.name
    for ending, dtype in (("f32le", "<f4"), ("f32be", ">f4"), ("f16le", "<f2"), ("f16be", ">f2")):
        if name.endswith(ending):
            return np.dtype(dtype)
    return None


def picture(frame: av.VideoFrame, to_bt709: np.ndarray | None, width: int, notes: Notes) -> np.ndarray:
    """uint8 [H, `width`, 3] by the sRGB curve; light above 1 becomes white, transparent parts are white.

    Args:
      frame: planar or grey, of floats. Colours with alpha are multiplied by it, as EXR has them.
      to_bt709: [3, 3], from its primaries; None: it has those of BT.709.
      notes: gets remarks on what was done.
    """
    dtype = _dtype(frame)
    if dtype is None or frame.format.is_planar is False and len(frame.planes) > 1:
        raise ValueError(f"not floats in planes: {frame.format.name}")
    planes = [
        np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)[:, : frame.width]
        for plane in frame.planes
    ]
    alpha = planes.pop() if len(planes) in (2, 4) else None
    red, green, blue = (planes[2], planes[0], planes[1]) if len(planes) == 3 else planes * 3
    notes["linear light converted by the sRGB curve, light above 1 is white"] = None
    if to_bt709 is not None:
        notes["its primaries converted to BT.709"] = None
    if alpha is not None and bool((alpha < 1).any()):
        notes[NO_ALPHA] = None
    made = np.empty((frame.height, frame.width, 3), np.uint8)
    for top in range(0, frame.height, _ROWS):
        rows = slice(top, top + _ROWS)
        light = np.stack([plane[rows] for plane in (red, green, blue)], -1).astype(np.float32)
        light = np.nan_to_num(light, nan=0.0, posinf=1e9, neginf=-1e9)
        if to_bt709 is not None:
            light = light @ to_bt709.T.astype(np.float32)
        if alpha is not None:
            light = light + (1 - np.clip(np.nan_to_num(alpha[rows, :, None].astype(np.float32)), 0, 1))
        made[rows] = np.round(255 * srgb(light))
    if width != frame.width:
        made = np.asarray(Image.fromarray(made).resize((width, frame.height), Image.Resampling.BICUBIC))
    return made


def srgb(light: np.ndarray) -> np.ndarray:
    """The signal 0..1 of linear light by the curve of IEC 61966-2-1; light is clipped to 0..1."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
