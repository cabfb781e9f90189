"""Articulated figures: a biped that walks, jogs or gestures, a bird and a quadruped.

A figure is a set of rigid parts whose poses are computed for all S times of a clip together: the body
follows its route, the feet keep their footprints, knees follow by inverse kinematics. The physics knows the
parts as moving obstacles, so a ball bounces off a leg. Body frame: x forward, y left, z up; metres, radians.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from input_pipeline.render.gait import Gait, Walk
from input_pipeline.render.geometry import (
    about,
    along_z,
    quaternion,
    two_bones,
    unit,
    wander,
    yaw_pitch_roll,
)
from input_pipeline.render.textures import colour, palette
from input_pipeline.render.world import Shape

SIDES = (1, -1)  # left, right
SHOE = np.array([0.13, 0.12, 0.14])


@dataclass
class Part:
    """Shapes that move as one."""

    shapes: list[Shape]
    position: np.ndarray  # [S, 3]
    rotation: np.ndarray  # [S, 3, 3]

    @property
    def quaternion(self) -> np.ndarray:
        return quaternion(self.rotation)


@dataclass
class Figure:
    height: float
    reach: float  # of the ground that it takes, from the chest
    chest: np.ndarray  # [S, 3]
    kind: str = ""  # biped, quadruped or bird
    parts: list[Part] = field(default_factory=list)
    landmarks: list[np.ndarray] = field(default_factory=list)  # [S, 3] each: its extremities

    def add(self, position: np.ndarray, rotation: np.ndarray, *shapes: Shape) -> None:
        """A part with poses [S, 3] and [S, 3, 3]."""
        self.parts.append(Part(list(shapes), position, np.broadcast_to(rotation, (len(position), 3, 3))))

    def bone(self, start: np.ndarray, end: np.ndarray, side: np.ndarray, radius: float, rgb, *more: Shape):
        """A capsule from `start` to `end`, [S, 3] each, a constant length apart; its z points to `start`."""
        length = float(np.linalg.norm(end[0] - start[0]))
        capsule = Shape("capsule", (radius, length / 2), rgb)
        self.add((start + end) / 2, along_z(start - end, side), capsule, *more)


def _at(position: np.ndarray, rotation: np.ndarray, *offset) -> np.ndarray:
    """World position [S, 3] of a point given in a frame."""
    return position + rotation @ np.array(offset, float)


def _raise(xy: np.ndarray, z) -> np.ndarray:
    """[S, 2] and a height, [S] or one, -> [S, 3]."""
    return np.concatenate([xy, np.broadcast_to(z, len(xy))[:, None]], -1)


@dataclass
class _Pose:
    """The motion of a biped's body; arms and head are added to it."""

    root: np.ndarray  # [S, 3] between the hips
    hips: np.ndarray  # [S, 3, 3]
    torso: np.ndarray  # [S, 3, 3]
    yaw: np.ndarray  # [S] of the torso
    feet: list[tuple[np.ndarray, np.ndarray]]  # ankle positions and rotations, left and right
    swing: np.ndarray  # [S] of the arms, -1..1
    gestures: tuple[bool, bool]  # left, right arm


def _walking(rng, seconds, place, h, leg, ankle, hip_y) -> _Pose:
    jog = rng.random() < 0.2
    if jog:
        gait = Gait(2.3 * leg, 0.42, 0.16 * h)
        speed, curvature = rng.uniform(1.6, 2.0), rng.choice([-1, 1]) * rng.uniform(0.6, 1.0)
    else:
        gait = Gait(rng.uniform(1.55, 1.8) * leg, 0.6, 0.07 * h)
        speed, curvature = rng.uniform(0.9, 1.35), rng.normal(0, 0.3)
    walk = Walk(rng, seconds, place, gait, speed, curvature)
    # The body is highest when a leg passes under it, in the middle of its standing.
    bob = 0.5 + 0.5 * np.cos(2 * walk.phase - 2 * np.pi * gait.duty)
    lean = (0.2 if jog else 0.06) + 0.03 * bob
    return _Pose(
        root=_raise(walk.xy, ankle + 0.985 * gait.hip_height(leg) + 0.03 * h * bob),
        hips=yaw_pitch_roll(walk.yaw),
        torso=yaw_pitch_roll(walk.yaw, lean, 0.04 * np.sin(walk.phase)),
        yaw=walk.yaw,
        feet=[walk.foot(0.5 * i, (0, 0.7 * side * hip_y), ankle) for i, side in enumerate(SIDES)],
        swing=np.cos(walk.phase - np.pi * gait.duty + np.pi / 2),
        gestures=(bool(rng.random() < 0.25), bool(rng.random() < 0.25)),
    )


