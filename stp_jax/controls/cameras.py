"""Cameras: where they are, what they see, and the rays that a model is conditioned on.

One convention, everywhere:

- Axes are OpenCV's: x right, y down, z forward. Right-handed, metres.
- `c2w` [F, 4, 4] maps a point of the camera's frame to the world: rotation, translation, last row 0 0 0 1.
- The world is the frame of the source's first camera (`relative_to` takes poses there), so a target may begin
  anywhere.
- `intrinsics` [F, 4] are (fx, fy, cx, cy) divided by (width, height, width, height). They survive resizing.

The rays' functions take numpy or jax arrays and return the same kind, so that the model computes them inside
`jax.jit` and tests compute them in float64.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import einops
import numpy as np

from stp_jax import user_input
from stp_jax.controls import camera_files, lenses, presets
from stp_jax.controls.camera_files import Reading
from stp_jax.controls.formats.base import DISTANCE
from stp_jax.controls.formats.poses import evenly_numbered, square
from stp_jax.controls.lenses import default_intrinsics
from stp_jax.controls.paths import Cameras, at, check, relative_to, resample, through
from stp_jax.errors import InputError

__all__ = [
    "DISTANCE",
    "PRESETS",
    "CameraPath",
    "Cameras",
    "Reading",
    "at",
    "changes_lens",
    "check",
    "check_key_poses",
    "default_intrinsics",
    "is_preset",
    "load",
    "parse",
    "plucker_rays",
    "preset",
    "read",
    "relative_to",
    "resample",
    "scaled",
    "stands_still",
    "through",
    "token_rays",
]

# name: what the camera does (unit of its amount; the default)
PRESETS = presets.SUMMARIES


def preset(
    spec: str, frames: int, *, intrinsics: np.ndarray | None = None, distance: float = DISTANCE
) -> Cameras:
    """A camera path by name, in the frame of the source's first camera.

    One move is even: frame i of 0..F-1 is at `start + amount * i / (F - 1)`, of a zoom at
    `start * amount ** (i / (F - 1))` times the focal length. "Left" and "up" are as the source's first camera
    sees them. Orbits and spirals always look at the pivot.

    Several moves follow each other, as in `"orbit_left:30, hold 20%, zoom_in:1.5 ease_out"`. Each begins
    where the one before it ended: left and forward are then the camera's own, up stays that of the source's
    first camera, and the pivot is straight ahead at the distance that driving has left (a tenth of it at
    least). A move may have a share of the video in per cent; the others have equal parts of the rest. It may
    be `linear`, `ease` (starts and ends at rest), `ease_in` or `ease_out`. One move is linear by default,
    each of several eases.

    Args:
      spec: `name`, `name:amount` or `name:amount:start`, with a name of PRESETS, which also gives the unit,
        or of `moves.ALIASES`; `recammaster:1` to `recammaster:10`. `start` is where the path begins, in the
        move's own direction; by default at the source's first camera. `orbit_left:40:-20` goes from 20
        degrees right to 20 degrees left, `orbit_left:0:30` stands still 30 degrees to the left.
      frames: F.
      intrinsics: the lens, [4] or [F, 4]; default `default_intrinsics()`.
      distance: metres from the source's first camera to the pivot, straight ahead.

    Raises:
      InputError: unknown move, an amount or start that is not a number, shares that do not add up, a start
        of a later move, or a distance that is not positive.
    """
    if not 0 < distance < np.inf:
        raise InputError(f"a distance of {distance:g} metres to the pivot: give a positive number")
    where = f"camera {user_input.short(spec)}"
    parts = presets.parse(spec)
    lens = np.tile(default_intrinsics(), (frames, 1)) if intrinsics is None else intrinsics
    lens = np.array(np.broadcast_to(lens, (frames, 4)), np.float64)
    with np.errstate(all="ignore"):  # what overflows is refused by the check
        rigs = presets.follow(parts, frames, distance)
        lens[:, :2] *= rigs.zoom[:, None]
        path = Cameras(rigs.c2w().astype(np.float32), lens.astype(np.float32))
    if any(part.move.lens for part in parts) and not (lens[:, :2] <= 30).all():
        longest = lens[:, :2].max()
        raise InputError(f"{where}: a focal length of {longest:.3g} times the picture; at most 30")
    check(*path, frames, where)
    return path


def changes_lens(spec: str) -> bool:
    """Whether a move of a preset changes the lens."""
    return any(part.move.lens for part in presets.parse(spec))


def stands_still(spec: str) -> bool:
    """Whether a preset is the source's first camera alone."""
    return all(part.name == "static" for part in presets.parse(spec))


