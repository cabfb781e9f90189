"""DL3DV-10K: walks around places, filmed by one camera; nothing in the world moves.

    [1K/]<hash>/[nerfstudio/ or gaussian_splat/]
        transforms.json                     nerfstudio's: camera-to-world, OpenGL axes, fl_x ..., k1 ...
        images_4/frame_00001.png, ...       960 x 540; images_8, images_2 or images are other sizes

Frames are encoded into a video at the conversion (H.264). Those that transforms.json lists are taken, in the
order of their numbers; all must be there. --images chooses the folder; by default the first there is of
images_4, images_8, images_2, images.

Lenses have distortion. Pictures are undistorted at the conversion (`input_pipeline.datasets.undistort`):
record and pictures are those of a pinhole camera, with a focal length that is longer by what is needed to
fill the picture.

A scene is named by its hash. Its kind is "static", its unit is unknown (structure from motion).
`transforms.json` of any other scene that nerfstudio's or instant-ngp's tools made is read in the same way.

Not tried on the real files.

    python -m input_pipeline.datasets.dl3dv --scenes DL3DV-ALL-960P --out data/built
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from input_pipeline.datasets import captions, layouts, records, undistort
    from stp_jax import user_input
    from stp_jax.command_line import number
    from stp_jax.controls.cameras import Cameras
    from stp_jax.controls.formats.base import by_numbers
    from stp_jax.files import read_json
    from stp_jax.media.sequences import FPS

IMAGES = ("images_4", "images_8", "images_2", "images")
_MOST_LENSES = 8  # with distortion in a scene: each has a table of 80 bytes a pixel
_FOLDERS = ("", "nerfstudio", "gaussian_splat")  # of transforms.json in that of a scene


class Settings(NamedTuple):
    """What the command line says.

    Attributes:
      captions: of scenes by name.
      images: the name of the folder of pictures; None: the first there is of IMAGES.
      fps: pictures in a second, which the data set does not say.
    """

    captions: Mapping[str, Sequence[str]] = {}
    images: str | None = None
    fps: float = FPS


class Dl3dv(records.SceneBuilder):
    """Builder of DL3DV; see the module."""

    name = "dl3dv"
    defaults = Settings()

    def read_scene(self, folder: Path) -> dict[str, Any]:
        return read_scene(folder, self.settings)


def read_scene(folder: Path, settings: Settings = Settings()) -> dict[str, Any]:  # noqa: B008 (immutable)
    """The record of a scene folder.

    Raises:
      InputError: the folder has another layout; a picture is missing, damaged or of another size; the lens is
        missing, does not fit the pictures, or has a distortion that is too strong.
    """
    root = next((folder / name for name in _FOLDERS if (folder / name / "transforms.json").is_file()), folder)
    path = root / "transforms.json"
    frames = _frames_of(path)
    files = _pictures_of(root, [PurePosixPath(str(one["file_path"])).name for one in frames], settings)
    size = layouts.picture(files[0]).shape[:2]
    read = layouts.read_cameras(path, len(files), size)
    if read.lens is None:
        raise InputError(f'{path}: has no lens: "fl_x", "fl_y", "cx", "cy", "w" and "h"')
    layouts.check_square_pixels(path, read.cameras.intrinsics, size)
    made, lens = _undistorted(files, frames, read.cameras.intrinsics, size, path)
    even, lens = layouts.even_part(size, lens, path)
    data = layouts.encoded((image[: even[0], : even[1]] for image in made), settings.fps)
    return layouts.record(
        folder.name,
        "static",
        [data],
        [Cameras(read.cameras.c2w, lens)],
        len(files),
        settings.fps,
        metric=False,
        captions=captions.of_scene(folder.name, settings.captions, [folder / "caption.txt"]),
        where=path,
    )


def _frames_of(path: Path) -> list[dict[str, Any]]:
    """The entries of frames in a transforms.json, with its common fields, in the order of their poses."""
    data = read_json(path, dict)
    listed = data.get("frames")
    frames = listed if isinstance(listed, list) else []
    if not all(isinstance(one, dict) and isinstance(one.get("file_path"), str) for one in frames):
        raise InputError(f'{path}: each of its "frames" must have a "file_path"')
    if len(frames) < 2:
        raise InputError(f"{path}: {len(frames)} frames; a scene needs two at least")
    common = {name: value for name, value in data.items() if name != "frames"}
    return [common | one for one in sorted(frames, key=lambda one: by_numbers(one["file_path"]))]


def _pictures_of(root: Path, names: Sequence[str], settings: Settings) -> list[Path]:
    """The files of pictures of these names."""
    wanted = IMAGES if settings.images is None else (settings.images,)
    folder = next((root / name for name in wanted if (root / name).is_dir()), None)
    if folder is None:
        raise InputError(f"{root}: has no folder {' or '.join(wanted)} of pictures")
    there = {file.name for file in folder.iterdir()}
    missing = [name for name in names if name not in there]
    if missing:
        others = f", nor are {len(missing) - 1} others" if len(missing) > 1 else ""
        raise InputError(f"{folder}: {user_input.short(missing[0])} is not there{others}")
    return [folder / name for name in names]


def _undistorted(
    files: Sequence[Path], frames: Sequence[dict], lenses: np.ndarray, size: tuple[int, int], path: Path
) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Pictures as a pinhole camera sees them, and its lenses [F, 4]."""
    made: dict[tuple, undistort.Pinhole] = {}
    cameras: list[undistort.Pinhole | None] = []
    lenses = lenses.copy()
    for i, (one, lens) in enumerate(zip(frames, lenses, strict=True)):
        distortion = _distortion(one, path)
        key = (*distortion, *lens)
        if distortion.none:
            cameras.append(None)
            continue
        if key not in made:
            if len(made) == _MOST_LENSES:
                raise InputError(
                    f"{path}: more than {_MOST_LENSES} lenses with distortion: undistort it first"
                )
            made[key] = undistort.Pinhole(size, lens, distortion, f"{path}: {files[i].name}")
        cameras.append(made[key])
        lenses[i] = made[key].lens
    images = layouts.pictures(files, size)
    return (
        (image if camera is None else camera(image) for image, camera in zip(images, cameras, strict=True)),
        lenses,
    )


