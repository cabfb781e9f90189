"""Takes the pictures of a scene with MuJoCo's OpenGL renderer, without a window."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Iterator, Mapping

import mujoco
import numpy as np
from PIL import Image

from input_pipeline.render.scene import Scene

# Each pixel is the mean of 2 x 2. Measured against 8 x 8, this is 4 dB closer than a multisampled buffer,
# which smooths neither shadows nor textures, and no slower.
OVERSAMPLE = 2
NEAR, FAR = 0.05, 80.0  # metres
MAX_STRIP = 8192  # pixels: any driver has buffers of this width
# Metres: what is farther is 0 in coarse depth. MuJoCo draws the sky as a cube around the camera, whose faces
# are FAR / sqrt(3) away: in a depth buffer the sky has a depth, too.
HORIZON = 45.0
SKY, GROUND = 0, 1  # numbers of objects; those of the scene's things follow


@functools.cache
def _opengl(width: int, height: int) -> mujoco.GLContext:
    """The process's one OpenGL context with a buffer of this size in pixels.

    It lives as long as the process: making one takes longer than drawing a small scene.
    """
    context = mujoco.GLContext(width, height)
    atexit.register(context.free)
    return context


class Film:
    """Draws one scene. A context manager: on leaving, what the scene takes in OpenGL is freed.

    Films may be open at the same time, but all draw in one thread.
    """

    def __init__(self, scene: Scene, width: int, height: int):
        self._scene = scene
        self._width, self._height = width * OVERSAMPLE, height * OVERSAMPLE
        # The cameras are drawn side by side and read back in one go: each reading waits for the GPU.
        self._abreast = min(len(scene.rig.c2w), max(1, MAX_STRIP // self._width))
        strip = (self._height, self._width * self._abreast)
        scene.model.vis.global_.offheight, scene.model.vis.global_.offwidth = strip
        self._gl = _opengl(*strip[::-1])
        self._gl.make_current()
        self._context = mujoco.MjrContext(scene.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        self._geoms = mujoco.MjvScene(scene.model, maxgeom=scene.model.ngeom + 16)
        self._option, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()

    def shoot(
        self,
        index: int,
        c2w: np.ndarray | None = None,
        intrinsics: np.ndarray | None = None,
        *,
        stride: int = 1,
        clocks: Mapping[str, float] | None = None,
    ) -> np.ndarray:
        """uint8 [C, H, W, 3]: what C cameras see at grid time `index`.

        Args:
          c2w, intrinsics: [C, 4, 4] and [C, 4], in the scene's world; by default the cameras of the rig.
          stride: divides height and width: smaller pictures are drawn faster.
          clocks: of the objects that show another time, see `Scene.show`.
        """
        self._show(index, clocks)
        pictures = []
        for strip in self._strips(c2w, intrinsics):
            colours, _ = self._read(*strip, stride)
            pictures.append(_picture(colours, len(strip[0])))
        return np.concatenate(pictures)

    def shoot_with_depth(
        self, index: int, c2w: np.ndarray | None = None, intrinsics: np.ndarray | None = None, *, cell: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `shoot` returns, and coarse inverse depth, from the depth buffer of the same drawing.

        On a CPU this adds 2 % to the time of `shoot`; a second, small drawing by `survey` adds 9 %.

        Args:
          cell: side in pixels of the squares of which each has one value; it divides height and width.

        Returns:
          uint8 [C, H, W, 3]; and float32 [C, H / cell, W / cell], 1 over metres along the camera's z axis,
          the mean over all samples of a square, where what is beyond `HORIZON`, as the sky, counts as 0.
        """
        self._show(index)
        pictures, inverse_depth, side = [], [], cell * OVERSAMPLE
        for strip in self._strips(c2w, intrinsics):
            colours, buffer = self._read(*strip, 1, depth=True)
            inverse = _inverse_depth(buffer)
            inverse[inverse < 1 / HORIZON] = 0
            height, width = (n // side for n in inverse.shape)
            means = inverse.reshape(height, side, width, side).mean((1, 3))
            pictures.append(_picture(colours, len(strip[0])))
            inverse_depth.append(_cut(means, len(strip[0])))
        return np.concatenate(pictures), np.concatenate(inverse_depth)

    def measure(
        self,
        index: int,
        c2w: np.ndarray | None = None,
        intrinsics: np.ndarray | None = None,
        *,
        stride: int = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Depth, and what moves, at grid time `index`; arguments as for `shoot`.

        Returns:
          float32 [C, H, W], metres along the camera's z axis, infinite in the sky. It is the harmonic mean
          of a pixel's samples, which is exact on planes.
          bool [C, H, W], whether a figure or a body that moves by physics covers some of the pixel.
        """
        self._show(index)
        moves, depth, moving = self._moves(), [], []
        for cameras, colours, buffer in self._segment(c2w, intrinsics, stride):
            number = colours @ np.array([1, 256, 65536])  # 0 in the sky, else 1 + the geom's
            inverse = np.where(number == 0, 0, _inverse_depth(buffer))
            with np.errstate(divide="ignore"):
                depth.append(_cut((1 / _samples(inverse).mean(0)).astype(np.float32), cameras))
            moving.append(_cut(np.any(_samples(moves[number]), axis=0), cameras))
        return np.concatenate(depth), np.concatenate(moving)

    def survey(
        self,
        index: int,
        c2w: np.ndarray | None = None,
        intrinsics: np.ndarray | None = None,
        *,
        stride: int = 1,
        clocks: Mapping[str, float] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inverse depth and object numbers at grid time `index`; arguments as for `shoot`.

        A pixel is one object's: of the object that covers most of its samples, the nearest of those that
        cover as many. So no depth lies between a figure and what is behind it.

        Returns:
          float32 [C, H, W], 1 over metres along the camera's z axis, 0 in the sky: the mean of the object's
          samples, which is exact on planes.
          uint8 [C, H, W], the object: SKY, GROUND, 2 + the place in the scene's `things`.
        """
        self._show(index, clocks)
        objects, inverse_depth, ids = self._objects(), [], []
        for cameras, colours, buffer in self._segment(c2w, intrinsics, stride):
            number = colours[..., 0].astype(np.uint16) + 256 * colours[..., 1].astype(np.uint16)
            inverse = _inverse_depth(buffer)
            inverse[number == 0] = 0
            winner, mean = _by_object(_samples(objects[number]), _samples(inverse))
            inverse_depth.append(_cut(mean, cameras))
            ids.append(_cut(winner, cameras))
        return np.concatenate(inverse_depth), np.concatenate(ids)

    def strips(self) -> list[slice]:
        """The rig's cameras as they are drawn side by side: taken by these, `shoot` has the same bytes."""
        count = len(self._scene.rig.c2w)
        return [slice(c, min(c + self._abreast, count)) for c in range(0, count, self._abreast)]

    def _show(self, index: int, clocks: Mapping[str, float] | None = None) -> None:
        model, data = self._scene.model, self._scene.data
        # Another film may have drawn, been opened or been closed in between.
        self._gl.make_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene.show(index, clocks)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, self._option, None, self._camera, everything, self._geoms)
        # The flat ground shades nothing; left out of the shadow map, it gets no specks of its own shadow.
        self._geoms.geoms[model.geom("ground").id].category = mujoco.mjtCatBit.mjCAT_DECOR

    def _moves(self) -> np.ndarray:
        """bool [1 + geoms], by the number that a geom's pixels have in a segmented picture."""
        model = self._scene.model
        bodies = (model.body_dofnum > 0) | (model.body_mocapid >= 0)
        moves = np.zeros(1 + self._geoms.ngeom, bool)
        for geom in self._geoms.geoms[: self._geoms.ngeom]:
            moves[1 + geom.segid] = bodies[model.geom_bodyid[geom.objid]]
        return moves

    def _objects(self) -> np.ndarray:
        """uint8 [1 + geoms]: object numbers, by the number of a geom's pixels in a segmented picture."""
        scene = self._scene
        of_geom = np.full(scene.model.ngeom, GROUND, np.uint8)
        for number, thing in enumerate(scene.things, GROUND + 1):
            of_geom[list(thing.geoms)] = number
            of_geom[np.isin(scene.model.geom_bodyid, thing.bodies)] = number
        objects = np.full(1 + self._geoms.ngeom, SKY, np.uint8)
        for geom in self._geoms.geoms[: self._geoms.ngeom]:
            objects[1 + geom.segid] = of_geom[geom.objid]
        return objects

    def _segment(
        self, c2w: np.ndarray | None, intrinsics: np.ndarray | None, stride: int
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Strips in which colours are numbers of geoms: how many cameras, all samples' colours and depths."""
        flags = [mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR]
        for flag in flags:
            self._geoms.flags[flag] = 1
        for strip in self._strips(c2w, intrinsics):
            yield len(strip[0]), *self._read(*strip, stride, depth=True)
        for flag in flags:
            self._geoms.flags[flag] = 0

    def _strips(
        self, c2w: np.ndarray | None, intrinsics: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Poses and intrinsics of as many cameras at a time as the buffer has room for."""
        c2w = self._scene.rig.c2w if c2w is None else c2w
        intrinsics = self._scene.rig.intrinsics if intrinsics is None else intrinsics
        for c in range(0, len(c2w), self._abreast):
            yield c2w[c : c + self._abreast], intrinsics[c : c + self._abreast]

    def _read(
        self, c2w: np.ndarray, intrinsics: np.ndarray, stride: int, depth: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws cameras side by side: RGB and depth buffer of all samples, lowest row first."""
        width, height = self._width // stride, self._height // stride
        for place, camera in enumerate(zip(c2w, intrinsics, strict=True)):
            self._aim(*camera)
            here = mujoco.MjrRect(place * width, 0, width, height)
            mujoco.mjr_render(here, self._geoms, self._context)
        shape = (height, len(c2w) * width)
        colours = np.empty((*shape, 3), np.uint8)
        buffer = np.empty(shape if depth else (0, 0), np.float32)
        rect = mujoco.MjrRect(0, 0, shape[1], shape[0])
        mujoco.mjr_readPixels(colours, buffer if depth else None, rect, self._context)
        return colours, buffer

    def _aim(self, c2w: np.ndarray, intrinsics: np.ndarray) -> None:
        fx, fy, cx, cy = intrinsics
        for eye in self._geoms.camera:  # MuJoCo draws the mean of a left and a right eye
            eye.pos, eye.forward, eye.up = c2w[:3, 3], c2w[:3, 2], -c2w[:3, 1]
            eye.frustum_near, eye.frustum_far = NEAR, FAR
            eye.frustum_bottom, eye.frustum_top = (cy - 1) * NEAR / fy, cy * NEAR / fy
            eye.frustum_center, eye.frustum_width = (0.5 - cx) * NEAR / fx, 0.5 * NEAR / fx

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_) -> None:
        self._gl.make_current()  # what is freed has its numbers in this context alone
        self._context.free()


def _inverse_depth(buffer: np.ndarray) -> np.ndarray:
    """float32, 1 over metres along the camera's z axis, of a depth buffer."""
    return 1 / NEAR - buffer * np.float32(1 / NEAR - 1 / FAR)


def _by_object(ids: np.ndarray, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[samples, H, W] twice -> of each pixel its object, uint8 [H, W], and that object's mean, float32."""
    winner, mean = ids[0].copy(), inverse.mean(0)
    edges = np.nonzero((ids != winner).any(0))
    rows, columns = edges
    ids, inverse = ids[:, rows, columns], inverse[:, rows, columns]  # [samples, edges]
    votes = sum((ids == one).astype(np.float32) for one in ids)
    # The inverse of a depth from NEAR on, times NEAR, is at most 1: it decides only between equal votes.
    first = np.argmax(votes + 0.9 * NEAR * inverse, 0)
    winner[edges] = np.take_along_axis(ids, first[None], 0)[0]
    its = ids == winner[edges]
    mean[edges] = (inverse * its).sum(0) / its.sum(0)
    return winner, mean


def _picture(colours: np.ndarray, cameras: int) -> np.ndarray:
    """A strip's samples -> uint8 [C, H, W, 3]."""
    return _cut(np.asarray(Image.fromarray(colours).reduce(OVERSAMPLE)), cameras)


def _samples(strip: np.ndarray) -> np.ndarray:
    """[H * OVERSAMPLE, W * OVERSAMPLE] -> [samples of a pixel, H, W]."""
    height, width = strip.shape[0] // OVERSAMPLE, strip.shape[1] // OVERSAMPLE
    blocks = strip.reshape(height, OVERSAMPLE, width, OVERSAMPLE)
    return blocks.transpose(1, 3, 0, 2).reshape(-1, height, width)


def _cut(strip: np.ndarray, cameras: int) -> np.ndarray:
    """[H, C * W, ...], lowest row first as OpenGL has it, -> [C, H, W, ...], highest row first."""
    return strip[::-1].reshape(len(strip), cameras, -1, *strip.shape[2:]).swapaxes(0, 1)
