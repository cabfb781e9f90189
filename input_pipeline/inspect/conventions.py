"""Do the poses of a scene fit its pictures, and if not: those of which other convention would?

Matches between two pictures are found without any camera. Those that fit one fundamental matrix at all are
the ground to judge on. A convention is judged by the share of them that lie on the epipolar lines of its
cameras, and in front of both.

What cannot be seen: the unit and the world of poses, as no picture depends on them; and, of cameras that all
move along one line without turning, some of the conventions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from input_pipeline.inspect import epipolar, features, lost_world
from input_pipeline.inspect.epipolar import Pair

Poses = tuple[np.ndarray, np.ndarray]  # c2w [C, T, 4, 4] and lenses [C, T, 4]

OPENGL = np.diag([1.0, -1, -1])
_LONGEST = 480  # pixels of the pictures that are compared
_TOLERANCE = (1.0, 0.004)  # pixels that a match may be off: at least, and of the picture's diagonal
_MOVED = 3.0  # tolerances: what moves less lies near every line
_FEWEST = 15  # matches that make a pair of pictures one to judge by
_STILL = 0.5  # share of the matches that must have moved where things move in the world
_ENOUGH = 30  # matches of all pairs, for a verdict
GOOD = 0.7  # share of them: the poses fit
# Share below which poses are wrong even where no convention fits better. Things that move between two frames,
# and mistaken matches, may fit one fundamental matrix, too: of 25 rendered scenes of 128 x 128 pixels right
# poses fitted 63 % and more of the matches, where things moved 57 % and more; shuffled ones 3 to 60 %.
_LEAST = {False: 0.6, True: 0.5}
_BETTER = 0.25  # by which the share of another convention must be higher
_NEXT = 0.04  # the plainest of all that are as near to the best is named
_PAIRS = 6  # of a scene that are judged
_PAIRS_OF_LOST_WORLD = 3  # at least, so that six unknown numbers fit nothing by chance
_ATTEMPTS = 20  # pairs of a scene that are looked at


class Place(NamedTuple):
    """A picture of a scene: camera c at grid time t."""

    camera: int
    time: int


class Matched(NamedTuple):
    """Two pictures of a scene, and the matches [N, 2] between them, in pixels of both.

    Attributes:
      fit: bool [N], those that fit one fundamental matrix and have moved.
      size: height and width of the pictures that the pixels are of.
    """

    places: tuple[Place, Place]
    first: np.ndarray
    second: np.ndarray
    fit: np.ndarray
    size: tuple[int, int]

    @property
    def tolerance(self) -> float:
        return tolerance(self.size)

    def pair(self, poses: Poses) -> Pair:
        c2w, lenses = poses
        a, b = self.places
        return Pair(c2w[a], c2w[b], lenses[a], lenses[b], self.size)

    def share(self, poses: Poses) -> float:
        """Of the matches that fit at all, those that lie where these cameras allow them."""
        return float(self.on_lines(poses)[self.fit].mean())

    def on_lines(self, poses: Poses) -> np.ndarray:
        """bool [N]."""
        off = epipolar.distances(self.pair(poses), self.first, self.second, 3 * self.tolerance)
        return off < self.tolerance


class Convention(NamedTuple):
    """Another reading of a scene's cameras."""

    name: str
    read: Callable[[Poses], Poses]


class Verdict(NamedTuple):
    """How well the poses of a scene fit its pictures.

    Attributes:
      matches: how many were judged, in how many pairs of pictures.
      pairs: as above.
      share: of the matches that fit the poses as they are; NaN where there are too few.
      residual: median distance of matches from their lines, in pixels of the pictures compared.
      better: a convention that fits clearly better, and the share that fits it; None: there is none.
      least: share below which the poses are wrong.
    """

    matches: int
    pairs: int
    share: float
    residual: float
    better: tuple[Convention, float] | None
    least: float = _LEAST[False]

    @property
    def known(self) -> bool:
        return self.matches >= _ENOUGH

    @property
    def wrong(self) -> bool:
        return self.known and (self.better is not None or self.share < self.least)

    def text(self) -> str:
        """In one line, to print."""
        if not self.known:
            return "poses not checked: too few matches between pictures that moved"
        found = f"{self.share:.0%} of {self.matches} matches lie on their epipolar lines"
        if self.better is not None:
            convention, share = self.better
            return f"WARNING: only {found}, but {share:.0%} if these are {convention.name}"
        if self.wrong:
            return (
                f"WARNING: only {found}, and no other usual convention fits: poses of other cameras or "
                "frames, a wrong lens, a principal point that is off, distortion, or poses that are inexact"
            )
        fit = "poses fit" if self.share >= GOOD else "poses fit roughly"
        return f"{fit}: {found} (median {self.residual:.2g} pixels off)"


