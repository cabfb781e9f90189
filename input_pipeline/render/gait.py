"""Walking: a route over the ground, and feet that stay where they are put until they are lifted again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from input_pipeline.render.geometry import wander, yaw_pitch_roll

_GRID = 0.02  # metres between the points of a route
# In clips longer than this a straight way ends outside the picture. There a route bends at least as a
# circle 1.8 m across, and that circle is where the body would be half-way through.
LONG, _BEND = 4.0, 2 / 1.8  # seconds; radians per metre


@dataclass
class Gait:
    stride: float  # metres in which each foot takes one step
    duty: float  # fraction of its cycle in which a foot stands
    lift: float  # of a foot, metres

    def hip_height(self, leg: float) -> float:
        """The length of a leg that is stretched when its foot is farthest behind."""
        return float(np.sqrt(leg**2 - (0.5 * self.duty * self.stride) ** 2))


class Walk:
    """A body's way along a winding route, at a pace that varies a little, at S times."""

    def __init__(
        self,
        rng: np.random.Generator,
        seconds: np.ndarray,
        place: np.ndarray,
        gait: Gait,
        speed: float,
        curvature: float,
    ):
        """Args:
        seconds: [S].
        place: [2] where the body is half-way through; in clips of more than 4 s, on average.
        speed: metres per second, on average.
        curvature: of the route on average, radians per metre; in clips of more than 4 s at least 1.1.
        """
        if seconds[-1] > LONG:
            curvature = float(np.copysign(max(abs(curvature), _BEND), curvature))
        pace = speed * np.maximum(1 + 0.2 * wander(rng, seconds, 2.0), 0.5)
        walked = np.cumsum(pace * np.diff(seconds, prepend=seconds[0]))
        # The route extends beyond both ends, for footprints before the first time and after the last.
        grid = np.arange(-4.0, walked[-1] + 4.0, _GRID)
        heading = rng.uniform(0, 2 * np.pi) + curvature * grid + 0.25 * wander(rng, grid, 3.0)
        xy = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], -1) * _GRID, 0)
        if seconds[-1] > LONG:
            xy += place - xy[(grid >= 0) & (grid <= walked[-1])].mean(0)
        else:
            xy += place - xy[np.searchsorted(grid, walked[len(walked) // 2])]
        self._gait, self._grid, self._heading, self._route = gait, grid, heading, xy
        self._cycles = walked / gait.stride + rng.random()  # [S]
        self._start = self._cycles[0] * gait.stride - walked[0]
        self.xy, self.yaw = self._at(self._cycles)  # [S, 2], [S]
        self.phase = 2 * np.pi * self._cycles  # [S] of the foot of offset 0, which stands from 0 on

    def _at(self, cycles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(xy [..., 2], yaw [...]) of the body."""
        walked = cycles * self._gait.stride - self._start
        xy = np.stack([np.interp(walked, self._grid, self._route[:, i]) for i in range(2)], -1)
        return xy, np.interp(walked, self._grid, self._heading)

    def foot(self, offset: float, hip: tuple[float, float], ankle: float) -> tuple[np.ndarray, np.ndarray]:
        """The ankle of a foot: position [S, 3], rotation [S, 3, 3].

        Args:
          offset: of its cycle, 0..1.
          hip: x and y of the place over the ground, in the body's frame, around which it steps.
          ankle: height over the sole in metres.
        """
        gait = self._gait
        index = np.floor(self._cycles + offset)
        swing = np.clip((self._cycles + offset - index - gait.duty) / (1 - gait.duty), 0, 1)

        def footprint(index):
            # The body comes over it in the middle of its standing.
            xy, yaw = self._at(index + gait.duty / 2 - offset)
            return xy + yaw_pitch_roll(yaw)[..., :2, :2] @ np.array(hip), yaw

        (here, yaw), (there, next_yaw) = footprint(index), footprint(index + 1)
        eased = swing**2 * (3 - 2 * swing)
        xy = here + eased[:, None] * (there - here)
        z = ankle + gait.lift * np.sin(np.pi * swing)
        rotation = yaw_pitch_roll(yaw + eased * (next_yaw - yaw), 0.6 * np.sin(2 * np.pi * swing))
        return np.concatenate([xy, z[:, None]], -1), rotation
