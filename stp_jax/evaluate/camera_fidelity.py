"""Camera fidelity: how near a video's cameras are to the commanded ones.

Cameras come from an estimator (`stp_jax.evaluate.camera_estimation` for rendered scenes). Its own error is
measured in the same way on the ground truth, and on the ground truth degraded to the model's PSNR
(`stp_jax.evaluate.disturb`). Figures below that error mean nothing.

All poses are c2w [F, 4, 4] in one world, in metres, OpenCV axes; angles are in degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

WITHIN = (15.0, 30.0)  # degrees, of the first frame's rotation


class Motion(NamedTuple):
    """Commanded and achieved motion of F frames from a common start, for a plot and the gain.

    A commanded angle or distance is the length of a vector. An achieved one is the component along the
    commanded vector: noise around no motion then averages to 0, and a turn the wrong way is negative.
    """

    commanded_angle: np.ndarray  # [F] degrees
    achieved_angle: np.ndarray  # [F]
    commanded_distance: np.ndarray  # [F] metres
    achieved_distance: np.ndarray  # [F]


class CameraScores(NamedTuple):
    """The errors of one video: `absolute` of poses as they are, `relative` of poses relative to the first."""

    rotation_absolute: np.ndarray  # [F] degrees
    rotation_relative: np.ndarray  # [F]; 0 in the first frame
    translation_absolute: np.ndarray  # [F] metres
    translation_relative: np.ndarray  # [F]; 0 in the first frame
    extent: float  # metres, of the scene's rig: `translation / extent` has no unit
    from_source: Motion  # from the source's first camera
    from_first: Motion  # from the clip's own first frame


def rotation_error(c2w: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Degrees [...] between rotations of poses [..., 4, 4]: arccos((tr(R_g R_t^T) - 1) / 2)."""
    difference = c2w[..., :3, :3] @ np.swapaxes(target[..., :3, :3], -1, -2)
    cosine = (np.trace(difference, axis1=-2, axis2=-1) - 1) / 2
    # arccos loses half of the digits near 0, where the sine is exact.
    sine = np.linalg.norm(difference - np.swapaxes(difference, -1, -2), axis=(-2, -1)) / np.sqrt(8)
    return np.degrees(np.arctan2(sine, cosine))


def extent_of(c2w: np.ndarray) -> float:
    """Greatest distance in metres between two of the cameras [C, 4, 4]: a scene's extent, from its rig."""
    centres = c2w[:, :3, 3]
    return float(np.linalg.norm(centres[:, None] - centres, axis=-1).max())


def camera_scores(
    estimated: np.ndarray, target: np.ndarray, source_first: np.ndarray, extent: float
) -> CameraScores:
    """Compares a video's cameras with the commanded ones.

    Args:
      estimated, target: [F, 4, 4]; of chosen frames only, if the first is among them.
      source_first: [4, 4], the source's first camera, in the same world.
      extent: metres, see `extent_of`.
    """
    estimated, target = np.asarray(estimated, np.float64), np.asarray(target, np.float64)
    own = [np.linalg.inv(path[0]) @ path for path in (estimated, target)]
    start = np.linalg.inv(np.asarray(source_first, np.float64))
    return CameraScores(
        rotation_error(estimated, target),
        rotation_error(*own),
        _distance(estimated, target),
        _distance(*own),
        extent,
        _motion(start @ estimated, start @ target),
        _motion(*own),
    )


def rotation_gain(motions: Sequence[Motion]) -> float:
    """Slope through 0 of achieved against commanded angle, by least squares over all frames; 1 is right.

    Not a number where nothing turns.
    """
    return _slope([(motion.commanded_angle, motion.achieved_angle) for motion in motions])


def translation_gain(motions: Sequence[Motion]) -> float:
    """As `rotation_gain`, of distances."""
    return _slope([(motion.commanded_distance, motion.achieved_distance) for motion in motions])


def summary(scores: Sequence[CameraScores]) -> dict[str, float]:
    """Figures of some videos: means over frames, then over videos; gains over the frames of all.

    Keys: rotation_absolute, rotation_relative, rotation_first (degrees); translation_absolute,
    translation_relative, translation_first (metres), each also with `_of_extent` (by the scene's extent);
    first_within_15, first_within_30 (shares of videos); rotation_gain, translation_gain (from the source's
    first camera), rotation_gain_from_first, translation_gain_from_first (from the clip's first frame).
    """
    figures: dict[str, float] = {}
    for kind in ("rotation", "translation"):
        absolute = [getattr(s, f"{kind}_absolute") for s in scores]
        relative = [getattr(s, f"{kind}_relative")[1:] for s in scores]
        named = {"absolute": absolute, "relative": relative, "first": [errors[:1] for errors in absolute]}
        for name, errors in named.items():
            means = [float(np.mean(e)) if len(e) else np.nan for e in errors]
            figures[f"{kind}_{name}"] = float(np.mean(means))
            if kind == "translation":
                parts = [mean / s.extent for mean, s in zip(means, scores, strict=True)]
                figures[f"{kind}_{name}_of_extent"] = float(np.mean(parts))
    for limit in WITHIN:
        share = np.mean([s.rotation_absolute[0] < limit for s in scores])
        figures[f"first_within_{limit:.0f}"] = float(share)
    for ending, motions in (
        ("", [s.from_source for s in scores]),
        ("_from_first", [s.from_first for s in scores]),
    ):
        figures[f"rotation_gain{ending}"] = rotation_gain(motions)
        figures[f"translation_gain{ending}"] = translation_gain(motions)
    return figures


def _distance(c2w: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.linalg.norm(c2w[:, :3, 3] - target[:, :3, 3], axis=-1)


def _motion(estimated: np.ndarray, target: np.ndarray) -> Motion:
    """The motion of poses [F, 4, 4] that are relative to their start."""
    turns = [np.degrees(Rotation.from_matrix(path[:, :3, :3]).as_rotvec()) for path in (target, estimated)]
    moves = [path[:, :3, 3] for path in (target, estimated)]
    return Motion(*_along(*turns), *_along(*moves))


def _along(commanded: np.ndarray, achieved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of vectors [F, 3], and of the achieved ones' parts along the commanded."""
    length = np.linalg.norm(commanded, axis=-1)
    part = (commanded * achieved).sum(-1) / np.maximum(length, 1e-9)
    return length, part


def _slope(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    commanded, achieved = (np.concatenate(values) for values in zip(*pairs, strict=True))
    squares = float((commanded**2).sum())
    return float((commanded * achieved).sum()) / squares if squares > 1e-6 else float("nan")
