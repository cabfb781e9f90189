"""Bodies that move by physics: thrown, falling, rolling, swinging from a gallows, or a windmill.

Each function adds one to a world at `place` [2] and returns the starting velocities of its joint, by name.
"""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np

from input_pipeline.render import textures
from input_pipeline.render.geometry import about, unit
from input_pipeline.render.world import BODIES, SCENERY, Shape, World

ROPE = textures.colour(0.08, 0.3, 0.35)
_WHITE = np.ones(3)

Velocity = dict[str, np.ndarray]


def _free(
    world: World,
    rng: np.random.Generator,
    shape: Shape,
    position: np.ndarray,
    velocity: np.ndarray,
    spin: np.ndarray,
) -> Velocity:
    """Args: velocity and spin (radians per second) in world axes."""
    name = f"joint{len(world.spec.joints)}"
    turned = unit(rng.normal(size=4))
    body = world.spec.worldbody.add_body(pos=position, quat=turned)
    body.add_freejoint(name=name)
    picture = textures.body(rng, textures.palette(rng, 3))
    # The second number of solref is the damping of contacts: the lower, the higher a body bounces.
    world.add_painted(body, shape, picture, friction=[0.8, 0.01, 0.002], solref=[0.02, rng.uniform(0.4, 0.9)])
    own_spin, inverse = np.zeros(3), np.zeros(4)
    mujoco.mju_negQuat(inverse, turned)
    mujoco.mju_rotVecQuat(own_spin, spin, inverse)  # a free joint spins about axes of its body
    return {name: np.concatenate([velocity, own_spin])}


def _shape(rng: np.random.Generator) -> Shape:
    radius = rng.uniform(0.17, 0.3)
    kind = str(rng.choice(["sphere", "box", "cylinder"]))
    if kind == "sphere":
        return Shape(kind, (radius,), _WHITE)
    if kind == "cylinder":
        return Shape(kind, (0.8 * radius, 0.8 * radius), _WHITE)
    return Shape(kind, tuple(radius * rng.uniform(0.6, 1.0, 3)), _WHITE)


def thrown(world: World, rng: np.random.Generator, place: np.ndarray, inwards: np.ndarray) -> Velocity:
    velocity = np.array([*(rng.uniform(0.6, 1.8) * inwards), rng.uniform(1.0, 3.5)])
    position = np.array([*place, rng.uniform(0.5, 1.4)])
    return _free(world, rng, _shape(rng), position, velocity, rng.normal(0, 4, 3))


def falling(world: World, rng: np.random.Generator, place: np.ndarray, inwards: np.ndarray) -> Velocity:
    velocity = np.array([*(rng.uniform(0, 0.5) * inwards), 0.0])
    position = np.array([*place, rng.uniform(1.2, 2.4)])
    return _free(world, rng, _shape(rng), position, velocity, rng.normal(0, 2.5, 3))


def rolling(world: World, rng: np.random.Generator, place: np.ndarray, inwards: np.ndarray) -> Velocity:
    radius, speed = rng.uniform(0.17, 0.3), rng.uniform(0.9, 2.0)
    velocity = np.array([*(speed * inwards), 0.0])
    spin = np.array([-inwards[1], inwards[0], 0]) * speed / radius
    return _free(world, rng, Shape("sphere", (radius,), _WHITE), np.array([*place, radius]), velocity, spin)


def swinging(world: World, rng: np.random.Generator, place: np.ndarray, inwards: np.ndarray) -> Velocity:
    radius, height = rng.uniform(0.17, 0.26), rng.uniform(1.6, 2.1)
    length = height - radius - rng.uniform(0.25, 0.6)
    rgb = textures.colour(rng.random(), rng.uniform(0.1, 0.4), rng.uniform(0.4, 0.7))
    across = np.array([-inwards[1], inwards[0]])
    foot = place + 0.75 * across
    for ends in ([*foot, 0, *foot, height], [*foot, height, *place, height]):
        world.spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CAPSULE,
            fromto=ends,
            size=[0.05, 0, 0],
            rgba=[*rgb, 1],
            conaffinity=0,
            group=SCENERY,
        )
    name = f"joint{len(world.spec.joints)}"
    # It starts out of plumb and with a push: it circles as well as swings.
    angle, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.9)
    turned = [np.cos(tilt / 2), np.sin(tilt / 2) * np.cos(angle), np.sin(tilt / 2) * np.sin(angle), 0]
    body = world.spec.worldbody.add_body(pos=[*place, height], quat=turned)
    body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_BALL, damping=0.01)
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=[0, 0, 0, 0, 0, -length],
        size=[0.025, 0, 0],
        rgba=[*ROPE, 1],
        contype=0,
        conaffinity=0,
    )
    bob = Shape(str(rng.choice(["sphere", "box"])), (radius,) * 3, _WHITE, (0, 0, -length))
    world.add_painted(body, bob, textures.body(rng, textures.palette(rng, 3)))
    return {name: np.append(rng.normal(0, 1.0, 2), 0.0)}


def spinning(world: World, rng: np.random.Generator, place: np.ndarray, inwards: np.ndarray) -> Velocity:
    """A windmill: a post and three sails, each of its own colour, that face the middle."""
    height, arm = rng.uniform(1.1, 1.6), rng.uniform(0.5, 0.7)
    post_rgb = textures.colour(rng.random(), rng.uniform(0.1, 0.4), rng.uniform(0.4, 0.7))
    post = Shape("cylinder", (0.06, height / 2), post_rgb, (*place, height / 2))
    world.add(world.spec.worldbody, post, SCENERY)
    name = f"joint{len(world.spec.joints)}"
    yaw = np.arctan2(inwards[1], inwards[0]) + rng.normal(0, 0.4)
    hub = place + 0.12 * np.array([np.cos(yaw), np.sin(yaw)])
    body = world.spec.worldbody.add_body(pos=[*hub, height], quat=about("z", yaw))
    body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=[1, 0, 0], damping=0.005)
    for turn, rgb in zip(np.arange(3) * 2 * np.pi / 3, textures.palette(rng, 3), strict=True):
        centre = (0, -0.55 * arm * np.sin(turn), 0.55 * arm * np.cos(turn))
        sail = Shape("box", (0.03, 0.16 * arm, 0.45 * arm), rgb, centre, about("x", turn))
        world.add(body, sail, BODIES, conaffinity=1, density=200)
    return {name: np.array([rng.choice([-1, 1]) * rng.uniform(1.5, 4)])}


# Each with its share, and the radius of ground in metres that it needs for itself.
KINDS: dict[Callable[..., Velocity], tuple[float, float]] = {
    thrown: (0.3, 0.4),
    falling: (0.2, 0.4),
    rolling: (0.25, 0.4),
    swinging: (0.15, 0.9),
    spinning: (0.1, 0.7),
}
TETHERED = (swinging, spinning)
