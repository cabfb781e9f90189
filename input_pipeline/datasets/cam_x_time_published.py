"""Cam x Time as SpaceTimePilot published it: full grids, and the sources of its evaluation set.

Full grids: 120 cameras along a trajectory, each standing still, film the same 120 moments.

    [train/]Scene001/camera-trajectory-01/
        cam001_full_motion.mp4 ... cam120_full_motion.mp4      120 frames of 512 x 512
        camera-trajectory-01-camera.json
            {"trajectory": {"0": {"c2w": 4 x 4}, ...}, "intrinsics": {"K": 3 x 3}}
    CamxTime_eval/full_grid_renders/scene_1/
        camera_000.mp4 ... camera_119.mp4                      120 frames of 1080 x 1080
        camera_data.json    the same with "cameras" for "trajectory"

Poses are camera-to-world in Blender's axes (x right, y up, z back), K is in pixels. The entries in the order
of their numbers are those of the videos in the order of theirs. A scene is named
`Scene001_camera-trajectory-01`, or `scene_1`; its kind is "grid", its unit Blender's, which is taken for the
metre. Trajectories of one scene are never in two splits; scenes of the evaluation set are the test split.
--cameras_every 3 takes every third camera: a whole grid of 512 x 512 decodes to 11 GB.

The evaluation set has a source for each scene, too, filmed by one moving camera (--evaluation): kind
"single". Its files do not state a lens: --fov says it. What the ground truths measure is `python -m
stp_jax.evaluate --cam_x_time`.

Not tried on the real files. That cameras and poses go together in this order, and the axes, others have found
on some scenes by epipolar geometry.

    python -m input_pipeline.datasets.cam_x_time_published --scenes CamxTime --out data/built \\
        --cameras_every 3
    python -m input_pipeline.datasets.cam_x_time_published --evaluation --fov 59.4 \\
        --scenes CamxTime_eval --out data/eval
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from input_pipeline.datasets import cam_x_time_evaluation, captions, layouts, records
    from stp_jax.command_line import count, number
    from stp_jax.controls import cameras
    from stp_jax.controls.cameras import Cameras, Reading

_VIDEO = re.compile(r"cam(\d{3,4})_full_motion\.mp4")
_VIDEO_OF_EVALUATION = re.compile(r"camera_(\d{3,4})\.mp4")
_TRAJECTORY = re.compile(r"camera-trajectory-\d+")
_GRIDS_OF_EVALUATION = "full_grid_renders"


class Settings(NamedTuple):
    """What the command line says.

    Attributes:
      captions: of scenes by name.
      cameras_every: every n-th camera of a grid is taken.
      fov: degrees across the height of the evaluation set's pictures.
    """

    captions: Mapping[str, Sequence[str]] = {}
    cameras_every: int = 1
    fov: float | None = None


class CamXTimePublished(records.SceneBuilder):
    """Builder of Cam x Time as published; see the module."""

    name = "cam_x_time_published"
    defaults = Settings()

    def read_scene(self, folder: Path) -> dict[str, Any]:
        return (read_source if folder.suffix else read_grid)(folder, self.settings)


def read_grid(folder: Path, settings: Settings = Settings()) -> dict[str, Any]:  # noqa: B008 (immutable)
    """The record of a folder `camera-trajectory-NN`, or of one in `full_grid_renders`.

    Raises:
      InputError: the folder has another layout; a video or a pose is missing, damaged or does not fit the
        others; the file has no lens.
    """
    files = _videos_of(folder)
    published = _TRAJECTORY.fullmatch(folder.name) is not None
    path = folder / (f"{folder.name}-camera.json" if published else "camera_data.json")
    chosen = files[:: settings.cameras_every]
    videos = layouts.read_videos(chosen)
    read = cameras.load(path, reading=Reading(video=videos[0].size, video_frames=len(files)))
    if len(read.cameras.c2w) != len(files):
        raise InputError(f"{path}: {len(read.cameras.c2w)} poses, but there are {len(files)} videos")
    if read.lens is None:
        raise InputError(f'{path}: has no lens, "intrinsics": {{"K": 3 x 3}}')
    every = slice(None, None, settings.cameras_every)
    c2w, lenses = read.cameras.c2w[every], read.cameras.intrinsics[every]
    scene = f"{folder.parent.name}_{folder.name}" if published else folder.name
    return layouts.record(
        scene,
        "grid",
        [video.data for video in videos],
        [Cameras(c2w[i : i + 1], lenses[i : i + 1]) for i in range(len(chosen))],
        videos[0].frames,
        videos[0].fps,
        metric=True,
        captions=captions.of_scene(scene, settings.captions, other_names=[folder.parent.name]),
        where=path,
    )


def _videos_of(folder: Path) -> list[Path]:
    """The videos of the cameras, from number 1 or 0 on; none may be missing."""
    pattern = _VIDEO if _TRAJECTORY.fullmatch(folder.name) else _VIDEO_OF_EVALUATION
    matches = [(match, file) for file in folder.iterdir() if (match := pattern.fullmatch(file.name))]
    by_number = {int(match[1]): file for match, file in matches}
    first = int(pattern is _VIDEO)
    missing = sorted(set(range(first, max(by_number, default=first) + 1)) - set(by_number))
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        name = f"cam{missing[0]:03d}_full_motion.mp4" if first else f"camera_{missing[0]:03d}.mp4"
        raise InputError(f"{folder}: {name} is missing{more}")
    if len(by_number) < 2:
        raise InputError(f"{folder}: one camera is no grid")
    return [by_number[number] for number in sorted(by_number)]


def _is_grid(folder: Path, names: set[str]) -> bool:
    return bool(_TRAJECTORY.fullmatch(folder.name)) or folder.parent.name == _GRIDS_OF_EVALUATION


def read_source(video: Path, settings: Settings = Settings()) -> dict[str, Any]:  # noqa: B008 (immutable)
    """The record of a source of the evaluation set, `eval_input/videos/NAME.mp4`.

    Raises:
      InputError: the video or its cameras are missing, damaged or do not fit each other; the lens is
        not known.
    """
    if settings.fov is None:
        raise InputError(f"{video}: its files state no lens: --fov gives the angle of view across the height")
    scene = video.stem
    read = layouts.read_video(video)
    path = cam_x_time_evaluation.cameras_of(video)
    lens = cameras.default_intrinsics(settings.fov, aspect=read.size[1] / read.size[0])
    c2w = cameras.load(path, reading=Reading(video=read.size)).cameras.c2w
    if len(c2w) < read.frames:
        raise InputError(f"{path}: {len(c2w)} poses, but the video has {read.frames} frames")
    return layouts.record(
        scene,
        "single",
        [read.data],
        [Cameras(c2w[: read.frames], np.asarray(lens)[None])],
        read.frames,
        read.fps,
        metric=True,
        captions=captions.of_scene(scene, settings.captions),
        where=path,
    )


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = records.arguments(__doc__)
    layouts.add_flags(parser)
    parser.add_argument("--cameras_every", type=count, default=1, help="take every n-th camera of a grid")
    parser.add_argument(
        "--evaluation", action="store_true", help="the sources of the evaluation set, --scenes"
    )
    parser.add_argument("--fov", type=number(1, 170), help="of the evaluation set, degrees across the height")
    args = parser.parse_args(argv)
    listed = captions.read(args.captions)
    if args.evaluation:
        found = cam_x_time_evaluation.read_folder(args.scenes, modes=())
        listed = {one.name: [one.prompt] for one in found if one.prompt.strip()} | listed
        splits = {"test": [one.video for one in found]}
    else:
        scenes = layouts.find(
            args.scenes,
            "--scenes",
            _is_grid,
            "expected Scene001/camera-trajectory-01/cam001_full_motion.mp4",
        )
        splits = layouts.split(scenes, args.scenes, args.test_scenes, lambda path: path.parent.name)
        held_out = [path for path in splits["train"] if path.parent.name == _GRIDS_OF_EVALUATION]
        splits["train"] = [path for path in splits["train"] if path not in held_out]
        splits["test"] += held_out
    settings = Settings(listed, args.cameras_every, args.fov)
    records.build(CamXTimePublished, args.out, splits, records.options(args), settings=settings)


if __name__ == "__main__":
    main()
