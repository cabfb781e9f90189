"""Takes the pictures of a scene: MuJoCo's OpenGL renderer, without a window."""

from __future__ import annotations

from types import TracebackType

import mujoco
import numpy as np

from input_pipeline.render.scene import Scene
from input_pipeline.render.world import SAMPLES

NEAR, FAR = 0.05, 80.0


class Film:
    """An OpenGL context for one scene; pictures of all cameras of a moment come from one strip."""

    def __init__(self, scene: Scene, width: int, height: int):
        self._scene, self._width, self._height = scene, width, height
        self._gl = mujoco.GLContext(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(scene.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        if self._context.offSamples != SAMPLES:
            raise RuntimeError(f"this OpenGL driver has no {SAMPLES}-sample buffers, which the pictures need")
        self._geoms = mujoco.MjvScene(scene.model, maxgeom=scene.model.ngeom + 16)
        self._option, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        cameras = len(scene.rig.c2w)
        self._strip = np.zeros((height, width * cameras, 3), np.uint8)

    def shoot(self, index: int) -> np.ndarray:
        """uint8 [C, H, W, 3]: the pictures of all cameras of the rig at grid time `index`."""
        scene, width, height = self._scene, self._width, self._height
        scene.show(index)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            scene.model, scene.data, self._option, None, self._camera, everything, self._geoms
        )
        # The flat ground shades nothing; left out of the shadow map, it cannot get specks of its own shadow.
        self._geoms.geoms[scene.model.geom("ground").id].category = mujoco.mjtCatBit.mjCAT_DECOR
        cameras = len(scene.rig.c2w)
        for c, (c2w, intrinsics) in enumerate(zip(scene.rig.c2w, scene.rig.intrinsics, strict=True)):
            half_height = 0.5 * NEAR / intrinsics[1]
            for eye in self._geoms.camera:  # MuJoCo takes the mean of a left and a right eye
                eye.pos, eye.forward, eye.up = c2w[:3, 3], c2w[:3, 2], -c2w[:3, 1]
                eye.frustum_near, eye.frustum_far = NEAR, FAR
                eye.frustum_bottom, eye.frustum_top = -half_height, half_height
                eye.frustum_center, eye.frustum_width = 0.0, 0.5 * NEAR / intrinsics[0]
            mujoco.mjr_render(mujoco.MjrRect(c * width, 0, width, height), self._geoms, self._context)
        whole = mujoco.MjrRect(0, 0, cameras * width, height)
        mujoco.mjr_readPixels(self._strip, None, whole, self._context)
        pictures = self._strip[::-1].reshape(height, cameras, width, 3)
        return pictures.transpose(1, 0, 2, 3).copy()

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ):
        self._context.free()
        self._gl.free()
