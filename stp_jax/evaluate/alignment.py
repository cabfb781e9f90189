"""Direct image alignment: the pose from which a rendering of a known scene looks most like a picture.

The scene is rendered at the current pose. A Levenberg-Marquardt step then changes the pose so that rendering
and picture differ less. This is repeated from coarse to fine. The depth of a rendering is known, so a change
of pose moves each of its pixels in a known way (Lucas and Kanade, 1981; for six degrees of freedom Engel,
Koltun and Cremers, Direct sparse odometry, 2016). Pictures are blurred before, and what moves is masked.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from scipy.ndimage import gaussian_filter

LIKELY_ERROR = 10.0  # levels of 255: pixels that differ by more count less (Cauchy's robust loss)
DAMPING = (1e-3, 10.0, 1e5)  # at the start; factor after a failed step; where a frame is given up
LONGEST_STEP = 0.2  # radians and metres


class Renderer(Protocol):
    """Renders a scene from N cameras, each at its own grid time; `input_pipeline.render.views.SceneViews`."""

    def pictures(
        self, grid_times: np.ndarray, c2w: np.ndarray, intrinsics: np.ndarray, *, stride: int = 1
    ) -> np.ndarray:
        """uint8 [N, H / stride, W / stride, 3]."""

    def geometry(
        self, grid_times: np.ndarray, c2w: np.ndarray, intrinsics: np.ndarray, *, stride: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Depth [N, H / stride, W / stride] in metres, and what moves, bool of that shape."""


class Level(NamedTuple):
    """One level of alignment, from coarse to fine."""

    stride: int  # even; pictures are reduced by this factor
    sigma: float  # of the blur that follows, in reduced pixels
    iterations: int  # at most
    tolerance: float  # a smaller step ends the level; in radians, and in metres


class Poses(NamedTuple):
    """Estimated poses of N frames."""

    c2w: np.ndarray  # float64 [N, 4, 4]
    cost: np.ndarray  # float64 [N]: mean robust squared difference in levels of 255, at the last level


