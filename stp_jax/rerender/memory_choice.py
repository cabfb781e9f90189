"""Which latent frames of earlier output a window is given as its memory; without JAX.

What was invented must be found again where the camera returns to it, and what moves where time does. So an
earlier latent frame m is worth for a latent frame f that is to be made

    worth(m, f) = overlap(m, f) (1 + exp(-|t_m - t_f| / 4)) / 2

overlap is the share of what f shows that m shows, too. What stands still looks the same at any animation time
t: that is half of the worth. What moves looks the same for about as long as one latent frame takes: that is
the other half.

A memory of K latent frames is good where each f has some m that is worth much to it. K are chosen one after
the other, each the one by which the sum over f of the largest worth grows most (at least 1 - 1/e of what is
possible: Nemhauser, Wolsey and Fisher 1978), or, where it grows no more, by the sum of its own worths, and of
equals the most recent. The most recent latent frame is always the first to be chosen: it ends where the
window begins, and holds the motion there.
"""

from __future__ import annotations

import numpy as np

from stp_jax.controls.view import View

MOST = 512  # candidates: 2,048 frames of a video
_SAME_MOTION = 4.0  # source frames
_GRID = 8  # points in a row and in a column of a picture
_DEPTHS = (0.5, 1.0, 2.0)  # times the distance
_OWN = 1e-3  # weight of a frame's own worths beside what it adds


def thinned(earlier: np.ndarray, most: int = MOST) -> np.ndarray:
    """Of the numbers of earlier latent frames [M] at most `most`, so that the time for a choice is bounded.

    A quarter are the most recent ones, the others are spread evenly over the rest.
    """
    if len(earlier) <= most:
        return earlier
    recent = most // 4
    spread = np.round(np.linspace(0, len(earlier) - recent - 1, most - recent)).astype(int)
    return np.concatenate([earlier[spread], earlier[-recent:]])


def choose(candidates: View, target: View, count: int, distance: float) -> np.ndarray:
    """The numbers of the chosen candidates, ascending, int [count].

    Args:
      candidates: of each latent frame of earlier output, in its order, its camera and its animation time: M
        entries.
      target: those of the latent frames to be made: T entries.
      count: K, of at most M.
      distance: metres to what the cameras look at, about.
    """
    worths = worth(candidates, target, distance)
    chosen = [len(worths) - 1]
    covered = worths[-1].copy()
    while len(chosen) < min(count, len(worths)):
        gain = np.maximum(worths - covered, 0).sum(1) + _OWN * worths.sum(1)
        gain[chosen] = -1
        best = np.flatnonzero(gain >= gain.max() - 1e-9)[-1]
        chosen.append(int(best))
        covered = np.maximum(covered, worths[best])
    return np.sort(chosen)


def worth(candidates: View, target: View, distance: float) -> np.ndarray:
    """The formula above, float64 [M, T]."""
    apart = np.abs(np.subtract.outer(candidates.animation_time, target.animation_time))
    return overlap(candidates, target, distance) * (1 + np.exp(-apart / _SAME_MOTION)) / 2


def overlap(candidates: View, target: View, distance: float) -> np.ndarray:
    """The share of what each target frame shows that each candidate shows, too: float64 [M, T] in 0..1.

    Of points in a grid over the target's picture, at half of the distance, at it and at twice as far away,
    it is the share that lies inside the candidate's picture. Depths are not known, and hiding is not seen.
    """
    at = (np.arange(_GRID) + 0.5) / _GRID
    x, y = (grid.ravel() for grid in np.meshgrid(at, at))
    shares = np.empty((len(candidates.c2w), len(target.c2w)))
    to_camera = np.linalg.inv(np.asarray(candidates.c2w, np.float64))
    fx, fy, cx, cy = np.asarray(candidates.intrinsics, np.float64).T[:, :, None]
    for number, (c2w, lens) in enumerate(zip(target.c2w, target.intrinsics, strict=True)):
        rays = np.stack([(x - lens[2]) / lens[0], (y - lens[3]) / lens[1], np.ones_like(x)])
        points = np.concatenate([distance * depth * rays for depth in _DEPTHS], axis=1)
        world = c2w[:3, :3] @ points + c2w[:3, 3:]
        seen = to_camera[:, :3, :3] @ world + to_camera[:, :3, 3:]
        depth = np.where(seen[:, 2] > 1e-6, seen[:, 2], np.inf)  # behind the camera: nowhere
        u, v = fx * seen[:, 0] / depth + cx, fy * seen[:, 1] / depth + cy
        inside = (seen[:, 2] > 1e-6) & (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
        shares[:, number] = inside.mean(1)
    return shares
