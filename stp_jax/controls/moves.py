"""The moves behind the camera presets, as a camera head that moves from where it stands.

A `Rig` is a camera on a level head: where it is, how far it is turned, and how far away the pivot is that it
looks at. A move takes rigs to rigs, so that moves can follow each other. `presets` reads them from text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Rig(NamedTuple):
    """Cameras in the frame of the source's first camera (x right, y down, z forward); arrays broadcast.

    The pivot is straight ahead. Angles are in degrees and applied in the order yaw, pitch, roll, so that the
    horizon is level without a roll.
    """

    position: np.ndarray  # [F, 3], metres
    yaw: np.ndarray  # [F], to the right
    pitch: np.ndarray  # [F], upwards
    roll: np.ndarray  # [F], the right side down
    zoom: np.ndarray  # [F], times the focal length
    distance: np.ndarray  # [F], metres to the pivot

    def rotations(self) -> np.ndarray:
        """[F, 3, 3], camera to world."""
        # Not by SciPy, as elsewhere: importing its rotations takes longer than all else that a preset does.
        angles = np.radians(np.broadcast_arrays(self.yaw, self.pitch, self.roll)).astype(np.float64)
        (cy, cp, cr), (sy, sp, sr) = np.cos(angles), np.sin(angles)
        rows = [
            [cy * cr + sy * sp * sr, sy * sp * cr - cy * sr, sy * cp],
            [cp * sr, cp * cr, -sp],
            [cy * sp * sr - sy * cr, sy * sr + cy * sp * cr, cy * cp],
        ]
        return np.moveaxis(np.array(rows), (0, 1), (-2, -1)) + 0.0  # no -0.0 in files

    def c2w(self) -> np.ndarray:
        """Poses [F, 4, 4]."""
        rotation = self.rotations()
        matrix = np.tile(np.eye(4), (len(rotation), 1, 1))
        matrix[:, :3, :3], matrix[:, :3, 3] = rotation, self.position
        return matrix

    def along(self, axis: int, metres: Any) -> np.ndarray:
        """Positions [F, 3] after a way along the camera's own axis: 0 to its right, 2 forward."""
        level = self._replace(roll=np.zeros_like(self.roll))
        return self.position + np.asarray(metres)[..., None] * level.rotations()[:, :, axis]


def rig_at_start(distance: float) -> Rig:
    """The source's first camera, [1]."""
    zero = np.zeros(1)
    return Rig(np.zeros((1, 3)), zero, zero, zero, np.ones(1), np.full(1, distance))


def _turned(rig: Rig, *, yaw: Any = 0.0, pitch: Any = 0.0, roll: Any = 0.0) -> Rig:
    return rig._replace(yaw=rig.yaw + yaw, pitch=rig.pitch + pitch, roll=rig.roll + roll)


def _orbited(rig: Rig, left: Any, up: Any) -> Rig:
    """On a sphere about the pivot, looking at it; `left` and `up` in degrees as seen from the pivot."""
    pivot = rig.along(2, rig.distance)
    turned = _turned(rig, yaw=left, pitch=-up)._replace(position=pivot)
    return turned._replace(position=turned.along(2, -rig.distance))


def _driven(rig: Rig, forward: Any) -> Rig:
    # Beyond the pivot, or next to it, nothing could be circled any more.
    left = np.maximum(rig.distance - forward, 0.1 * rig.distance)
    return rig._replace(position=rig.along(2, forward), distance=left)


def _raised(rig: Rig, up: Any) -> Rig:
    return rig._replace(position=rig.position - np.asarray(up)[..., None] * [0.0, 1.0, 0.0])


def _raised_looking(rig: Rig, up: Any) -> Rig:
    """Straight up, while the pivot stays in the middle of the picture."""
    raised = _raised(rig, up)
    x, y, z = (rig.along(2, rig.distance) - raised.position).T
    level = np.hypot(x, z)
    turned = raised._replace(
        yaw=np.degrees(np.arctan2(x, z)), pitch=np.degrees(np.arctan2(-y, level)), distance=np.hypot(level, y)
    )
    return turned


def _zoomed(rig: Rig, factor: Any) -> Rig:
    return rig._replace(zoom=rig.zoom * factor)


def _dolly_zoomed(rig: Rig, forward: Any) -> Rig:
    """The pivot keeps its size: focal length and distance change by the same factor."""
    return _driven(_zoomed(rig, (rig.distance - forward) / rig.distance), forward)


