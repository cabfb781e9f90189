"""The fields of one keyframe: where it is, what its camera is, which moment it shows."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from stp_jax.controls import interpolation
from stp_jax.controls.keyframes import LookAt, Orbit, Turned
from stp_jax.edit import poses
from stp_jax.edit.scene import pose_of, quaternion, upright

_TITLES = {poses.FORMS[kind]: kind for kind in poses.EDITED}
_TURN = "YXZ"  # to the right, up, right side down; as `stp_jax.controls.moves.Rig`


class KeyPanel:
    """Fields in the container of a page that is open."""

    def __init__(self, gui: Any, page: Any, client: Any):
        self._page, self._client = page, client
        row = gui.add_button_group("Edit", ("Undo", "Redo"))
        listen = page.inputs.listen
        listen(row, lambda name: page.state.undo() if name == "Undo" else page.state.redo(), on="click")
        self._list = gui.add_dropdown("Keyframe", ("1",))
        keys = gui.add_button_group("At this frame", ("Add", "Remove"), hint="Of the chosen keyframe: Remove")
        listen(keys, lambda name: self._add() if name == "Add" else self._remove(), on="click")
        last = 16
        self._time = gui.add_number("At frame", 0.0, min=0.0, max=last, step=0.01, hint="Of the new video")
        self._moment = gui.add_number(
            "Moment", 0.0, min=0.0, max=last, step=0.01, hint="The source frame that it shows"
        )
        self._fov = gui.add_number(
            "Field of view", 50.0, min=1.0, max=179.0, step=0.01, hint="Degrees, shorter side"
        )
        self._form = gui.add_dropdown("Camera", tuple(_TITLES), hint="The form of all keyframes' cameras")
        self._position = gui.add_vector3(
            "Position", (0.0, 0.0, 0.0), step=0.01, hint="Metres: right, down, ahead"
        )
        self._point = gui.add_vector3("Looks at", (0.0, 0.0, 4.0), step=0.01)
        self._turn = gui.add_vector3("Turn", (0.0, 0.0, 0.0), step=0.1, hint="Degrees: right, up, roll")
        self._orbit = gui.add_vector3(
            "Orbit", (0.0, 0.0, 4.0), step=0.1, hint="Degrees left, up; metres away"
        )
        self._roll = gui.add_number("Roll", 0.0, step=0.1, hint="Degrees, the right side down")
        kinds = interpolation.KINDS
        self._way = gui.add_dropdown("Camera to next", kinds, initial_value="smooth")
        self._clock_way = gui.add_dropdown("Clock to next", kinds, initial_value="smooth")
        view = gui.add_button_group("View", ("Look through it", "Take my view"))
        listen(view, lambda name: self._look() if name.startswith("Look") else self._take(), on="click")
        self._listen()

    def _listen(self) -> None:
        page = self._page
        listen = page.inputs.listen
        listen(self._list, lambda name: page.choose(int(name.split()[0]) - 1))
        listen(self._time, self._move)
        listen(self._moment, lambda value: page.state.set_moment(page.chosen, value, page.snap))
        listen(self._fov, lambda value: page.state.set_fov(page.chosen, value))
        listen(self._form, lambda name: page.state.set_form(_TITLES[name]))
        for field in (self._position, self._point, self._turn, self._orbit, self._roll):
            listen(field, lambda value, field=field: self._camera(field, value))
        listen(self._way, lambda name: page.state.set_way(page.chosen, "camera", name))
        listen(self._clock_way, lambda name: page.state.set_way(page.chosen, "animation_time", name))

    # What the buttons do ----------------------------------------------------------------------------------

    def _add(self) -> None:
        self._page.chosen = self._page.state.add(self._page.frame)
        self._page.refresh()

    def _remove(self) -> None:
        self._page.state.remove(self._page.chosen)

    def _move(self, value: float) -> None:
        value = round(value) if self._page.snap else value
        self._page.chosen = self._page.state.move(self._page.chosen, value)
        self._page.refresh()

    def _camera(self, changed: Any, entered: Any) -> None:
        """The camera of the fields, one of which was changed."""

        def value(field: Any) -> Any:
            return entered if field is changed else field.value

        kind, roll = _TITLES[self._form.value], round(float(value(self._roll)), 4) or None
        state, number = self._page.state, self._page.chosen
        before = state.keys.keyframes[number].camera
        if kind is Orbit:
            left, up, away = poses.rounded(value(self._orbit))
            around: Any = poses.rounded(value(self._point))
            usual = np.allclose(around, state.pivot, atol=1e-4)
            state.set_camera(number, Orbit(left, up, away, None if usual else around, roll))
        elif kind is LookAt:
            up_axis = before.up if isinstance(before, LookAt) else None
            place, point = poses.rounded(value(self._position)), poses.rounded(value(self._point))
            state.set_camera(number, LookAt(place, point, up_axis, roll))
        else:
            right, up, tilt = value(self._turn)
            turn = Rotation.from_euler(_TURN, (right, up, tilt), degrees=True)
            wxyz = turn.as_quat(scalar_first=True, canonical=True)
            state.set_camera(number, Turned(poses.rounded(value(self._position)), poses.rounded(wxyz, 7)))

    def _look(self) -> None:
        """The page's own view goes to the keyframe."""
        state, number = self._page.state, self._page.chosen
        frame = round(state.frame_of(state.keys.keyframes[number]))
        self._page.look(state.pose_of(number), upright(state.view().intrinsics[frame]))

    def _take(self) -> None:
        """The keyframe goes to where the page looks from."""
        camera = self._client.camera
        self._page.state.take_view(self._page.chosen, pose_of(camera.wxyz, camera.position))

    # What they show ---------------------------------------------------------------------------------------

    def show(self) -> None:
        """The chosen keyframe in all fields."""
        state, number, show = self._page.state, self._page.chosen, self._page.inputs.show
        key, last = state.keys.keyframes[number], state.frames - 1
        options = tuple(
            f"{i + 1} of {len(state.keys.keyframes)}: frame {state.frame_of(one):.6g}"
            for i, one in enumerate(state.keys.keyframes)
        )
        if tuple(self._list.options) != options:
            self._list.options = options
        show(self._list, options[number])
        for handle in (self._time, self._moment):
            if handle.max != last:
                handle.max = last
        show(self._time, round(state.frame_of(key), 3))
        moment = state.moment_of(key)
        _, clock = state.path()
        show(self._moment, round(float(np.interp(state.frame_of(key), np.arange(len(clock)), clock)), 3))
        self._moment.label = "Moment" if moment is not None else "Moment (of others)"
        show(self._fov, round(state.fov_of(number), 3))
        show(self._way, key.way("camera"))
        show(self._clock_way, key.way("animation_time"))
        self._show_camera(state.camera_of(number), state.pose_of(number))

    def _show_camera(self, camera: Any, pose: np.ndarray) -> None:
        kind = type(camera) if isinstance(camera, poses.EDITED) else Turned
        state, show = self._page.state, self._page.inputs.show
        show(self._form, poses.FORMS[kind])
        for handle, kinds in (
            (self._position, (LookAt, Turned)),
            (self._point, (LookAt, Orbit)),
            (self._turn, (Turned,)),
            (self._orbit, (Orbit,)),
            (self._roll, (LookAt, Orbit)),
        ):
            if handle.visible != (kind in kinds):
                handle.visible = kind in kinds
        show(self._position, poses.rounded(pose[:3, 3]))
        show(self._point, poses.rounded(poses.pivot_of(camera, state.pivot)))
        self._point.label = "Looks at" if kind is LookAt else "Around"
        if isinstance(camera, Orbit):
            away = float(np.linalg.norm(poses.pivot_of(camera, state.pivot)))
            values = (camera.left or 0, camera.up or 0, away if camera.distance is None else camera.distance)
            show(self._orbit, poses.rounded(values))
        if isinstance(camera, (Orbit, LookAt)):
            show(self._roll, float(camera.roll or 0.0))
        turn = Rotation.from_quat(quaternion(pose), scalar_first=True)
        show(self._turn, poses.rounded(turn.as_euler(_TURN, degrees=True), 4))
