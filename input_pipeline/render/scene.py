"""Random dynamic scenes: everything in them follows from a seed.

A scene has a textured ground, a sky, structures near and far, one or two figures, and two or three bodies that
are thrown, fall, roll or swing. Draws in which something hides the actors or does not fit are thrown away and
drawn again from the same seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from input_pipeline.render import figures, rig, textures
from input_pipeline.render.geometry import unit

SECONDS_PER_SOURCE_FRAME = 0.1
STEP = 0.0025  # of the physics, seconds
POSE_STEP = 0.005  # of the figures' poses, seconds
GROUND_METRES = 16.0  # after which the ground's texture repeats
SHADOW_SIZE = 512
SAMPLES = 4  # of a pixel
MAX_ATTEMPTS = 200

_KINDS = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "cone": mujoco.mjtGeom.mjGEOM_MESH,
}
_SCENERY_GROUP = 1  # geoms that can hide the actors


class _Rejected(Exception):
    """This draw does not make a good scene; the message says why."""


@dataclass
class Moment:
    """The state of a scene at one grid time."""

    qpos: np.ndarray
    figure_positions: np.ndarray  # [parts, 3]
    figure_quaternions: np.ndarray  # [parts, 4]


@dataclass
class Scene:
    model: mujoco.MjModel
    data: mujoco.MjData
    moments: list[Moment]
    rig: rig.Rig
    attempts: int
    rejections: list[str]

    def show(self, index: int) -> None:
        """Puts `data` into the state of grid time `index`."""
        moment = self.moments[index]
        self.data.qpos[:] = moment.qpos
        self.data.mocap_pos[:] = moment.figure_positions
        self.data.mocap_quat[:] = moment.figure_quaternions
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)


def draw(seed: int, cameras: int, times: int, max_size: tuple[int, int]) -> Scene:
    """The scene of a seed, simulated.

    Args:
      cameras: on the rig.
      times: grid times, half a source frame apart.
      max_size: width and height in pixels of the largest picture that will be rendered at once.
    """
    rejections: list[str] = []
    while len(rejections) < MAX_ATTEMPTS:
        rng = np.random.default_rng([seed, len(rejections)])
        try:
            model, data, moments, path = _Draft(rng, cameras, times).build(max_size)
        except _Rejected as reason:
            rejections.append(str(reason))
        else:
            return Scene(model, data, moments, path, len(rejections) + 1, rejections)
    raise RuntimeError(f"seed {seed}: no scene in {MAX_ATTEMPTS} draws, the last: {rejections[-1]}")


class _Draft:
    def __init__(self, rng: np.random.Generator, cameras: int, times: int):
        self.rng = rng
        self.seconds = (times - 1) * SECONDS_PER_SOURCE_FRAME / 2
        self.times = times
        self.pose_seconds = np.arange(round(self.seconds / POSE_STEP) + 1) * POSE_STEP
        self.spec = mujoco.MjSpec()
        self.velocities: dict[str, np.ndarray] = {}  # of joints, at the start
        self.occupied: list[tuple[np.ndarray, float]] = []  # (xy, radius) at the start

        self.figures = self._figures()
        main = self.figures[0]
        middle = main.chest[len(main.chest) // 2]
        if len(self.figures) > 1:
            other = self.figures[1].chest
            middle = middle + 0.3 * (other[len(other) // 2] - middle)
        focus = np.array([middle[0], middle[1], 0.5 * main.height])
        self.rig = rig.draw(rng, cameras, focus, main.height)
        self._check_framing()

    def build(self, max_size: tuple[int, int]):
        self._settings(max_size)
        self._ground_sky_light()
        for figure in self.figures:
            for part in figure.parts:
                self._add_part(part)
        for _ in range(self.rng.integers(2, 4)):
            self._moving_body()
        for near in [True] * self.rng.integers(1, 3) + [False] * self.rng.integers(2, 5):
            self._structure(near)
        model = self.spec.compile()
        data = mujoco.MjData(model)
        self._check_visible(model, data)
        return model, data, self._simulate(model, data), self.rig

    # ------------------------------------------------------------ actors and cameras

    def _figures(self) -> list[figures.Figure]:
        rng, drawn = self.rng, []
        for i in range(rng.choice([1, 2], p=[0.45, 0.55])):
            angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.4) if i else 0.0
            place = distance * np.array([np.cos(angle), np.sin(angle)])
            drawn.append(figures.draw(rng, self.pose_seconds, place))
        if len(drawn) > 1:
            apart = np.linalg.norm(drawn[0].chest[:, :2] - drawn[1].chest[:, :2], axis=-1)
            if apart.min() < 0.5 * (drawn[0].height + drawn[1].height) * 0.65:
                raise _Rejected("figures meet")
        for figure in drawn:
            self.occupied.append((figure.chest[0, :2], 0.4 * figure.height))
        return drawn

    def _check_framing(self) -> None:
        for i, figure in enumerate(self.figures):
            points = np.stack(figure.landmarks)[:, :: len(self.pose_seconds) // 8]  # [K, moments, 3]
            seen = self.rig.project(points.reshape(-1, 3)).reshape(-1, *points.shape)
            inside = ((seen[..., :2] > 0.02) & (seen[..., :2] < 0.98)).all(-1) & (seen[..., 2] > 0)
            if i == 0:
                central = inside[:, :, 1:-1]
                if not central.all() or inside.mean() < 0.97:
                    raise _Rejected("the main figure leaves the picture")
            elif inside.mean() < 0.7:
                raise _Rejected("the second figure leaves the picture")
            if (seen[..., 2] < 1.3).any():
                raise _Rejected("a figure comes too near to a camera")

    # ------------------------------------------------------------ the MuJoCo model

    def _settings(self, max_size: tuple[int, int]) -> None:
        spec = self.spec
        spec.option.timestep = STEP
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.stat.extent, spec.stat.center = 4.0, [0, 0, 0.5]
        spec.visual.global_.offwidth, spec.visual.global_.offheight = max_size
        quality = spec.visual.quality
        quality.shadowsize, quality.offsamples = SHADOW_SIZE, SAMPLES
        quality.numslices, quality.numstacks, quality.numquads = 16, 10, 2
        spec.visual.map.shadowclip, spec.visual.map.shadowscale = 1.4, 0.9
        spec.visual.headlight.ambient = [0.42, 0.42, 0.45]
        spec.visual.headlight.diffuse = [0.12] * 3
        spec.visual.headlight.specular = [0.0] * 3

    def _ground_sky_light(self) -> None:
        rng, world = self.rng, self.spec.worldbody
        picture, mean = textures.ground(rng, GROUND_METRES)
        self._texture("ground", picture, mujoco.mjtTexture.mjTEXTURE_2D)
        material = self._material("ground")
        material.texrepeat, material.texuniform = [1 / GROUND_METRES] * 2, True
        turn = rng.uniform(0, np.pi)
        world.add_geom(
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=[40, 40, 1],
            quat=[np.cos(turn / 2), 0, 0, np.sin(turn / 2)],
            material="ground",
            conaffinity=0,
        )
        self._texture("sky", textures.sky(rng, mean * 0.9), mujoco.mjtTexture.mjTEXTURE_SKYBOX)
        azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(40, 65))
        towards = np.array(
            [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
        )
        world.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            pos=8 * towards,
            dir=-towards,
            castshadow=True,
            diffuse=rng.uniform(0.5, 0.65) * np.array([1, 0.97, 0.92]),
            specular=[0.1] * 3,
        )

    def _texture(self, name: str, picture: np.ndarray, kind: mujoco.mjtTexture) -> None:
        height, width = picture.shape[:2]
        texture = self.spec.add_texture(name=name, type=kind, width=width, height=height, nchannel=3)
        texture.data = picture.tobytes()

    def _material(self, texture: str):
        material = self.spec.add_material(name=texture, specular=0.2, shininess=0.3)
        names = list(material.textures)
        names[mujoco.mjtTextureRole.mjTEXROLE_RGB] = texture
        material.textures = names
        return material

    def _add(self, parent, shape: figures.Shape, **options):
        options.setdefault("conaffinity", 0)
        if "material" not in options:
            options["rgba"] = [*np.clip(shape.rgb, 0, 1), 1]
        if shape.kind == "cone":
            options["meshname"] = self._cone(shape.size)
        else:
            options["size"] = [*shape.size, 0, 0][:3]
        return parent.add_geom(type=_KINDS[shape.kind], pos=shape.position, quat=shape.quaternion, **options)

    def _cone(self, size: tuple[float, ...], sides: int = 12) -> str:
        """A mesh of a cone with half-axes and height `size`; its base lies at z = 0."""
        name = f"cone{len(self.spec.meshes)}"
        angle = np.arange(sides) * 2 * np.pi / sides
        rim = np.stack([size[0] * np.cos(angle), size[1] * np.sin(angle), np.zeros(sides)], -1)
        vertices = np.concatenate([rim, [[0, 0, size[2]]]])
        faces = [(i, (i + 1) % sides, sides) for i in range(sides)]
        faces += [(0, i + 1, i) for i in range(1, sides - 1)]
        self.spec.add_mesh(name=name, uservert=vertices.ravel().tolist(), userface=np.ravel(faces).tolist())
        return name

    def _add_part(self, part: figures.Part) -> None:
        body = self.spec.worldbody.add_body(mocap=True, pos=part.position[0], quat=part.quaternion[0])
        for shape in part.shapes:
            self._add(body, shape)

    # ------------------------------------------------------------ bodies that move by physics

    def _free_place(self, radius: float, nearest: float, farthest: float) -> np.ndarray:
        for _ in range(100):
            angle, distance = self.rng.uniform(0, 2 * np.pi), self.rng.uniform(nearest, farthest)
            place = self.rig_focus + distance * np.array([np.cos(angle), np.sin(angle)])
            if all(np.linalg.norm(place - xy) > radius + other for xy, other in self.occupied):
                self.occupied.append((place, radius))
                return place
        raise _Rejected("no room for a body")

    @property
    def rig_focus(self) -> np.ndarray:
        return self.figures[0].chest[len(self.pose_seconds) // 2, :2]

    def _moving_body(self) -> None:
        kind = self.rng.choice(
            ["thrown", "falling", "rolling", "swinging", "spinning"], p=[0.3, 0.2, 0.25, 0.15, 0.1]
        )
        if kind in ("swinging", "spinning"):
            self._tethered(kind)
            return
        rng = self.rng
        radius = rng.uniform(0.16, 0.3)
        shape = rng.choice(["sphere", "box", "cylinder"]) if kind != "rolling" else "sphere"
        size = {
            "sphere": (radius,),
            "box": radius * rng.uniform(0.6, 1.0, 3),
            "cylinder": (radius * 0.8, radius * 0.8),
        }
        place = self._free_place(1.3 * radius, 0.9, 2.0)
        inwards = unit(self.rig_focus - place + rng.normal(0, 0.5, 2))
        z, velocity, spin = 1.02 * radius, np.zeros(3), np.zeros(3)
        if kind == "rolling":
            speed = rng.uniform(0.9, 2.0)
            velocity[:2] = speed * inwards
            spin = np.array([-inwards[1], inwards[0], 0]) * speed / radius
        elif kind == "thrown":
            z = rng.uniform(0.5, 1.4)
            velocity[:2] = rng.uniform(0.6, 1.8) * inwards
            velocity[2] = rng.uniform(1.0, 3.5)
            spin = rng.normal(0, 4, 3)
        else:
            z = rng.uniform(1.2, 2.4)
            velocity[:2] = rng.normal(0, 0.3, 2)
            spin = rng.normal(0, 2.5, 3)
        name = f"body{len(self.velocities)}"
        body = self.spec.worldbody.add_body(name=name, pos=[*place, z], quat=unit(rng.normal(size=4)))
        body.add_freejoint(name=name)
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, body.quat)
        spin = rotation.reshape(3, 3).T @ spin  # a free joint's angular velocity is in the body's frame
        self.velocities[name] = np.concatenate([velocity, spin])
        self._painted(
            body, figures.Shape(shape, tuple(size[shape]), np.ones(3)), name, bounce=rng.uniform(0.1, 0.6)
        )

    def _painted(self, body, shape: figures.Shape, name: str, bounce: float) -> None:
        picture = textures.body(self.rng, textures.palette(self.rng, 3))
        self._texture(name, picture, mujoco.mjtTexture.mjTEXTURE_CUBE)
        self._material(name)
        self._add(
            body,
            shape,
            material=name,
            conaffinity=1,
            density=200,
            friction=[0.8, 0.01, 0.002],
            solref=[0.02, 1 - bounce],
        )

    def _tethered(self, kind: str) -> None:
        rng, world = self.rng, self.spec.worldbody
        rgb = textures.colour(rng.random(), rng.uniform(0.1, 0.4), rng.uniform(0.3, 0.7))
        name = f"body{len(self.velocities)}"
        if kind == "swinging":
            radius, height = rng.uniform(0.17, 0.26), rng.uniform(1.7, 2.3)
            length = height - radius - rng.uniform(0.25, 0.6)
            place = self._free_place(0.9, 1.2, 2.2)
            angle = rng.uniform(0, 2 * np.pi)
            aside = np.array([np.cos(angle), np.sin(angle)]) * 0.7
            for start, end in (
                ([*(place + aside), 0], [*(place + aside), height]),
                ([*(place + aside), height], [*place, height]),
            ):
                world.add_geom(
                    type=mujoco.mjtGeom.mjGEOM_CAPSULE,
                    fromto=start + end,
                    size=[0.05, 0, 0],
                    rgba=[*rgb, 1],
                    conaffinity=0,
                )
            body = world.add_body(name=name, pos=[*place, height])
            body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_BALL, damping=0.01)
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_CAPSULE,
                fromto=[0, 0, 0, 0, 0, -length],
                size=[0.025, 0, 0],
                rgba=[*DARK_ROPE, 1],
                contype=0,
                conaffinity=0,
            )
            # Out of plumb at the start and pushed: it circles as well as swings.
            tilt = rng.uniform(0.4, 0.9)
            body.quat = [
                np.cos(tilt / 2),
                np.sin(tilt / 2) * np.cos(angle),
                np.sin(tilt / 2) * np.sin(angle),
                0,
            ]
            self.velocities[name] = np.append(rng.normal(0, 1.0, 2), 0)
            bob = figures.Shape(rng.choice(["sphere", "box"]), (radius,) * 3, np.ones(3), (0, 0, -length))
            self._painted(body, bob, name, bounce=0.3)
        else:
            height, arm = rng.uniform(1.1, 1.7), rng.uniform(0.5, 0.75)
            place = self._free_place(arm, 1.5, 2.4)
            self._add(world, figures.Shape("cylinder", (0.06, height / 2), rgb, (*place, height / 2)))
            yaw = rng.uniform(0, 2 * np.pi)
            facing = np.array([np.cos(yaw), np.sin(yaw)])
            body = world.add_body(
                name=name,
                pos=[*(place + 0.12 * facing), height],
                quat=[np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)],
            )
            body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=[1, 0, 0], damping=0.005)
            self.velocities[name] = np.array([rng.choice([-1, 1]) * rng.uniform(1.5, 4)])
            colours = textures.palette(rng, 3)
            for i in range(3):  # a windmill: three sails, each of its own colour
                turn = i * 2 * np.pi / 3
                centre = 0.55 * arm * np.array([0, -np.sin(turn), np.cos(turn)])
                sail = figures.Shape(
                    "box",
                    (0.03, 0.16 * arm, 0.45 * arm),
                    colours[i],
                    tuple(centre),
                    (np.cos(turn / 2), np.sin(turn / 2), 0, 0),
                )
                self._add(body, sail, conaffinity=1, density=200)

    # ------------------------------------------------------------ structures that stand

    def _structure(self, near: bool) -> None:
        """A structure where it neither blocks a camera's view of the figures nor stands in somebody's way."""
        rng = self.rng
        radius = rng.uniform(0.25, 0.5) if near else rng.uniform(0.5, 1.1)
        eyes = self.rig.c2w[:, :2, 3]
        walks = np.concatenate([f.chest[:: len(self.pose_seconds) // 8, :2] for f in self.figures])
        for _ in range(200):
            angle, distance = (
                rng.uniform(0, 2 * np.pi),
                rng.uniform(1.2, 2.6) if near else rng.uniform(2.6, 8.0),
            )
            place = self.rig_focus + distance * np.array([np.cos(angle), np.sin(angle)])
            # The nearest that the structure comes to a line of sight, from any camera to anywhere a figure goes.
            sight = walks[None] - eyes[:, None]  # [C, N, 2]
            along = np.clip(((place - eyes)[:, None] * sight).sum(-1) / (sight**2).sum(-1), 0, 1)
            miss = np.linalg.norm(place - eyes[:, None] - along[..., None] * sight, axis=-1).min()
            if miss < radius + 0.45:
                continue
            seen = self.rig.project(np.array([[*place, 0.5 * radius]]))[:, 0]
            if not ((seen[:, 0] > 0.0) & (seen[:, 0] < 1.0) & (seen[:, 2] > 0.5)).mean() > 0.4:
                continue
            if all(np.linalg.norm(place - xy) > radius + other for xy, other in self.occupied):
                break
        else:
            if near:
                return
            raise _Rejected("no room for a structure")
        self.occupied.append((place, radius))
        kinds = (
            ["block", "column", "bush", "rock", "cone"]
            if near
            else ["house", "tree", "fir", "arch", "tower", "block", "wall"]
        )
        self._build(rng.choice(kinds), place, radius)

    def _build(self, kind: str, place: np.ndarray, r: float) -> None:
        rng = self.rng
        first, second, _ = textures.palette(rng, 3)
        first, second = (0.75 * c + 0.25 * c.mean() for c in (first, second))
        leaves = textures.colour(rng.uniform(0.18, 0.42), rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.75))
        bark = textures.colour(0.08, 0.45, rng.uniform(0.35, 0.55))
        yaw = rng.uniform(0, np.pi)
        turned = (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
        x_axis = np.array([np.cos(yaw), np.sin(yaw)])

        def put(shape: str, size, rgb, z: float, along: float = 0.0):
            at = (*(place + along * x_axis), z)
            self._add(
                self.spec.worldbody, figures.Shape(shape, tuple(size), rgb, at, turned), group=_SCENERY_GROUP
            )

        h = r * rng.uniform(0.8, 1.6)
        if kind == "block":
            put("box", (0.7 * r, 0.6 * r, h / 2), first, h / 2)
            if rng.random() < 0.5:
                put("box", (0.4 * r, 0.4 * r, 0.25 * r), second, h + 0.25 * r)
        elif kind == "column":
            put("cylinder", (0.45 * r, h), first, h)
            put("box", (0.65 * r, 0.65 * r, 0.15 * r), second, 2 * h + 0.15 * r)
        elif kind == "bush":
            put("ellipsoid", (r, 0.8 * r, 0.8 * r), leaves, 0.5 * r)
        elif kind == "rock":
            put("ellipsoid", (r, 0.7 * r, 0.6 * r), first * 0.5 + 0.25, 0.2 * r)
        elif kind == "cone":
            put("cone", (0.6 * r, 0.6 * r, 1.8 * r), first, 0.0)
        elif kind == "house":
            put("box", (0.75 * r, 0.6 * r, 0.6 * r), first, 0.6 * r)
            put("cone", (1.1 * r, 0.95 * r, 0.9 * r), second, 1.2 * r)
            put("box", (0.18 * r, 0.62 * r, 0.35 * r), second * 0.6, 0.35 * r)
        elif kind == "tree":
            put("cylinder", (0.14 * r, 0.6 * r), bark, 0.6 * r)
            put("ellipsoid", (0.8 * r, 0.8 * r, 0.75 * r), leaves, 1.7 * r)
            put("ellipsoid", (0.5 * r, 0.5 * r, 0.45 * r), leaves * 0.85, 1.3 * r, 0.5 * r)
        elif kind == "fir":
            put("cylinder", (0.12 * r, 0.25 * r), bark, 0.25 * r)
            put("cone", (0.75 * r, 0.75 * r, 1.4 * r), leaves * 0.85, 0.4 * r)
            put("cone", (0.55 * r, 0.55 * r, 1.2 * r), leaves * 0.95, 1.2 * r)
        elif kind == "arch":
            for along in (-0.75 * r, 0.75 * r):
                put("box", (0.2 * r, 0.25 * r, 0.8 * r), first, 0.8 * r, along)
            put("box", (r, 0.3 * r, 0.2 * r), second, 1.8 * r)
        elif kind == "tower":
            put("cylinder", (0.5 * r, 1.2 * r), first, 1.2 * r)
            put("cone", (0.7 * r, 0.7 * r, 0.9 * r), second, 2.4 * r)
        else:
            put("box", (r, 0.12 * r, 0.4 * r), first, 0.4 * r)
            put("box", (0.2 * r, 0.2 * r, 0.6 * r), second, 0.6 * r, -r)
            put("box", (0.2 * r, 0.2 * r, 0.6 * r), second, 0.6 * r, r)

    def _check_visible(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Rejects scenery that hides a figure, or that a camera stands in or right behind."""
        mujoco.mj_forward(model, data)
        groups = np.zeros(6, np.uint8)
        groups[_SCENERY_GROUP] = 1
        hit = np.zeros(1, np.int32)
        for eye in self.rig.c2w[::4, :3, 3]:
            for i, figure in enumerate(self.figures):
                points = np.stack(figure.landmarks)[:, :: len(self.pose_seconds) // 3].reshape(-1, 3)
                hidden = 0
                for point in points:
                    distance = mujoco.mj_ray(model, data, eye, point - eye, groups, 1, -1, hit)
                    hidden += 0 <= distance < 1
                if hidden > (0.1 if i == 0 else 0.4) * len(points):
                    raise _Rejected("scenery hides a figure")

    # ------------------------------------------------------------ motion

    def _simulate(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[Moment]:
        parts = [part for figure in self.figures for part in figure.parts]
        positions = np.stack([part.position for part in parts], 1)  # [S, parts, 3]
        quaternions = np.stack([part.quaternion for part in parts], 1)
        mujoco.mj_resetData(model, data)
        for name, velocity in self.velocities.items():
            address = model.joint(name).dofadr[0]
            data.qvel[address : address + len(velocity)] = velocity
        moments = []
        steps_per_pose, poses_per_moment = round(POSE_STEP / STEP), len(self.pose_seconds) // (self.times - 1)
        for s in range(len(self.pose_seconds)):
            if s % poses_per_moment == 0:
                moments.append(Moment(data.qpos.copy(), positions[s], quaternions[s]))
            data.mocap_pos[:], data.mocap_quat[:] = positions[s], quaternions[s]
            mujoco.mj_step(model, data, nstep=steps_per_pose)
        if data.warning.number.any():
            raise _Rejected("MuJoCo warned of an unstable simulation")
        return moments


DARK_ROPE = np.array([0.25, 0.22, 0.2])
