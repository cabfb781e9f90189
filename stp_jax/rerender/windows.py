"""How a long video is divided into windows of as many frames as a model makes at once; without JAX.

A window has F = 4n + 1 frames: its first latent frame encodes one frame, each other one four. Windows overlap
by 4m + 1 frames, so that latent frames of two windows encode the same frames where these overlap, but for
the first of the later one. All begin at multiples of four, and the last ends with the video, so it may
overlap by more than was asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stp_jax.errors import InputError
from stp_jax.rerender.takes import Takes

JUMP = 16 / 255  # of white; a jump of this much is taken out by half, see `without_jump`


class Windows(NamedTuple):
    """A plan.

    Attributes:
      frames: F of each window.
      length: frames of the new video.
      starts: the first frame of each window, int [W].
      sources: the first source frame of each window's source, int [W].
    """

    frames: int
    length: int
    starts: np.ndarray
    sources: np.ndarray

    @property
    def latent_frames(self) -> int:
        return (self.frames - 1) // 4 + 1

    def target_frames(self, window: int) -> np.ndarray:
        """The frames of the new video that a window makes, int [F].

        The last window of a video that has not 4n + 1 frames repeats the last one up to three times.
        """
        return np.minimum(self.starts[window] + np.arange(self.frames), self.length - 1)

    def source_frames(self, window: int) -> np.ndarray:
        """The source frames that a window is given, int [F]."""
        return self.sources[window] + np.arange(self.frames)

    def overlap(self, window: int) -> int:
        """Frames that a window has in common with the one before it; of the first window 0."""
        if window == 0:
            return 0
        return int(self.starts[window - 1] + self.frames - self.starts[window])

    def new_until(self, window: int) -> int:
        """The first frame of the new video that is not final when a window is made."""
        last = window + 1 == len(self.starts)
        return self.length if last else int(self.starts[window + 1])

    def owner(self, latent: np.ndarray) -> np.ndarray:
        """The first window that has latent frame 0, 1, ... of the whole video, int like `latent`."""
        ends = self.starts // 4 + self.latent_frames
        return np.searchsorted(ends, latent, side="right")


def plan(clock: np.ndarray, frames: int, overlap: int, source_frames: int) -> Windows:
    """Divides a video whose frames show the animation times `clock` [N].

    Args:
      clock: in source frames, 0 to `source_frames` - 1.
      frames: F of a window.
      overlap: frames that a window has in common with the one before it.

    Raises:
      InputError: an overlap that is none; a source that is shorter than a window.
    """
    if overlap % 4 != 1 or not 1 <= overlap < frames:
        raise InputError(
            f"--overlap {overlap}: windows of {frames} frames overlap by 4n + 1, from 1 to {frames - 4}."
        )
    if source_frames < frames:
        raise InputError(
            f"the source has {source_frames} frames there, and a window of a long video takes {frames}: "
            "choose more with --start and --duration, or leave --frames out."
        )
    length = len(clock)
    starts = window_starts(length, frames, overlap)
    sources = [source_start(clock[start : start + frames], frames, source_frames) for start in starts]
    return Windows(frames, length, starts, np.array(sources))


def default_overlap(clock: np.ndarray, frames: int, model: Takes, noted: int = 0) -> int:
    """How much windows of F frames overlap where nothing is said; measured in docs/long_videos.md.

    Args:
      clock: animation times of the new video [N]. Where it stands still, windows of a model with a memory fit
        best with one frame in common.
      noted: what the weights ask for; 0: nothing.
    """
    wanted = noted or (1 if model.memory else 17 if model.official else 5)
    if model.memory and not np.ptp(clock):
        wanted = 1
    return min(wanted, max(frames - 4, 1))


def describe(windows: Windows, model: Takes) -> str:
    """What is made of a long video, to print."""
    count, overlap = len(windows.starts), windows.overlap(1)
    line = f"Long video: {windows.length} frames in {count} windows of {windows.frames}"
    line += f", which overlap by {overlap}"
    if model.memory:
        return f"{line}; each is given {model.memory} latent frames of what was made before"
    return f"{line}\n  (an approximation: {model.title} was not trained to go on, see docs/long_videos.md)"


def window_starts(length: int, frames: int, overlap: int) -> np.ndarray:
    """The first frames of all windows, int [W]."""
    padded = max(-(-(length - 1) // 4) * 4 + 1, frames)
    return np.append(np.arange(0, padded - frames, frames - overlap), padded - frames)


def source_start(times: np.ndarray, frames: int, source_frames: int) -> int:
    """Where the source of a window begins that shows the animation times `times`.

    Of all stretches of F source frames it is one that shows most of these times, as in training; of those
    the one whose middle is nearest to the middle of the times that it shows, so that what moves is seen
    before and after.
    """
    firsts = np.arange(source_frames - frames + 1)
    inside = (times >= firsts[:, None]) & (times <= firsts[:, None] + frames - 1)
    shown = inside.sum(1)
    best = np.flatnonzero(shown == shown.max())
    if not shown.max():  # all between two frames; not with F > 1
        return int(best[0])
    lowest = np.where(inside[best], times, np.inf).min(1)
    highest = np.where(inside[best], times, -np.inf).max(1)
    off_centre = np.abs(best + (frames - 1) / 2 - (lowest + highest) / 2)
    return int(best[np.argmin(off_centre)])


def blend(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Goes over from one video to another of the same frames, uint8 or uint16 [O, H, W, 3].

    The last frame is all of `after`, which goes on from there, and the one before the first would be all of
    `before`.
    """
    share = (np.arange(1, len(before) + 1, dtype=np.float32) / len(before))[:, None, None, None]
    mixed = before.astype(np.float32) * (1 - share) + after.astype(np.float32) * share
    return np.rint(mixed).astype(before.dtype)


def without_jump(video: np.ndarray, first: int) -> np.ndarray:
    """A window's frames, uint8 or uint16 [F, H, W, 3], without a jump of broad areas before frame `first`.

    There the frames in common end. The jump is how much the step to that frame differs from the mean of the
    steps beside it: nothing where all moves evenly. It is blurred by 1/64 of the height, so that details
    stay, and reduced by what other steps have of it there, too (as a Wiener filter does). Where it is large,
    something moves, and would leave ghosts: half of `JUMP` is the most. Two frames on each side take it up.
    A window with fewer than four frames on one side stays as it is.
    """
    if not 4 <= first <= len(video) - 4:
        return video
    from scipy.ndimage import gaussian_filter  # takes a while to import

    near = video[first - 4 : first + 4].astype(np.float32)
    steps = np.diff(near, axis=0)  # the one in the middle, [3], leads to `first`
    sigma = video.shape[1] / 64

    def blurred(picture: np.ndarray, times: float = 1.0) -> np.ndarray:
        return gaussian_filter(picture, (times * sigma, times * sigma, 0))

    jumps = [blurred(steps[at] - (steps[at - 1] + steps[at + 1]) / 2) for at in (1, 3, 5)]
    before, here, after = (blurred(np.square(jump), 2) for jump in jumps)
    taken = np.maximum(1 - (before + after) / 2 / np.maximum(here, 1e-6), 0) * jumps[1]
    most = np.iinfo(video.dtype).max
    taken /= 1 + np.square(np.abs(jumps[1]).max(-1, keepdims=True) / (JUMP * most))
    for frame, share in ((2, 0.25), (3, 0.5), (4, -0.5), (5, -0.25)):
        near[frame] += share * taken
    made = video.copy()
    made[first - 4 : first + 4] = np.clip(np.rint(near), 0, most)
    return made
