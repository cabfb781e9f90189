"""MultiCamVideo (of ReCamMaster): scenes of Unreal Engine, each filmed by ten moving cameras at once.

    [train/]f18_aperture10/scene1/
        videos/cam01.mp4 ... cam10.mp4      81 frames of 1280 x 1280 at 15 a second
        cameras/camera_extrinsics.json      {"frame0": {"cam01": "[a b c d] [e f g h] ... ", ...

Matrices are camera-to-world, row vectors in Unreal's axes (x forward, y right, z up), left-handed,
centimetres. The sensor is 23.76 mm wide and high; the focal length in millimetres is in the name of the
scenes' folder (f18, f24, f35, f50). `val/10basic_trajectories` has none in its name: --focal_length says it.

A scene is named `f18_aperture10_scene1`. Its kind is "synchronised", its unit the metre.

The camera file was tried on a real one, the ten basic trajectories; videos and folders were not.

    python -m input_pipeline.datasets.multicam_video --scenes MultiCamVideo-Dataset --out data/built
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from input_pipeline.datasets import captions, layouts, records
    from stp_jax.command_line import number
    from stp_jax.controls.cameras import Cameras
    from stp_jax.files import read_json

SENSOR = 23.76  # mm, width and height
_FOCAL = re.compile(r"f(\d+(?:\.\d+)?)_aperture[\d.]+")


class Settings(NamedTuple):
    """What the command line says.

    Attributes:
      captions: of scenes by name.
      focal_length: mm, of scenes whose folder does not say it.
    """

    captions: Mapping[str, Sequence[str]] = {}
    focal_length: float | None = None


class MulticamVideo(records.SceneBuilder):
    """Builder of MultiCamVideo; see the module."""

    name = "multicam_video"
    defaults = Settings()

    def read_scene(self, folder: Path) -> dict[str, Any]:
        return read_scene(folder, self.settings)


def read_scene(folder: Path, settings: Settings = Settings()) -> dict[str, Any]:  # noqa: B008 (immutable)
    """The record of a scene folder.

    Raises:
      InputError: the folder has another layout; a video or a camera is missing, damaged or does not fit the
        others; the focal length is not known.
    """
    path = folder / "cameras" / "camera_extrinsics.json"
    names = _cameras_of(path)
    videos = layouts.read_videos([folder / "videos" / f"{name}.mp4" for name in names])
    frames, size = videos[0].frames, videos[0].size
    focal = _focal_length(folder, settings) / SENSOR
    # The sensor is square: of pictures of another shape it would not be known what was cut off.
    lens = np.array([[focal, focal, 0.5, 0.5]])
    layouts.check_square_pixels(folder / "videos", lens, size)
    poses = [layouts.read_cameras(f"{path}:{name}", frames, size).cameras.c2w for name in names]
    scene = f"{folder.parent.name}_{folder.name}"
    return layouts.record(
        scene,
        "synchronised",
        [video.data for video in videos],
        [Cameras(c2w, lens) for c2w in poses],
        frames,
        videos[0].fps,
        metric=True,
        captions=captions.of_scene(scene, settings.captions),
        where=folder,
    )


def _cameras_of(path: Path) -> list[str]:
    """The names of the cameras that the file and the folder of videos have, cam01 first."""
    data = read_json(path, dict)
    first = data.get("frame0")
    names = sorted(first) if isinstance(first, dict) else []
    if not names or not all(re.fullmatch(r"cam\d{1,4}", name) for name in names):
        raise InputError(f'{path}: expected {{"frame0": {{"cam01": "[..] [..] [..] [..]", ...}}, ...}}')
    there = {file.stem for file in (path.parent.parent / "videos").glob("cam*.mp4")}
    for name in sorted(there ^ set(names)):
        missing = f"no poses of {name}" if name in there else f"no video {name}.mp4 beside it"
        raise InputError(f"{path}: {missing}")
    return names


def _focal_length(folder: Path, settings: Settings) -> float:
    named = _FOCAL.fullmatch(folder.parent.name)
    focal = float(named[1]) if named else settings.focal_length
    if focal is None or not 1 <= focal <= 700:
        raise InputError(
            f"{folder}: its focal length is not known: the folder above must be named as f18_aperture10 is, "
            "or --focal_length give it"
        )
    return focal


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = records.arguments(__doc__)
    layouts.add_flags(parser)
    parser.add_argument(
        "--focal_length", type=number(1, 700), help="mm, of scenes whose folder does not have it in its name"
    )
    args = parser.parse_args(argv)
    settings = Settings(captions.read(args.captions), args.focal_length)
    scenes = layouts.find(
        args.scenes,
        "--scenes",
        lambda folder, names: bool(names & {"videos", "cameras"}),
        "expected f18_aperture10/scene1/videos/cam01.mp4 and .../cameras/camera_extrinsics.json",
    )
    splits = layouts.split(
        scenes, args.scenes, args.test_scenes, lambda path: f"{path.parent.name}_{path.name}"
    )
    records.build(MulticamVideo, args.out, splits, records.options(args), settings=settings)


if __name__ == "__main__":
    main()
