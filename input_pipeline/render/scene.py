"""Random dynamic scenes: everything in them follows from a seed.

A scene has a textured ground, a sky, structures near and far, one or two figures, two or three bodies that
are thrown, fall, roll, swing or spin, and a camera rig. Draws in which something hides the main figure, or
does not fit, are rejected and drawn again from the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import mujoco
import numpy as np

from input_pipeline.render import bodies, figures, rig, structures
from input_pipeline.render.gait import LONG
from input_pipeline.render.geometry import about, unit
from input_pipeline.render.world import BODIES, FIGURES, SCENERY, STEP, Thing, World

SECONDS_PER_SOURCE_FRAME = 0.1
POSE_STEP = 2 * STEP  # of the figures' poses, seconds
POSES_PER_SOURCE_FRAME = round(SECONDS_PER_SOURCE_FRAME / POSE_STEP)
MAX_DRAWS = 300


class _Rejected(Exception):
    """This draw does not make a good scene; the message says why."""


@dataclass
class State:
    """The parts of a scene's state that change, at one moment."""

    qpos: np.ndarray
    part_positions: np.ndarray  # [parts of all figures, 3]
    part_quaternions: np.ndarray  # [parts, 4]


@dataclass
class Scene:
    model: mujoco.MjModel
    data: mujoco.MjData
    states: list[State]
    rig: rig.Rig
    figures: list[figures.Figure]
    rejections: list[str]  # why earlier draws were rejected
    things: list[Thing] = field(default_factory=list)  # number 2 on; 0 is the sky, 1 the ground
    poses: list[State] = field(default_factory=list)  # POSE_STEP apart; `states` are some of them

    def show(self, index: int, clocks: Mapping[str, float] | None = None) -> None:
        """Puts `data` into the state of grid time `index`, as far as pictures and lines of sight need it.

        Args:
          clocks: animation times, in source frames, of the objects (by name) that show another one. Each is
            rounded to the nearest of the simulation, 1/20 source frame apart.

        Raises:
          ValueError: no such object, or a time that is not in the clip.
        """
        state = self.states[index]
        self.data.qpos[:] = state.qpos
        self.data.mocap_pos[:] = state.part_positions
        self.data.mocap_quat[:] = state.part_quaternions
        for name, time in (clocks or {}).items():
            thing = next((thing for thing in self.things if thing.name == name), None)
            if thing is None:
                raise ValueError(f"the scene has no object {name}")
            self._set(thing, self._pose(time))
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def moves(self, thing: Thing) -> bool:
        """Whether the object has a clock: it is a figure, or moves by physics."""
        return bool(len(self._qpos(thing)) or len(self._mocap(thing)))

    def _pose(self, time: float) -> State:
        step = round(time * POSES_PER_SOURCE_FRAME)
        if not 0 <= step < len(self.poses):
            last = (len(self.poses) - 1) / POSES_PER_SOURCE_FRAME
            raise ValueError(f"the animation time {time} is not from 0 to {last:g}")
        return self.poses[step]

    def _set(self, thing: Thing, state: State) -> None:
        qpos, mocap = self._qpos(thing), self._mocap(thing)
        self.data.qpos[qpos] = state.qpos[qpos]
        self.data.mocap_pos[mocap] = state.part_positions[mocap]
        self.data.mocap_quat[mocap] = state.part_quaternions[mocap]

    def _qpos(self, thing: Thing) -> np.ndarray:
        """The object's places in qpos."""
        ends = [*self.model.jnt_qposadr, self.model.nq]
        joints = np.flatnonzero(np.isin(self.model.jnt_bodyid, thing.bodies))
        return np.array([i for joint in joints for i in range(ends[joint], ends[joint + 1])], int)

    def _mocap(self, thing: Thing) -> np.ndarray:
        """The object's figure parts, by number."""
        numbers = self.model.body_mocapid[list(thing.bodies)]
        return numbers[numbers >= 0]


def draw(seed: int, cameras: int, times: int) -> Scene:
    """The scene of a seed, simulated.

    Args:
      cameras: on the rig.
      times: grid times, half a source frame apart.
    """
    rejections: list[str] = []
    while len(rejections) < MAX_DRAWS:
        try:
            scene = _draw(np.random.default_rng([seed, len(rejections)]), cameras, times)
        except _Rejected as reason:
            rejections.append(str(reason))
        else:
            scene.rejections = rejections
            return scene
    raise RuntimeError(f"seed {seed}: no scene in {MAX_DRAWS} draws, the last: {rejections[-1]}")


