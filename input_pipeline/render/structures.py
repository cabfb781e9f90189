"""Things that stand: each a few large shapes, sized by the radius in metres of the ground that it takes."""

from __future__ import annotations

import numpy as np

from input_pipeline.render.textures import colour, palette
from input_pipeline.render.world import Shape

NEAR = ("block", "column", "bush", "rock", "cone")
FAR = ("house", "tree", "fir", "arch", "tower", "block", "wall")


def draw(rng: np.random.Generator, kind: str, r: float) -> list[Shape]:
    """The shapes of a structure that stands on the ground at the origin."""
    # Paler than the actors.
    first, second = (0.75 * rgb + 0.25 * rgb.mean() for rgb in palette(rng, 2))
    leaves = colour(rng.uniform(0.18, 0.42), rng.uniform(0.3, 0.55), rng.uniform(0.45, 0.8))
    bark = colour(0.08, 0.4, rng.uniform(0.4, 0.6))
    h = r * rng.uniform(0.8, 1.6)
    match kind:
        case "block":
            return [
                Shape("box", (0.7 * r, 0.6 * r, h / 2), first, (0, 0, h / 2)),
                Shape("box", (0.4 * r, 0.4 * r, 0.25 * r), second, (0, 0, h + 0.25 * r)),
            ]
        case "column":
            return [
                Shape("cylinder", (0.45 * r, h), first, (0, 0, h)),
                Shape("box", (0.65 * r, 0.65 * r, 0.15 * r), second, (0, 0, 2 * h + 0.15 * r)),
            ]
        case "bush":
            return [Shape("ellipsoid", (r, 0.8 * r, 0.8 * r), leaves, (0, 0, 0.5 * r))]
        case "rock":
            return [Shape("ellipsoid", (r, 0.7 * r, 0.6 * r), 0.4 * first + 0.35, (0, 0, 0.2 * r))]
        case "cone":
            return [Shape("cone", (0.6 * r, 0.6 * r, 1.8 * r), first)]
        case "house":
            return [
                Shape("box", (0.75 * r, 0.6 * r, 0.6 * r), first, (0, 0, 0.6 * r)),
                Shape("cone", (1.1 * r, 0.95 * r, 0.9 * r), second, (0, 0, 1.2 * r)),
                Shape("box", (0.18 * r, 0.62 * r, 0.35 * r), 0.6 * second, (0, 0, 0.35 * r)),
            ]
        case "tree":
            return [
                Shape("cylinder", (0.14 * r, 0.6 * r), bark, (0, 0, 0.6 * r)),
                Shape("ellipsoid", (0.8 * r, 0.8 * r, 0.75 * r), leaves, (0, 0, 1.7 * r)),
                Shape("ellipsoid", (0.5 * r, 0.5 * r, 0.45 * r), 0.85 * leaves, (0.5 * r, 0, 1.3 * r)),
            ]
        case "fir":
            return [
                Shape("cylinder", (0.12 * r, 0.25 * r), bark, (0, 0, 0.25 * r)),
                Shape("cone", (0.75 * r, 0.75 * r, 1.4 * r), 0.85 * leaves, (0, 0, 0.4 * r)),
                Shape("cone", (0.55 * r, 0.55 * r, 1.2 * r), leaves, (0, 0, 1.2 * r)),
            ]
        case "arch":
            posts = [
                Shape("box", (0.2 * r, 0.25 * r, 0.8 * r), first, (x * r, 0, 0.8 * r)) for x in (-0.75, 0.75)
            ]
            return [*posts, Shape("box", (r, 0.3 * r, 0.2 * r), second, (0, 0, 1.8 * r))]
        case "tower":
            return [
                Shape("cylinder", (0.5 * r, 1.2 * r), first, (0, 0, 1.2 * r)),
                Shape("cone", (0.7 * r, 0.7 * r, 0.9 * r), second, (0, 0, 2.4 * r)),
            ]
        case "wall":
            ends = [Shape("box", (0.2 * r, 0.2 * r, 0.6 * r), second, (x * r, 0, 0.6 * r)) for x in (-1, 1)]
            return [Shape("box", (r, 0.12 * r, 0.4 * r), first, (0, 0, 0.4 * r)), *ends]
    raise ValueError(kind)
