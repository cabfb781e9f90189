"""Pictures of textured planes in known places, for structure from motion: numpy alone, no OpenGL."""

import functools

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from stp_jax.controls import cameras

HEIGHT, WIDTH = 240, 320
LENS = cameras.default_intrinsics(50, aspect=WIDTH / HEIGHT)
# Textured rectangles: middle, direction of the width, of the height, half a side, pixels of texture a metre.
PLANES = [
    ((0, 0, 9), (1, 0, 0), (0, 1, 0), 14, 40),
    ((-1.2, 0.3, 4), (0.9, 0, 0.4), (0, 1, 0), 1.3, 90),
    ((1.3, -0.2, 3.6), (0.9, 0, -0.4), (0, 1, 0), 1.2, 90),
    ((0, 1.6, 5), (1, 0, 0), (0, 0, 1), 7, 60),
]


@functools.cache
def textures(size=384):
    rng = np.random.default_rng(0)
    made = []
    for _ in PLANES:
        noise = [(scale, rng.normal(size=(size, size))) for scale in (1.5, 3, 6, 12)]
        texture = sum(scale * gaussian_filter(values, scale, mode="wrap") for scale, values in noise)
        made.append(255 * (texture - texture.min()) / np.ptp(texture))
    return made


def render(c2w):
    """uint8 [240, 320, 3], grey: the nearest of the planes on each ray."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    right, down = ((x + 0.5) / WIDTH - LENS[2]) / LENS[0], ((y + 0.5) / HEIGHT - LENS[3]) / LENS[1]
    rays = np.stack([right, down, np.ones(x.shape)], -1) @ c2w[:3, :3].T
    nearest, picture = np.full(x.shape, np.inf), np.zeros(x.shape)
    for (middle, u, v, half, density), texture in zip(PLANES, textures(), strict=True):
        u, v = (np.array(axis) / np.linalg.norm(axis) for axis in (u, v))
        normal = np.cross(u, v)
        distance = (middle - c2w[:3, 3]) @ normal / (rays @ normal)
        offset = c2w[:3, 3] + distance[..., None] * rays - middle
        a, b = offset @ u, offset @ v
        seen = (distance > 0) & (distance < nearest) & (np.abs(a) < half) & (np.abs(b) < half)
        colour = map_coordinates(texture, [b[seen] * density, a[seen] * density], order=1, mode="grid-wrap")
        picture[seen], nearest[seen] = colour, distance[seen]
    return np.repeat(picture.round().astype(np.uint8)[..., None], 3, -1)


def film(c2w):
    return np.stack([render(pose) for pose in c2w])


def path(spec, frames=6):
    return cameras.preset(spec, frames, intrinsics=LENS).c2w.astype(np.float64)
