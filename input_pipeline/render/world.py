"""Builds a MuJoCo model piece by piece: light, sky, ground, and shapes of one colour or a painted texture."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from input_pipeline.render import textures
from input_pipeline.render.geometry import about

STEP = 0.0025  # of the physics, seconds
GROUND_METRES = 48.0  # side of the ground, over which its texture is spread once
AMBIENT = np.array([0.45, 0.45, 0.48])
# Geom groups, by what a line of sight may be blocked by.
FIGURES, SCENERY, BODIES = 0, 1, 2

_KINDS = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "cone": mujoco.mjtGeom.mjGEOM_MESH,
}


@dataclass
class Shape:
    """One MuJoCo geom in the frame of its body.

    `size` is as MuJoCo's for the kind; for `cone`, two half-axes of the base, which lies at z = 0, and the
    height.
    """

    kind: str
    size: tuple[float, ...]
    rgb: np.ndarray
    position: tuple[float, ...] = (0, 0, 0)
    quaternion: tuple[float, ...] = (1, 0, 0, 0)


@dataclass
class Thing:
    """An object of a scene: what moves as one by the scene's story, and has one number in pictures of ids.

    Attributes:
      name: figure_0, body_1, structure_2, ...: unique in its scene.
      kind: what it is, such as biped, rolling or house.
      bodies: MuJoCo's bodies of it, by number.
      geoms: MuJoCo's geoms of it that stand still in the world, by number: a windmill's post.
    """

    name: str
    kind: str
    bodies: range
    geoms: range


class World:
    """A random sun, sky and ground, to which shapes are added."""

    def __init__(self, rng: np.random.Generator):
        self.spec = spec = mujoco.MjSpec()
        spec.option.timestep = STEP
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.stat.extent, spec.stat.center = 4.0, [0, 0, 0.5]
        visual = spec.visual
        visual.quality.offsamples = 0  # pictures are oversampled instead
        visual.quality.numslices, visual.quality.numstacks, visual.quality.numquads = 16, 10, 2
        # The shadow map spans this many extents around the middle; what lies farther casts none.
        visual.quality.shadowsize, visual.map.shadowclip = 1024, 1.6
        visual.headlight.ambient, visual.headlight.diffuse = AMBIENT, [0.15] * 3
        visual.headlight.specular = [0.0] * 3
        self._ground_and_sky(rng, self._light(rng))
        self.things: list[Thing] = []
        self._counted = self._counts()

    def _counts(self) -> tuple[int, int]:
        """Bodies, and geoms of the world's own body; both are numbered as they are added."""
        return len(self.spec.bodies), len(self.spec.worldbody.geoms)

    def name_new(self, name: str, kind: str) -> None:
        """All that was added since the last call, or since the ground, is an object."""
        bodies, geoms = self._counts()
        first_body, first_geom = self._counted
        self.things.append(Thing(name, kind, range(first_body, bodies), range(first_geom, geoms)))
        self._counted = bodies, geoms

    def _light(self, rng: np.random.Generator) -> np.ndarray:
        """Adds the sun; returns how brightly it lights the ground, RGB [3]."""
        azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(40, 65))
        x, y, z = np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)
        diffuse = rng.uniform(0.5, 0.65) * np.array([1, 0.97, 0.92])
        self.spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            pos=[12 * x, 12 * y, 12 * z],
            dir=[-x, -y, -z],
            castshadow=True,
            diffuse=diffuse,
            specular=[0.1] * 3,
        )
        return z * diffuse

    def _ground_and_sky(self, rng: np.random.Generator, sunlight: np.ndarray) -> None:
        picture, far = textures.ground(rng, GROUND_METRES)
        self._paint("ground", picture, mujoco.mjtTexture.mjTEXTURE_2D)
        self.spec.worldbody.add_geom(
            name="ground",
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=[GROUND_METRES / 2, GROUND_METRES / 2, 1],
            quat=about("z", rng.uniform(0, np.pi)),
            material="ground",
            conaffinity=0,
        )
        # Where the ground ends, the sky box goes on in its colour.
        self._paint("sky", textures.sky(rng, far * (AMBIENT + sunlight)), mujoco.mjtTexture.mjTEXTURE_SKYBOX)

    def _paint(self, name: str, picture: np.ndarray, kind: mujoco.mjtTexture):
        height, width = picture.shape[:2]
        self.spec.add_texture(
            name=name, type=kind, width=width, height=height, nchannel=3
        ).data = picture.tobytes()
        material = self.spec.add_material(name=name, specular=0.2, shininess=0.3)
        roles = list(material.textures)
        roles[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
        material.textures = roles
        return material

    def add(self, body, shape: Shape, group: int, **options):
        """Adds the shape to a body as a geom; anything that moves by physics collides with it."""
        options = {"conaffinity": 0, "rgba": [*np.clip(shape.rgb, 0, 1), 1]} | options
        if shape.kind == "cone":
            options["meshname"] = self._cone(shape.size)
        else:
            options["size"] = [*shape.size, 0, 0][:3]
        return body.add_geom(
            type=_KINDS[shape.kind], pos=shape.position, quat=shape.quaternion, group=group, **options
        )

    def add_painted(self, body, shape: Shape, picture: np.ndarray, **options):
        """As `add`, a moving body with a cube texture."""
        name = f"painted{len(self.spec.materials)}"
        self._paint(name, picture, mujoco.mjtTexture.mjTEXTURE_CUBE)
        return self.add(
            body, shape, BODIES, material=name, rgba=[1] * 4, conaffinity=1, density=200, **options
        )

    def _cone(self, size: tuple[float, ...], sides: int = 12) -> str:
        name = f"cone{len(self.spec.meshes)}"
        angle = np.arange(sides) * 2 * np.pi / sides
        rim = np.stack([size[0] * np.cos(angle), size[1] * np.sin(angle), np.zeros(sides)], -1)
        vertices = np.concatenate([rim, [[0, 0, size[2]]]])
        faces = [(i, (i + 1) % sides, sides) for i in range(sides)]
        faces += [(0, i + 1, i) for i in range(1, sides - 1)]
        self.spec.add_mesh(name=name, uservert=vertices.ravel().tolist(), userface=np.ravel(faces).tolist())
        return name