def _gesturing(rng, seconds, place, h, leg, ankle, hip_y) -> _Pose:
    """Stands, turns, crouches, perhaps hops, and talks with its arms."""
    facing = rng.uniform(0, 2 * np.pi)
    sway = 0.04 * h * np.stack([wander(rng, seconds, 1.2), wander(rng, seconds, 1.2)], -1)
    crouch = np.clip(0.07 * h * (1 + wander(rng, seconds, 1.0)) * rng.uniform(0.3, 1.3), 0, 0.3 * h)
    hop = np.maximum(wander(rng, seconds, 0.9) - 0.3, 0) * rng.choice([0, 0.12]) * h
    twist = 0.45 * wander(rng, seconds, 1.4)
    apart = rng.uniform(1.0, 1.8) * hip_y
    stand = yaw_pitch_roll(facing)
    feet = [
        (_raise(np.tile(place + side * apart * stand[:2, 1], (len(seconds), 1)), ankle + hop), stand)
        for side in SIDES
    ]
    return _Pose(
        root=_raise(place + sway, ankle + 0.97 * leg - crouch + hop),
        hips=yaw_pitch_roll(facing + 0.4 * twist),
        torso=yaw_pitch_roll(
            facing + twist, 0.12 * wander(rng, seconds, 1.3), 0.08 * wander(rng, seconds, 1.3)
        ),
        yaw=facing + twist,
        feet=feet,
        swing=np.zeros(len(seconds)),
        gestures=(True, True),
    )


@dataclass
class _Build:
    """The size and the colours of a biped."""

    height: float
    bones: tuple[float, float]  # thigh and shank, metres
    ankle: float  # its height, metres
    hip_y: float  # of the left hip
    shirt: np.ndarray
    trousers: np.ndarray
    extra: np.ndarray
    skin: np.ndarray


def biped(rng: np.random.Generator, seconds: np.ndarray, place: np.ndarray) -> Figure:
    """A person."""
    h = rng.uniform(1.4, 1.85)
    shirt, trousers, extra = palette(rng, 3)
    skin = colour(rng.uniform(0.04, 0.1), rng.uniform(0.25, 0.55), rng.uniform(0.55, 0.95))
    build = _Build(h, (0.235 * h, 0.225 * h), 0.045 * h, 0.085 * h, shirt, trousers, extra, skin)
    move = _gesturing if rng.random() < 0.25 else _walking
    pose = move(rng, seconds, place, h, sum(build.bones), build.ankle, build.hip_y)
    figure = Figure(h, 0.35 * h, chest=_at(pose.root, pose.torso, 0, 0, 0.19 * h))
    _add_legs(figure, build, pose)
    _add_trunk(figure, build, pose, rng)
    _add_head(figure, build, pose, rng, seconds)
    _add_arms(figure, build, pose, rng, seconds)
    return figure


def _add_legs(figure: Figure, build: _Build, pose: _Pose) -> None:
    h, trousers = build.height, build.trousers
    for (goal, foot), side in zip(pose.feet, SIDES, strict=True):
        hip = _at(pose.root, pose.hips, 0, side * build.hip_y, 0)
        knee, end = two_bones(hip, goal, build.bones, pose.hips[:, :, 0])
        figure.bone(hip, knee, pose.hips[:, :, 1], 0.062 * h, trousers)
        figure.bone(knee, end, pose.hips[:, :, 1], 0.05 * h, trousers)
        figure.add(
            end, foot, Shape("box", (0.085 * h, 0.045 * h, 0.03 * h), SHOE, (0.035 * h, 0, -0.015 * h))
        )
        figure.landmarks.append(end)


