"""Estimates the camera that a picture of a known scene was taken with, by analysis by synthesis.

At 128 pixels there are few features to match, but a rendered scene can be rendered again from any pose. Each
picture is compared with renderings from poses along the rig. The best of them are then aligned with it, see
`stp_jax.evaluate.alignment`. The estimator is given pictures and the scene, never the commanded camera.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from stp_jax.controls import cameras
from stp_jax.errors import InputError
from stp_jax.evaluate.alignment import Level, Renderer, align, exponential, reduce
from stp_jax.evaluate.matching import ShiftedComparison

# The first level begins at all starts of a picture, the others at the best.
LEVELS = (Level(4, 2.0, 4, 1e-3), Level(4, 2.0, 6, 1e-3), Level(2, 1.5, 8, 3e-4))
CANDIDATE_TIMES = 3  # candidates are this many grid times apart
STARTS = 2  # poses from which a picture is aligned
SHIFTS = 8  # of 32 pixels: candidates are shifted up to this far in each direction, as if turned
_SMALL, _SMALL_BLUR = 32, 1.5  # pixels of the pictures in which candidates are compared
_NEAR_TIMES = np.array([0, -1, 1])  # grid times tried around the candidate's
_BLURS = np.array([0.0, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.5])  # pixels at 128, tried for each picture


class SceneRenderer(Renderer, Protocol):
    """`input_pipeline.render.views.SceneViews`, which documents the attributes."""

    c2w: np.ndarray
    intrinsics: np.ndarray
    times: int
    size: int


class Estimate(NamedTuple):
    """The estimates for N pictures."""

    c2w: np.ndarray  # float64 [N, 4, 4], in the scene's world
    grid_time: np.ndarray  # int [N]: approximate, to know what moves and occludes the scenery
    blur: np.ndarray  # [N]: of the picture relative to a rendering, pixels
    cost: np.ndarray  # [N]: the remaining difference; comparable between pictures of one video


class CameraEstimator:
    """Estimates cameras of pictures of one scene.

    Args:
      views: the scene, in pictures whose size is a multiple of 64.
    """

    def __init__(self, views: SceneRenderer):
        self._views = views
        poses = _between(views.c2w, views.intrinsics)
        times = np.arange(0, views.times, CANDIDATE_TIMES)
        which = np.repeat(np.arange(len(poses.c2w)), len(times))
        self._poses, self._time = poses, np.tile(times, len(poses.c2w))
        pictures = views.pictures(self._time, poses.c2w[which], poses.intrinsics[which], stride=2)
        self._compare = ShiftedComparison(reduce(pictures, views.size // 2 // _SMALL, _SMALL_BLUR), SHIFTS)

    def estimate(self, frames: np.ndarray, intrinsics: np.ndarray | None = None) -> Estimate:
        """The cameras of N pictures, each found for itself.

        Args:
          frames: uint8 or float [N, H, W, 3], 0 .. 255, of the size of the scene's pictures.
          intrinsics: [N, 4], the lens, which is not estimated; by default that of the rig's first camera.

        Raises:
          InputError: frames of another size.
        """
        views = self._views
        if frames.shape[1:] != (views.size, views.size, 3):
            raise InputError(
                f"camera fidelity: frames of shape {list(frames.shape[1:])}, but the scene's pictures are "
                f"[{views.size}, {views.size}, 3]"
            )
        lens = np.tile(views.intrinsics[0], (len(frames), 1)) if intrinsics is None else intrinsics
        return self._polished(frames, self._roughly(frames, lens), lens)

    def _roughly(self, frames: np.ndarray, lens: np.ndarray) -> np.ndarray:
        """c2w [N, 4, 4] by alignment of small pictures, from the best of several starts each."""
        count = len(frames)
        poses, times = self._candidates(frames, lens)
        several = np.tile(frames, (STARTS, 1, 1, 1))
        lenses, sharp = np.tile(lens, (STARTS, 1)), np.zeros(STARTS * count)
        first = align(self._views, several, times.ravel(), poses.reshape(-1, 4, 4), lenses, LEVELS[0], sharp)
        best = first.cost.reshape(STARTS, count).argmin(0), np.arange(count)
        c2w = first.c2w.reshape(STARTS, count, 4, 4)[best]
        return align(self._views, frames, times[best], c2w, lens, LEVELS[1], sharp[:count]).c2w

    def _polished(self, frames: np.ndarray, c2w: np.ndarray, lens: np.ndarray) -> Estimate:
        """Aligns again at the estimated grid time and blur; twice, as a better pose improves those."""
        views, count = self._views, len(frames)
        every = np.repeat(np.arange(0, views.times, CANDIDATE_TIMES)[:, None], count, 1)
        time, _ = self._most_alike(frames, every, c2w, lens, np.zeros(1), 4)
        blur, cost = np.full(count, -1.0), np.zeros(count)
        for _ in range(2):
            near = np.clip(time + _NEAR_TIMES[:, None], 0, views.times - 1)
            new_time, new_blur = self._most_alike(frames, near, c2w, lens, _BLURS * views.size / 128, 2)
            changed = np.flatnonzero((new_time != time) | (new_blur != blur))
            time, blur = new_time, new_blur
            if len(changed):
                some, shown, poses, lenses = (array[changed] for array in (frames, time, c2w, lens))
                found = align(views, some, shown, poses, lenses, LEVELS[2], blur[changed])
                c2w[changed], cost[changed] = found
        return Estimate(c2w, time, blur, cost)

    def _candidates(self, frames: np.ndarray, lens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The most similar poses, turned to fit each picture, [STARTS, N, 4, 4], and their grid times."""
        count = len(frames)
        small = reduce(frames, self._views.size // _SMALL, _SMALL_BLUR)
        difference = np.empty((count, len(self._time)))
        shift = np.empty(difference.shape, np.int64)
        for n, picture in enumerate(small):
            of_shifts = self._compare(picture).reshape(len(self._time), -1)
            shift[n] = of_shifts.argmin(1)
            difference[n] = of_shifts.min(1)
        by_pose = difference.reshape(count, len(self._poses.c2w), -1)
        pose = np.argsort(by_pose.min(2), 1)[:, :STARTS].T  # [STARTS, N]
        rows = np.arange(count)
        best = pose * by_pose.shape[2] + by_pose.argmin(2)[rows, pose]
        down, right = np.divmod(shift[rows, best], 2 * SHIFTS + 1)
        # Where things lie farther right than in the candidate, the camera has turned left.
        yaw, pitch = (SHIFTS - right) / (_SMALL * lens[:, 0]), (down - SHIFTS) / (_SMALL * lens[:, 1])
        turn = np.zeros((STARTS * count, 6))
        turn[:, 3], turn[:, 4] = pitch.ravel(), yaw.ravel()
        turned = self._poses.c2w[pose] @ exponential(turn).reshape(STARTS, count, 4, 4)
        return turned, self._time[best]

    def _most_alike(
        self,
        frames: np.ndarray,
        times: np.ndarray,
        c2w: np.ndarray,
        lens: np.ndarray,
        blurs: np.ndarray,
        stride: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The grid time and the blur whose rendering is most like each picture, [N] each.

        Candidates are `times` [T, N] and `blurs`, in pixels.

        The time matters for the pose: what moves throws shadows on what stands still.
        """
        count, target = len(frames), reduce(frames, stride)
        errors = np.empty((count, len(times), len(blurs)))
        for t, shown in enumerate(times):
            rendered = self._views.pictures(shown, c2w, lens, stride=stride).astype(np.float32)
            for b, blur in enumerate(blurs):
                errors[:, t, b] = np.abs(reduce(rendered, 1, blur / stride) - target).mean((1, 2, 3))
        best = errors.reshape(count, -1).argmin(1)
        return times[best // len(blurs), np.arange(count)], blurs[best % len(blurs)]


def _between(c2w: np.ndarray, intrinsics: np.ndarray) -> cameras.Cameras:
    """Poses half-way between a rig's cameras, and half a step before the first and behind the last.

    So no candidate is a camera that a ground truth was filmed with. An estimator that starts at the answer
    would understate its own error on the ground truth.
    """
    half = 0.5 / (len(c2w) - 1)
    middles, lens = cameras.resample(cameras.Cameras(c2w, intrinsics), len(c2w) - 1, (half, 1 - half))
    middles = middles.astype(np.float64)
    # The step beyond an end repeats the step that leads to it.
    ends = [
        end @ np.linalg.inv(middle) @ end for end, middle in ((c2w[0], middles[0]), (c2w[-1], middles[-1]))
    ]
    return cameras.Cameras(
        np.stack([ends[0], *middles, ends[1]]), np.stack([intrinsics[0], *lens, intrinsics[-1]])
    )
