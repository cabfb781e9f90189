"""Brings pictures to a size, and lenses with them: resized until they cover it, and cropped at the centre.

Pictures are resized by a bicubic filter that is as wide as the pixels of the result, so nothing aliases.
There are two ways, and lenses follow each of them exactly:

- `fit_image`, `fit_intrinsics`: RGB pictures of any origin, by Pillow; all that `sample.py` reads. The crop
  may begin and end within a pixel.
- `fit_frame`, `fit_frame_intrinsics`: frames of data sets, by FFmpeg in YUV on their way to RGB, in a fifth
  of the time. FFmpeg resizes whole frames, so the size that covers is rounded to whole pixels, as many on
  either side of the crop (`covering`): a direction that is cropped shows up to half a pixel more or less at
  each end. Frames that need more than FFmpeg to become SDR of BT.709 are cut in the same way, by Pillow.

The two filters differ by their kernels, Keys' cubic with a = -0.5 and -0.6: by 0.5 of 255 in noise.
"""

from __future__ import annotations

import av
import numpy as np
from PIL import Image

from stp_jax.media import colour
from stp_jax.media.orientation import frame_picture, is_turned, seen_size

_Size = tuple[int, int]  # height, width


def fit_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes until the size is covered, and crops the centre: uint8 `[h, w, 3]` -> `[height, width, 3]`."""
    source, size = (image.shape[0], image.shape[1]), (height, width)
    return _resized(image, size, _part(source, size))


def fit_intrinsics(intrinsics: np.ndarray, source_size: _Size, height: int, width: int) -> np.ndarray:
    """Intrinsics `[..., 4]` (fx, fy, cx, cy over width, height) after `fit_image`: cropping changes them."""
    return _cropped(intrinsics, source_size, _part(source_size, (height, width)))


def fit_frame(frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    """A decoded frame as it is seen, resized and cropped: uint8 `[height, width, 3]`.

    Raises:
      InputError: a colour matrix that is not read.
    """
    source, size = seen_size(frame), (height, width)
    if source == size:
        return frame_picture(frame)
    if is_turned(frame) or not colour.is_plain(frame):
        return _resized(frame_picture(frame), size, _part_of_frame(source, size))
    whole = covering(source, size)
    top, left = (whole[0] - height) // 2, (whole[1] - width) // 2
    fitted = np.empty((height, width, 3), np.uint8)
    for channel, plane in enumerate(colour.resized(frame, *whole)):
        fitted[..., channel] = plane[top : top + height, left : left + width]
    return fitted


def fit_frame_intrinsics(intrinsics: np.ndarray, source_size: _Size, height: int, width: int) -> np.ndarray:
    """As `fit_intrinsics`, after `fit_frame` of frames that are seen in `source_size`."""
    return _cropped(intrinsics, source_size, _part_of_frame(source_size, (height, width)))


def covering(source: _Size, size: _Size) -> _Size:
    """Height and width to which a frame of `source` is resized before `size` is cropped out of its centre.

    One of them is that of `size`. The other differs from it by an even number, the nearest to the right
    shape.
    """
    height, width = (
        kept + 2 * max(0, round((whole * kept / part - kept) / 2))
        for whole, kept, part in zip(source, size, _part(source, size), strict=True)
    )
    return height, width


def _part(source: _Size, size: _Size) -> tuple[float, float]:
    """Height and width, in pixels of the source, of the largest part of it that has the shape of `size`."""
    scale = min(source[0] / size[0], source[1] / size[1])
    return size[0] * scale, size[1] * scale


def _part_of_frame(source: _Size, size: _Size) -> tuple[float, float]:
    """As `_part`, where `covering` is rounded."""
    whole = covering(source, size)
    return source[0] * (size[0] / whole[0]), source[1] * (size[1] / whole[1])


def _resized(image: np.ndarray, size: _Size, part: tuple[float, float]) -> np.ndarray:
    """The part of this height and width in the middle of an image, at another size."""
    h, w = image.shape[:2]
    # Rounding may put an edge outside of the picture by a tiny bit, which Pillow refuses.
    top, left = max(0.0, (h - part[0]) / 2), max(0.0, (w - part[1]) / 2)
    box = (left, top, min(w, left + part[1]), min(h, top + part[0]))
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC, box=box))


def _cropped(intrinsics: np.ndarray, source: _Size, part: tuple[float, float]) -> np.ndarray:
    kept = np.array([part[1] / source[1], part[0] / source[0]], np.float32)  # of the width, of the height
    focal, centre = intrinsics[..., :2] / kept, (intrinsics[..., 2:] - (1 - kept) / 2) / kept
    return np.concatenate([focal, centre], axis=-1)