def reduce(pictures: np.ndarray, stride: int, sigma: float | np.ndarray = 0.0) -> np.ndarray:
    """Area means of `stride` x `stride` pixels, then a Gaussian blur; [N, H, W, ...] -> float32.

    Args:
      sigma: in reduced pixels; one number, or [N].
    """
    count, height, width = pictures.shape[:3]
    blocks = pictures.reshape(count, height // stride, stride, width // stride, stride, *pictures.shape[3:])
    small = blocks.mean((2, 4), dtype=np.float32) if stride > 1 else pictures.astype(np.float32)
    for picture, width_of_blur in zip(small, np.broadcast_to(sigma, count), strict=True):
        if width_of_blur > 0:
            blur = (width_of_blur, width_of_blur, *[0] * (picture.ndim - 2))
            gaussian_filter(picture, blur, output=picture, mode="nearest", truncate=3)
    return small


def exponential(twist: np.ndarray) -> np.ndarray:
    """Rigid motions [N, 4, 4] from twists [N, 6]: translation, then rotation vector (radians)."""
    translation, rotation = twist[:, :3], twist[:, 3:]
    angle = np.linalg.norm(rotation, axis=-1)[:, None, None]
    x, y, z = rotation.T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    # sin a / a and (1 - cos a) / a^2, which np.sinc takes through 0.
    first, second = np.sinc(angle / np.pi), 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    motion = np.tile(np.eye(4), (len(twist), 1, 1))
    motion[:, :3, :3] += first * cross + second * cross @ cross
    motion[:, :3, 3] = translation
    return motion


def picture_motion(inverse_depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Derivatives of the pixels of a static scene by the motion of the camera.

    Args:
      inverse_depth: [N, H, W], 1 / metres, 0 in the sky.
      intrinsics: [N, 4].

    Returns:
      float32 [N, H, W, 2, 6]: derivative of a scene point's column and row, in pixels, by the twist of the
      camera (c2w becomes c2w @ exponential(twist)): `L` of image-based visual servoing, at the depth given
      (Chaumette and Hutchinson, Visual servo control I, 2006, equation 11).
    """
    count, height, width = inverse_depth.shape
    fx, fy, cx, cy = np.asarray(intrinsics, np.float32).T[:, :, None, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width - cx) / fx
    y = ((np.arange(height, dtype=np.float32)[:, None] + 0.5) / height - cy) / fy
    x, y, near = (np.broadcast_to(a, inverse_depth.shape) for a in (x, y, inverse_depth))
    zero = np.zeros_like(near)
    columns = [-near, zero, near * x, x * y, -(1 + x * x), y]
    rows = [zero, -near, near * y, 1 + y * y, -x * y, -x]
    motion = np.stack([np.stack(columns, -1), np.stack(rows, -1)], -2).astype(np.float32)
    scale = np.stack([fx * width, fy * height], -1)[..., None]
    return motion * scale


class _Step(NamedTuple):
    """One linearisation, for N frames."""

    cost: np.ndarray  # [N]
    hessian: np.ndarray  # [N, 6, 6]
    gradient: np.ndarray  # [N, 6]


def _linearise(renderer, target, blur, level, grid_times, c2w, intrinsics) -> _Step:
    # Pictures twice as fine as the level: drawn faster than whole ones, and averaged like the target.
    rendered = reduce(renderer.pictures(grid_times, c2w, intrinsics, stride=level.stride // 2), 2, blur)
    depth, moving = renderer.geometry(grid_times, c2w, intrinsics, stride=level.stride)
    valid = np.clip(1 - 5 * reduce(moving, 1, np.maximum(blur, 1)), 0, 1)
    difference = target - rendered
    weight = valid / (np.einsum("nhwc,nhwc->nhw", difference, difference) / (3 * LIKELY_ERROR**2) + 1)
    # A model's video may be brighter or of another tint than the scene: the weighted mean is subtracted.
    total = weight.sum((1, 2))[:, None] + 1e-6
    mean = np.einsum("nhw,nhwc->nc", weight, difference) / total
    difference = difference - mean[:, None, None]
    squares = np.einsum("nhwc,nhwc->nhw", difference, difference) / (3 * LIKELY_ERROR**2)
    area = valid.sum((1, 2)) + 1e-6
    cost = LIKELY_ERROR**2 * (valid * np.log1p(squares)).sum((1, 2)) / area
    weight = valid / (1 + squares)
    down, right = np.gradient(rendered, axis=(1, 2))
    slope = np.stack([right, down], -1)  # [N, h, w, 3, 2]
    # The picture at the new pose, at a fixed pixel, is what has moved there: hence the minus.
    jacobian = -(slope @ picture_motion(1 / depth, intrinsics))  # [N, h, w, 3, 6]
    total = weight.sum((1, 2))[:, None, None] + 1e-6
    jacobian -= (np.einsum("nhw,nhwcp->ncp", weight, jacobian) / total)[:, None, None]
    count = len(target)
    flat = jacobian.reshape(count, -1, 6)
    weighted = (jacobian * weight[..., None, None]).reshape(count, -1, 6).swapaxes(1, 2)
    gradient = (weighted @ difference.reshape(count, -1, 1))[..., 0]
    return _Step(cost, (weighted @ flat).astype(np.float64), gradient.astype(np.float64))


def _solve(step: _Step, damping: np.ndarray) -> np.ndarray:
    """Twists [N, 6]; the larger `damping` [N], the shorter."""
    diagonal = np.einsum("nii->ni", step.hessian)
    diagonal = damping[:, None] * diagonal + 1e-6 * diagonal.mean(-1, keepdims=True) + 1e-9
    twist = np.linalg.solve(step.hessian + diagonal[:, None] * np.eye(6), step.gradient[..., None])[..., 0]
    return twist * np.minimum(1, LONGEST_STEP / np.maximum(np.abs(twist).max(-1, keepdims=True), 1e-12))


def align(
    renderer: Renderer,
    frames: np.ndarray,
    grid_times: np.ndarray,
    c2w: np.ndarray,
    intrinsics: np.ndarray,
    level: Level,
    blur: np.ndarray,
) -> Poses:
    """Improves the poses of N pictures, each for itself, at one level.

    Args:
      frames: [N, H, W, 3], 0 .. 255.
      grid_times: int [N], at which the scene is rendered.
      c2w, intrinsics: [N, 4, 4] to begin with, in the scene's world, and [N, 4].
      blur: [N] of the pictures, as they are: standard deviation of a Gaussian, in pixels. Renderings get the
        same.
    """
    target = reduce(frames, level.stride, level.sigma)
    widths = np.hypot(level.sigma, blur / level.stride)
    c2w = np.array(c2w, np.float64)
    count = len(c2w)
    active, twist, damping = np.arange(count), np.zeros((count, 6)), np.full(count, DAMPING[0])
    state = _Step(np.full(count, np.inf), np.zeros((count, 6, 6)), np.zeros((count, 6)))
    for _ in range(level.iterations + 1):
        trial = c2w[active] @ exponential(twist[active])
        lens, times = intrinsics[active], grid_times[active]
        new = _linearise(renderer, target[active], widths[active], level, times, trial, lens)
        better = new.cost < state.cost[active]
        which = active[better]
        c2w[which] = trial[better]
        for old, value in zip(state, new, strict=True):
            old[which] = value[better]
        damping[active] *= np.where(better, 1 / 3, DAMPING[1])
        twist = _solve(state, damping)
        small = np.abs(twist).max(-1) < level.tolerance
        active = np.flatnonzero(~small & (damping < DAMPING[2]))
        if not len(active):
            break
    return Poses(c2w, state.cost)
