"""Cam x Time scenes: every camera of a rig films the same motion at every grid time.

A scene folder `scene_<seed>/` has videos/camera_000.mp4 ..., one for each camera in order along the rig, each
with all grid times, and camera_data.json:

    {"fps": 30, "animation_time": [0, 0.5, 1, ...],
     "cameras": {"extrinsic": {"camera_000": 4 x 4 world-to-camera, OpenCV axes, ...},
                 "intrinsic": {"camera_000": [fx, fy, cx, cy] by width and height, ...}}}

and, if wanted, "captions": texts of which each describes the scene, and "metric": false where poses are not
in metres. A renderer may add coarse depth, "coarse_depth": {"file": name, "stride": pixels} with float16
[C, T, H / stride, W / stride] in a file of NumPy: it becomes `depth` of the record, see `form`.

Build the data set from rendered scenes:

    python -m input_pipeline.datasets.cam_x_time --scenes data/scenes --out data/built
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    from input_pipeline.datasets import records
    from input_pipeline.shots import check_animation_time
    from stp_jax.command_line import Parser
    from stp_jax.files import read_json

TEST_SEEDS_FROM, VALIDATION_SEEDS_FROM = 1_000_000, 2_000_000


class CamXTime(records.SceneBuilder):
    """Builder of a full camera x time grid from folders; see the module."""

    def read_scene(self, folder: Path) -> dict[str, Any]:
        return read_scene(folder)


def read_scene(folder: Path) -> dict[str, Any]:
    """The record of a grid's folder, but for its name; raises `InputError` where the folder is damaged."""
    path = folder / "camera_data.json"
    data = read_json(path, dict)
    names, c2w, intrinsics = records.read_cameras(data, path, ndim=2)
    videos, frames, rate = records.read_videos(folder / "videos", names)
    return {
        "kind": "grid",
        "fps": records.read_rate(data, rate, path),
        "videos": videos,
        "c2w": c2w,
        "intrinsics": intrinsics,
        "animation_time": check_animation_time(data.get("animation_time"), frames, path),
        "captions": records.read_captions(data, path),
        "metric": records.read_metric(data, path),
        "depth": records.read_depth(data, path),
    }


def split_by_seed(
    folders: list[Path], test_seeds_from: int, validation_seeds_from: int
) -> dict[str, list[Path]]:
    """Splits scene folders by the seed in their names.

    Seeds from `test_seeds_from` on are held out for reported figures, those from `validation_seeds_from` on
    for choices of design.
    """
    splits: dict[str, list[Path]] = {"train": [], "test": [], "validation": []}
    first = {"validation": validation_seeds_from, "test": test_seeds_from, "train": 0}
    order = sorted(first, key=lambda name: -first[name])
    for folder in folders:
        match = re.fullmatch(r"scene_(\d+)", folder.name)
        if not match:
            raise InputError(f"{folder}: a scene folder must be named scene_<seed>")
        splits[next(name for name in order if int(match[1]) >= first[name])].append(folder)
    return splits


def arguments(description: str | None) -> Parser:
    """The command line of builders whose scenes are split by their seeds."""
    parser = records.arguments(description)
    parser.add_argument(
        "--test_seeds_from",
        type=int,
        default=TEST_SEEDS_FROM,
        help="scenes with this seed or a higher one are the test split (default: %(default)s)",
    )
    parser.add_argument(
        "--validation_seeds_from",
        type=int,
        default=VALIDATION_SEEDS_FROM,
        help="scenes with this seed or a higher one are the validation split (default: %(default)s)",
    )
    return parser


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__).parse_args(argv)
    folders = records.scene_folders(args.scenes, "--scenes")
    splits = split_by_seed(folders, args.test_seeds_from, args.validation_seeds_from)
    records.build(CamXTime, args.out, splits, records.options(args))


if __name__ == "__main__":
    main()