def _add_trunk(figure: Figure, build: _Build, pose: _Pose, rng: np.random.Generator) -> None:
    h = build.height
    trunk = [
        Shape("ellipsoid", (0.085 * h, 0.125 * h, 0.19 * h), build.shirt),
        Shape("ellipsoid", (0.085 * h, 0.11 * h, 0.08 * h), build.trousers, (0, 0, -0.17 * h)),
    ]
    if rng.random() < 0.5:  # a rucksack
        trunk.append(Shape("box", (0.06 * h, 0.09 * h, 0.12 * h), build.extra, (-0.12 * h, 0, 0.02 * h)))
    figure.add(figure.chest, pose.torso, *trunk)


def _add_head(
    figure: Figure, build: _Build, pose: _Pose, rng: np.random.Generator, seconds: np.ndarray
) -> None:
    h, extra, skin = build.height, build.extra, build.skin
    neck = _at(pose.root, pose.torso, 0, 0, 0.36 * h)
    gaze = yaw_pitch_roll(pose.yaw + 0.25 * wander(rng, seconds, 2.0))
    r = 0.105 * h
    head = [
        Shape("sphere", (r,), skin, (0, 0, 0.8 * r)),
        Shape("box", (0.03 * h, 0.022 * h, 0.02 * h), 0.75 * skin, (r, 0, 0.7 * r)),  # nose
    ]
    match rng.choice(["hair", "cap", "pointed hat"]):
        case "hair":
            head.append(Shape("ellipsoid", (r, 1.06 * r, 0.95 * r), 0.5 * extra, (-0.2 * r, 0, 1.05 * r)))
        case "cap":
            head.append(Shape("ellipsoid", (1.08 * r, 1.08 * r, 0.6 * r), extra, (0, 0, 1.3 * r)))
            head.append(Shape("box", (0.5 * r, 0.6 * r, 0.1 * r), extra, (1.2 * r, 0, 1.25 * r)))
        case _:
            head.append(Shape("cone", (1.1 * r, 1.1 * r, 1.6 * r), extra, (0, 0, 1.3 * r)))
    figure.add(neck, gaze, *head)
    figure.landmarks += [figure.chest, _at(neck, gaze, 0, 0, 1.9 * r)]


def _add_arms(
    figure: Figure, build: _Build, pose: _Pose, rng: np.random.Generator, seconds: np.ndarray
) -> None:
    h, skin = build.height, build.skin
    for side, gesture in zip(SIDES, pose.gestures, strict=True):
        shoulder = _at(pose.root, pose.torso, 0, side * 0.145 * h, 0.31 * h)
        if gesture:
            lift = rng.uniform(0.8, 2.4) + 0.6 * wander(rng, seconds, 1.0)
            spread = side * (0.35 + 0.3 * wander(rng, seconds, 1.2))
            bend = np.maximum(0.7 + 0.5 * wander(rng, seconds, 0.9), 0)
        else:  # against the leg of the same side
            lift, bend = -side * 0.5 * pose.swing, 0.35 - side * 0.2 * pose.swing
            spread = np.full(len(seconds), side * 0.14)
        elbow = shoulder + 0.165 * h * _swung(pose.torso, lift, spread)
        hand = elbow + 0.15 * h * _swung(pose.torso, lift + bend, spread)
        figure.bone(shoulder, elbow, pose.torso[:, :, 1], 0.046 * h, build.shirt)
        figure.bone(
            elbow,
            hand,
            pose.torso[:, :, 1],
            0.04 * h,
            skin,
            Shape("sphere", (0.05 * h,), skin, (0, 0, -0.1 * h)),
        )