class CameraPath(NamedTuple):
    """The whole path of a file."""

    where: str  # names it in errors
    cameras: Cameras  # one for each of its poses, in the file's own world; c2w float64: it may be far away
    form: str  # how its poses were read, to print
    lens: str | None  # how its intrinsics were read, to print; None: it has none
    motion_only: bool  # it says how the camera moves, not where it starts
    pose_per_frame: bool = False  # files of its form have a pose for each frame of a video, never key poses
    frame_numbers: np.ndarray | None = None  # of the video that its poses are of, if the file says so
    uses_distance: bool = False  # it depends on `Reading.distance`
    of_new_video: bool = False  # it says that its poses are of a new video
    depth: float | None = None  # of what its first camera has in the middle, in its own unit
    own_convention: bool = False  # its form states axes and poses
    size: tuple[float, float] | None = None  # width and height of the whole picture, if the file says so


def is_preset(text: str) -> bool:
    """Whether `parse` takes a text for a preset, not for a file."""
    name = camera_files.choice(text)[0]
    return text.split(":")[0].strip() in PRESETS or not user_input.is_file_name(name, camera_files.FILE_TYPES)


def parse(
    text: str | os.PathLike,
    frames: int,
    *,
    intrinsics: np.ndarray | None = None,
    distance: float = DISTANCE,
    reference: np.ndarray | None = None,
    source: str | os.PathLike | None = None,
    consecutive: bool = False,
    key_poses: bool = False,
    reading: Reading = Reading(),  # noqa: B008 (immutable)
) -> Cameras:
    """A camera path as a user gives it: a preset (see `preset`) or a file (see `read`).

    Files of the official releases say how a camera moves, not where it starts: their paths begin at the
    source's first camera, unless they lie in the same file as the source's.

    Args:
      intrinsics: the lens where the file has none, and of presets: [4] or [F, 4].
      distance: metres to the pivot of presets.
      reference: [4, 4], pose of the source's first camera in the file's world; a file's poses are made
        relative to it. Without it they are taken to be so already.
      source: the file that `reference` is from.
      consecutive: take the first F poses of such a file, instead of F spread over all.
      key_poses: as for `read`.
      reading: what is known of the file: axes, c2w or w2c, the video's size.

    Raises:
      InputError: as `preset` and `read`.
    """
    text = str(text)
    if is_preset(text):
        return preset(text, frames, intrinsics=intrinsics, distance=distance)
    path = load(text, intrinsics=intrinsics, reading=reading)
    count = min(frames, len(path.cameras.c2w)) if consecutive and path.motion_only else None
    chosen = Cameras(*(array[:count] for array in path.cameras))
    chosen = _evenly(path._replace(cameras=chosen), frames, key_poses=key_poses)
    return seen_from(path, chosen, reference, source)


def seen_from(
    path: CameraPath,
    chosen: Cameras,
    reference: np.ndarray | None,
    source: str | os.PathLike | None = None,
) -> Cameras:
    """Cameras of a file in the frame of the source's first camera; arguments as for `parse`.

    Raises:
      InputError: one of the two worlds is mirrored.
    """
    if path.motion_only:
        source_path = camera_files.choice(source or "")[0]
        one_world = reference is not None and os.path.realpath(source_path) == os.path.realpath(path.where)
        reference = reference if one_world else chosen.c2w[0]
    if reference is None:
        return chosen._replace(c2w=chosen.c2w.astype(np.float32))
    if np.linalg.det(reference[:3, :3]) * np.linalg.det(chosen.c2w[0, :3, :3]) < 0:
        raise InputError(
            f"{path.where}: cannot be in the mirrored world of the source's cameras; give both in one form"
        )
    return chosen._replace(c2w=relative_to(chosen.c2w, reference))


# Files ------------------------------------------------------------------------------------------------------


