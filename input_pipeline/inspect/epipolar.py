"""Two cameras and one point: on which line of one picture is what the other one sees (epipolar geometry)?

Pixels are counted from the upper left corner of a picture, so that the middle of its first pixel is (0.5,
0.5). The formulas are those of Hartley and Zisserman, Multiple view geometry in computer vision, 2003,
chapters 9 (the fundamental matrix) and 11 (its estimation).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_SAME_PLACE = 3e-6  # of the coordinates: cameras nearer to each other than float32 can say


class Pair(NamedTuple):
    """Two cameras that see the same things, and the size of their pictures.

    Attributes:
      first, second: c2w [4, 4], OpenCV axes.
      first_lens, second_lens: [4], (fx, fy, cx, cy) divided by width and height.
      size: height and width of both pictures.
    """

    first: np.ndarray
    second: np.ndarray
    first_lens: np.ndarray
    second_lens: np.ndarray
    size: tuple[int, int]


def rays(pixels: np.ndarray, lens: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The directions [N, 3] of pixels [N, 2] in the frame of their camera; z is 1."""
    plane = (pixels / [size[1], size[0]] - lens[2:]) / lens[:2]
    return np.concatenate([plane, np.ones((len(plane), 1))], 1)


def motion(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3, 3] and translation [3] that take points of the first camera's frame to the second's.

    The translation has length 1, or is 0 where both cameras are in one place.
    """
    first, second = (np.asarray(pose, np.float64) for pose in (pair.first, pair.second))
    across = first[:3, 3] - second[:3, 3]
    length = float(np.linalg.norm(across))
    if length <= _SAME_PLACE * max(np.abs(first[:3, 3]).max(), np.abs(second[:3, 3]).max()):
        across, length = np.zeros(3), 1.0
    return second[:3, :3].T @ first[:3, :3], second[:3, :3].T @ across / length


def cross_matrix(vector: np.ndarray) -> np.ndarray:
    """[3, 3] that makes the cross product with `vector`."""
    x, y, z = vector
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def inverse_camera_matrix(lens: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[3, 3] from homogeneous pixels to rays."""
    fx, fy, cx, cy = np.asarray(lens, np.float64) * [size[1], size[0], size[1], size[0]]
    return np.array([[1 / fx, 0, -cx / fx], [0, 1 / fy, -cy / fy], [0, 0, 1]])


def fundamental(pair: Pair) -> np.ndarray | None:
    """The fundamental matrix [3, 3]: F @ (x, y, 1) is the line in the second picture of a pixel of the first.

    None where both cameras are in one place: a pixel then has a point in the other picture, see `transfer`.
    """
    rotation, translation = motion(pair)
    if not translation.any():
        return None
    before, after = (inverse_camera_matrix(lens, pair.size) for lens in (pair.first_lens, pair.second_lens))
    return after.T @ cross_matrix(translation) @ rotation @ before


def transfer(pair: Pair, pixels: np.ndarray) -> np.ndarray:
    """Where the second camera sees what is infinitely far behind pixels [N, 2] of the first: [N, 2].

    NaN where that is behind the second camera.
    """
    turned = rays(pixels, pair.first_lens, pair.size) @ motion(pair)[0].T
    depth = np.where(turned[:, 2:] > 1e-9, turned[:, 2:], np.nan)
    return (turned[:, :2] / depth * pair.second_lens[:2] + pair.second_lens[2:]) * [
        pair.size[1],
        pair.size[0],
    ]


