"""How a clip was filmed, estimated from its pictures: `--source_cameras estimate`."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from stp_jax.controls import cameras, lenses, structure
from stp_jax.controls.cameras import Cameras
from stp_jax.errors import InputError

ESTIMATE = "estimate"  # in place of a file of the source's cameras
LONGEST_SIDE = 1024  # pixels of the pictures in which features are looked for
_MISSING = 0.2  # share of the frames that may be interpolated
_TURN = 5.0  # degrees; of a camera that turns less, the focal length is uncertain
_OTHERWISE = "Give a file with --source_cameras, or leave it out for a camera that stands still."


class Estimated(NamedTuple):
    """The cameras of F frames in the frame of the first one, metres."""

    cameras: Cameras
    lines: list[str]  # how they were found, to print


def is_asked(source_cameras: str | os.PathLike | None) -> bool:
    return source_cameras is not None and str(source_cameras) == ESTIMATE


def check_installed() -> None:
    """Raises `InputError` where cameras cannot be estimated at all."""
    if not structure.installed():
        raise InputError(
            "--source_cameras estimate needs pycolmap, which is not installed: pip install 'stp-jax[poses]'"
        )


def estimate(
    pictures: np.ndarray,
    numbers: np.ndarray,
    *,
    fov: float | None = None,
    distance: float | None = None,
) -> Estimated:
    """The cameras of a clip of a scene that mostly stands still, by structure from motion.

    Pictures alone do not say how large a scene is: its scale is such that what the first camera has in its
    middle is `distance` away.

    Args:
      pictures: uint8 [N, H, W, 3], the different pictures of the clip, uncropped.
      numbers: int [F], the frame of the video that each frame of the clip shows; N different ones.
      fov: degrees across the shorter side of the picture. None: estimated, where the camera moves.
      distance: metres; None: `cameras.DISTANCE`.

    Raises:
      InputError: hardly any frames' cameras are found, or their scale is not.
    """
    height, width = pictures.shape[1:3]
    lens = cameras.default_intrinsics(lenses.FOV if fov is None else fov, aspect=width / height)
    if len(pictures) < structure.MIN_FRAMES:
        raise InputError(
            f"--source_cameras estimate: the clip has {len(pictures)} different frames, and "
            f"{structure.MIN_FRAMES} are needed. {_OTHERWISE}"
        )
    path = structure.estimate(pictures, lens, refine=fov is None)
    return settle(path, lens, numbers, fov=fov, distance=distance)


def settle(
    path: structure.CameraPath,
    lens: np.ndarray,
    numbers: np.ndarray,
    *,
    fov: float | None = None,
    distance: float | None = None,
) -> Estimated:
    """Scale, and a camera for every frame, of a path that was found for N pictures; see `estimate`.

    Args:
      lens: [4], where the path has none.
    """
    found, count = np.flatnonzero(path.found), len(path.found)
    if count - len(found) > max(1, _MISSING * count):
        raise InputError(
            f"--source_cameras estimate: only {len(found)} of {count} frames could be placed: too few "
            f"features of what stands still are seen in several frames. {_OTHERWISE}"
        )
    metres = cameras.DISTANCE if distance is None else distance
    c2w = path.c2w[found]
    if not path.parallax:
        c2w[:, :3, 3] = 0
    elif path.depth is None or not path.depth > 0:
        raise InputError(
            "--source_cameras estimate: no scale can be set, as no point of the first frame is known. "
            f"{_OTHERWISE}"
        )
    else:
        c2w[:, :3, 3] *= metres / path.depth
    lens = lens if path.intrinsics is None else path.intrinsics
    whole = Cameras(c2w, np.tile(lens, (len(found), 1)))
    # From a place among the clip's frames to one among those found.
    places = np.interp(numbers, np.unique(numbers)[found], np.arange(len(found)))
    lines = [f"Its camera: estimated by features; {len(found)} of {count} frames were placed"]
    if len(found) < count:
        lines[0] += ", the others are interpolated"
    lines += [
        *_about(path, whole, fov, distance, metres),
        "  written as source_cameras.json, to be given again",
    ]
    return Estimated(cameras.at(whole, places), lines)


def _about(
    path: structure.CameraPath, whole: Cameras, fov: float | None, distance: float | None, metres: float
) -> list[str]:
    """What was assumed, and what may be wrong, to print."""
    from scipy.spatial.transform import Rotation  # takes a while to import

    turns = Rotation.from_matrix(whole.c2w[0, :3, :3].T @ whole.c2w[:, :3, :3])
    turn = float(np.degrees(turns.magnitude()).max())
    lines = []
    if path.parallax:
        moved = float(np.linalg.norm(whole.c2w[:, :3, 3] - whole.c2w[0, :3, 3], axis=1).max())
        whence = "" if distance is not None else ", --distance says another"
        lines.append(
            f"  it moves up to {moved:.3g} m and turns up to {turn:.3g} degrees, where what it looks at "
            f"first is taken to be {metres:g} m away{whence}"
        )
    else:
        lines.append(
            f"WARNING: its camera hardly moves: its turns (up to {turn:.3g} degrees) were estimated, its "
            "position is taken to stand still."
        )
    across = np.degrees(2 * np.arctan(0.5 / whole.intrinsics[0, :2].max()))
    if path.intrinsics is None:
        given = "as given" if fov is not None else "assumed, --fov says another"
        lines.append(f"  its lens: a field of view of {across:.3g} degrees, {given}")
    else:
        unsure = "; uncertain, as the camera hardly turns: --fov says another" if turn < _TURN else ""
        lines.append(f"  its lens: a field of view of {across:.3g} degrees, estimated{unsure}")
    return lines