def tolerance(size: tuple[int, int]) -> float:
    """Pixels that a match may be off, in pictures of this height and width."""
    return max(_TOLERANCE[0], _TOLERANCE[1] * float(np.hypot(*size)))


# Matches ----------------------------------------------------------------------------------------------------


def smaller(picture: np.ndarray, longest: int = _LONGEST) -> np.ndarray:
    """A picture uint8 [H, W, 3], made smaller where it is longer than `longest`; all of it is kept."""
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def match(
    pictures: dict[Place, np.ndarray], candidates: Sequence[tuple[Place, Place]], *, moving: bool
) -> list[Matched]:
    """Matches between pairs of pictures, of the first pairs that have enough of them.

    Args:
      pictures: uint8 [H, W, 3].
      candidates: pairs of them, the ones to take first in front.
      moving: things move between the two pictures of a pair: matches count where most of them have moved, so
        that the camera must have.
    """
    found: dict[Place, features.Features] = {}
    matched: list[Matched] = []
    for pair in candidates[:_ATTEMPTS]:
        if pictures[pair[0]].shape != pictures[pair[1]].shape:
            continue
        for place in pair:
            if place not in found:
                found[place] = features.find(pictures[place])
        first, second = (found[place] for place in pair)
        numbers = features.match(first, second)
        a, b = first.at[numbers[:, 0]], second.at[numbers[:, 1]]
        size = pictures[pair[0]].shape[:2]
        off = tolerance(size)
        moved = np.hypot(*(a - b).T) > _MOVED * off
        if moved.sum() < _FEWEST or (moving and moved.mean() < _STILL):
            continue
        fit = epipolar.estimate(a, b, off, size) & moved
        if fit.sum() >= _FEWEST:
            matched.append(Matched(pair, a, b, fit, size))
        if len(matched) == _PAIRS:
            break
    return matched


# Conventions ------------------------------------------------------------------------------------------------


def conventions() -> list[Convention]:
    """Usual ways to read cameras otherwise than they are meant, the plainest first."""
    names = {True: "world-to-camera poses", False: "camera-to-world poses"}
    kinds = [
        Convention("cameras in OpenGL axes (y up, z backward)", lambda poses: axes(poses, OPENGL)),
        Convention("world-to-camera poses", inverted),
        Convention(
            "world-to-camera poses of cameras in OpenGL axes (y up, z backward)",
            lambda poses: axes(inverted(poses), OPENGL),
        ),
        Convention(
            "world-to-camera poses in OpenCV axes, which were changed as if they were camera-to-world ones "
            "in OpenGL axes",
            lambda poses: inverted(axes(poses, OPENGL)),
        ),
        Convention("the same cameras in reverse order", lambda poses: reversed_along(poses, 0)),
        Convention("the same poses in reverse order of frames", lambda poses: reversed_along(poses, 1)),
        Convention("lenses with the principal point in the middle", middle),
        Convention("lenses with fx and fy exchanged", lambda poses: exchanged(poses, [1, 0, 2, 3])),
        Convention("lenses with cx and cy exchanged", lambda poses: exchanged(poses, [0, 1, 3, 2])),
        Convention("poses with transposed rotations", transposed),
        Convention("camera-to-world rotations beside world-to-camera translations", translations),
        Convention(
            "world-to-camera rotations beside camera-to-world translations", lambda p: transposed(inverted(p))
        ),
    ]
    for invert in (False, True):
        for turn in _signed_permutations():
            if (turn == np.eye(3)).all() or (turn == OPENGL).all():
                continue
            name = f"{names[invert]} of cameras with the axes {axes_text(turn)}"
            kinds.append(Convention(name, functools.partial(_otherwise, turn=turn, invert=invert)))
    return kinds


def _otherwise(poses: Poses, turn: np.ndarray, invert: bool) -> Poses:
    return axes(inverted(poses) if invert else poses, turn)


def _signed_permutations() -> list[np.ndarray]:
    """All 48 ways to name and turn round three axes, as [3, 3]; rotations first."""
    made = [
        np.eye(3)[list(order)].T * np.array(signs)
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]
    return sorted(made, key=lambda turn: -np.linalg.det(turn))


