"""The moves behind the camera presets, as poses in the frame of the source's first camera (see `cameras`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation


def _shift(
    x: np.ndarray | float = 0.0, y: np.ndarray | float = 0.0, z: np.ndarray | float = 0.0
) -> np.ndarray:
    x, y, z = np.broadcast_arrays(x, y, z)
    matrix = np.tile(np.eye(4), (*x.shape, 1, 1))
    matrix[..., :3, 3] = np.stack([x, y, z], axis=-1)
    return matrix


def _turn(axis: str, degrees: np.ndarray) -> np.ndarray:
    """Rotations [F, 4, 4] about an axis, "x" or "y"."""
    matrix = np.tile(np.eye(4), (len(degrees), 1, 1))
    matrix[:, :3, :3] = Rotation.from_euler(axis, degrees[:, None], degrees=True).as_matrix()
    return matrix


def _right(degrees: np.ndarray) -> np.ndarray:
    return _turn("y", degrees)  # forward towards right


def _down(degrees: np.ndarray) -> np.ndarray:
    return _turn("x", -degrees)  # forward towards down


def _orbit(left: np.ndarray, up: np.ndarray, distance: float) -> np.ndarray:
    """Poses on a sphere about the pivot, looking at it; `left` and `up` in degrees as seen from the pivot."""
    return _shift(z=distance) @ _right(left) @ _down(up) @ _shift(z=-distance)


class Move(NamedTuple):
    """A camera path in one variable v [F], in `unit`; v = 0 (for a factor 1) is the source's first camera.

    `motion(v, d)` gives c2w [F, 4, 4]; the pivot is d metres straight ahead. A factor changes only the lens.
    """

    explanation: str
    unit: str  # "degrees", "metres", "factor", or "" where there is nothing to choose
    amount: float  # the default; metres are given as a fraction of the distance to the pivot
    motion: Callable[[np.ndarray, float], np.ndarray] = lambda v, d: _shift(0 * v)

    @property
    def summary(self) -> str:
        """One line for a list of presets: what the camera does, the unit of its amount and the default."""
        amounts = {
            "degrees": f" (degrees; {self.amount:g})",
            "metres": f" (metres; {self.amount:g} of the distance to the pivot)",
            "factor": f" (times the focal length; {self.amount:g})",
        }
        return self.explanation + amounts.get(self.unit, "")


MOVES = {
    "static": Move("stands still at the source's first camera", "", 0),
    "orbit_left": Move("circles the pivot to the left", "degrees", 40, lambda v, d: _orbit(v, 0 * v, d)),
    "orbit_right": Move("circles the pivot to the right", "degrees", 40, lambda v, d: _orbit(-v, 0 * v, d)),
    "orbit_up": Move("rises in an arc about the pivot", "degrees", 25, lambda v, d: _orbit(0 * v, v, d)),
    "orbit_down": Move("sinks in an arc about the pivot", "degrees", 10, lambda v, d: _orbit(0 * v, -v, d)),
    "spiral_left": Move(
        "circles left, rising by a third of the angle",
        "degrees",
        40,
        lambda v, d: _orbit(v, abs(v - v[0]) / 3, d),
    ),
    "spiral_right": Move(
        "circles right, rising by a third of the angle",
        "degrees",
        40,
        lambda v, d: _orbit(-v, abs(v - v[0]) / 3, d),
    ),
    "dolly_in": Move("drives forward", "metres", 1 / 4, lambda v, d: _shift(z=v)),
    "dolly_out": Move("drives backward", "metres", 1 / 4, lambda v, d: _shift(z=-v)),
    "truck_left": Move("slides to the left", "metres", 1 / 4, lambda v, d: _shift(x=-v)),
    "truck_right": Move("slides to the right", "metres", 1 / 4, lambda v, d: _shift(x=v)),
    "crane_up": Move("rises", "metres", 1 / 4, lambda v, d: _shift(y=-v)),
    "crane_down": Move("sinks", "metres", 1 / 8, lambda v, d: _shift(y=v)),
    "pan_left": Move("turns to the left on the spot", "degrees", 15, lambda v, d: _right(-v)),
    "pan_right": Move("turns to the right on the spot", "degrees", 15, lambda v, d: _right(v)),
    "tilt_up": Move("turns upwards on the spot", "degrees", 10, lambda v, d: _down(-v)),
    "tilt_down": Move("turns downwards on the spot", "degrees", 10, lambda v, d: _down(v)),
    "zoom_in": Move("lengthens the lens", "factor", 1.5),
    "zoom_out": Move("shortens the lens", "factor", 1.5),
}

# What moves are called elsewhere, and here.
ELSEWHERE = {
    **{f"{word}_{way}": f"orbit_{way}" for word in ("arc", "rotate_around") for way in ("left", "right")},
    **{f"arc_{way}": f"orbit_{way}" for way in ("up", "down")},
    **{
        f"{word}_{way}": f"{ours}_{way}"
        for word in ("translate", "move", "shift", "slide", "track", "pedestal", "boom", "jib")
        for ours, ways in (("truck", ("left", "right")), ("crane", ("up", "down")))
        for way in ways
    },
    **{f"{word}_{way}": f"pan_{way}" for word in ("rotate", "turn", "yaw") for way in ("left", "right")},
    **{f"{word}_{way}": f"tilt_{way}" for word in ("pitch", "look") for way in ("up", "down")},
    **dict.fromkeys(("push_in", "move_forward", "forward", "dolly", "dolly_forward", "push"), "dolly_in"),
    **dict.fromkeys(
        ("pull_out", "pull_back", "move_backward", "backward", "dolly_back", "pull"), "dolly_out"
    ),
    **dict.fromkeys(("still", "fixed", "none", "stay", "hold"), "static"),
    **dict.fromkeys(("orbit", "arc", "circle"), "orbit_left"),
    **dict.fromkeys(("spiral", "helix"), "spiral_left"),
    **dict.fromkeys(("same", "original", "input"), "source"),
    "zoom": "zoom_in",
}