def _distortion(one: dict, path: Path) -> undistort.Distortion:
    values = [user_input.numbers(one.get(name, 0.0)) for name in undistort.NAMES]
    if any(value is None or value.size != 1 or not abs(float(value.item())) < 100 for value in values):
        raise InputError(f"{path}: its distortion ({', '.join(undistort.NAMES)}) must be numbers")
    return undistort.Distortion(*(float(value.item()) for value in values))  # type: ignore[union-attr]


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = records.arguments(__doc__)
    layouts.add_flags(parser)
    parser.add_argument(
        "--images", help=f"folder of pictures in a scene (default: the first of {', '.join(IMAGES)})"
    )
    parser.add_argument(
        "--fps", type=number(1, 240), default=FPS, help="of the videos made (default: %(default)g)"
    )
    args = parser.parse_args(argv)
    if args.images is not None and Path(args.images).name != args.images:
        raise InputError(f"--images {args.images}: give the name of a folder in the scenes, as images_4")
    settings = Settings(captions.read(args.captions), args.images, args.fps)
    scenes = layouts.find(
        args.scenes, "--scenes", _is_scene, "expected <hash>/transforms.json and <hash>/images_4/"
    )
    splits = layouts.split(scenes, args.scenes, args.test_scenes)
    records.build(Dl3dv, args.out, splits, records.options(args), settings=settings)


def _is_scene(folder: Path, names: set[str]) -> bool:
    """A folder with cameras or with pictures, so that one without the other is noticed."""
    return bool(names & {"transforms.json", *IMAGES, *_FOLDERS[1:]})


if __name__ == "__main__":
    main()
