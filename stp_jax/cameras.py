"""Cameras: where they are, what they see, and the rays that tell a model so.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import einops
import numpy as np

from stp_jax import user_input
from stp_jax.errors import InputError

DISTANCE = 4.0  # metres to the pivot of the presets
GRID_CONVENTION = "opencv w2c, metres"  # of the renderer's camera_data.json
FILE_TYPES = (".json", ".npz", ".npy")
_EXPECTED = (
    'expected {"c2w": [F x 4 x 4], "intrinsics": [F x 4], optional} with camera-to-world matrices (OpenCV axes), '
    f'or a camera_data.json with "convention": "{GRID_CONVENTION}"'
)


class Cameras(NamedTuple):
    """A camera path: one pose and one lens for each of F frames; see the module for the convention."""

    c2w: np.ndarray  # float32 [F, 4, 4]
    intrinsics: np.ndarray  # float32 [F, 4]


# Presets ------------------------------------------------------------------------------------------------------


def _translation(x: np.ndarray | float, y: np.ndarray | float, z: np.ndarray | float) -> np.ndarray:
    x, y, z = np.broadcast_arrays(x, y, z)
    matrix = np.tile(np.eye(4), (*x.shape, 1, 1))
    matrix[..., :3, 3] = np.stack([x, y, z], axis=-1)
    return matrix


def _yaw(degrees: np.ndarray) -> np.ndarray:
    """Turns about the y axis, which points down: a positive angle turns the view to the right."""
    c, s, zero, one = _cos_sin(degrees)
    return _matrix([[c, zero, s, zero], [zero, one, zero, zero], [-s, zero, c, zero], [zero, zero, zero, one]])


def _pitch(degrees: np.ndarray) -> np.ndarray:
    """Turns about the x axis: a positive angle turns the view upwards."""
    c, s, zero, one = _cos_sin(degrees)
    return _matrix([[one, zero, zero, zero], [zero, c, -s, zero], [zero, s, c, zero], [zero, zero, zero, one]])


def _cos_sin(degrees: np.ndarray) -> tuple[np.ndarray, ...]:
    angle = np.radians(degrees)
    return np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)


def _matrix(rows: list[list[np.ndarray]]) -> np.ndarray:
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _orbit(left: np.ndarray, up: np.ndarray | float, distance: float) -> np.ndarray:
    """Poses on a sphere about the pivot, looking at it; `left` and `up` in degrees seen from the pivot."""
    to_pivot, back = _translation(0, 0, distance), _translation(0, 0, -distance)
    return to_pivot @ _yaw(left) @ _pitch(-np.asarray(up) * np.ones_like(left)) @ back


class _Preset(NamedTuple):
    """`motion(value, distance)` gives c2w [F, 4, 4] for values [F] in `unit`, 0 being the source's camera."""

    explanation: str
    unit: str  # "degrees", "metres", "times"
    amount: float  # by default; of metres: as a part of the distance to the pivot
    motion: Callable[[np.ndarray, float], np.ndarray]


def _stay(value: np.ndarray, distance: float) -> np.ndarray:
    return _translation(0 * value, 0, 0)


