"""Articulated figures that walk or gesture: biped, bird and quadruped.

A figure is a set of rigid parts whose poses are computed for the whole clip at once. Feet are planted where the
body will be over them and stay there until they are lifted; knees follow by inverse kinematics. The physics
knows the parts as moving obstacles, so a ball bounces off a leg. Body frame: x forward, y left, z up, metres.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from input_pipeline.render.geometry import along_z, quaternion, two_bones, unit, wander, yaw_pitch_roll
from input_pipeline.render.textures import colour, palette

SIDES = (1, -1)  # left, right
DARK = np.array([0.1, 0.1, 0.12])


@dataclass
class Shape:
    """One MuJoCo geom in the frame of its part: `size` as MuJoCo's for the kind; or the mesh `cone`."""

    kind: str
    size: tuple[float, ...]
    rgb: np.ndarray
    position: tuple[float, float, float] = (0, 0, 0)
    quaternion: tuple[float, float, float, float] = (1, 0, 0, 0)


@dataclass
class Part:
    """Shapes that move as one: a pose for each of the S moments of the clip."""

    shapes: list[Shape]
    position: np.ndarray  # [S, 3]
    rotation: np.ndarray  # [S, 3, 3]

    @property
    def quaternion(self) -> np.ndarray:
        return quaternion(self.rotation)


@dataclass
class Figure:
    height: float
    parts: list[Part] = field(default_factory=list)
    chest: np.ndarray | None = None  # [S, 3]
    landmarks: list[np.ndarray] = field(default_factory=list)  # [S, 3] each: top, chest, feet, ends

    def rigid(self, position: np.ndarray, rotation: np.ndarray, *shapes: Shape) -> None:
        self.parts.append(Part(list(shapes), position, np.broadcast_to(rotation, (len(position), 3, 3))))

    def bone(self, start: np.ndarray, end: np.ndarray, side: np.ndarray, radius: float, rgb, *extra: Shape):
        """A capsule from `start` to `end`, [S, 3] each, a constant length apart."""
        length = float(np.linalg.norm(end[0] - start[0]))
        capsule = Shape("capsule", (radius, length / 2), rgb)
        self.rigid((start + end) / 2, along_z(start - end, side), capsule, *extra)