def axes_text(turn: np.ndarray) -> str:
    """In words, where the axes of cameras point whose x, y and z are the rows of `turn` [3, 3]."""
    words = (("right", "left"), ("down", "up"), ("forward", "backward"))
    named = []
    for name, row in zip("xyz", turn, strict=True):
        axis = int(np.abs(row).argmax())
        named.append(f"{name} {words[axis][int(row[axis] < 0)]}")
    text = ", ".join(named)
    return text if np.linalg.det(turn) > 0 else f"{text} (a mirrored world)"


def axes(poses: Poses, turn: np.ndarray) -> Poses:
    """Poses of cameras whose axes are `turn` [3, 3]: x of such a camera is row 0 of it in OpenCV's axes.

    Of an improper `turn` the world is mirrored, too, so that all rotations stay rotations.
    """
    c2w = np.array(poses[0], np.float64)
    if np.linalg.det(turn) > 0:
        c2w[..., :3, :3] = c2w[..., :3, :3] @ turn
    else:
        c2w[..., :3, :3] = turn.T @ c2w[..., :3, :3] @ turn
        c2w[..., :3, 3] = c2w[..., :3, 3] @ turn
    return c2w, poses[1]


def inverted(poses: Poses) -> Poses:
    """World-to-camera matrices as camera-to-world ones, or the other way round."""
    rotations = poses[0][..., :3, :3].swapaxes(-1, -2)
    c2w = np.array(poses[0], np.float64)
    c2w[..., :3, :3] = rotations
    c2w[..., :3, 3] = -(rotations @ poses[0][..., :3, 3:])[..., 0]
    return c2w, poses[1]


def transposed(poses: Poses) -> Poses:
    c2w = np.array(poses[0], np.float64)
    c2w[..., :3, :3] = c2w[..., :3, :3].swapaxes(-1, -2)
    return c2w, poses[1]


def translations(poses: Poses) -> Poses:
    """Rotations as they are; translations are those of the inverse."""
    c2w = np.array(poses[0], np.float64)
    c2w[..., :3, 3] = -(c2w[..., :3, :3] @ c2w[..., :3, 3:])[..., 0]
    return c2w, poses[1]


def reversed_along(poses: Poses, axis: int) -> Poses:
    return np.flip(poses[0], axis), np.flip(poses[1], axis)


def middle(poses: Poses) -> Poses:
    lenses = np.array(poses[1], np.float64)
    lenses[..., 2:] = 0.5
    return poses[0], lenses


def exchanged(poses: Poses, order: list[int]) -> Poses:
    return poses[0], poses[1][..., order]


# The verdict ------------------------------------------------------------------------------------------------


def judge(matched: Sequence[Matched], poses: Poses, *, moving: bool = False) -> Verdict:
    """How well poses [C, T, 4, 4] and lenses [C, T, 4] fit the matches between pictures of a scene.

    Args:
      moving: as of `match`.
    """
    count = sum(int(one.fit.sum()) for one in matched)
    share = _share(matched, poses)
    off = [epipolar.distances(one.pair(poses), one.first, one.second, np.inf)[one.fit] for one in matched]
    residual = float(np.median(np.concatenate(off))) if off else float("nan")
    better = None
    if count >= _ENOUGH and share < 1 - _BETTER:
        tried = [(kind, _share(matched, kind.read(poses))) for kind in conventions()]
        best = max(value for _, value in tried)
        if best >= max(GOOD, share + _BETTER):
            better = next((kind, value) for kind, value in tried if value >= best - _NEXT)
        elif share < _LEAST[moving]:
            better = _of_lost_world(matched, poses, share)
    return Verdict(count, len(matched), share, residual, better, _LEAST[moving])


def _of_lost_world(matched: Sequence[Matched], poses: Poses, share: float) -> tuple[Convention, float] | None:
    """Inverted poses that were made relative to the first: see `lost_world`."""
    if len(matched) < _PAIRS_OF_LOST_WORLD:
        return None
    worlds = lost_world.find([(one.pair(poses), one.first[one.fit], one.second[one.fit]) for one in matched])
    found, best = max(
        ((_share(matched, lost_world.apply(poses, world)), place) for place, world in enumerate(worlds))
    )
    kind = Convention(
        "world-to-camera poses, of which the first was taken for the world's frame",
        functools.partial(lost_world.apply, first=worlds[best]),
    )
    return (kind, found) if found >= max(GOOD, share + _BETTER) else None


def _share(matched: Sequence[Matched], poses: Poses) -> float:
    """The mean over pairs, each counted by its matches."""
    counts = np.array([one.fit.sum() for one in matched], float)
    if not counts.sum():
        return float("nan")
    return float(np.array([one.share(poses) for one in matched]) @ counts / counts.sum())