def read(
    path: str | os.PathLike,
    frames: int | None = None,
    *,
    intrinsics: np.ndarray | None = None,
    span: tuple[float, float] = (0.0, 1.0),
    key_poses: bool = False,
    reading: Reading = Reading(),  # noqa: B008 (immutable)
) -> Cameras:
    """Reads a camera path, in the file's own world frame.

    `camera_files.FORMATS` is the table of all forms. Ours, with OpenCV axes and metres:

    - .json: {"c2w": [F x 4 x 4], "intrinsics": [4] or [F x 4]}; "intrinsics" may be missing. They may be
      3 x 3 matrices and in pixels, with "width" and "height" of the picture: see `lenses.read`.
    - .npz: the same names. .npy: c2w alone, [F, 4, 4].
    - camera_data.json of a rendered scene: {"convention": "opencv w2c, metres", "cameras": {"extrinsic":
      {name: 4 x 4 world-to-camera}, "intrinsic": {name: [4]}}}; the path runs through its cameras by name.

    Of the official releases, without a lens:

    - SpaceTimePilot's <video>_extrinsics.npy: world-to-camera, [F, 4, 4]. Only with `reading.official`, as
      a name alone says nothing; otherwise they are read as every .npy, and need `Reading(poses="w2c")`.
    - SpaceTimePilot's camera_data.json, the one without "convention": as ours, with Blender's camera axes
      (x right, y up, z back). Its world is mirrored (x to -x), as there.
    - MultiCamVideo's camera_extrinsics.json: {"frame0": {"cam01": "[a b c d] [e f g h] [i j k l] [x y z 1] ",
      ...}, ...} with row vectors, Unreal's axes and centimetres. One camera of it is chosen with
      `FILE.json:cam05` or `FILE.json:5`. Its world is left-handed.

    In the last two worlds the poses are left-handed, until `relative_to` cancels that. Only
    `stp_jax.official.poses` needs them so.

    Args:
      frames: F. A file of more poses is sampled evenly from its first to its last, see `resample`. Fewer are
        key poses of a smooth path, see `through`. None: as many as the file has, one for each frame of a
        source video.
      intrinsics: the lens, [4], where the file has none; default `default_intrinsics()`.
      span: the part of the path that the F frames are taken from, see `resample`.
      key_poses: take fewer poses than frames as key poses also where a form has one for each frame: files of
        the official releases, RealEstate10K, TUM, KITTI.
      reading: what is known of the file: axes, c2w or w2c, the video's size.

    Raises:
      InputError: missing, unreadable or truncated file, another layout, no such camera in it, too few poses,
        or invalid ones (see `check`).
    """
    whole = load(path, intrinsics=intrinsics, reading=reading)
    chosen = whole.cameras if frames is None else _evenly(whole, frames, span, key_poses=key_poses)
    return chosen._replace(c2w=chosen.c2w.astype(np.float32))


def load(
    path: str | os.PathLike,
    *,
    intrinsics: np.ndarray | None = None,
    reading: Reading = Reading(),  # noqa: B008 (immutable)
) -> CameraPath:
    """Reads the whole path of a file, as `read` does, and says how it was read."""
    file = camera_files.load(path, reading)
    where = file.where
    poses = square(file.poses, where)
    if file.numbers is not None and len(file.numbers.at) != len(poses):
        raise InputError(f"{where}: {len(poses)} poses, but {len(file.numbers.at)} numbers of their frames")
    if file.intrinsics is None:
        given = default_intrinsics() if intrinsics is None else intrinsics
        lens, form = np.tile(np.asarray(given, np.float64), (len(poses), 1)), None
    else:
        lens, form = lenses.read(file.intrinsics, len(poses), where, stated=file.size, video=reading.video)
    check(poses, lens, len(poses), where)
    cameras = Cameras(file.to_c2w(poses).astype(np.float64), lens.astype(np.float32))
    cameras, remark, numbers = evenly_numbered(cameras, file, reading)
    return CameraPath(
        where,
        cameras,
        file.form + remark,
        file.lens_form or form,
        file.motion_only,
        file.pose_per_frame,
        numbers,
        file.uses_distance,
        file.of_new_video,
        file.depth,
        file.own_convention,
        file.size,
    )


def scaled(path: CameraPath, factor: float) -> CameraPath:
    """A path whose lengths are multiplied by a factor."""
    c2w = path.cameras.c2w.copy()
    c2w[:, :3, 3] *= factor
    depth = None if path.depth is None else path.depth * factor
    return path._replace(cameras=path.cameras._replace(c2w=c2w), depth=depth)


