"""The cameras of a held-out scene's videos, estimated once for all measures that need them."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import numpy as np

from input_pipeline.render.grid import GridSettings
from input_pipeline.render.views import SceneViews, seed_of
from input_pipeline.shots import Scene
from stp_jax.errors import InputError
from stp_jax.evaluate.camera_estimation import CameraEstimator
from stp_jax.evaluate.cases import Case

FRAMES = 5  # of each video, evenly spaced, the first and the last among them: about a second of one CPU core


class VideoCameras(NamedTuple):
    """The estimated cameras of N frames of a video."""

    frames: np.ndarray  # int [N], their numbers in the video
    c2w: np.ndarray  # float64 [N, 4, 4], in the scene's world
    intrinsics: np.ndarray  # [N, 4], the lens, which is given


class SceneCameras:
    """Renders held-out scenes again from their seeds (extra `render`); holds one OpenGL context at a time."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._scene: Scene | None = None
        self._views: SceneViews | None = None
        self._estimator: CameraEstimator | None = None
        self._last: tuple[np.ndarray, VideoCameras] | None = None

    def close(self) -> None:
        """Closes the scene's renderer."""
        self._open.close()
        self._scene = self._views = self._estimator = self._last = None

    def enter(self, scene: Scene) -> SceneViews:
        """The renderer of a scene; that of the previous scene is closed.

        Raises:
          InputError: the extra `render` is missing; the scene is not the one that its seed makes.
        """
        if self._views is None or self._scene is not scene:
            self.close()
            cameras, times, height, width = scene.videos.shape[:4]
            if height != width:
                raise InputError(f"scene {scene.name} cannot be rendered again: its pictures are not square")
            settings = GridSettings(cameras=cameras, times=times, size=height)
            views = self._open.enter_context(SceneViews(seed_of(scene.name), settings))
            if views.c2w.shape != scene.c2w[:, 0].shape or not np.allclose(
                views.c2w, scene.c2w[:, 0], atol=1e-4
            ):
                self.close()
                raise InputError(f"scene {scene.name} is not what this version's renderer makes of its seed")
            self._scene, self._views, self._estimator = scene, views, CameraEstimator(views)
        return self._views

    def estimate(self, scene: Scene, case: Case, video: np.ndarray) -> VideoCameras:
        """The cameras of FRAMES frames of a video [F, H, W, 3]; of the case only the lens is used.

        The last result is kept, as several measures ask for the same video one after the other.

        Raises:
          InputError: as `enter`.
        """
        self.enter(scene)
        if self._last is None or self._last[0] is not video:
            assert self._estimator is not None
            chosen = np.unique(np.rint(np.linspace(0, len(video) - 1, FRAMES)).astype(int))
            lens = scene.intrinsics[case.target_camera[chosen], 0]
            found = self._estimator.estimate(video[chosen], lens)
            self._last = video, VideoCameras(chosen, found.c2w, lens)
        return self._last[1]
