"""What is seen in three dimensions: source cameras, the scene, the new camera's path, and its keyframes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from stp_jax.controls.view import View
from stp_jax.edit import geometry, poses
from stp_jax.edit.clips import Source
from stp_jax.edit.state import State

_SOURCE, _PATH, _KEY, _CHOSEN, _NOW = (
    (31, 119, 180),
    (214, 39, 40),
    (140, 30, 30),
    (245, 159, 0),
    (43, 138, 62),
)
_SHOWN = 7  # source cameras with their pictures


def quaternion(c2w: np.ndarray) -> np.ndarray:
    """w, x, y, z of a pose [4, 4]."""
    return Rotation.from_matrix(np.asarray(c2w, np.float64)[:3, :3]).as_quat(
        scalar_first=True, canonical=True
    )


def pose_of(wxyz: Any, position: Any) -> np.ndarray:
    """A pose [4, 4] of what viser has."""
    made = np.eye(4)
    made[:3, :3] = Rotation.from_quat(np.asarray(wxyz), scalar_first=True).as_matrix()
    made[:3, 3] = position
    return made


def upright(lens: np.ndarray) -> float:
    """Radians from the bottom to the top of a picture."""
    return float(2 * np.arctan(0.5 / lens[1]))


class Scene:
    """The things of one tab's view.

    Args:
      api: viser's scene of one client.
      choose: is called with the number of a keyframe that is clicked.
      drag: is called with the number and the pose [4, 4] of a keyframe whose gizmo is moved.
    """

    def __init__(self, api: Any, choose: Callable[[int], None], drag: Callable[[int, np.ndarray], None]):
        self._api, self._choose, self._drag = api, choose, drag
        self._sources: list[Any] = []
        self._still: Any = None
        self._now: Any = None
        self._cloud_of = self._still_of = -1
        self._held = False  # the gizmo is being dragged, so it is not drawn anew
        self._keys: list[Any] = []
        self._keys_made_for: Any = None
        self._gizmo: Any = None
        self._source_drawn: Any = None
        self._path_drawn: Any = None
        self._keys_drawn: Any = None
        api.set_up_direction("-y")

    def size(self, source: Source) -> float:
        return 0.09 * source.distance

    def draw(self, state: State, chosen: int) -> None:
        """What does not depend on the frame that is shown, after an edit."""
        if self._source_drawn is not state.source:
            self._source_drawn = state.source
            self._draw_source(state)
        path = state.path()[0].c2w
        if self._path_drawn is None or not np.array_equal(path, self._path_drawn):
            self._path_drawn = path
            self._draw_path(state)
        # Not the clock's, which is dragged often.
        keys = [key._replace(animation_time=None, to_next=None) for key in state.keys.keyframes]
        drawn = (keys, chosen, path.tobytes(), state.view().intrinsics.tobytes())
        if drawn != self._keys_drawn:
            self._keys_drawn = drawn
            self._draw_keys(state, chosen)

    def _draw_source(self, state: State) -> None:
        """The source's cameras with their pictures, and the ground where no depth is known."""
        source = state.source
        for old in self._sources:
            old.remove()
        self._sources, self._still, self._still_of, self._cloud_of = [], None, -1, -1
        c2w, lens = source.cameras
        moves = not np.allclose(c2w, c2w[:1], atol=1e-4)
        chosen = np.unique(np.round(np.linspace(0, state.frames - 1, _SHOWN if moves else 1)).astype(int))
        for i in chosen:
            height, width = source.clip.frames.shape[1:3]
            self._sources.append(
                self._api.add_camera_frustum(
                    f"/source/{i}",
                    fov=upright(source.lenses[i]),
                    aspect=width / height,
                    scale=self.size(state.source) * (0.8 if moves else 1.6),
                    color=_SOURCE,
                    image=source.clip.frames[i],
                    wxyz=quaternion(c2w[i]),
                    position=c2w[i, :3, 3],
                )
            )
        if not moves:
            self._still = self._sources[0]
        if source.depth is None:
            self._sources += [
                self._api.add_grid(
                    "/ground",
                    width=4 * source.distance,
                    height=4 * source.distance,
                    plane="xz",
                    cell_size=source.distance / 4,
                    position=(0.0, 0.3 * source.distance, source.distance),
                ),
                self._api.add_icosphere("/pivot", 0.03 * source.distance, _NOW, position=state.pivot),
            ]

    def _draw_path(self, state: State) -> None:
        """A line, and a dot for each frame: the wider apart, the faster."""
        positions = np.asarray(state.path()[0].c2w, np.float32)[:, :3, 3]
        ends = np.stack([positions[:-1], positions[1:]], axis=1)
        self._api.add_line_segments("/path/line", ends, _PATH, thickness=2.0, thickness_units="screen")
        self._api.add_point_cloud(
            "/path/dots",
            positions,
            np.broadcast_to(np.array(_PATH, np.uint8), positions.shape),
            point_size=0.012 * state.source.distance,
            point_shape="circle",
            precision="float32",
        )

    def _draw_keys(self, state: State, chosen: int) -> None:
        """The keyframes' cameras: those that are there are moved, not made anew, as that takes longer."""
        keys = state.keys.keyframes
        shown = [i for i, key in enumerate(keys) if key.camera is not None or i == chosen]
        height, width = state.source.clip.frames.shape[1:3]
        turns = isinstance(state.camera_of(chosen), poses.TURNING)
        made_for = (shown, chosen, turns, self.size(state.source), width / height)
        if made_for != self._keys_made_for:
            self._keys_made_for = made_for
            self._make_keys(*made_for)
        lenses = state.view().intrinsics
        for i, handle in zip(shown, self._keys, strict=True):
            pose, fov = state.pose_of(i), upright(lenses[round(state.frame_of(keys[i]))])
            if handle.fov != fov:
                handle.fov = fov
            moved = [handle, self._gizmo] if i == chosen and not self._held else [handle]
            for one in moved:
                one.wxyz, one.position = quaternion(pose), pose[:3, 3]

    def _make_keys(self, shown: list[int], chosen: int, turns: bool, size: float, aspect: float) -> None:
        """Cameras of keyframes, and handles for the chosen one; `turns`: also to turn it."""
        for old in self._keys:
            old.remove()
        self._keys = []
        for i in shown:
            colour = _CHOSEN if i == chosen else _KEY
            handle = self._api.add_camera_frustum(
                f"/keys/{i}", fov=1.0, aspect=aspect, scale=size, color=colour, thickness=0.03
            )
            ball = self._api.add_icosphere(  # the lines alone are hard to click
                f"/keys/{i}/ball", 0.2 * size, colour, subdivisions=2
            )
            for clicked in (handle, ball):
                self._listen(clicked, i)
            self._keys.append(handle)
        if not self._held:
            self._put_gizmo(chosen, turns, size)

    def _listen(self, clicked: Any, number: int) -> None:
        async def chosen(event: Any) -> None:
            self._choose(number)

        clicked.on_click(chosen)

    def _put_gizmo(self, number: int, turns: bool, size: float) -> None:
        """The handles of the chosen keyframe; one that looks at a point turns by itself."""
        self._gizmo = self._api.add_transform_controls(
            "/gizmo", scale=2.2 * size, disable_rotations=not turns, depth_test=False
        )

        async def moved(event: Any) -> None:  # of viser's own thread: in order
            self._held = event.phase != "end"
            self._drag(number, pose_of(event.target.wxyz, event.target.position))

        self._gizmo.on_update(moved)

    def show(self, source: Source, view: View, frame: int, picture: np.ndarray) -> None:
        """One frame of the new video: its camera with what it sees, and the scene at its moment."""
        height, width = source.clip.frames.shape[1:3]
        fov, pose = upright(view.intrinsics[frame]), view.c2w[frame]
        if self._now is None:
            self._now = self._api.add_camera_frustum("/now", fov=fov, aspect=width / height, color=_NOW)
        for name, value in (("fov", fov), ("aspect", width / height), ("scale", 1.3 * self.size(source))):
            if getattr(self._now, name) != value:
                setattr(self._now, name, value)
        self._now.image = picture
        self._now.wxyz, self._now.position = quaternion(pose), pose[:3, 3]
        shown = geometry.nearest_frame(view, frame)
        if self._still is not None and shown != self._still_of:
            self._still_of = shown
            self._still.image = source.clip.frames[shown]
        if source.depth is not None and shown != self._cloud_of:
            points, colours = geometry.cloud(source, shown)
            near = points[:, 2] < 12 * source.distance  # far things would only make the scene small
            self._api.add_point_cloud(
                "/scene",
                points[near].astype(np.float32),
                colours[near],
                point_size=0.009 * source.distance,
            )
            self._cloud_of = shown