class Route:
    """A winding route over the ground, by distance walked; the body's way over the clip's `seconds` [S]."""

    def __init__(
        self, rng: np.random.Generator, seconds: np.ndarray, place: np.ndarray, speed: float, turn: float
    ):
        """The route passes `place` [2] half-way; `turn` is its mean curvature in radians per metre."""
        pace = speed * np.maximum(1 + 0.2 * wander(rng, seconds, 2.0), 0.5)
        step = np.diff(seconds, prepend=seconds[0])
        self.walked = np.cumsum(pace * step)  # [S]
        self._grid = np.arange(-4.0, self.walked[-1] + 4.0, 0.02)
        heading = rng.uniform(0, 2 * np.pi) + turn * self._grid + 0.25 * wander(rng, self._grid, 3.0)
        xy = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], -1) * 0.02, 0)
        middle = np.searchsorted(self._grid, self.walked[len(seconds) // 2])
        self._heading, self._xy = heading, xy - xy[middle] + place

    def at(self, walked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(xy [..., 2], heading [...]) after a distance in metres."""
        xy = np.stack([np.interp(walked, self._grid, self._xy[:, i]) for i in range(2)], -1)
        return xy, np.interp(walked, self._grid, self._heading)


@dataclass
class Gait:
    stride: float  # metres in which each foot steps once
    duty: float  # fraction of the cycle that a foot stands
    lift: float  # metres

    def foot(self, route: Route, offset: float, hip: tuple[float, float], ankle: float):
        """Poses (position [S, 3], rotation [S, 3, 3]) of the ankle of one foot.

        Args:
          offset: of its cycle, 0..1.
          hip: x and y of its hip in the body's frame.
          ankle: height over the ground in metres.
        """
        cycle = route.walked / self.stride + offset
        index = np.floor(cycle)
        swing = np.clip((cycle - index - self.duty) / (1 - self.duty), 0, 1)

        def footprint(index):
            # It stands half its standing time ahead of the body, half behind.
            xy, heading = route.at((index + self.duty / 2 - offset) * self.stride)
            c, s = np.cos(heading), np.sin(heading)
            side = np.stack([c * hip[0] - s * hip[1], s * hip[0] + c * hip[1]], -1)
            return xy + side, heading

        (here, yaw), (there, next_yaw) = footprint(index), footprint(index + 1)
        eased = swing**2 * (3 - 2 * swing)
        xy = here + eased[:, None] * (there - here)
        z = ankle + self.lift * np.sin(np.pi * swing)
        pitch = 0.6 * np.sin(2 * np.pi * swing) * (swing > 0)
        return np.concatenate([xy, z[:, None]], -1), yaw_pitch_roll(yaw + eased * (next_yaw - yaw), pitch)


def _local(position: np.ndarray, rotation: np.ndarray, offset) -> np.ndarray:
    return position + rotation @ np.asarray(offset, float)


def _root(xy: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.concatenate([xy, np.broadcast_to(z, xy.shape[:1])[:, None]], -1)


def biped(rng: np.random.Generator, seconds: np.ndarray, place: np.ndarray) -> Figure:
    """A person who walks, jogs in a curve, or stands and gestures."""
    h = rng.uniform(1.4, 1.85)
    shirt, trousers, extra = palette(rng, 3)
    skin = colour(rng.uniform(0.04, 0.1), rng.uniform(0.25, 0.6), rng.uniform(0.5, 0.95))
    bones = (0.235 * h, 0.225 * h)
    leg, ankle, hip_y = sum(bones), 0.045 * h, 0.085 * h
    figure = Figure(h)

    action = rng.choice(["walk", "jog", "gesture"], p=[0.6, 0.15, 0.25])
    if action == "gesture":
        xy, yaw = (
            place + 0.04 * h * np.stack([wander(rng, seconds, 1.2) for _ in range(2)], -1),
            rng.uniform(0, 6.28),
        )
        crouch = 0.07 * h * (1 + wander(rng, seconds, 1.0)) * rng.uniform(0.3, 1.3)
        root = _root(xy, ankle + 0.97 * leg - np.clip(crouch, 0, 0.3 * h))
        turn = yaw + 0.45 * wander(rng, seconds, 1.4)
        stance = rng.uniform(1.0, 1.8) * hip_y
        hop = np.maximum(wander(rng, seconds, 0.9) - 0.3, 0) * rng.choice([0, 0.12]) * h
        root[:, 2] += hop
        feet = []
        for side in SIDES:
            spot = place + yaw_pitch_roll(yaw)[:2, 1] * side * stance
            feet.append((_root(np.tile(spot, (len(seconds), 1)), ankle + hop), yaw_pitch_roll(yaw)))
        lean, roll = 0.12 * wander(rng, seconds, 1.3), 0.08 * wander(rng, seconds, 1.3)
        swing, gestures = np.zeros(len(seconds)), (True, True)
        forward = yaw_pitch_roll(np.full(len(seconds), yaw))[:, :, 0]
    else:
        jog = action == "jog"
        speed = rng.uniform(1.6, 2.0) if jog else rng.uniform(0.9, 1.35)
        turn_rate = rng.choice([-1, 1]) * rng.uniform(0.6, 1.0) if jog else rng.normal(0, 0.3)
        route = Route(rng, seconds, place, speed, turn_rate)
        gait = Gait(2.3 * leg, 0.42, 0.16 * h) if jog else Gait(rng.uniform(1.55, 1.8) * leg, 0.6, 0.07 * h)
        phase = rng.random()
        xy, turn = route.at(route.walked)
        cycle = 2 * np.pi * (route.walked / gait.stride + phase)
        reach = np.sqrt(leg**2 - (0.5 * gait.duty * gait.stride) ** 2)
        root = _root(xy, ankle + reach + 0.015 * h * (1 - np.cos(2 * cycle - 2 * np.pi * gait.duty)))
        feet = [
            gait.foot(route, phase + 0.5 * i, (0, 0.7 * side * hip_y), ankle) for i, side in enumerate(SIDES)
        ]
        lean, roll = (0.2 if jog else 0.06) + 0.02 * np.sin(2 * cycle), 0.04 * np.sin(cycle)
        swing, gestures = np.sin(cycle), tuple(rng.random(2) < 0.25)
        forward = yaw_pitch_roll(turn)[:, :, 0]

    hips = yaw_pitch_roll(turn if action != "gesture" else yaw + 0.4 * (turn - yaw))
    torso = yaw_pitch_roll(turn, lean, roll)
    for (goal, foot), side in zip(feet, SIDES, strict=True):
        hip = _local(root, hips, (0, side * hip_y, 0))
        knee, end = two_bones(hip, goal, bones, forward)
        figure.bone(hip, knee, hips[:, :, 1], 0.062 * h, trousers)
        figure.bone(knee, end, hips[:, :, 1], 0.05 * h, trousers)
        shoe = Shape("box", (0.085 * h, 0.045 * h, 0.03 * h), DARK, (0.035 * h, 0, -0.015 * h))
        figure.rigid(end, foot, shoe)
        figure.landmarks.append(end)

    chest = _local(root, torso, (0, 0, 0.19 * h))
    shapes = [
        Shape("ellipsoid", (0.085 * h, 0.125 * h, 0.19 * h), shirt),
        Shape("ellipsoid", (0.085 * h, 0.11 * h, 0.08 * h), trousers, (0, 0, -0.17 * h)),
    ]
    if rng.random() < 0.5:
        shapes.append(Shape("box", (0.06 * h, 0.09 * h, 0.12 * h), extra, (-0.12 * h, 0, 0.02 * h)))
    figure.rigid(chest, torso, *shapes)

    neck = _local(root, torso, (0, 0, 0.36 * h))
    gaze = yaw_pitch_roll(turn + 0.25 * wander(rng, seconds, 2.0), lean * 0.5)
    head = 0.105 * h
    shapes = [
        Shape("sphere", (head,), skin, (0, 0, 0.8 * head)),
        Shape("box", (0.03 * h, 0.022 * h, 0.02 * h), skin * 0.75, (head, 0, 0.7 * head)),
    ]
    hat = rng.choice(["hair", "cap", "cone"])
    if hat == "hair":
        shapes.append(
            Shape("ellipsoid", (head, 1.06 * head, 0.95 * head), extra * 0.5, (-0.2 * head, 0, 1.05 * head))
        )
    elif hat == "cap":
        shapes.append(Shape("ellipsoid", (1.08 * head, 1.08 * head, 0.6 * head), extra, (0, 0, 1.3 * head)))
        shapes.append(Shape("box", (0.5 * head, 0.6 * head, 0.1 * head), extra, (1.2 * head, 0, 1.25 * head)))
    else:
        shapes.append(Shape("cone", (1.1 * head, 1.1 * head, 1.6 * head), extra, (0, 0, 1.3 * head)))
    figure.rigid(neck, gaze, *shapes)
    figure.landmarks += [chest, _local(neck, gaze, (0, 0, 1.9 * head))]
    figure.chest = chest

    for side, gesture in zip(SIDES, gestures, strict=True):
        shoulder = _local(root, torso, (0, side * 0.145 * h, 0.31 * h))
        if gesture:  # raised and waved about
            lift = rng.uniform(0.8, 2.4) + 0.6 * wander(rng, seconds, 1.0)
            spread = side * (0.35 + 0.3 * wander(rng, seconds, 1.2))
            bend = 0.7 + 0.5 * wander(rng, seconds, 0.9)
        else:  # against the leg of the same side
            lift, spread, bend = (
                -side * 0.5 * swing,
                np.full(len(seconds), side * 0.14),
                0.35 - side * 0.2 * swing,
            )
        upper, lower = (
            (torso @ _swing(a, spread)[..., None])[..., 0] for a in (lift, lift + np.maximum(bend, 0))
        )
        elbow = shoulder + 0.165 * h * upper
        hand = elbow + 0.15 * h * lower
        figure.bone(shoulder, elbow, torso[:, :, 1], 0.046 * h, shirt)
        palm = Shape("sphere", (0.05 * h,), skin, (0, 0, -0.1 * h))
        figure.bone(elbow, hand, torso[:, :, 1], 0.04 * h, skin, palm)
    return figure


def _swing(lift: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Unit vectors [S, 3]: straight down at zero, `lift` radians forward, `spread` to the left."""
    return unit(np.stack([np.sin(lift), np.sin(spread), -np.cos(lift) * np.cos(spread)], -1))


def bird(rng: np.random.Generator, seconds: np.ndarray, place: np.ndarray) -> Figure:
    """A tall running bird: two thin legs with knees bent back, long neck."""
    h = rng.uniform(1.3, 1.7)
    plumage, wing, skin = palette(rng, 3)
    beak = colour(rng.uniform(0.04, 0.14), 0.8, 0.9)
    bones = (0.27 * h, 0.27 * h)
    leg, ankle, hip_y = sum(bones), 0.03 * h, 0.075 * h
    figure = Figure(h)
    route = Route(rng, seconds, place, rng.uniform(0.9, 1.5), rng.normal(0, 0.4))
    gait = Gait(rng.uniform(1.5, 1.8) * leg, 0.56, 0.12 * h)
    phase = rng.random()
    cycle = 2 * np.pi * (route.walked / gait.stride + phase)
    xy, yaw = route.at(route.walked)
    reach = 0.97 * np.sqrt(leg**2 - (0.5 * gait.duty * gait.stride) ** 2)
    root = _root(xy, ankle + reach + 0.012 * h * np.cos(2 * cycle))
    body = yaw_pitch_roll(yaw, -0.1 + 0.04 * np.sin(2 * cycle), 0.05 * np.sin(cycle))
    left = body[:, :, 1]
    for i, side in enumerate(SIDES):
        goal, foot = gait.foot(route, phase + 0.5 * i, (0, 0.8 * side * hip_y), ankle)
        hip = _local(root, body, (0, side * hip_y, 0))
        knee, end = two_bones(hip, goal, bones, -body[:, :, 0])
        figure.bone(hip, knee, left, 0.045 * h, skin)
        figure.bone(knee, end, left, 0.03 * h, beak * 0.8)
        figure.rigid(
            end, foot, Shape("box", (0.09 * h, 0.05 * h, 0.018 * h), beak * 0.8, (0.05 * h, 0, -0.01 * h))
        )
        figure.landmarks.append(end)
    chest = _local(root, body, (0, 0, 0.1 * h))
    shapes = [
        Shape("ellipsoid", (0.26 * h, 0.15 * h, 0.16 * h), plumage),
        Shape("cone", (0.1 * h, 0.1 * h, 0.25 * h), wing, (-0.18 * h, 0, 0.05 * h), _about_y(-1.2)),
    ]
    shapes += [
        Shape("ellipsoid", (0.17 * h, 0.03 * h, 0.1 * h), wing, (-0.03 * h, side * 0.145 * h, 0.02 * h))
        for side in SIDES
    ]
    figure.rigid(chest, body, *shapes)
    base = _local(chest, body, (0.2 * h, 0, 0.06 * h))
    nod = 0.35 + 0.12 * np.sin(2 * cycle) + 0.1 * wander(rng, seconds, 1.5)
    neck = yaw_pitch_roll(yaw + 0.3 * wander(rng, seconds, 1.5), nod)
    head = _local(base, neck, (0, 0, 0.3 * h))
    figure.bone(base, head, left, 0.05 * h, plumage)
    figure.rigid(
        head,
        yaw_pitch_roll(yaw + 0.3 * wander(rng, seconds, 1.5), 0.1),
        Shape("sphere", (0.085 * h,), plumage, (0, 0, 0.02 * h)),
        Shape("cone", (0.05 * h, 0.05 * h, 0.17 * h), beak, (0.06 * h, 0, 0.02 * h), _about_y(np.pi / 2)),
        Shape("cone", (0.03 * h, 0.05 * h, 0.12 * h), wing, (-0.02 * h, 0, 0.08 * h), _about_y(-0.5)),
    )
    figure.chest = chest
    figure.landmarks += [chest, head]
    return figure


def _about_y(angle: float) -> tuple[float, float, float, float]:
    """Quaternion that tips z towards x."""
    return (float(np.cos(angle / 2)), 0.0, float(np.sin(angle / 2)), 0.0)


def quadruped(rng: np.random.Generator, seconds: np.ndarray, place: np.ndarray) -> Figure:
    """A four-legged animal that walks or trots: dog, pony or giraffe-like by its proportions."""
    back = rng.uniform(0.75, 1.05)  # height of the hips
    length, neck_length = rng.uniform(0.85, 1.1) * back, rng.uniform(0.35, 0.75) * back
    girth = rng.uniform(0.17, 0.23) * back
    coat, second, third = palette(rng, 3)
    legs_rgb = second if rng.random() < 0.5 else coat * 0.8
    bones, ankle, hip_y = (0.5 * back, 0.5 * back), 0.06 * back, 0.6 * girth
    leg = sum(bones)
    figure = Figure(back * 1.1 + 0.8 * neck_length)
    trot = rng.random() < 0.5
    route = Route(
        rng, seconds, place, rng.uniform(1.1, 1.6) if trot else rng.uniform(0.7, 1.1), rng.normal(0, 0.3)
    )
    gait = Gait((1.3 if trot else 1.1) * leg, 0.55 if trot else 0.68, 0.12 * back)
    offsets = {(1, 1): 0, (1, -1): 0.5, (-1, 1): 0.5, (-1, -1): 0} if trot else {
        (-1, 1): 0, (1, 1): 0.25, (-1, -1): 0.5, (1, -1): 0.75}  # fmt: skip
    phase = rng.random()
    cycle = 2 * np.pi * (route.walked / gait.stride + phase)
    xy, yaw = route.at(route.walked)
    reach = 0.96 * np.sqrt(leg**2 - (0.5 * gait.duty * gait.stride) ** 2)
    root = _root(xy, ankle + reach + 0.015 * back * np.cos(2 * cycle))
    body = yaw_pitch_roll(yaw, 0.03 * np.sin(2 * cycle), 0.03 * np.sin(cycle))
    left = body[:, :, 1]
    for (end, side), offset in offsets.items():
        x = end * 0.42 * length
        goal, _ = gait.foot(route, phase + offset, (x, 0.8 * side * hip_y), ankle)
        hip = _local(root, body, (x, side * hip_y, 0))
        knee, foot = two_bones(hip, goal, bones, -end * body[:, :, 0])
        figure.bone(hip, knee, left, 0.085 * back, coat)
        figure.bone(knee, foot, left, 0.06 * back, legs_rgb)
        figure.landmarks.append(foot)
    chest = _local(root, body, (0, 0, 0.35 * girth))
    trunk = Shape("capsule", (girth, 0.45 * length), coat, (0, 0, 0), _about_y(np.pi / 2))
    shapes = [trunk]
    if rng.random() < 0.6:  # a saddle cloth
        shapes.append(
            Shape("cylinder", (1.06 * girth, 0.16 * length), third, (0, 0, 0.02), _about_y(np.pi / 2))
        )
    figure.rigid(chest, body, *shapes)

    base = _local(chest, body, (0.5 * length, 0, 0.3 * girth))
    look = 0.25 * wander(rng, seconds, 1.6)
    tip = rng.uniform(0.4, 0.9) + 0.1 * np.sin(2 * cycle) + 0.1 * wander(rng, seconds, 1.5)
    head = _local(base, yaw_pitch_roll(yaw + 0.5 * look, tip), (0, 0, neck_length))
    figure.bone(base, head, left, 0.1 * back, coat)
    muzzle = Shape(
        "ellipsoid", (0.14 * back, 0.075 * back, 0.07 * back), legs_rgb, (0.17 * back, 0, -0.03 * back)
    )
    shapes = [Shape("ellipsoid", (0.16 * back, 0.11 * back, 0.12 * back), coat, (0.05 * back, 0, 0)), muzzle]
    shapes += [
        Shape(
            "cone",
            (0.04 * back, 0.04 * back, 0.17 * back),
            legs_rgb,
            (-0.03 * back, side * 0.07 * back, 0.06 * back),
        )
        for side in SIDES
    ]
    figure.rigid(head, yaw_pitch_roll(yaw + look, 0.35 + 0.15 * wander(rng, seconds, 1.5)), *shapes)
    rump = _local(chest, body, (-0.5 * length - 0.3 * girth, 0, 0.5 * girth))
    wag = yaw_pitch_roll(
        yaw + 0.5 * np.sin(1.7 * cycle) + 0.2 * wander(rng, seconds, 0.8), rng.uniform(-0.8, 0.6)
    )
    tail = _local(rump, wag, (-0.45 * back, 0, 0))
    figure.bone(rump, tail, left, 0.045 * back, legs_rgb)
    figure.chest = chest
    figure.landmarks += [chest, head, rump]
    return figure


FAMILIES = {biped: 0.55, quadruped: 0.3, bird: 0.15}


def draw(rng: np.random.Generator, seconds: np.ndarray, place: np.ndarray) -> Figure:
    """A random figure over `seconds` [S] that is near `place` [2] half-way through."""
    families = list(FAMILIES)
    return families[rng.choice(len(families), p=list(FAMILIES.values()))](rng, seconds, place)