class Move(NamedTuple):
    """A camera path in one variable v [F], in `unit`; at v = 0 (for a factor 1) the camera is where it was.

    `motion(rig, v, start)` gives the rigs [F]; `start` is v where the move begins.
    """

    explanation: str
    unit: str  # "degrees", "metres", "factor", or "" where there is nothing to choose
    amount: float  # the default; metres are given as a fraction of the distance to the pivot
    motion: Callable[[Rig, np.ndarray, float], Rig]
    lens: bool = False  # whether it changes the lens

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
    "static": Move("stands still", "", 0, lambda rig, v, _: _turned(rig, yaw=0 * v)),
    "orbit_left": Move("circles the pivot to the left", "degrees", 40, lambda rig, v, _: _orbited(rig, v, 0)),
    "orbit_right": Move(
        "circles the pivot to the right", "degrees", 40, lambda rig, v, _: _orbited(rig, -v, 0)
    ),
    "orbit_up": Move("rises in an arc about the pivot", "degrees", 25, lambda rig, v, _: _orbited(rig, 0, v)),
    "orbit_down": Move(
        "sinks in an arc about the pivot", "degrees", 10, lambda rig, v, _: _orbited(rig, 0, -v)
    ),
    "spiral_left": Move(
        "circles left, rising by a third of the angle",
        "degrees",
        40,
        lambda rig, v, start: _orbited(rig, v, abs(v - start) / 3),
    ),
    "spiral_right": Move(
        "circles right, rising by a third of the angle",
        "degrees",
        40,
        lambda rig, v, start: _orbited(rig, -v, abs(v - start) / 3),
    ),
    "dolly_in": Move("drives forward", "metres", 1 / 4, lambda rig, v, _: _driven(rig, v)),
    "dolly_out": Move("drives backward", "metres", 1 / 4, lambda rig, v, _: _driven(rig, -v)),
    "truck_left": Move(
        "slides to the left", "metres", 1 / 4, lambda rig, v, _: rig._replace(position=rig.along(0, -v))
    ),
    "truck_right": Move(
        "slides to the right", "metres", 1 / 4, lambda rig, v, _: rig._replace(position=rig.along(0, v))
    ),
    "crane_up": Move("rises", "metres", 1 / 4, lambda rig, v, _: _raised(rig, v)),
    "crane_down": Move("sinks", "metres", 1 / 8, lambda rig, v, _: _raised(rig, -v)),
    "rise": Move(
        "rises straight up, looking at the pivot",
        "metres",
        1 / 4,
        lambda rig, v, _: _raised_looking(rig, v),
    ),
    "sink": Move(
        "sinks straight down, looking at the pivot",
        "metres",
        1 / 8,
        lambda rig, v, _: _raised_looking(rig, -v),
    ),
    "pan_left": Move("turns to the left on the spot", "degrees", 15, lambda rig, v, _: _turned(rig, yaw=-v)),
    "pan_right": Move("turns to the right on the spot", "degrees", 15, lambda rig, v, _: _turned(rig, yaw=v)),
    "tilt_up": Move("turns upwards on the spot", "degrees", 10, lambda rig, v, _: _turned(rig, pitch=v)),
    "tilt_down": Move("turns downwards on the spot", "degrees", 10, lambda rig, v, _: _turned(rig, pitch=-v)),
    "roll_left": Move(
        "leans to its left: the picture turns clockwise",
        "degrees",
        15,
        lambda rig, v, _: _turned(rig, roll=-v),
    ),
    "roll_right": Move(
        "leans to its right: the picture turns anticlockwise",
        "degrees",
        15,
        lambda rig, v, _: _turned(rig, roll=v),
    ),
    "zoom_in": Move("lengthens the lens", "factor", 1.5, lambda rig, v, _: _zoomed(rig, v), True),
    "zoom_out": Move("shortens the lens", "factor", 1.5, lambda rig, v, _: _zoomed(rig, 1 / v), True),
    "dolly_zoom_in": Move(
        "drives forward while the lens shortens, so that the pivot keeps its size",
        "metres",
        1 / 4,
        lambda rig, v, _: _dolly_zoomed(rig, v),
        True,
    ),
    "dolly_zoom_out": Move(
        "drives backward while the lens lengthens, so that the pivot keeps its size",
        "metres",
        1 / 4,
        lambda rig, v, _: _dolly_zoomed(rig, -v),
        True,
    ),
}

# What moves are called elsewhere: understood, as they mean the same.
ALIASES = {
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
    **{f"lean_{way}": f"roll_{way}" for way in ("left", "right")},
    **dict.fromkeys(
        ("push_in", "push_forward", "move_forward", "dolly_forward", "move_in", "translate_forward"),
        "dolly_in",
    ),
    **dict.fromkeys(
        ("pull_out", "pull_back", "move_backward", "dolly_back", "move_out", "translate_backward"),
        "dolly_out",
    ),
    **dict.fromkeys(("still", "fixed", "stay", "hold", "pause"), "static"),
    "vertigo": "dolly_zoom_in",
}
# Names that could mean more than one thing: a hint, in an error.
ELSEWHERE = {
    **dict.fromkeys(("forward", "dolly", "push"), "dolly_in"),
    **dict.fromkeys(("backward", "pull"), "dolly_out"),
    **dict.fromkeys(("orbit", "arc", "circle"), "orbit_left"),
    **dict.fromkeys(("spiral", "helix"), "spiral_left"),
    **dict.fromkeys(("same", "original", "input"), "source"),
    **dict.fromkeys(("roll", "dutch", "cw", "clockwise"), "roll_right"),
    **dict.fromkeys(("ccw", "acw", "anticlockwise", "counterclockwise"), "roll_left"),
    "zoom": "zoom_in",
    "dolly_zoom": "dolly_zoom_in",
    "none": "static",
}

# ReCamMaster's ten basic trajectories by number. Measured in its example_test_data/cameras, where the pivot
# is 4 m ahead and each ends 0.6 % short of these. What it calls zooms are ways of the camera.
RECAMMASTER = (
    "pan_right:20",
    "pan_left:20",
    "tilt_up:10",
    "tilt_down:10",
    "dolly_in:2",
    "dolly_out:2",
    "rise:1",
    "sink:1",
    "orbit_left:30",
    "orbit_right:30",
)
