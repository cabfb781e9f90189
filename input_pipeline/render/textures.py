"""Colours and smooth textures: few, large and clear shapes, which a small model can learn."""

from __future__ import annotations

import colorsys

import numpy as np

# A cube texture is six square pictures, one below the other, in OpenGL's order (+x -x +y -y +z -z).
CUBE_SIZE = 64
GROUND_SIZE = 1024


def colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """float RGB [3] in 0..1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """RGB [count, 3]: moderate saturation, hues well apart, light and dark in turn."""
    hue, step = rng.random(), rng.uniform(0.28, 0.42)
    dark_first = rng.integers(2)
    colours = []
    for i in range(count):
        value = rng.uniform(0.8, 0.95) if (i + dark_first) % 2 else rng.uniform(0.45, 0.65)
        colours.append(colour(hue + i * step + rng.normal(0, 0.03), rng.uniform(0.35, 0.6), value))
    return np.array(colours)


def smooth_noise(rng: np.random.Generator, size: int, waves: float) -> np.ndarray:
    """Seamless noise [size, size] of unit deviation, with about `waves` waves across the picture."""
    fx, fy = np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size)[None]
    amplitude = np.exp(-(fx**2 + fy**2) / (2 * (0.6 * waves) ** 2))
    amplitude[0, 0] = 0
    spectrum = amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape))
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return (noise / noise.std()).astype(np.float32)


def _step(x: np.ndarray, softness: float) -> np.ndarray:
    """0 below zero, 1 above, with a soft edge: pictures stay free of jagged texture edges."""
    return np.clip(x / softness + 0.5, 0, 1)[..., None]


def ground(rng: np.random.Generator, metres: float) -> tuple[np.ndarray, np.ndarray]:
    """A coarse pattern that fades into one colour far off, where it would be finer than a picture's pixels.

    Args:
      metres: the ground's side, over which the texture is spread.

    Returns:
      uint8 [GROUND_SIZE, GROUND_SIZE, 3], and the colour at its edge [3].
    """
    hue, saturation = rng.random(), rng.uniform(0.12, 0.35)
    light = rng.uniform(0.65, 0.9)
    first = colour(hue, saturation, light)
    second = colour(
        hue + rng.normal(0, 0.08), saturation * rng.uniform(0.6, 1.3), light - rng.uniform(0.2, 0.35)
    )
    axis = (((np.arange(GROUND_SIZE) + 0.5) / GROUND_SIZE - 0.5) * metres).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    kind = rng.choice(["checks", "tiles", "stripes", "blotches"], p=[0.4, 0.15, 0.15, 0.3])
    if kind in ("checks", "tiles"):
        waves = [np.sin(np.pi * v / rng.uniform(0.8, 1.4) + rng.uniform(0, 6)) for v in (x, y)]
        mask = _step(waves[0] * waves[1], 0.15) if kind == "checks" else _step(np.maximum(*waves) + 0.3, 0.15)
    elif kind == "stripes":
        bend = 0.8 * smooth_noise(rng, GROUND_SIZE, metres / 6)
        mask = _step(np.sin(np.pi * x / rng.uniform(0.7, 1.1) + bend), 0.2)
    else:
        mask = _step(smooth_noise(rng, GROUND_SIZE, metres / rng.uniform(2.0, 3.0)), 0.25)
    picture = _mix(second, first, mask)
    # Patches of a third colour make places on a regular pattern distinct.
    third = colour(hue + rng.uniform(0.25, 0.6), saturation + 0.15, light - 0.1)
    picture = _mix(picture, third, 0.7 * _step(smooth_noise(rng, GROUND_SIZE, metres / 5) - 1.0, 0.3))
    far = (first + second) / 2
    fade = np.clip((np.hypot(x, y) - 6) / 8, 0, 1)[..., None]
    return _uint8(_mix(picture, far, fade)), far


def _cube_directions(size: int) -> np.ndarray:
    """Unit vectors [6, size, size, 3] of a cube texture's pixels."""
    a, b = np.meshgrid((np.arange(size) + 0.5) / size * 2 - 1, 1 - (np.arange(size) + 0.5) / size * 2)
    one = np.ones_like(a)
    faces = [(one, b, -a), (-one, b, a), (a, one, -b), (a, -one, b), (a, b, one), (-a, b, -one)]
    d = np.stack([np.stack(face, -1) for face in faces])
    return d / np.linalg.norm(d, axis=-1, keepdims=True)


def body(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    """A cube texture `[6 * CUBE_SIZE, CUBE_SIZE, 3]` of 2-3 large patches, so that rolling shows."""
    d = _cube_directions(CUBE_SIZE)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    x, y, z = (d @ axes[i] for i in range(3))
    kind = rng.choice(["halves", "band", "wedges", "caps"])
    if kind == "halves":
        picture = _mix(colours[0], colours[1], _step(x, 0.08))
    elif kind == "band":
        picture = _mix(colours[0], colours[1], _step(0.35 - np.abs(x), 0.08))
    elif kind == "wedges":
        picture = _mix(colours[0], colours[1], _step(np.sin(2 * np.arctan2(y, z)), 0.2))
    else:
        picture = _mix(colours[0], colours[1], _step(np.abs(x) - 0.6, 0.08))
        picture = _mix(picture, colours[2], _step(x - 0.6, 0.08))
    return _uint8(picture.reshape(-1, CUBE_SIZE, 3))


def sky(rng: np.random.Generator, ground_colour: np.ndarray) -> np.ndarray:
    """A sky box `[6 * 2 * CUBE_SIZE, 2 * CUBE_SIZE, 3]`: a gradient, far hills; y is up in its frame."""
    if rng.random() < 0.6:
        hue = rng.uniform(0.53, 0.64)
        top, horizon = colour(hue, rng.uniform(0.45, 0.7), rng.uniform(0.65, 0.95)), colour(hue, 0.12, 0.95)
    else:
        hue = rng.random()
        top, horizon = (
            colour(hue, rng.uniform(0.2, 0.5), rng.uniform(0.5, 0.85)),
            colour(hue + 0.1, 0.2, 0.95),
        )
    hills = colour(rng.random(), rng.uniform(0.15, 0.4), rng.uniform(0.35, 0.7))
    d = _cube_directions(2 * CUBE_SIZE)
    elevation, azimuth = d[..., 1], np.arctan2(d[..., 0], d[..., 2])
    picture = horizon + (top - horizon) * np.clip(elevation, 0, 1)[..., None] ** 0.6
    height = 0.07 + sum(
        rng.uniform(0.02, 0.06) * np.sin(k * azimuth + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5, 7)
    )
    picture = _mix(picture, hills, _step(height - elevation, 0.03))
    picture = np.where(elevation[..., None] < 0, ground_colour, picture)
    return _uint8(picture.reshape(-1, 2 * CUBE_SIZE, 3))


def _mix(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`first` where the mask is 0, `second` where it is 1."""
    first, second = first.astype(np.float32), second.astype(np.float32)
    return first + (second - first) * mask.astype(np.float32)


def _uint8(picture: np.ndarray) -> np.ndarray:
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