_PRESETS = {
    "static": _Preset("stands still at the source's first camera", "", 0, _stay),
    "orbit_left": _Preset(
        "circles the pivot to the left, looking at it", "degrees", 40, lambda v, d: _orbit(v, 0, d)
    ),
    "orbit_right": _Preset(
        "circles the pivot to the right, looking at it", "degrees", 40, lambda v, d: _orbit(-v, 0, d)
    ),
    "orbit_up": _Preset(
        "rises in an arc over the pivot, looking at it", "degrees", 25, lambda v, d: _orbit(0 * v, v, d)
    ),
    "orbit_down": _Preset(
        "sinks in an arc under the pivot, looking at it", "degrees", 10, lambda v, d: _orbit(0 * v, -v, d)
    ),
    "spiral_left": _Preset(
        "circles the pivot to the left and rises by a third of the angle",
        "degrees",
        40,
        lambda v, d: _orbit(v, (v - v[0]) / 3, d),
    ),
    "spiral_right": _Preset(
        "circles the pivot to the right and rises by a third of the angle",
        "degrees",
        40,
        lambda v, d: _orbit(-v, (v - v[0]) / 3, d),
    ),
    "dolly_in": _Preset("drives forward", "metres", 1 / 4, lambda v, d: _translation(0, 0, v)),
    "dolly_out": _Preset("drives backward", "metres", 1 / 4, lambda v, d: _translation(0, 0, -v)),
    "truck_left": _Preset("slides to the left", "metres", 1 / 4, lambda v, d: _translation(-v, 0, 0)),
    "truck_right": _Preset("slides to the right", "metres", 1 / 4, lambda v, d: _translation(v, 0, 0)),
    "crane_up": _Preset("rises", "metres", 1 / 4, lambda v, d: _translation(0, -v, 0)),
    "crane_down": _Preset("sinks", "metres", 1 / 8, lambda v, d: _translation(0, v, 0)),
    "pan_left": _Preset("turns to the left", "degrees", 15, lambda v, d: _yaw(-v)),
    "pan_right": _Preset("turns to the right", "degrees", 15, lambda v, d: _yaw(v)),
    "tilt_up": _Preset("turns upwards", "degrees", 10, lambda v, d: _pitch(v)),
    "tilt_down": _Preset("turns downwards", "degrees", 10, lambda v, d: _pitch(-v)),
    "zoom_in": _Preset("lengthens the lens", "times", 1.5, _stay),
    "zoom_out": _Preset("shortens the lens", "times", 1.5, _stay),
}


def _explain(preset: _Preset) -> str:
    if preset.unit == "metres":
        return f"{preset.explanation}; amount in metres, by default {preset.amount:g} of the distance to the pivot"
    return preset.explanation + (f"; amount in {preset.unit}, by default {preset.amount:g}" if preset.unit else "")


PRESETS = {name: _explain(preset) for name, preset in _PRESETS.items()}


def default_intrinsics(fov_degrees: float = 50.0, aspect: float = 1.0) -> np.ndarray:
    """The lens of a camera of which nothing is known: float32 [4].

    Square pixels, principal point in the middle, `fov_degrees` across the shorter side of a picture whose
    width is `aspect` times its height; so a square cut from the middle has the same field of view.
    """
    if not 0 < fov_degrees < 180:
        raise InputError(f"a field of view of {fov_degrees:g} degrees: give one between 0 and 180")
    shorter = 0.5 / np.tan(np.radians(fov_degrees) / 2)
    return np.array([shorter / max(aspect, 1), shorter * min(aspect, 1), 0.5, 0.5], np.float32)


def preset(
    spec: str, frames: int, *, intrinsics: np.ndarray | None = None, distance: float = DISTANCE
) -> Cameras:
    """A camera path by name, in the frame of the source's first camera.

    Args:
      spec: `name`, `name:amount` or `name:amount:start`, with a name of PRESETS. The camera moves evenly through
        `amount` (degrees, metres, or times the focal length) in the last frame; it begins at `start` (default:
        at the source's first camera), in the same direction and unit. `orbit_left:40:-20` begins 20 degrees to the
        right and ends 20 degrees to the left; `orbit_left:0:30` stands still 30 degrees to the left.
      frames: F.
      intrinsics: the lens, [4] or [F, 4]; default `default_intrinsics()`.
      distance: metres from the source's first camera to the pivot straight ahead.

    Raises:
      InputError: unknown preset, or an amount or start that is no number.
    """
    name, *numbers = [part.strip() for part in spec.split(":")]
    if name not in _PRESETS:
        raise user_input.unknown("camera preset", name, PRESETS)
    chosen = _PRESETS[name]
    zoom = chosen.unit == "times"
    values = []
    for text in numbers:
        value = user_input.number(text)
        if value is None or (zoom and value <= 0):
            raise InputError(f"camera {spec!r}: {text!r} is no {'positive ' if zoom else ''}number")
        values.append(value)
    if len(values) > (2 if chosen.unit else 0):
        allowed = "name:amount:start at most" if chosen.unit else f"{name} takes no numbers"
        raise InputError(f"camera {spec!r}: too many numbers; {allowed}")
    default = chosen.amount * (distance if chosen.unit == "metres" else 1)
    amount, start = (values + [default, 1.0 if zoom else 0.0][len(values) :])[:2]
    lens = np.broadcast_to(default_intrinsics() if intrinsics is None else intrinsics, (frames, 4))
    lens = np.array(lens, np.float64)
    progress = np.linspace(0, 1, frames)
    if zoom:
        factor = start * amount**progress
        lens[:, :2] *= (factor if name == "zoom_in" else 1 / factor)[:, None]
    c2w = chosen.motion(start + amount * progress, distance)
    return Cameras(c2w.astype(np.float32), lens.astype(np.float32))


