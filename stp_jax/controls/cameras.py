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
from scipy.spatial.transform import Rotation

from stp_jax import user_input
from stp_jax.controls import camera_files
from stp_jax.controls.moves import MOVES
from stp_jax.errors import InputError

DISTANCE = 4.0  # metres to the pivot of the presets


class Cameras(NamedTuple):
    """A camera path: one pose and one lens for each of F frames; see the module for the convention."""

    c2w: np.ndarray  # float32 [F, 4, 4]
    intrinsics: np.ndarray  # float32 [F, 4]


# name: what the camera does (unit of its amount; the default)
PRESETS = {name: move.summary for name, move in MOVES.items()}


def default_intrinsics(fov_degrees: float = 50.0, aspect: float = 1.0) -> np.ndarray:
    """The intrinsics of a camera of which nothing is known, float32 [4].

    Square pixels, principal point in the middle, and `fov_degrees` across the shorter side of a picture whose
    width is `aspect` times its height. So a central square crop has the same field of view.

    Raises:
      InputError: a field of view that is not between 0 and 180 degrees.
    """
    if not 0 < fov_degrees < 180:
        raise InputError(f"a field of view of {fov_degrees:g} degrees: give one between 0 and 180")
    shorter = 0.5 / np.tan(np.radians(fov_degrees) / 2)
    return np.array([shorter / max(aspect, 1), shorter * min(aspect, 1), 0.5, 0.5], np.float32)


def preset(
    spec: str, frames: int, *, intrinsics: np.ndarray | None = None, distance: float = DISTANCE
) -> Cameras:
    """A camera path by name, in the frame of the source's first camera.

    The camera moves evenly, without easing: frame i of 0..F-1 is at `start + amount * i / (F - 1)`. A zoom is
    at `start * amount ** (i / (F - 1))` times the focal length. "Left" and "up" are as the source's first
    camera sees them. Orbits and spirals always look at the pivot.

    Args:
      spec: `name`, `name:amount` or `name:amount:start`, with a name of PRESETS, which also gives the unit.
        `start` is where the path begins, in the preset's own direction; by default at the source's first
        camera. `orbit_left:40:-20` goes from 20 degrees right to 20 degrees left, `orbit_left:0:30` stands
        still 30 degrees to the left.
      frames: F.
      intrinsics: the lens, [4] or [F, 4]; default `default_intrinsics()`.
      distance: metres from the source's first camera to the pivot, straight ahead.

    Raises:
      InputError: unknown preset, an amount or start that is not a number, or a distance that is not positive.
    """
    if not 0 < distance < np.inf:
        raise InputError(f"a distance of {distance:g} metres to the pivot: give a positive number")
    name, *texts = [part.strip() for part in spec.split(":")]
    if name not in MOVES:
        raise user_input.unknown("camera preset", name, PRESETS)
    chosen = MOVES[name]
    zoom = chosen.unit == "factor"
    if len(texts) > (2 if chosen.unit else 0):
        form = f"{name}:amount:start" if chosen.unit else name
        raise InputError(f"camera {spec!r}: too many numbers; the longest form is {form}")
    amount = chosen.amount * (distance if chosen.unit == "metres" else 1)
    values = [amount, 1.0 if zoom else 0.0]
    for i, text in enumerate(texts):
        value = user_input.number(text)
        if value is None or (zoom and value <= 0):
            raise InputError(f"camera {spec!r}: {text!r} is not a {'positive ' if zoom else ''}number")
        values[i] = value
    amount, start = values
    progress = np.linspace(0, 1, frames)
    lens = np.tile(default_intrinsics(), (frames, 1)) if intrinsics is None else intrinsics
    lens = np.array(np.broadcast_to(lens, (frames, 4)), np.float64)
    if zoom:
        factor = start * amount**progress
        lens[:, :2] *= (factor if name == "zoom_in" else 1 / factor)[:, None]
    c2w = chosen.motion(start + amount * progress, distance)
    return Cameras(c2w.astype(np.float32), lens.astype(np.float32))


