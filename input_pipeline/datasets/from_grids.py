"""Data sets of other kinds, cut out of rendered grids: static scenes, synchronised and single videos.

    python -m input_pipeline.datasets.from_grids --scenes data/scenes --kind static --out data/static

reads the scene folders of `cam_x_time` and builds a data set that is opened as `grids_static`
(`grids_synchronised`, `grids_single`), one scene for each grid:

- static: one animation time of the grid, drawn for the scene, in one video that visits all cameras of the rig
  in their order.
- synchronised: four moving cameras, each on its own path over the rig (`pairs.random_camera_path`), in videos
  of all grid times.
- single: the same, with one camera.

Frame i of a video is grid time i, so of grids with half source frames the videos have twice their rate:
data.fps brings them back to it. What is drawn follows from the name of the scene folder.
"""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from input_pipeline.datasets import cam_x_time, records
    from input_pipeline.decoding import decode_video
    from input_pipeline.pairs import random_camera_path
    from stp_jax import media

CAMERAS = 4  # of a scene of kind `synchronised`
CRF = 8  # of x264: these are encoded for the second time


class Cut(NamedTuple):
    """The cells of a grid that the frames of a video show."""

    cameras: np.ndarray  # int [F]
    times: np.ndarray  # int [F]


class GridsStatic(records.SceneBuilder):
    """Builder of static scenes; see the module."""

    name = "grids_static"

    def read_scene(self, folder: Path) -> dict[str, Any]:
        return cut_scene(folder, "static")


class GridsSynchronised(records.SceneBuilder):
    """Builder of synchronised videos; see the module."""

    name = "grids_synchronised"

    def read_scene(self, folder: Path) -> dict[str, Any]:
        return cut_scene(folder, "synchronised")


class GridsSingle(records.SceneBuilder):
    """Builder of single videos; see the module."""

    name = "grids_single"

    def read_scene(self, folder: Path) -> dict[str, Any]:
        return cut_scene(folder, "single")


BUILDERS: dict[str, type[records.SceneBuilder]] = {
    "static": GridsStatic,
    "synchronised": GridsSynchronised,
    "single": GridsSingle,
}


def cut_scene(folder: Path, kind: str) -> dict[str, Any]:
    """The record of a scene of this kind, cut out of the grid in a folder, but for its name.

    Raises:
      InputError: the folder is damaged, or its grid has fewer than two cameras.
    """
    grid = cam_x_time.read_scene(folder)
    videos = [decode_video(data, f"{folder}, camera {c}") for c, data in enumerate(grid["videos"])]
    if len(videos) < 2:
        raise InputError(f"{folder}: a grid of one camera has no other videos to cut out")
    rng = np.random.default_rng([zlib.crc32(folder.name.encode())])
    cuts = draw_cuts(rng, kind, len(videos), len(videos[0]))
    depth = grid["depth"]
    pictures = (np.stack([videos[c][t] for c, t in zip(*cut, strict=True)]) for cut in cuts)
    return grid | {
        "kind": kind,
        "videos": [_encoded(video, grid["fps"]) for video in pictures],
        "c2w": np.stack([grid["c2w"][cut.cameras, 0] for cut in cuts]),
        "intrinsics": np.stack([grid["intrinsics"][cut.cameras, 0] for cut in cuts]),
        "animation_time": np.arange(len(cuts[0].times), dtype=np.float32),
        "depth": np.stack([depth[cut.cameras, cut.times] for cut in cuts]) if depth.size else depth,
    }


def draw_cuts(rng: np.random.Generator, kind: str, cameras: int, times: int) -> list[Cut]:
    """Draws the videos of a scene of this kind out of a grid of `cameras` x `times`, two cameras at least."""
    if kind == "static":
        return [Cut(np.arange(cameras), np.full(cameras, rng.integers(times)))]
    wanted = CAMERAS if kind == "synchronised" else 1
    paths: dict[bytes, np.ndarray] = {}
    while len(paths) < wanted:
        path = random_camera_path(rng, cameras, times)
        paths[path.tobytes()] = path
    return [Cut(path, np.arange(times)) for path in paths.values()]


def _encoded(video: np.ndarray, fps: float) -> bytes:
    with tempfile.TemporaryDirectory(prefix="stp_jax_cut_") as folder:
        path = Path(folder) / "video.mp4"
        media.write_video(path, video, fps, crf=CRF, pixel_format="yuv444p")
        return path.read_bytes()


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = cam_x_time.arguments(__doc__)
    parser.add_argument("--kind", choices=sorted(BUILDERS), required=True, help="of the scenes to cut out")
    args = parser.parse_args(argv)
    folders = records.scene_folders(args.scenes, "--scenes")
    splits = cam_x_time.split_by_seed(folders, args.test_seeds_from, args.validation_seeds_from)
    options = records.options(args)
    # A path over a rig steps from camera to camera, which in a film would be a jump.
    options = options._replace(checks=options.checks._replace(keep_jumps=True))
    records.build(BUILDERS[args.kind], args.out, splits, options)


if __name__ == "__main__":
    main()