def relative_to(c2w: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Poses seen from another camera: `inv(reference) @ c2w`, float32.

    With the source's first camera [..., 1, 4, 4] or [4, 4] as `reference`, its frame becomes the world.
    """
    return (np.linalg.inv(np.asarray(reference, np.float64)) @ np.asarray(c2w, np.float64)).astype(np.float32)


# Rays ---------------------------------------------------------------------------------------------------------


def plucker_rays(c2w: Any, intrinsics: Any, height: int, width: int) -> Any:
    """Plücker coordinates of the rays through the cells of a picture.

    Args:
      c2w: [..., 4, 4], numpy or jax.
      intrinsics: [..., 4].
      height, width: the picture is divided into so many cells; a ray passes through the middle of each.

    Returns:
      [..., height, width, 6]: moment o x d (in the unit of the translations), then unit direction d, in the
      world's axes. o is the camera's centre; any other point of the ray gives the same moment (J. Plücker, "On
      a new geometry of space", 1865).
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

    A token covers one cell of a (h, w) grid in one latent frame: latent frame 0 is pixel frame 0, latent frame k
    pixel frames 4k-3..4k.

    Args:
      c2w: [B, F, 4, 4] with F = 4n + 1, numpy or jax, relative to the source's first camera.
      intrinsics: [B, F, 4].
      grid: (h, w).
      samples: rays pass through samples x samples points inside each token.
      scale: metres that count as 1. Translations are divided by it, so that moments stay near 1. One number for
        source and target, normally the config's `scene_scale`: about the distance to what is filmed.

    Returns:
      [B, F', h, w, 4 * samples * samples * 6]: (moment, direction) for (pixel frame of four, row, column) of the
      points; latent frame 0 repeats its one pixel frame four times. See `plucker_rays`.
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


# Files --------------------------------------------------------------------------------------------------------


def check(c2w: np.ndarray, intrinsics: np.ndarray, frames: int, where: str) -> None:
    """Raises `InputError`, naming `where` and the frame, unless c2w [F, 4, 4] and intrinsics [F, 4] are sound."""
    if c2w.shape != (frames, 4, 4):
        raise InputError(f"{where}: poses of shape {list(c2w.shape)}; expected [{frames}, 4, 4]")
    if intrinsics.shape != (frames, 4):
        raise InputError(f"{where}: intrinsics of shape {list(intrinsics.shape)}; expected [{frames}, 4]")

    def refuse(bad: np.ndarray, message: str) -> None:
        if bad.any():
            raise InputError(f"{where}: frame {int(np.argmax(bad))}: {message}")

    refuse(~np.isfinite(c2w).all((1, 2)), "the pose has NaN or infinite numbers")
    refuse(
        (np.abs(c2w[:, 3] - [0, 0, 0, 1]) > 1e-3).any(1), "the pose's last row is not 0 0 0 1; is it transposed?"
    )
    rotation = c2w[:, :3, :3].astype(np.float64)
    refuse(
        (np.abs(rotation.swapaxes(1, 2) @ rotation - np.eye(3)) > 5e-3).any((1, 2)),
        "the rotation is not orthonormal; scale and shear are not allowed",
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
