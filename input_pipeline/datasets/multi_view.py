"""Plain multi-view videos: several synchronised cameras, each moving on its own path.

Frame i of every video shows the same time, so a camera's picture exists only at its own pose at that time:
the diagonal of the camera x time grid. A scene folder has videos/<name>.mp4, one for each camera, all
of T frames, and cameras.json:

    {"fps": 15,
     "cameras": {"extrinsic": {"<name>": T x 4 x 4 world-to-camera, OpenCV axes, ...},
                 "intrinsic": {"<name>": [fx, fy, cx, cy] by width and height, or T of these, ...}}}

and, if wanted, "captions": texts of which each describes the scene, and "metric": false where poses are not
in metres.

    python -m input_pipeline.datasets.multi_view --scenes data/multi_view --out data/built
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from input_pipeline.datasets import records
    from input_pipeline.shots import check_animation_time
    from stp_jax.files import read_json


class MultiView(records.SceneBuilder):
    """Builder of synchronised videos from folders; see the module."""

    def read_scene(self, folder: Path) -> dict[str, Any]:
        path = folder / "cameras.json"
        data = read_json(path, dict)
        names, c2w, intrinsics = records.read_cameras(data, path, ndim=3)
        videos, frames, rate = records.read_videos(folder / "videos", names)
        if c2w.shape[1] != frames:
            raise InputError(f"{path}: {c2w.shape[1]} poses per camera, but the videos have {frames} frames")
        return {
            "kind": "synchronised",
            "fps": records.read_rate(data, rate, path),
            "videos": videos,
            "c2w": c2w,
            "intrinsics": intrinsics,
            "animation_time": check_animation_time(np.arange(frames), frames, path),
            "captions": records.read_captions(data, path),
            "metric": records.read_metric(data, path),
        }


def split_by_name(folders: list[Path], test_scenes: int) -> dict[str, list[Path]]:
    """Holds out the last scenes by name, so that no scene is in both splits."""
    if not 0 <= test_scenes < len(folders):
        raise InputError(
            f"--test_scenes {test_scenes}: there are {len(folders)} scenes, and training needs one"
        )
    cut = len(folders) - test_scenes
    return {"train": folders[:cut], "test": folders[cut:]}


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = records.arguments(__doc__)
    parser.add_argument(
        "--test_scenes", type=int, default=0, help="how many scenes, the last by name, are the test split"
    )
    args = parser.parse_args(argv)
    splits = split_by_name(records.scene_folders(args.scenes, "--scenes"), args.test_scenes)
    records.build(MultiView, args.out, splits, records.options(args))


if __name__ == "__main__":
    main()
