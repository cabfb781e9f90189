"""Takes pictures of a scene that exists already, from any camera: everything in it follows from its seed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.render.grid import GridSettings
from input_pipeline.render.layers import objects
from input_pipeline.render.opengl import choose_backend
from stp_jax.errors import InputError


def seed_of(scene_name: str) -> int:
    """The seed of a scene that `input_pipeline.render` has written, by its name (scene_1000000).

    Raises:
      InputError: it has another name, so that it cannot be rendered again.
    """
    match = re.fullmatch(r"scene_(\d{6,})", scene_name)
    if not match:
        raise InputError(f"scene {scene_name!r} cannot be rendered again: its name holds no seed")
    return int(match[1])


def in_world(c2w: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Poses [..., 4, 4] relative to a camera, such as a source's first one, in the world of its c2w [4, 4].

    The inverse of `stp_jax.controls.cameras.relative_to`, in float64.
    """
    return np.asarray(reference, np.float64) @ np.asarray(c2w, np.float64)


class Views(NamedTuple):
    """What N cameras see.

    Attributes:
      pictures: uint8 [N, H, W, 3].
      depth: float32 [N, H, W], metres along the cameras' z axes, infinite in the sky.
      ids: uint8 [N, H, W], numbers of `SceneViews.objects`.
    """

    pictures: np.ndarray
    depth: np.ndarray
    ids: np.ndarray


class SceneViews:
    """The scene of a seed, ready to be drawn. A context manager, see `film.Film`.

    The world is the scene's own (z up, metres), as in its camera_data.json.

    Args:
      seed: of the scene.
      settings: of its grid. The number of times changes the scene, so it must be the data set's.

    Attributes:
      c2w, intrinsics: float64 [C, 4, 4] and [C, 4], of the rig's cameras, in order.
      times: number of grid times, half source frames apart.
      size: height and width of the pictures.
      objects: number, name, kind, and whether it moves, of each, as in camera_data.json.

    Raises:
      InputError: MuJoCo (extra `render`) or an OpenGL library is missing; says what to install.
    """

    def __init__(self, seed: int, settings: GridSettings | None = None):
        settings = settings or GridSettings()
        choose_backend()
        from input_pipeline.render import film, scene  # not before the choice of a backend

        drawn = scene.draw(seed, settings.cameras, settings.times)
        self.c2w, self.intrinsics = drawn.rig.c2w, drawn.rig.intrinsics
        self.times, self.size = settings.times, settings.size
        self.objects: list[dict[str, Any]] = objects(drawn)
        self._film = film.Film(drawn, settings.size, settings.size)

    def pictures(
        self, grid_times: np.ndarray, c2w: np.ndarray, intrinsics: np.ndarray, *, stride: int = 1
    ) -> np.ndarray:
        """uint8 [N, H, W, 3] of N cameras, each at its own time.

        Args:
          grid_times: int [N], 0 .. times - 1: animation times in half source frames.
          c2w, intrinsics: [N, 4, 4] in the scene's world, and [N, 4].
          stride: divides height and width; smaller pictures are drawn faster.
        """
        pictures = np.empty((len(c2w), self.size // stride, self.size // stride, 3), np.uint8)
        for time, which in _by_time(grid_times):
            pictures[which] = self._film.shoot(time, c2w[which], intrinsics[which], stride=stride)
        return pictures

    def all_times(self, c2w: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
        """uint8 [N, times, H, W, 3]: the whole motion, from each of N cameras."""
        pictures = [self._film.shoot(time, c2w, intrinsics) for time in range(self.times)]
        return np.stack(pictures, 1)

    def at(
        self,
        c2w: np.ndarray,
        intrinsics: np.ndarray,
        animation_time: float | Mapping[str, float],
        *,
        stride: int = 1,
    ) -> Views:
        """Cameras at one animation time, or at one for each object: pictures, depth and object numbers.

        A pixel's depth is that of its object: of the one that covers most of the pixel.

        Args:
          c2w, intrinsics: [N, 4, 4] in the scene's world, and [N, 4].
          animation_time: in source frames, of everything that moves, or by the object's name; objects without
            one show the time 0. Rounded to 1/20, the step of the simulation.
          stride: divides height and width.

        Raises:
          ValueError: no such object, or a time that is not from 0 to (times - 1) / 2.
        """
        if not isinstance(animation_time, Mapping):
            moving = (thing["name"] for thing in self.objects if thing["moves"])
            animation_time = dict.fromkeys(moving, float(animation_time))
        pictures = self._film.shoot(0, c2w, intrinsics, stride=stride, clocks=animation_time)
        inverse, ids = self._film.survey(0, c2w, intrinsics, stride=stride, clocks=animation_time)
        with np.errstate(divide="ignore"):
            return Views(pictures, 1 / inverse, ids)

    def geometry(
        self, grid_times: np.ndarray, c2w: np.ndarray, intrinsics: np.ndarray, *, stride: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Depth, float32 [N, H, W] in metres, infinite in the sky; and what moves, bool [N, H, W].

        Arguments as for `pictures`. What moves are figures and bodies of the physics, as against ground,
        scenery and sky; their shadows do not count.
        """
        depth = np.empty((len(c2w), self.size // stride, self.size // stride), np.float32)
        moving = np.empty(depth.shape, bool)
        for time, which in _by_time(grid_times):
            depth[which], moving[which] = self._film.measure(
                time, c2w[which], intrinsics[which], stride=stride
            )
        return depth, moving

    def __enter__(self) -> SceneViews:
        return self

    def __exit__(self, *error) -> None:
        self._film.__exit__(*error)


def _by_time(grid_times: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Each time with its indices in the list: cameras of one time are drawn side by side."""
    return [(int(time), np.flatnonzero(grid_times == time)) for time in np.unique(grid_times)]
