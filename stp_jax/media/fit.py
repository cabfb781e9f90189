"""Brings pictures to a size: one rule for where they are cut, for every reader and for lenses.

A picture is resized until it covers the size, and the centre is cropped. What it is resized to has whole
pixels, and as many to the left of the crop as to the right of it: `covering`. Lenses follow exactly.

Pictures are resized by a bicubic filter that is as wide as the pixels of the result, so nothing aliases.
Frames of data sets are resized by FFmpeg in YUV, on their way to RGB (`fit_frame`), in a fifth of Pillow's
time. What is RGB already, or needs more than FFmpeg to become SDR of BT.709, is resized by Pillow
(`fit_image`). The two differ by their kernels, Keys' cubic with a = -0.6 and -0.5: by 0.5 of 255 in noise.
"""

from __future__ import annotations

import av
import numpy as np
from PIL import Image

from stp_jax.media import colour
from stp_jax.media.orientation import frame_picture, is_turned


def covering(source: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width to which a picture of `source` is resized before `size` is cropped out of its centre.

    One of them is that of `size`. The other differs from it by an even number, the nearest to the right
    shape.
    """
    scale = min(whole / kept for whole, kept in zip(source, size, strict=True))
    height, width = (
        kept + 2 * round(max(0.0, whole / scale - kept) / 2) for whole, kept in zip(source, size, strict=True)
    )
    return height, width


def fit_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes until the size is covered, and crops the centre: uint8 `[h, w, 3]` -> `[height, width, 3]`."""
    h, w = image.shape[:2]
    kept = _kept((h, w), (height, width))
    top, left = (h - h * kept[0]) / 2, (w - w * kept[1]) / 2
    # Rounding may put an edge outside of the picture by a tiny bit, which Pillow refuses.
    box = (left, top, min(w, left + w * kept[1]), min(h, top + h * kept[0]))
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box))


def fit_frame(frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    """A decoded frame as it is seen, as `fit_image` would cut it: uint8 `[height, width, 3]`.

    Raises:
      InputError: a colour matrix that is not read.
    """
    if (frame.height, frame.width) == (height, width) or is_turned(frame) or not colour.is_plain(frame):
        picture = frame_picture(frame)
        return picture if picture.shape[:2] == (height, width) else fit_image(picture, height, width)
    whole = covering((frame.height, frame.width), (height, width))
    top, left = (whole[0] - height) // 2, (whole[1] - width) // 2
    fitted = np.empty((height, width, 3), np.uint8)
    for channel, plane in enumerate(colour.resized(frame, *whole)):
        fitted[..., channel] = plane[top : top + height, left : left + width]
    return fitted


def fit_intrinsics(
    intrinsics: np.ndarray, source_size: tuple[int, int], height: int, width: int
) -> np.ndarray:
    """Intrinsics `[..., 4]` (fx, fy, cx, cy over width, height) after `fit_image`: cropping changes them."""
    kept = np.array(_kept(source_size, (height, width))[::-1], np.float32)
    focal, centre = intrinsics[..., :2] / kept, (intrinsics[..., 2:] - (1 - kept) / 2) / kept
    return np.concatenate([focal, centre], axis=-1)


def _kept(source: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """What part of the height and of the width of a picture the crop keeps."""
    height, width = (kept / whole for kept, whole in zip(size, covering(source, size), strict=True))
    return height, width