def _evenly(
    path: CameraPath, frames: int, span: tuple[float, float] = (0.0, 1.0), *, key_poses: bool = False
) -> Cameras:
    """F cameras spread over a path, or through its key poses; raises `InputError` as `check_key_poses`."""
    if check_key_poses(path, frames, key_poses):
        return through(path.cameras, np.linspace(*span, frames) * (len(path.cameras.c2w) - 1))
    return resample(path.cameras, frames, span)


def check_key_poses(path: CameraPath, frames: int, key_poses: bool) -> bool:
    """Whether the poses of a file are key poses: there are fewer than frames.

    Args:
      frames: of the new video.
      key_poses: the user says that they are.

    Raises:
      InputError: a single pose; fewer poses than frames in a form that has one for each frame, and it is not
        said that they are key poses.
    """
    poses = len(path.cameras.c2w)
    if poses >= frames:
        return False
    if poses < 2:
        raise InputError(f"{path.where}: one pose is too few; {frames} frames need two key poses at least")
    if path.pose_per_frame and not key_poses:
        raise InputError(
            f"{path.where}: {poses} poses are too few; {frames} frames need one each in files of this form. "
            "If they are key poses, say so with --key_poses"
        )
    return True


# Rays -------------------------------------------------------------------------------------------------------


def plucker_rays(c2w: Any, intrinsics: Any, height: int, width: int) -> Any:
    """Plücker coordinates of the rays through the cells of a picture.

    Args:
      c2w: [..., 4, 4], numpy or jax.
      intrinsics: [..., 4].
      height, width: number of cells of the picture; a ray passes through the middle of each.

    Returns:
      [..., height, width, 6]: moment o x d (in the unit of the translations), then unit direction d, in the
      world's axes. o is the camera's centre; any other point of the ray gives the same moment (J. Plücker,
      "On a new geometry of space", 1865).
    """
    xp = c2w.__array_namespace__()
    x = (xp.arange(width, dtype=c2w.dtype) + 0.5) / width
    y = (xp.arange(height, dtype=c2w.dtype) + 0.5) / height
    fx, fy, cx, cy = (intrinsics[..., i, None, None] for i in range(4))
    shape = (*c2w.shape[:-2], height, width)
    right = xp.broadcast_to((x - cx) / fx, shape)
    down = xp.broadcast_to((y[:, None] - cy) / fy, shape)
    direction = xp.stack([right, down, xp.ones_like(right)], axis=-1)
    direction = direction / xp.sqrt(xp.sum(direction**2, axis=-1, keepdims=True))
    # A sum of products, because accelerators compute small matrix products in reduced precision.
    direction = xp.sum(c2w[..., None, None, :3, :3] * direction[..., None, :], axis=-1)
    origin = xp.broadcast_to(c2w[..., None, None, :3, 3], direction.shape)
    return xp.concatenate([xp.cross(origin, direction), direction], axis=-1)


def token_rays(
    c2w: Any, intrinsics: Any, grid: tuple[int, int], *, samples: int = 2, scale: float = 1.0
) -> Any:
    """Rays through each token of a video DiT: what its camera encoder reads.

    A token covers one cell of a (h, w) grid in one latent frame: latent frame 0 is pixel frame 0, latent
    frame k pixel frames 4k-3..4k.

    Args:
      c2w: [B, F, 4, 4] with F = 4n + 1, numpy or jax, relative to the source's first camera.
      intrinsics: [B, F, 4].
      grid: (h, w).
      samples: rays pass through samples x samples points inside each token.
      scale: metres that count as 1. Translations are divided by it, so that Plücker moments stay near 1. One
        number for source and target, normally the config's `scene_scale`: about the distance to what is
        filmed.

    Returns:
      [B, F', h, w, 4 * samples * samples * 6]: (moment, direction) for (pixel frame of four, row, column) of
      the points; latent frame 0 repeats its one pixel frame four times. See `plucker_rays`.
    """
    frames = c2w.shape[1]
    if frames % 4 != 1:
        raise ValueError(f"{frames} frames; the causal VAE's latent frames need 4n + 1")
    xp = c2w.__array_namespace__()
    four = np.maximum(np.arange(-3, frames), 0)
    rays = plucker_rays(c2w[:, four], intrinsics[:, four], grid[0] * samples, grid[1] * samples)
    # (o / scale) x d = (o x d) / scale
    rays = xp.concatenate([rays[..., :3] / scale, rays[..., 3:]], axis=-1)
    return einops.rearrange(
        rays, "b (f four) (h y) (w x) c -> b f h w (four y x c)", four=4, y=samples, x=samples
    )