def _draw(rng: np.random.Generator, cameras: int, times: int) -> Scene:
    seconds = np.arange(round((times - 1) * SECONDS_PER_SOURCE_FRAME / 2 / POSE_STEP) + 1) * POSE_STEP
    # The cheap parts first: most rejections come from here.
    cast = _cast(rng, seconds)
    path = rig.draw(rng, cameras, _focus(cast), cast[0].height)
    _check_framing(cast, path)

    world = World(rng)
    for number, figure in enumerate(cast):
        for part in figure.parts:
            body = world.spec.worldbody.add_body(mocap=True, pos=part.position[0])
            for shape in part.shapes:
                world.add(body, shape, FIGURES)
        world.name_new(f"figure_{number}", figure.kind)
    plan = _Plan(rng, cast, path)
    velocities: bodies.Velocity = {}
    for number in range(rng.integers(2, 4)):
        kind = _draw_body(rng)
        velocities |= _add_body(world, rng, plan, kind)
        world.name_new(f"body_{number}", kind.__name__)
    near = int(rng.integers(1, 3))
    for number in range(near):
        world.name_new(f"structure_{number}", _add_structure(world, rng, plan, near=True))
    for number in range(near, near + int(rng.integers(2, 5))):
        world.name_new(f"structure_{number}", _add_structure(world, rng, plan, near=False))

    model = world.spec.compile()
    data = mujoco.MjData(model)
    poses = _simulate(model, data, velocities, cast)
    states = poses[:: (len(poses) - 1) // (times - 1)]
    scene = Scene(model, data, states, path, cast, [], world.things, poses)
    _check_visible(scene)
    return scene


# ---------------------------------------------------------------- figures and cameras


def _cast(rng: np.random.Generator, seconds: np.ndarray) -> list[figures.Figure]:
    """One or two figures that keep apart; the first is the main one and is in the middle half-way through."""
    main = figures.draw(rng, seconds, np.zeros(2))
    if rng.random() < 0.4:
        return [main]
    for _ in range(20):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.8)
        other = figures.draw(rng, seconds, distance * np.array([np.cos(angle), np.sin(angle)]))
        apart = np.linalg.norm(main.chest[:, :2] - other.chest[:, :2], axis=-1)
        if apart.min() > main.reach + other.reach:
            return [main, other]
    raise _Rejected("figures meet")


