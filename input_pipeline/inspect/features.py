"""Corners of pictures, and which of them are the same thing in two pictures: numpy and SciPy alone.

Corners are those of Harris (A combined corner and edge detector, 1988) at several sizes of the picture. They
are matched by the patches around them, which must be the best of each other and clearly better than the next
(Lowe, Distinctive image features, 2004). Cameras are taken to be upright, as those of data sets are: patches
are not turned. That is plain and enough to tell right poses from wrong ones; it is no structure from motion.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter, zoom

_SCALES = (1.0, 1 / 1.5, 1 / 2.25)  # of the picture
_MOST = 300  # corners at a scale
_PATCH = 13  # pixels across
_RATIO = 0.9  # of the distances to the best and to the next patch
_LEAST = 0.75  # correlation of two patches
_FLAT = 2.0  # levels: patches that vary by less look like any other


class Features(NamedTuple):
    """Corners of a picture.

    Attributes:
      at: pixels [N, 2].
      patches: [N, P], of mean 0 and length 1.
      strength: [N].
    """

    at: np.ndarray
    patches: np.ndarray
    strength: np.ndarray


def find(picture: np.ndarray) -> Features:
    """The corners of a picture uint8 [H, W, 3]."""
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    parts = []
    for scale in _SCALES:
        small = grey if scale == 1 else zoom(gaussian_filter(grey, 0.5 / scale), scale, order=1)
        if min(small.shape) < 3 * _PATCH:
            break
        found = _corners(gaussian_filter(small, 0.8))
        ratio = np.array([picture.shape[1] / small.shape[1], picture.shape[0] / small.shape[0]])
        parts.append(found._replace(at=found.at * ratio))
    if not parts:
        return Features(np.zeros((0, 2)), np.zeros((0, _PATCH**2)), np.zeros(0))
    return Features(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _corners(grey: np.ndarray) -> Features:
    """Corners [N, 2] of one size of a picture, in its own pixels."""
    dy, dx = np.gradient(grey)
    xx, yy, xy = (gaussian_filter(value, 1.5) for value in (dx * dx, dy * dy, dx * dy))
    strength = xx * yy - xy**2 - 0.05 * (xx + yy) ** 2
    margin = _PATCH // 2 + 1
    peaks = (strength == maximum_filter(strength, 5)) & (strength > 1e-4 * strength.max())
    peaks[:margin] = peaks[-margin:] = peaks[:, :margin] = peaks[:, -margin:] = False
    rows, columns = np.nonzero(peaks)
    order = np.argsort(-strength[rows, columns], kind="stable")[:_MOST]
    rows, columns = rows[order], columns[order]
    middle = strength[rows, columns]
    fine = [
        _vertex(strength[rows - up, columns - left], middle, strength[rows + up, columns + left])
        for up, left in ((1, 0), (0, 1))
    ]
    y, x = rows + fine[0], columns + fine[1]
    reach = np.arange(_PATCH) - _PATCH // 2
    places = np.broadcast_arrays(
        y[:, None, None] + reach[:, None], x[:, None, None] + reach[None, :]
    )  # between pixels, as the corner is
    patches = map_coordinates(grey, np.stack(places), order=1, mode="nearest").reshape(len(y), _PATCH**2)
    patches -= patches.mean(1, keepdims=True)
    varied = patches.std(1) > _FLAT
    patches = patches[varied]
    patches /= np.linalg.norm(patches, axis=1, keepdims=True)
    return Features(np.stack([x, y], 1)[varied] + 0.5, patches, middle[varied])


def _vertex(before: np.ndarray, at: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where a parabola through three neighbours has its top, -0.5 to 0.5 from the middle one."""
    bend = np.minimum(before - 2 * at + after, -1e-12)
    return np.clip(0.5 * (before - after) / bend, -0.5, 0.5)


def match(first: Features, second: Features) -> np.ndarray:
    """Which corners are the same thing: their numbers int [N, 2] in the two pictures."""
    if len(first.at) < 2 or len(second.at) < 2:
        return np.zeros((0, 2), int)
    likeness = first.patches @ second.patches.T
    best = likeness.argmax(1)
    mutual = likeness.argmax(0)[best] == np.arange(len(best))
    top = likeness[np.arange(len(best)), best]
    # The next one must be another place: the same corner is found at several scales.
    apart = np.hypot(*(second.at[:, None] - second.at[best][None]).transpose(2, 0, 1)).T > 4
    following = np.where(apart, likeness, -1).max(1)
    clear = np.sqrt(np.maximum(1 - top, 0)) < _RATIO * np.sqrt(np.maximum(1 - following, 0))
    chosen = np.flatnonzero(mutual & clear & (top > _LEAST))
    order = chosen[np.argsort(-first.strength[chosen], kind="stable")]
    return np.stack([order, best[order]], 1)