def _swung(torso: np.ndarray, lift: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Unit vectors [S, 3]: down the torso at zero, `lift` forward, `spread` to the left."""
    own = unit(np.stack([np.sin(lift), np.sin(spread), -np.cos(lift) * np.cos(spread)], -1))
    return (torso @ own[..., None])[..., 0]


def bird(rng: np.random.Generator, seconds: np.ndarray, place: np.ndarray) -> Figure:
    """A tall running bird: thin legs whose knees bend back, a long neck."""
    h = rng.uniform(1.3, 1.7)
    plumage, wing, skin = palette(rng, 3)
    beak = colour(rng.uniform(0.04, 0.14), 0.7, 0.9)
    bones = (0.27 * h, 0.27 * h)
    leg, ankle, hip_y = sum(bones), 0.03 * h, 0.075 * h
    gait = Gait(rng.uniform(1.5, 1.8) * leg, 0.56, 0.12 * h)
    walk = Walk(rng, seconds, place, gait, rng.uniform(0.9, 1.5), rng.normal(0, 0.4))
    nod = np.sin(2 * walk.phase)
    root = _raise(walk.xy, ankle + 0.97 * gait.hip_height(leg) + 0.012 * h * np.cos(2 * walk.phase))
    body = yaw_pitch_roll(walk.yaw, -0.1 + 0.04 * nod, 0.05 * np.sin(walk.phase))
    left = body[:, :, 1]
    figure = Figure(h, 0.4 * h, chest=_at(root, body, 0, 0, 0.1 * h))
    for i, side in enumerate(SIDES):
        goal, foot = walk.foot(0.5 * i, (0, 0.8 * side * hip_y), ankle)
        hip = _at(root, body, 0, side * hip_y, 0)
        knee, end = two_bones(hip, goal, bones, -body[:, :, 0])
        figure.bone(hip, knee, left, 0.05 * h, skin)
        figure.bone(knee, end, left, 0.035 * h, 0.8 * beak)
        toes = Shape("box", (0.09 * h, 0.05 * h, 0.018 * h), 0.8 * beak, (0.05 * h, 0, -0.01 * h))
        figure.add(end, foot, toes)
        figure.landmarks.append(end)
    wings = [
        Shape("ellipsoid", (0.17 * h, 0.03 * h, 0.1 * h), wing, (-0.03 * h, side * 0.145 * h, 0.02 * h))
        for side in SIDES
    ]
    figure.add(
        figure.chest,
        body,
        Shape("ellipsoid", (0.26 * h, 0.15 * h, 0.16 * h), plumage),
        Shape("cone", (0.1 * h, 0.1 * h, 0.25 * h), wing, (-0.18 * h, 0, 0.05 * h), about("y", -1.2)),  # tail
        *wings,
    )
    base = _at(figure.chest, body, 0.2 * h, 0, 0.06 * h)
    look = walk.yaw + 0.3 * wander(rng, seconds, 1.5)
    head = _at(base, yaw_pitch_roll(look, 0.35 + 0.12 * nod + 0.1 * wander(rng, seconds, 1.5)), 0, 0, 0.3 * h)
    figure.bone(base, head, left, 0.055 * h, plumage)
    figure.add(
        head,
        yaw_pitch_roll(look, 0.1),
        Shape("sphere", (0.09 * h,), plumage, (0, 0, 0.02 * h)),
        Shape("cone", (0.055 * h, 0.055 * h, 0.18 * h), beak, (0.06 * h, 0, 0.02 * h), about("y", np.pi / 2)),
        Shape(
            "cone", (0.03 * h, 0.05 * h, 0.12 * h), wing, (-0.02 * h, 0, 0.08 * h), about("y", -0.5)
        ),  # crest
    )
    figure.landmarks += [figure.chest, head]
    return figure


def quadruped(rng: np.random.Generator, seconds: np.ndarray, place: np.ndarray) -> Figure:
    """An animal between dog, pony and llama that walks or trots."""
    back = rng.uniform(0.75, 1.05)  # height of the hips
    length, neck, girth = (
        rng.uniform(0.85, 1.1) * back,
        rng.uniform(0.35, 0.75) * back,
        rng.uniform(0.18, 0.24) * back,
    )
    coat, stockings, cloth = palette(rng, 3)
    bones, ankle, hip_y = (0.5 * back, 0.5 * back), 0.06 * back, 0.6 * girth
    gait, speed, offsets = _gait(rng, back, sum(bones))
    walk = Walk(rng, seconds, place, gait, speed, rng.normal(0, 0.3))
    root = _raise(walk.xy, ankle + 0.96 * gait.hip_height(sum(bones)) + 0.015 * back * np.cos(2 * walk.phase))
    body = yaw_pitch_roll(walk.yaw, 0.03 * np.sin(2 * walk.phase), 0.03 * np.sin(walk.phase))
    left = body[:, :, 1]
    figure = Figure(1.1 * back + 0.8 * neck, 0.95 * back, chest=_at(root, body, 0, 0, 0.35 * girth))
    for (end, side), offset in offsets.items():
        x = end * 0.42 * length
        goal, _ = walk.foot(offset, (x, 0.8 * side * hip_y), ankle)
        hip = _at(root, body, x, side * hip_y, 0)
        knee, foot = two_bones(hip, goal, bones, -end * body[:, :, 0])
        figure.bone(hip, knee, left, 0.085 * back, coat)
        figure.bone(knee, foot, left, 0.06 * back, stockings)
        figure.landmarks.append(foot)
    trunk = [Shape("capsule", (girth, 0.45 * length), coat, (0, 0, 0), about("y", np.pi / 2))]
    if rng.random() < 0.6:
        trunk.append(
            Shape("cylinder", (1.06 * girth, 0.16 * length), cloth, (0, 0, 0.02), about("y", np.pi / 2))
        )
    figure.add(figure.chest, body, *trunk)

    base = _at(figure.chest, body, 0.5 * length, 0, 0.3 * girth)
    look = 0.25 * wander(rng, seconds, 1.6)
    tip = rng.uniform(0.4, 0.9) + 0.1 * np.sin(2 * walk.phase) + 0.1 * wander(rng, seconds, 1.5)
    head = _at(base, yaw_pitch_roll(walk.yaw + 0.5 * look, tip), 0, 0, neck)
    figure.bone(base, head, left, 0.1 * back, coat)
    turn = yaw_pitch_roll(walk.yaw + look, 0.35 + 0.15 * wander(rng, seconds, 1.5))
    figure.add(head, turn, *_snout_and_ears(back, coat, stockings))
    rump = _at(figure.chest, body, -0.5 * length - 0.3 * girth, 0, 0.5 * girth)
    wag = walk.yaw + 0.5 * np.sin(1.7 * walk.phase) + 0.2 * wander(rng, seconds, 0.8)
    tail = _at(rump, yaw_pitch_roll(wag, rng.uniform(-0.8, 0.6)), -0.45 * back, 0, 0)
    figure.bone(rump, tail, left, 0.05 * back, stockings)
    figure.landmarks += [figure.chest, head, rump]
    return figure


def _gait(rng: np.random.Generator, back: float, leg: float) -> tuple[Gait, float, dict]:
    """Gait and speed of an animal, and when in a cycle each leg stands, by (front or hind, side)."""
    if rng.random() < 0.5:  # trot: feet move in diagonal pairs
        gait, speed = Gait(1.3 * leg, 0.55, 0.12 * back), rng.uniform(1.1, 1.5)
        offsets = {(1, 1): 0.0, (1, -1): 0.5, (-1, 1): 0.5, (-1, -1): 0.0}
    else:  # walk: one after the other
        gait, speed = Gait(1.1 * leg, 0.68, 0.12 * back), rng.uniform(0.7, 1.1)
        offsets = {(-1, 1): 0.0, (1, 1): 0.25, (-1, -1): 0.5, (1, -1): 0.75}
    return gait, speed, offsets


def _snout_and_ears(back: float, coat: np.ndarray, stockings: np.ndarray) -> list[Shape]:
    """The shapes of an animal's head."""
    ears = [
        Shape(
            "cone",
            (0.045 * back, 0.045 * back, 0.18 * back),
            stockings,
            (-0.03 * back, y * 0.07 * back, 0.06 * back),
        )
        for y in SIDES
    ]
    return [
        Shape("ellipsoid", (0.16 * back, 0.11 * back, 0.12 * back), coat, (0.05 * back, 0, 0)),
        Shape(
            "ellipsoid", (0.14 * back, 0.075 * back, 0.07 * back), stockings, (0.17 * back, 0, -0.03 * back)
        ),
        *ears,
    ]


FAMILIES = {biped: 0.55, quadruped: 0.3, bird: 0.15}


def draw(rng: np.random.Generator, seconds: np.ndarray, place: np.ndarray) -> Figure:
    """A random figure over `seconds` [S] that is near `place` [2] half-way through."""
    families = list(FAMILIES)
    family = families[rng.choice(len(families), p=list(FAMILIES.values()))]
    figure = family(rng, seconds, place)
    figure.kind = family.__name__
    return figure
