"""Depth and object numbers of rendered videos: their files, without loss of a bit after quantization.

Depth is 16-bit inverse depth, uint16 = round(65535 * NEAREST / z) with z in metres along the camera's z axis;
0 is the sky. On planes it is linear across the picture, so that FFV1 packs it well: about 21 kB for a frame
of 512 x 512. z is off by at most z^2 / (2 * 65535 * NEAREST): 0.04 mm at 1 m, 1 mm at 5 m, 3.8 cm at 32 m.
What is nearer than NEAREST is written as NEAREST; scenes are drawn such that nothing is.

Object numbers are uint8: 0 the sky, 1 the ground, others as camera_data.json lists them.

Files: FFV1 (RFC 9043) in Matroska, gray16le and gray; every frame stands alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from stp_jax.errors import InputError
from stp_jax.files import new_file

if TYPE_CHECKING:  # it imports mujoco, which must not be before the choice of a backend
    from input_pipeline.render.scene import Scene

NEAREST = 0.2  # metres
FORM = "uint16 = round(65535 * nearest / depth), 0 in the sky; depth in metres along the z axis"
_MOST = 65535
_FORMS = {np.dtype(np.uint16): "gray16le", np.dtype(np.uint8): "gray"}


def to_code(inverse_depth: np.ndarray) -> np.ndarray:
    """1 over metres, 0 in the sky -> uint16."""
    return np.minimum(np.round(inverse_depth * np.float32(_MOST * NEAREST)), _MOST).astype(np.uint16)


def to_depth(code: np.ndarray) -> np.ndarray:
    """uint16 -> float32 metres, infinite in the sky."""
    with np.errstate(divide="ignore"):
        return np.float32(_MOST * NEAREST) / code.astype(np.float32)


@contextlib.contextmanager
def writer(
    path: str | os.PathLike, height: int, width: int, fps: float, kind: type
) -> Iterator[Callable[[np.ndarray], None]]:
    """A new file of frames [H, W] of `kind`, uint8 or uint16; yields what takes one after the other.

    Equal frames make equal bytes. The file appears when the block ends well.

    Raises:
      InputError: `path` exists or cannot be written.
    """
    form = _FORMS[np.dtype(kind)]
    bits = {"fflags": "+bitexact"}  # otherwise Matroska has a random number in each file
    with new_file(path) as partial, av.open(str(partial), "w", container_options=bits) as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(60_000))
        stream.height, stream.width, stream.pix_fmt = height, width, form
        stream.options = {"level": "3", "slices": "4", "slicecrc": "1", "g": "1"}

        def put(frame: np.ndarray) -> None:
            assert frame.dtype == kind and frame.shape == (height, width)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=form)
            container.mux(stream.encode(picture))

        yield put
        container.mux(stream.encode())


def read_depth(path: str | os.PathLike) -> np.ndarray:
    """float32 [F, H, W] in metres, infinite in the sky, from a file of depth.

    Raises:
      InputError: it cannot be read, or is no such file.
    """
    return to_depth(_read(path, np.uint16))


def read_ids(path: str | os.PathLike) -> np.ndarray:
    """uint8 [F, H, W] object numbers.

    Raises:
      InputError: the file cannot be read, or is no such file.
    """
    return _read(path, np.uint8)


def _read(path: str | os.PathLike, kind: type) -> np.ndarray:
    form = _FORMS[np.dtype(kind)]
    try:
        with av.open(os.fspath(path)) as container:
            stream = container.streams.video[0]
            if stream.pix_fmt != form:
                raise InputError(f"{path}: holds {stream.pix_fmt}, not {form}")
            stream.thread_type = "NONE"  # other processes have the other cores
            return np.stack([frame.to_ndarray() for frame in container.decode(stream)])
    except (OSError, IndexError, ValueError) as error:  # FFmpeg's errors are both
        raise InputError(f"{path}: cannot be read as FFV1 frames: {error}") from None


def objects(drawn: Scene) -> list[dict[str, Any]]:
    """The scene's objects: number in pictures of ids, name, kind, and whether it moves, so has a clock."""
    things = [("sky", "sky", False), ("ground", "ground", False)]
    things += [(thing.name, thing.kind, drawn.moves(thing)) for thing in drawn.things]
    return [
        {"id": number, "name": name, "kind": kind, "moves": moves}
        for number, (name, kind, moves) in enumerate(things)
    ]
