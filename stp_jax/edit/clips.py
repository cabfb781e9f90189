"""The clip that is edited, with what is known of its depth; read once, as `sample.py` reads it."""

from __future__ import annotations

import argparse
import copy
import os
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stp_jax import media, user_input
from stp_jax.controls import cameras
from stp_jax.controls.paths import Cameras
from stp_jax.controls.times import Rates
from stp_jax.errors import InputError
from stp_jax.rerender import results, runs
from stp_jax.rerender.flags import parse_flags
from stp_jax.rerender.request import Request, playing_rate
from stp_jax.rerender.takes import SAME_CAMERA, Takes
from stp_jax.weights.native import SamplingNotes

EXAMPLE_DEPTH = runs.ASSETS / "example_depth.npz"
_NEAREST = 1e-3  # metres: no depth is less
_MOVE = "orbit_left:1"  # takes --distance into account, so that it is not refused as idle


class Source(NamedTuple):
    """A part of a video, with the flags that read it.

    Attributes:
      flags: of sample.py, all of them; keyframes, camera and animation time are not looked at.
      notes, takes: of the weights.
      clip: as the model is given it.
      seconds: of the video, where the clip begins and ends.
      cameras: in the frame of the first one, [F]; lenses of the whole picture as filmed.
      world: [4, 4], the first one's pose in the world of its file.
      rates: what seconds are counted by.
      summary: how it was read, to show.
      depth: float32 [F, H, W], metres along each camera's z axis, infinite in the sky; None: not known.
    """

    flags: argparse.Namespace
    notes: SamplingNotes
    takes: Takes
    clip: media.Clip
    seconds: tuple[float, float]
    cameras: Cameras
    world: np.ndarray
    rates: Rates
    summary: str
    depth: np.ndarray | None

    @property
    def start(self) -> float:
        return self.flags.start

    @property
    def duration(self) -> float | None:
        return self.flags.duration

    @property
    def distance(self) -> float:
        """Metres to the pivot, straight ahead of the first camera."""
        return cameras.DISTANCE if self.flags.distance is None else self.flags.distance

    @property
    def video(self) -> str | os.PathLike:
        return self.flags.video or runs.EXAMPLE

    @property
    def lenses(self) -> np.ndarray:
        """Of the model's picture, [F, 4]."""
        height, width = self.clip.frames.shape[1:3]
        return media.fit_intrinsics(self.cameras.intrinsics, self.clip.source_size, height, width)

    def trimmed(self, start: float, duration: float | None) -> Source:
        """Another part of the same video. Raises `InputError` as `read`."""
        if (start, duration) == (self.start, self.duration):
            return self
        return read(_with(self.flags, start=start, duration=duration), self.notes, self.takes)

    def of_video(self, video: str | os.PathLike, **flags: Any) -> Source:
        """Another video with the same flags, but for its cameras. Raises `InputError` as `read`."""
        fresh = {"start": 0.0, "duration": None, "source_cameras": None, "video": str(video)}
        fresh |= dict.fromkeys(("source_camera_axes", "source_camera_poses"))
        return read(_with(self.flags, **(fresh | flags)), self.notes, self.takes)

    def directed(self, camera: str) -> Request:
        """What sample.py makes of this clip with another `--camera`, such as a file. Raises `InputError`."""
        flags = _with(self.flags, camera=camera, animation_time="forward", keyframes=None)
        return runs.plan(flags, self.notes, self.takes).request

    def words(self, keyframes: str | os.PathLike, by_distance: bool, also: Sequence[str] = ()) -> list[str]:
        """The words of the sample.py command that takes a file of keyframes.

        Args:
          by_distance: whether the keyframes depend on the distance to the pivot; otherwise it is refused.
          also: further forms of the result.
        """
        plain = vars(parse_flags([]))
        given = {name: value for name, value in vars(self.flags).items() if value != plain[name]}
        given |= {"keyframes": str(keyframes), "camera": None, "animation_time": None, "out": None}
        given["also"] = list(dict.fromkeys((*(self.flags.also or ()), *also))) or None
        if not by_distance and self.flags.source_cameras is None:
            given["distance"] = None
        return results.words(given)

    def command(self, keyframes: str | os.PathLike, by_distance: bool) -> str:
        return shlex.join(["python", "sample.py", *self.words(keyframes, by_distance)])