def _focus(cast: list[figures.Figure]) -> np.ndarray:
    """The point that the cameras look at [3]: near the main figure, somewhat towards the other."""
    if (len(cast[0].chest) - 1) * POSE_STEP > LONG:
        middles = [figure.chest[:, :2].mean(0) for figure in cast]
    else:
        middles = [figure.chest[len(figure.chest) // 2, :2] for figure in cast]
    xy = middles[0] + 0.3 * (middles[-1] - middles[0])
    return np.array([*xy, 0.5 * cast[0].height])


def _spread(poses: np.ndarray) -> np.ndarray:
    """Poses [S, ...] at N times about 0.2 s apart, at least nine from the first to the last."""
    parts = max(8, round((len(poses) - 1) * POSE_STEP / 0.2))
    return poses[:: len(poses) // parts]


def _check_framing(cast: list[figures.Figure], path: rig.Rig) -> None:
    for figure in cast:
        marks = np.stack(figure.landmarks, 1)  # [S, K, 3]
        marks = _spread(marks)
        seen = path.project(marks.reshape(-1, 3)).reshape(-1, *marks.shape)  # [C, N, K, 3]
        if (seen[..., 2] < (1.5 if figure is cast[0] else 2.2)).any():
            raise _Rejected("a figure comes too near to a camera")
        inside = np.all((seen[..., :2] > 0.02) & (seen[..., :2] < 0.98), axis=-1)
        if figure is cast[0]:
            if not inside[:, 1:-1].all() or inside.mean() < 0.97:
                raise _Rejected("the main figure leaves the picture")
        elif inside.mean() < 0.75:
            raise _Rejected("the other figure leaves the picture")


# ---------------------------------------------------------------- bodies and structures


class _Plan:
    """Finds free ground."""

    def __init__(self, rng: np.random.Generator, cast: list[figures.Figure], path: rig.Rig):
        self.rng, self.path = rng, path
        self.middle = _focus(cast)[:2]
        self.walks = np.concatenate([_spread(figure.chest)[:, :2] for figure in cast])
        self.taken = [(figure.chest[0, :2], figure.reach) for figure in cast]  # (xy, radius)

    def find(self, radius: float, nearest: float, farthest: float, *, stands: bool) -> np.ndarray:
        """A free place [2] for something of a radius, at a distance from the middle, in metres.

        Args:
          stands: it stays there, so half of the cameras must see it, and it must keep off the figures' ways
            and the lines of sight to them.
        """
        for _ in range(200):
            angle, distance = self.rng.uniform(0, 2 * np.pi), self.rng.uniform(nearest, farthest)
            place = self.middle + distance * np.array([np.cos(angle), np.sin(angle)])
            free = all(np.linalg.norm(place - xy) > radius + other for xy, other in self.taken)
            if free and (self._clear(place, radius + 0.4) if stands else self._eyes(place) > radius + 1.2):
                self.taken.append((place, radius))
                return place
        raise _Rejected("no room")

    def _eyes(self, place: np.ndarray) -> float:
        return float(np.linalg.norm(self.path.c2w[:, :2, 3] - place, axis=-1).min())

    def _clear(self, place: np.ndarray, radius: float) -> bool:
        seen = self.path.project(np.array([[*place, 0.3]]))[:, 0]
        if ((seen[:, 0] > 0) & (seen[:, 0] < 1) & (seen[:, 2] > 0.5)).mean() < 0.5:
            return False
        eyes = self.path.c2w[:, None, :2, 3]
        sight = self.walks - eyes  # [C, N, 2]
        along = np.clip(((place - eyes) * sight).sum(-1) / (sight**2).sum(-1), 0, 1)[..., None]
        return bool(np.linalg.norm(place - eyes - along * sight, axis=-1).min() > radius)


def _draw_body(rng: np.random.Generator) -> Callable[..., bodies.Velocity]:
    kinds = list(bodies.KINDS)
    return kinds[rng.choice(len(kinds), p=[share for share, _ in bodies.KINDS.values()])]


def _add_body(
    world: World, rng: np.random.Generator, plan: _Plan, kind: Callable[..., bodies.Velocity]
) -> bodies.Velocity:
    radius = bodies.KINDS[kind][1]
    tethered = kind in bodies.TETHERED
    place = plan.find(radius, *((1.2, 3.0) if tethered else (0.9, 2.0)), stands=tethered)
    inwards = unit(plan.middle - place + rng.normal(0, 0.5, 2))
    return kind(world, rng, place, inwards)


def _add_structure(world: World, rng: np.random.Generator, plan: _Plan, near: bool) -> str:
    radius = rng.uniform(0.25, 0.5) if near else rng.uniform(0.5, 1.1)
    place = plan.find(radius, *((1.2, 3.0) if near else (3.0, 7.0)), stands=True)
    kind = str(rng.choice(structures.NEAR if near else structures.FAR))
    body = world.spec.worldbody.add_body(pos=[*place, 0], quat=about("z", rng.uniform(0, 2 * np.pi)))
    for shape in structures.draw(rng, kind, radius):
        world.add(body, shape, SCENERY)
    return kind


# ---------------------------------------------------------------- motion


def _simulate(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    velocities: bodies.Velocity,
    cast: list[figures.Figure],
) -> list[State]:
    """Lets the bodies move among the figures, whose motion is given; the states are POSE_STEP apart."""
    parts = [part for figure in cast for part in figure.parts]
    positions = np.stack([part.position for part in parts], 1)  # [S, parts, 3]
    quaternions = np.stack([part.quaternion for part in parts], 1)
    for name, velocity in velocities.items():
        address = model.joint(name).dofadr[0]
        data.qvel[address : address + len(velocity)] = velocity
    states = []
    for s in range(len(positions)):
        states.append(State(data.qpos.copy(), positions[s], quaternions[s]))
        data.mocap_pos[:], data.mocap_quat[:] = positions[s], quaternions[s]
        mujoco.mj_step(model, data, nstep=round(POSE_STEP / STEP))
    if data.warning.number.any():
        raise _Rejected("MuJoCo warned of an unstable simulation")
    return states


def _check_visible(scene: Scene) -> None:
    """Rejects a scene in which scenery or bodies hide a figure, or come too near to a camera."""
    groups = np.zeros(6, np.uint8)
    groups[[SCENERY, BODIES]] = 1
    hit = np.zeros(1, np.int32)
    eyes = scene.rig.c2w[::4, :3, 3]
    moving = np.flatnonzero(scene.model.body_dofnum)
    hidden: list[list[bool]] = [[] for _ in scene.figures]
    for index in range(0, len(scene.states), 8):
        scene.show(index)
        near = np.linalg.norm(scene.data.xpos[moving, None] - eyes, axis=-1)
        if near.size and near.min() < 1.2:
            raise _Rejected("a body comes too near to a camera")
        for figure, blocked in zip(scene.figures, hidden, strict=True):
            s = index * (len(figure.chest) - 1) // (len(scene.states) - 1)
            for mark in figure.landmarks:
                for eye in eyes:
                    distance = mujoco.mj_ray(scene.model, scene.data, eye, mark[s] - eye, groups, 1, -1, hit)
                    blocked.append(0 <= distance < 1)
    for blocked, most in zip(hidden, (0.1, 0.35), strict=False):
        if np.mean(blocked) > most:
            raise _Rejected("something hides a figure")
