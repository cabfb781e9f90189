"""Pictures of a lens with distortion, as a pinhole camera would have seen them.

A point (x, y) of the plane at distance 1, with r^2 = x^2 + y^2, is seen at

    x (1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8) + 2 p1 x y + p2 (r^2 + 2 x^2)
    y (1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8) + p1 (r^2 + 2 y^2) + 2 p2 x y

(D. C. Brown, "Close-range camera calibration", 1971), in the order of names of COLMAP's model OPENCV and of
nerfstudio's transforms.json.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stp_jax.errors import InputError

NAMES = ("k1", "k2", "k3", "k4", "p1", "p2")
_MOST_ZOOM = 1.5  # of the pinhole camera, until the picture has no empty edge
_BORDER = 64  # points of each side of the picture that are looked at
_NONE = 1e-8  # of a coefficient: no distortion


class Distortion(NamedTuple):
    """The coefficients of a lens; see the module."""

    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    @property
    def none(self) -> bool:
        return max(map(abs, self)) < _NONE

    def seen(self, points: np.ndarray) -> np.ndarray:
        """Where points [..., 2] of the plane at distance 1 are seen."""
        x, y = points[..., 0], points[..., 1]
        r2 = x * x + y * y
        radial = 1 + r2 * (self.k1 + r2 * (self.k2 + r2 * (self.k3 + r2 * self.k4)))
        return np.stack(
            [
                x * radial + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x),
                y * radial + self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y,
            ],
            -1,
        )


class Pinhole:
    """Makes pictures of a pinhole camera from those of a lens with distortion, by bilinear interpolation.

    The pinhole camera has the lens' principal point, and its focal lengths times the least number of 1 or
    more with which the whole picture is filled.

    Args:
      size: height and width of the pictures.
      lens: [4], fx, fy, cx, cy by width and height.
      where: names the lens in errors.

    Raises:
      InputError: the distortion is too strong for this, or folds the picture.
    """

    def __init__(self, size: tuple[int, int], lens: np.ndarray, distortion: Distortion, where: str):
        self._size, self._distortion = size, distortion
        self._focal, self._centre = np.asarray(lens[:2], np.float64), np.asarray(lens[2:], np.float64)
        side = np.linspace(0, 1, _BORDER)
        zero, one = np.zeros(_BORDER), np.ones(_BORDER)
        edges = [(side, zero), (side, one), (zero, side), (one, side)]
        self._border = np.concatenate([np.stack(edge, -1) for edge in edges])
        zoom = self._least_zoom(where)
        self.lens = np.concatenate([self._focal * zoom, self._centre])  # of the pinhole camera
        self._check_folds(zoom, where)
        self._corners, self._weights = self._table(zoom)

    def _source(self, points: np.ndarray, zoom: float) -> np.ndarray:
        """Where points [..., 2] of the new picture, by width and height, are in the old one."""
        plane = (points - self._centre) / (self._focal * zoom)
        return self._distortion.seen(plane) * self._focal + self._centre

    def _fills(self, zoom: float) -> bool:
        source = self._source(self._border, zoom)
        return bool(((source >= -1e-9) & (source <= 1 + 1e-9)).all())

    def _least_zoom(self, where: str) -> float:
        low, high = 1.0, _MOST_ZOOM
        if self._fills(low):
            return low
        if not self._fills(high):
            raise InputError(f"{where}: a distortion that is too strong: undistort the pictures first")
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self._fills(middle) else (middle, high)
        return high

    def _check_folds(self, zoom: float, where: str) -> None:
        """Points further from the centre must be seen further from it, up to the picture's edge."""
        rays = (self._border - self._centre) / (self._focal * zoom)
        along = self._distortion.seen(np.linspace(0, 1, 32)[:, None, None] * rays)
        if not (np.diff(np.linalg.norm(along, axis=-1), axis=0) > 0).all():
            raise InputError(f"{where}: a distortion that folds the picture: undistort the pictures first")

    def _table(self, zoom: float) -> tuple[np.ndarray, np.ndarray]:
        """For every pixel the four pixels around its place, int [4, H W], and their shares [4, H W, 1]."""
        height, width = self._size
        y, x = np.meshgrid(
            (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij"
        )
        source = self._source(np.stack([x, y], -1), zoom) * [width, height] - 0.5
        source = np.clip(source, 0, [width - 1, height - 1]).reshape(-1, 2)
        first = np.minimum(source.astype(np.int64), [max(width - 2, 0), max(height - 2, 0)])
        right, down = (source - first).T.astype(np.float32)
        at = first[:, 1] * width + first[:, 0]
        step, row = int(width > 1), width * int(height > 1)
        corners = np.stack([at, at + step, at + row, at + row + step])
        shares = [(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down]
        return corners, np.stack(shares)[..., None].astype(np.float32)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [H, W, 3]."""
        # Four bytes in a row are one number, which is gathered several times as fast as three.
        padded = np.zeros((image.shape[0] * image.shape[1], 4), np.uint8)
        padded[:, :3] = image.reshape(-1, 3)
        numbers = padded.view(np.uint32)[:, 0]
        made = np.zeros(padded.shape, np.float32)
        for corner, share in zip(self._corners, self._weights, strict=True):
            made += numbers.take(corner).view(np.uint8).reshape(-1, 4) * share
        made += 0.5
        return made[:, :3].astype(np.uint8).reshape(image.shape)