def _with(flags: argparse.Namespace, **fields: Any) -> argparse.Namespace:
    made = copy.copy(flags)
    vars(made).update(fields)
    return made


def read(
    flags: argparse.Namespace,
    notes: SamplingNotes,
    takes: Takes,
    depth_file: str | os.PathLike | None = None,
) -> Source:
    """Reads the clip that flags of sample.py name.

    Args:
      depth_file: see `read_depth`; the bundled clip has its own.

    Raises:
      InputError: as `sample.py` says it; a file of depths that cannot be used.
    """
    camera = SAME_CAMERA if takes.camera == "none" else _MOVE
    asked = _with(flags, camera=camera, animation_time="forward", keyframes=None, also=None)
    if takes.camera == "none" or (flags.distance is None and flags.source_cameras is not None):
        asked.camera = SAME_CAMERA  # a model may refuse moves beside the source's cameras
    request = runs.plan(asked, notes, takes).request
    source, _ = request.lenses or (request.source.intrinsics, None)
    found = Cameras(request.source.c2w, source)
    if depth_file is None and flags.video is None:
        depth_file = EXAMPLE_DEPTH
    depth = None if depth_file is None else read_depth(depth_file, request.clip)
    rates = Rates(playing_rate(request.clip, flags.fps), request.clip.fps)
    lines = request.summary.splitlines()
    summary = "\n".join(line for line in lines if not line.startswith(("New ", "  here ", "  by frames")))
    return Source(
        flags,
        notes,
        takes,
        request.clip,
        request.seconds,
        found,
        request.world,
        rates,
        summary,
        depth,
    )


def read_depth(path: str | os.PathLike, clip: media.Clip) -> np.ndarray:
    """Depth of a clip's frames, float32 [F, H, W], metres, infinite where the file says 0.

    The file is an .npz with `inverse_depth`, uint16 [frames of the video, h, w], which is
    65535 * `nearest` / depth, as in docs/rendering.md, of the video's whole picture.

    Raises:
      InputError: not such a file, or of another video.
    """
    shown = user_input.shown(path)
    data = user_input.load(path, (".npz",), names=("inverse_depth", "nearest"))
    try:
        inverse, nearest = np.asarray(data["inverse_depth"]), float(data["nearest"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{shown}: has no inverse_depth [frames, height, width] and nearest.") from None
    last = max(clip.source_frames)
    if inverse.ndim != 3 or inverse.dtype != np.uint16 or not nearest > 0:
        raise InputError(f"{shown}: inverse_depth must be uint16 [frames, height, width], nearest in metres.")
    if len(inverse) <= last:
        raise InputError(f"{shown}: has the depth of {len(inverse)} frames, and frame {last} is shown.")
    height, width = clip.frames.shape[1:3]
    rows, columns = _cells(inverse.shape[1:], (height, width))
    chosen = inverse[list(clip.source_frames)][:, rows[:, None], columns].astype(np.float32)
    with np.errstate(divide="ignore"):
        return np.maximum(65535 * nearest / chosen, _NEAREST)


def _cells(size: tuple[int, ...], picture: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a map of the whole picture, for each pixel of the picture that `fit_image` cuts."""
    scale = min(size[0] / picture[0], size[1] / picture[1])
    cut = ((whole - kept * scale) / 2 for whole, kept in zip(size, picture, strict=True))
    places = (
        np.clip(np.floor(first + (np.arange(kept) + 0.5) * scale).astype(int), 0, whole - 1)
        for first, kept, whole in zip(cut, picture, size, strict=True)
    )
    rows, columns = places
    return rows, columns
