"""Lenses: intrinsics of any form that files have them in, as (fx, fy, cx, cy) over (width, height, ...)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stp_jax import user_input
from stp_jax.errors import InputError

FOV = 50.0  # degrees across the shorter side of a picture whose lens is not known
SIZE_NAMES = (("width", "height"), ("w", "h"))  # of a file's fields

_LONGEST = 30.0  # focal lengths over the picture's size: a field of view of 2 degrees
_FARTHEST = 2.0  # of a principal point from the corner, over the picture's size
_DIVIDE = "Divide fx, fy, cx, cy by width, height, width, height"
# A principal point this near to the middle of the video's picture is measured in that picture.
_NEAR_MIDDLE = 0.05


class Lens(NamedTuple):
    """What a file says of its lens."""

    intrinsics: np.ndarray  # float64 [F, 4], divided by (width, height, width, height)
    form: str  # how it was read, to print


def default_intrinsics(fov_degrees: float = FOV, aspect: float = 1.0) -> np.ndarray:
    """The intrinsics of a camera of which nothing is known, float32 [4].

    Square pixels, principal point in the middle, and `fov_degrees` across the shorter side of a picture whose
    width is `aspect` times its height. So a central square crop has the same field of view.

    Raises:
      InputError: a field of view that is not between 0 and 180 degrees.
    """
    if not 0 < fov_degrees < 180:
        raise InputError(f"a field of view of {fov_degrees:g} degrees: give one between 0 and 180")
    shorter = 0.5 / np.tan(np.radians(fov_degrees) / 2)
    return np.array([shorter / max(aspect, 1), shorter * min(aspect, 1), 0.5, 0.5], np.float32)


def read(
    value: Any,
    frames: int,
    where: str,
    *,
    stated: tuple[float, float] | None = None,
    video: tuple[int, int] | None = None,
) -> Lens:
    """Intrinsics of a file, in any of these forms, one for all frames or one for each.

    - Four numbers fx, fy, cx, cy, or a 3 x 3 matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1]].
    - Divided by the width and height of the picture, or in pixels. They are in pixels where both coordinates
      of the principal point are above 2. The picture's size is then the one that the file states; else the
      video's, if the principal point lies within 5 % of its middle; else twice the principal point, if that
      is the same in all frames; else the video's.

    Args:
      value: nested lists or an array.
      frames: F.
      where: names the file in errors.
      stated: width and height of the picture, from the file.
      video: height and width of the video that the file belongs to.

    Raises:
      InputError: of another shape, not finite, with skew, neither normalised nor in pixels.
    """
    where = f"{where}: intrinsics"
    whole = user_input.numbers(value)
    if whole is not None and whole.shape in ((4,), (3, 3)):
        value = [whole] * frames
    listed = value.ndim > 0 if isinstance(value, np.ndarray) else isinstance(value, list)
    first = user_input.numbers(value[0]) if listed and len(value) else None
    matrices = first is not None and first.shape == (3, 3)
    rows = user_input.table(value, (3, 3) if matrices else (4,), where)
    if len(rows) != frames:
        raise InputError(f"{where} of shape {list(rows.shape)}; expected [{frames}, {rows.shape[1]}]")
    _refuse(
        where, ~np.isfinite(rows).reshape(frames, -1).all(1), "the intrinsics have NaN or infinite numbers"
    )
    if matrices:
        rows = _of_matrices(rows, where)
    form = "3 x 3 matrices" if matrices else "intrinsics"
    _refuse(where, (rows[:, :2] <= 0).any(1), "the focal lengths must be positive")
    if not (rows[:, 2:] > _FARTHEST).all(1).any():
        _check_fit(rows, where, f"neither divided by width and height nor in pixels. {_DIVIDE}")
        return Lens(rows, f"{form} divided by width and height")
    rows, size = _of_pixels(rows, where, stated, video)
    return Lens(rows, f"{form} in pixels of {size}")


def _of_pixels(
    rows: np.ndarray, where: str, stated: tuple[float, float] | None, video: tuple[int, int] | None
) -> tuple[np.ndarray, str]:
    """Intrinsics in pixels, divided by the picture's size; and this size, to print."""
    pixels = (rows[:, 2:] > _FARTHEST).all(1)
    most = bool(pixels.mean() > 0.5)
    odd = np.zeros(len(rows), bool) if pixels.all() else np.logical_xor(pixels, most)
    _refuse(where, odd, f"{'not ' if most else ''}in pixels, unlike other frames. {_DIVIDE}")
    width, height, whence = _picture(rows[:, 2:], stated, video)
    size = f"{width:g} x {height:g} ({whence})"
    rows = rows / np.array([width, height, width, height])
    _check_fit(rows, where, f"do not fit a picture of {size}")
    return rows, size


def _check_fit(rows: np.ndarray, where: str, message: str) -> None:
    """Refuses what cannot be intrinsics divided by width and height."""
    _refuse(where, (rows[:, :2] > _LONGEST).any(1) | (np.abs(rows[:, 2:]) > _FARTHEST).any(1), message)


def _picture(
    centre: np.ndarray, stated: tuple[float, float] | None, video: tuple[int, int] | None
) -> tuple[float, float, str]:
    """Width and height of the picture that intrinsics in pixels belong to, and whence they are known."""
    if stated is not None:
        return *stated, "the file's size"
    if video is not None:
        size = np.array(video[::-1], np.float64)
        if (np.abs(centre / size - 0.5) < _NEAR_MIDDLE / 2).all():
            return size[0], size[1], "the video's size"
    if np.ptp(centre, axis=0).max() < 1:
        width, height = 2 * centre[0]
        return float(width), float(height), "twice the principal point"
    if video is None:
        # Only a first look at the file, before the video is known.
        width, height = 2 * centre.mean(0)
        return float(width), float(height), "twice the principal point"
    return float(video[1]), float(video[0]), "the video's size"


def stated_size(data: Any, where: str) -> tuple[float, float] | None:
    """Width and height of the picture among the fields of a file.

    Raises:
      InputError: they are not two positive numbers.
    """
    for names in SIZE_NAMES:
        if all(name in data for name in names):
            sizes = [user_input.numbers(data[name]) for name in names]
            if any(size is None or size.size != 1 or not 0 < float(size.item()) < 1e6 for size in sizes):
                raise InputError(
                    f'{where}: "{names[0]}" and "{names[1]}" must be a picture\'s size in pixels'
                )
            return float(sizes[0].item()), float(sizes[1].item())  # type: ignore[union-attr]
    return None


def _of_matrices(matrices: np.ndarray, where: str) -> np.ndarray:
    """[F, 3, 3] -> fx, fy, cx, cy [F, 4]."""
    _refuse(
        where,
        (np.abs(matrices[:, 2] - [0, 0, 1]) > 1e-6).any(1),
        "the matrix' last row is not 0 0 1; is it transposed?",
    )
    skew = np.abs(matrices[:, [0, 1], [1, 0]]).max(1)
    _refuse(where, skew > 1e-3 * np.abs(matrices[:, 0, 0]), "lenses with skew are not supported")
    return matrices[:, [0, 1, 0, 1], [0, 1, 2, 2]]


def _refuse(where: str, bad: Any, message: str) -> None:
    if bad.any():
        raise InputError(f"{where}: frame {int(np.argmax(bad))}: {message}")