def parse(
    text: str | os.PathLike,
    frames: int,
    *,
    intrinsics: np.ndarray | None = None,
    distance: float = DISTANCE,
    reference: np.ndarray | None = None,
    source: str | os.PathLike | None = None,
    consecutive: bool = False,
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

    Raises:
      InputError: as `preset` and `read`.
    """
    text = str(text)
    path, source_path = camera_files.choice(text)[0], camera_files.choice(source or "")[0]
    if text.split(":")[0].strip() in MOVES or not user_input.is_file_name(path, camera_files.FILE_TYPES):
        return preset(text, frames, intrinsics=intrinsics, distance=distance)
    file = camera_files.load(text)
    if consecutive and file.motion_only:
        file = file._replace(poses=file.poses[:frames])
    cameras = _to_cameras(file, frames, intrinsics, (0.0, 1.0))
    if file.motion_only:
        one_world = reference is not None and os.path.realpath(source_path) == os.path.realpath(path)
        reference = reference if one_world else cameras.c2w[0]
    if reference is None:
        return cameras
    if np.linalg.det(reference[:3, :3]) * np.linalg.det(cameras.c2w[0, :3, :3]) < 0:
        raise InputError(
            f"{path}: cannot be in the mirrored world of the source's cameras; give both in one form"
        )
    return cameras._replace(c2w=relative_to(cameras.c2w, reference))


def relative_to(c2w: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Poses seen from another camera: `inv(reference) @ c2w`, float32.

    With the source's first camera [..., 1, 4, 4] or [4, 4] as `reference`, its frame becomes the world.
    """
    return (np.linalg.inv(np.asarray(reference, np.float64)) @ np.asarray(c2w, np.float64)).astype(np.float32)


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


# Files ------------------------------------------------------------------------------------------------------


def check(c2w: np.ndarray, intrinsics: np.ndarray, frames: int, where: str) -> None:
    """Raises `InputError`, naming `where` and the frame, unless all cameras are valid.

    Valid are c2w [F, 4, 4] with right-handed orthonormal rotations and last rows 0 0 0 1, and intrinsics
    [F, 4] with positive focal lengths, divided by width and height (not in pixels). All numbers are finite.
    """
    if c2w.shape != (frames, 4, 4):
        raise InputError(f"{where}: poses of shape {list(c2w.shape)}; expected [{frames}, 4, 4]")
    if intrinsics.shape != (frames, 4):
        raise InputError(f"{where}: intrinsics of shape {list(intrinsics.shape)}; expected [{frames}, 4]")

    def refuse(bad: Any, message: str) -> None:
        if bad.any():
            raise InputError(f"{where}: frame {int(np.argmax(bad))}: {message}")

    refuse(~(np.abs(c2w) < 1e9).all((1, 2)), "the pose has NaN, infinite or huge numbers")
    refuse(
        (np.abs(c2w[:, 3] - [0, 0, 0, 1]) > 1e-3).any(1),
        "the pose's last row is not 0 0 0 1; is it transposed?",
    )
    rotation = c2w[:, :3, :3].astype(np.float64)
    refuse(
        (np.abs(rotation.swapaxes(1, 2) @ rotation - np.eye(3)) > 5e-3).any((1, 2)),
        "the rotation is not orthonormal; it must be free of scale and shear",
    )
    refuse(
        np.linalg.det(rotation) < 0,
        "the rotation is left-handed; OpenCV axes are x right, y down, z forward",
    )
    refuse(~np.isfinite(intrinsics).all(1), "the intrinsics have NaN or infinite numbers")
    refuse((intrinsics[:, :2] <= 0).any(1), "the focal lengths must be positive")
    refuse(
        (np.abs(intrinsics) > 30).any(1),
        "intrinsics in pixels? Divide fx, fy, cx, cy by width, height, width, height",
    )


def read(
    path: str | os.PathLike,
    frames: int | None = None,
    *,
    intrinsics: np.ndarray | None = None,
    span: tuple[float, float] = (0.0, 1.0),
) -> Cameras:
    """Reads a camera path, in the file's own world frame.

    Ours, with OpenCV axes and metres:

    - .json: {"c2w": [F x 4 x 4], "intrinsics": [4] or [F x 4]}; "intrinsics" may be missing.
    - .npz: the same two names. .npy: c2w alone, [F, 4, 4].
    - camera_data.json of a rendered scene: {"convention": "opencv w2c, metres", "cameras": {"extrinsic":
      {name: 4 x 4 world-to-camera}, "intrinsic": {name: [4]}}}; the path runs through its cameras by name.

    Of the official releases, without a lens:

    - SpaceTimePilot's .npy, with "extrinsics" in its name: world-to-camera, [F, 4, 4].
    - SpaceTimePilot's camera_data.json, the one without "convention": as ours, with Blender's camera axes
      (x right, y up, z back). Its world is mirrored (x to -x), as there.
    - MultiCamVideo's camera_extrinsics.json: {"frame0": {"cam01": "[a b c d] [e f g h] [i j k l] [x y z 1] ",
      ...}, ...} with row vectors, Unreal's axes and centimetres. One camera of it is chosen with
      `FILE.json:cam05` or `FILE.json:5`. Its world is left-handed.

    In the last two worlds the poses are left-handed, until `relative_to` cancels that. Only
    `stp_jax.official.poses` needs them so.

    Args:
      frames: F. A file of more poses is sampled evenly from its first to its last, see `resample`. None: as
        many as the file has, one for each frame of a source video.
      intrinsics: the lens, [4], where the file has none; default `default_intrinsics()`.
      span: the part of the path that the F frames are taken from, see `resample`.

    Raises:
      InputError: missing, unreadable or truncated file, another layout, no such camera in it, too few poses,
        or invalid ones (see `check`).
    """
    return _to_cameras(camera_files.load(path), frames, intrinsics, span)


def _to_cameras(
    file: camera_files.CameraFile,
    frames: int | None,
    intrinsics: np.ndarray | None,
    span: tuple[float, float],
) -> Cameras:
    where, lens = file.where, file.intrinsics
    poses = user_input.table(file.poses, (4, 4), where)
    if lens is None:
        lens = default_intrinsics() if intrinsics is None else intrinsics
    if (single := user_input.numbers(lens)) is not None and single.ndim == 1:
        lens = [single] * len(poses)
    lens = user_input.table(lens, (4,), f"{where}: intrinsics")
    check(poses, lens, len(poses), where)
    if frames is not None and len(poses) < frames:
        raise InputError(f"{where}: {len(poses)} poses are too few; {frames} frames need one each")
    cameras = Cameras(file.to_c2w(poses).astype(np.float32), lens.astype(np.float32))
    if frames is None or (frames == len(poses) and tuple(span) == (0, 1)):
        return cameras
    return resample(cameras, frames, span)


def resample(cameras: Cameras, frames: int, span: tuple[float, float] = (0.0, 1.0)) -> Cameras:
    """The same path with another number of frames, evenly spaced.

    `span` is the part of the path to follow: 0 is its first pose, 1 its last. Between two poses, positions
    and lenses are interpolated linearly. A rotation is the one nearest to the linear mixture of the two
    matrices (its polar factor), which lies on the shortest arc between them.
    """
    c2w, lens = (np.asarray(array, np.float64) for array in cameras)
    place = np.linspace(*span, frames) * (len(c2w) - 1)
    before, after = np.floor(place).astype(int), np.ceil(place).astype(int)
    part = (place - before)[:, None]
    lens = (1 - part) * lens[before] + part * lens[after]
    c2w = (1 - part[:, None]) * c2w[before] + part[:, None] * c2w[after]
    c2w[:, :3, :3] = Rotation.from_matrix(c2w[:, :3, :3]).as_matrix()  # which takes the polar factor
    return Cameras(c2w.astype(np.float32), lens.astype(np.float32))
