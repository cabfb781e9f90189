"""Encodes the videos of a record anew: smaller pictures, and key frames at short steps.

To reach a picture everything from the key frame before it on is decoded. Videos from cameras and from the net
have a key frame every 250 frames or so; with one every 8 a picture costs 4 others on average.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline import fitting
from input_pipeline.datasets import form
from input_pipeline.decoding import Size, ffmpeg, opened
from stp_jax.errors import InputError
from stp_jax.media.orientation import seen_size
from stp_jax.media.writing import write_pictures


class Transcoding(NamedTuple):
    """How videos are encoded anew, as H.264.

    Attributes:
      size: height and width to which larger pictures are resized and cropped, as in training
        (`fitting.fit_frames`); those that are smaller in either keep their size. None: all keep it.
      gop: frames from one key frame to the next, at most.
      crf: x264's quality, 0 to 51.
    """

    size: Size | None = None
    gop: int = 8
    crf: int = 16

    def as_json(self) -> dict[str, Any]:
        """What the metadata of the data set say."""
        height, width = self.size or (None, None)
        return {"codec": "h264", "height": height, "width": width, "gop": self.gop, "crf": self.crf}


def transcoded(record: dict[str, Any], how: Transcoding) -> dict[str, Any]:
    """The record with its videos encoded anew, and the lenses of what is left of their pictures.

    Raises:
      InputError: a video cannot be decoded, or there is depth and pictures would change their size.
    """
    depth = np.size(record.get("depth", form.NO_DEPTH)) > 0
    lenses = np.asarray(record["intrinsics"], np.float32)
    videos, made = [], []
    for camera, data in enumerate(record["videos"]):
        work = functools.partial(_transcoded, data, record["fps"], how)
        video, source_size, size = ffmpeg(f"{record['scene']}, camera {camera}", work)
        if depth and size != source_size:
            raise InputError(
                f"{record['scene']}: has depth, which is not resized with its pictures; leave out --size, or "
                f"render scenes of {size[1]} x {size[0]}"
            )
        videos.append(video)
        made.append(fitting.fit_lenses(lenses[camera], source_size, size))
    return record | {"videos": videos, "intrinsics": np.stack(made)}


def _transcoded(data: bytes, fps: float, how: Transcoding) -> tuple[bytes, Size, Size]:
    """A video encoded anew, the size of its pictures before, and now."""
    with opened(data) as (container, stream), tempfile.TemporaryDirectory() as folder:
        frames = container.decode(stream)
        first = next(frames, None)
        if first is None:
            raise InputError("the video has no frames")
        source_size = seen_size(first)
        size = source_size
        if how.size is not None and all(a >= b for a, b in zip(source_size, how.size, strict=True)):
            size = how.size

        def pictures() -> Iterator[np.ndarray]:
            for frame in itertools.chain([first], frames):
                yield fitting.fit_frame(frame, size)

        # Half of the resolution of colours would cost small pictures much, and odd sizes do not have it.
        whole = any(text in first.format.name for text in ("444", "rgb", "gbr")) or any(n % 2 for n in size)
        path = Path(folder, "video.mp4")
        form = "yuv444p" if whole else "yuv420p"
        write_pictures(path, pictures(), fps, crf=how.crf, key_frame_every=how.gop, pixel_format=form)
        return path.read_bytes(), source_size, size