def sampson(matrix: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distances in pixels of matches from their epipolar lines, to first order (Sampson).

    Args:
      matrix: fundamental matrices [..., 3, 3].
      first, second: pixels [N, 2] of the two pictures.

    Returns:
      [..., N]; the root of the squares that both points would have to move.
    """
    a, b = (np.concatenate([points, np.ones((len(points), 1))], 1) for points in (first, second))
    lines, back = a @ matrix.swapaxes(-1, -2), b @ matrix
    squares = (lines[..., :2] ** 2).sum(-1) + (back[..., :2] ** 2).sum(-1)
    return np.abs((lines * b).sum(-1)) / np.sqrt(np.maximum(squares, 1e-30))


def distances(pair: Pair, first: np.ndarray, second: np.ndarray, surely: float) -> np.ndarray:
    """How far matches [N, 2] are from where the two cameras allow them, in pixels [N].

    Infinite where both rays would meet behind a camera. Of rays that are nearly parallel nobody can say where
    they meet: this is asked only of matches that moved `surely` pixels more than the turn alone would move
    them.
    """
    rotation, translation = motion(pair)
    far = transfer(pair, first)
    moved = np.nan_to_num(np.hypot(*(second - far).T), nan=np.inf)
    matrix = fundamental(pair)
    if matrix is None:
        return moved
    found = sampson(matrix, first, second)
    a = rays(first, pair.first_lens, pair.size) @ rotation.T
    b = rays(second, pair.second_lens, pair.size)
    # Depths z, w of w b = z a + translation, in least squares.
    aa, bb, ab = (a * a).sum(1), (b * b).sum(1), (a * b).sum(1)
    at, bt = a @ translation, b @ translation
    determinant = np.maximum(aa * bb - ab**2, 1e-30)
    depths = np.stack([(ab * bt - bb * at) / determinant, (aa * bt - ab * at) / determinant])
    behind = (depths < 0).any(0) & (moved > surely)
    return np.where(behind, np.inf, found)


def line_in_picture(line: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The two ends [2, 2] of the part of a line (a, b, c) that lies in a picture; None where none does."""
    height, width = size
    a, b, c = line
    ends = []
    for x in (0.0, float(width)):
        if abs(b) > 1e-12 and 0 <= (y := -(a * x + c) / b) <= height:
            ends.append((x, y))
    for y in (0.0, float(height)):
        if abs(a) > 1e-12 and 0 <= (x := -(b * y + c) / a) <= width:
            ends.append((x, y))
    if len(ends) < 2:
        return None
    points = np.array(ends)
    far = np.hypot(*(points - points[0]).T).argmax()
    return points[[0, far]] if far else None


def estimate(
    first: np.ndarray, second: np.ndarray, tolerance: float, size: tuple[int, int], attempts: int = 400
) -> np.ndarray:
    """Which matches fit one fundamental matrix, the best that is found: bool [N].

    Eight points make a matrix (the normalised algorithm); the one that most matches fit is kept (RANSAC), and
    is improved twice by all matches that fit it. Nothing is known of the cameras here.

    Args:
      first, second: pixels [N, 2]; fewer than 8: none fits.
      tolerance: pixels from a line.
    """
    count = len(first)
    if count < 8:
        return np.zeros(count, bool)
    rng = np.random.default_rng(0)
    scale = np.diag([2 / size[1], 2 / size[0], 1.0])
    scale[:2, 2] = -1
    a, b = (points * np.diag(scale)[:2] + scale[:2, 2] for points in (first, second))
    a, b = (np.concatenate([points, np.ones((count, 1))], 1) for points in (a, b))
    products = (b[:, :, None] * a[:, None, :]).reshape(count, 9)
    chosen = np.argsort(rng.random((attempts, count)), axis=1)[:, :8]
    matrices = _of_rank_two(products[chosen])
    fits = sampson(scale.T @ matrices @ scale, first, second) < tolerance
    best = fits[fits.sum(1).argmax()]
    for _ in range(2):
        if best.sum() < 8:
            break
        matrix = _of_rank_two(products[None, best])
        again = sampson(scale.T @ matrix @ scale, first, second)[0] < tolerance
        best = again if again.sum() >= best.sum() else best
    return best


def _of_rank_two(products: np.ndarray) -> np.ndarray:
    """The fundamental matrices [S, 3, 3] of S sets of K matches, products [S, K, 9] of their coordinates."""
    squares = products.swapaxes(-1, -2) @ products
    vectors = np.linalg.eigh(squares)[1][..., 0].reshape(-1, 3, 3)
    u, sizes, vt = np.linalg.svd(vectors)
    sizes[:, 2] = 0
    return (u * sizes[:, None]) @ vt
