"""The form of a record: the same for all data sets. What is in it: docs/data.md.

A record is one scene of C cameras and T frames each:

    scene            str, its name, unique in the data set
    kind             str, one of `shots.KINDS`
    fps              float32, frames in a second
    metric           bool, whether poses are in metres
    videos           C encoded video files, bytes
    c2w              float32 [C, 1 or T, 4, 4], OpenCV axes; 1 where a camera stands still
    intrinsics       float32 [C, 1 or T, 4], (fx, fy, cx, cy) by (width, height, width, height)
    animation_time   float32 [T], in source frames
    captions         list of str, may be empty
    depth            float16 [C, T, h, w], 1 over metres along z, 0 beyond the horizon: the mean over each
                     square of DEPTH_STRIDE pixels; [0, 0, 0, 0] where it is not known
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

VERSION = "2.1.0"
FIELDS = frozenset(
    "scene kind fps metric videos c2w intrinsics animation_time captions depth".split()
)  # of a record
NO_DEPTH = np.zeros((0, 0, 0, 0), np.float16)
# Version 1.0.0 had no kind, metric, captions and depth. Its cameras had no axis of frames where they stood
# still.
OLD_VERSION = "1.0.0"
OLD_CAMERAS: dict[str, tuple[int | None, ...]] = {"grid": (None,), "synchronised": (None, None)}


def features() -> tfds.features.FeaturesDict:
    """The fields of a record."""
    import tensorflow_datasets as tfds  # takes a second, and not all batches are of such records

    # zlib packs depth to a fifth; videos are packed already.
    depth = tfds.features.Tensor(shape=(None,) * 4, dtype=np.float16, encoding="zlib")
    added = {
        "kind": tfds.features.Text(),
        "metric": np.bool_,
        "captions": tfds.features.Sequence(tfds.features.Text()),
        "depth": depth,
    }
    return tfds.features.FeaturesDict(_common((None, None)) | added)


def old_features(old: str) -> tfds.features.FeaturesDict:
    """The fields of a record of version 1.0.0, of one of OLD_CAMERAS."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(_common(OLD_CAMERAS[old]))


def _common(cameras: tuple[int | None, ...]) -> dict[str, Any]:
    import tensorflow_datasets as tfds

    # encoding="bytes" is the fastest, and several unknown dimensions need it.
    return {
        "scene": tfds.features.Text(),
        "fps": np.float32,
        "videos": tfds.features.Sequence(tfds.features.Scalar(dtype=np.object_)),
        "c2w": tfds.features.Tensor(shape=(*cameras, 4, 4), dtype=np.float32, encoding="bytes"),
        "intrinsics": tfds.features.Tensor(shape=(*cameras, 4), dtype=np.float32, encoding="bytes"),
        "animation_time": tfds.features.Tensor(shape=(None,), dtype=np.float32),
    }


def from_old(record: dict[str, Any], old: str) -> dict[str, Any]:
    """A record of version 1.0.0 in today's form; `old` as for `old_features`."""
    cameras = {name: record[name] for name in ("c2w", "intrinsics")}
    if old == "grid":
        cameras = {name: array[:, None] for name, array in cameras.items()}
    added = {"kind": old.encode(), "metric": np.bool_(True), "captions": [], "depth": NO_DEPTH}
    return record | cameras | added
