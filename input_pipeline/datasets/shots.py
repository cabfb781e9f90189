"""Anyone's videos, with cameras in any form that `python sample.py --camera` reads.

Two layouts below --scenes, also mixed:

    kitchen/                       a scene of several cameras, or of one
        left.mp4, right.mp4        at once, of one length, size and rate
        left_cameras.json, ...     the cameras of each, see below
        left.txt                   captions, one in each line (optional); caption.txt: of the scene
        shot.json                  what is known of this scene (optional)
    walk.mp4                       a scene of one video
    walk_cameras.npz, walk.txt, walk.shot.json

Cameras of NAME.mp4 are in NAME_cameras.json, .npz, .npy, .txt or .tum, in NAME.json, .npz, .npy or .tum, or
in a folder NAME_cameras (a model of COLMAP): one pose for each frame, or one alone where the camera stands
still. All cameras of a scene are in one world. Forms: docs/camera_files.md; a form without a convention is
camera-to-world in OpenCV axes unless --camera_axes or --camera_poses say otherwise. A form without a lens
needs --fov. Poses estimated by COLMAP, MegaSaM, VGGT or ViPE are read as those programs write them.

Kinds (--kind): "synchronised": several moving cameras film one motion at once; "grid": the same, cameras
standing still; "static": nothing moves in the world, one camera or several; "single": one camera in a moving
world, which is assumed of one video. Of several videos the kind must be said.

--metric says that lengths are metres, after they are multiplied by --camera_scale.

shot.json may have "kind", "metric", "camera_axes", "camera_poses", "camera_scale", "fov" and "captions" (a
list), which count for this scene instead of the flags.

    python -m input_pipeline.datasets.shots --scenes my_videos --out data/built --kind synchronised --metric
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from input_pipeline.datasets import captions, layouts, records
    from stp_jax import user_input
    from stp_jax.command_line import number
    from stp_jax.controls import camera_files, cameras
    from stp_jax.controls.cameras import Cameras, Reading
    from stp_jax.controls.formats.base import by_numbers
    from stp_jax.files import read_json

KINDS = ("synchronised", "grid", "static", "single")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".m4v", ".avi")
NOTE = "shot.json"
_OF_CAMERAS = (".json", ".npz", ".npy", ".txt", ".tum", "")


class Settings(NamedTuple):
    """What is known of scenes: by the command line, and of one of them by its shot.json.

    Attributes:
      captions: of scenes by name.
      kind: one of KINDS; None: "single" of one video.
      metric: whether lengths are metres, after `camera_scale`.
      camera_axes, camera_poses: of files that state neither, see `Reading`.
      camera_scale: what lengths are multiplied by.
      fov: degrees across the height, where a file has no lens.
    """

    captions: Mapping[str, Sequence[str]] = {}
    kind: str | None = None
    metric: bool = False
    camera_axes: str | None = None
    camera_poses: str | None = None
    camera_scale: float = 1.0
    fov: float | None = None


class Shots(records.SceneBuilder):
    """Builder of anyone's videos; see the module."""

    name = "shots"
    defaults = Settings()

    def read_scene(self, folder: Path) -> dict[str, Any]:
        return read_scene(folder, self.settings)


def read_scene(path: Path, settings: Settings = Settings()) -> dict[str, Any]:  # noqa: B008 (immutable)
    """The record of a scene: of a folder of videos, or of one video.

    Raises:
      InputError: a video or its cameras are missing, damaged or do not fit each other; the kind is not known,
        or is not that of these cameras; the lens is not known.
    """
    alone = not path.is_dir()
    scene = path.stem if alone else path.name
    files = [path] if alone else _videos_in(path)
    note = path.with_name(f"{path.stem}.shot.json") if alone else path / NOTE
    settings, texts = _with_note(settings, note)
    kind = _kind(settings, len(files), path)
    videos = layouts.read_videos(files, moving=kind != "static")
    for file in files:
        layouts.check_whole_frames(file)
    frames, size = videos[0].frames, videos[0].size
    paths = [_cameras_of(file, frames, size, settings) for file in files]
    if kind == "grid":
        paths = [_standing(one, file) for one, file in zip(paths, files, strict=True)]
    beside = [file.with_suffix(".txt") for file in files] + ([] if alone else [path / "caption.txt"])
    return layouts.record(
        scene,
        kind,
        [video.data for video in videos],
        paths,
        frames,
        videos[0].fps,
        metric=settings.metric,
        captions=texts or captions.of_scene(scene, settings.captions, beside),
        where=path,
    )


def _videos_in(folder: Path) -> list[Path]:
    found = [
        file for file in folder.iterdir() if file.suffix.lower() in VIDEOS and not file.name.startswith(".")
    ]
    if not found:
        raise InputError(f"{folder}: has no videos ({', '.join(VIDEOS)})")
    found.sort(key=lambda file: by_numbers(file.name))
    for one, other in zip(found, found[1:], strict=False):
        if one.stem == other.stem:
            raise InputError(f"{folder}: {one.name} and {other.name} have one name: remove or rename one")
    return found


def _with_note(settings: Settings, path: Path) -> tuple[Settings, list[str]]:
    """What is known of a scene, and the captions that its shot.json has."""
    if not path.is_file():
        return settings, []
    data = read_json(path, dict, most=1 << 20)
    known = {
        "kind": lambda value: value in KINDS if isinstance(value, str) else False,
        "metric": lambda value: isinstance(value, bool),
        "camera_axes": lambda value: isinstance(value, str) and value in camera_files.AXES,
        "camera_poses": lambda value: isinstance(value, str) and value in camera_files.POSES,
        "camera_scale": lambda value: _is_number(value, 0, 1e6),
        "fov": lambda value: _is_number(value, 1, 170),
        "captions": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    }
    for name, value in data.items():
        if name not in known:
            raise InputError(f"{path}: {user_input.unknown('field', name, known)}")
        if not known[name](value):
            raise InputError(f'{path}: "{name}" cannot be {user_input.short(repr(value), 60)}')
    texts = [" ".join(text.split()) for text in data.pop("captions", []) if text.strip()]
    return settings._replace(**data), texts


def _is_number(value: Any, above: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and above < value <= most


def _kind(settings: Settings, videos: int, path: Path) -> str:
    if settings.kind is None and videos > 1:
        raise InputError(f"{path}: of {videos} videos: --kind must say which of {', '.join(KINDS)} they are")
    kind = settings.kind or "single"
    if kind in ("synchronised", "grid") and videos < 2:
        raise InputError(f"{path}: one video is not {kind}; it is single, or static where nothing moves")
    if kind == "single" and videos > 1:
        raise InputError(f"{path}: {videos} videos are not single: give each a folder of its own")
    return kind


def _cameras_of(video: Path, frames: int, size: tuple[int, int], settings: Settings) -> Cameras:
    """c2w float64 [1 or T, 4, 4] and intrinsics [1 or T, 4] of a video."""
    names = [f"{video.stem}_cameras{end}" for end in _OF_CAMERAS]
    names += [f"{video.stem}{end}" for end in _OF_CAMERAS if end not in (".txt", "")]
    path = next((video.with_name(name) for name in names if video.with_name(name).exists()), None)
    if path is None:
        raise InputError(f"{video}: its cameras are missing; looked for {video.stem}_cameras.json, .npz, ...")
    read = layouts.read_cameras(
        path, frames, size, reading=Reading(axes=settings.camera_axes, poses=settings.camera_poses)
    )
    if read.of_new_video or read.uses_distance:
        raise InputError(f"{path}: says how a new camera is to move, not how this video was filmed")
    read = cameras.scaled(read, settings.camera_scale)
    if read.lens is not None:
        return read.cameras
    if settings.fov is None:
        raise InputError(f"{path}: has no lens: --fov says the angle of view across the height")
    lens = cameras.default_intrinsics(settings.fov, aspect=size[1] / size[0])
    return Cameras(read.cameras.c2w, np.asarray(lens)[None])


def _standing(path: Cameras, video: Path) -> Cameras:
    """The one pose of a camera that stands still."""
    if np.abs(path.c2w - path.c2w[0]).max() > 1e-6:
        raise InputError(f"{video}: its camera moves: it is of no grid, but synchronised")
    return Cameras(path.c2w[:1], path.intrinsics[:1])


def find_scenes(parent: Path) -> list[Path]:
    """Folders with videos in them, and videos that lie in `parent` itself, by natural order of name.

    Raises:
      InputError: there is none; a folder and a video, or two videos, have one name.
    """
    if not parent.is_dir():
        raise InputError(f"--scenes {parent}: no such folder")
    found = []
    for path in sorted(parent.iterdir(), key=lambda path: by_numbers(path.name)):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            is_scene = any(file.suffix.lower() in VIDEOS for file in path.iterdir()) or (path / NOTE).exists()
        else:
            is_scene = path.suffix.lower() in VIDEOS
        if is_scene:
            found.append(path)
    names = [path.name if path.is_dir() else path.stem for path in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--scenes {parent}: two scenes are named {user_input.short(twice[0])}: rename one")
    if not found:
        raise InputError(
            f"--scenes {parent}: holds no videos, and no folders of videos ({', '.join(VIDEOS)})"
        )
    return found


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = records.arguments(__doc__)
    layouts.add_flags(parser)
    add = parser.add_argument
    add("--kind", choices=KINDS, help="what the videos of a scene are; single is assumed of one video")
    add("--metric", action="store_true", help="lengths are metres, after --camera_scale")
    add("--camera_axes", choices=camera_files.AXES, help="of files that state none (default: opencv)")
    add("--camera_poses", choices=camera_files.POSES, help="of files that state neither (default: c2w)")
    add("--camera_scale", type=number(1e-9, 1e6), default=1.0, help="multiplies the lengths of the files")
    add("--fov", type=number(1, 170), help="degrees across the height, where a file has no lens")
    args = parser.parse_args(argv)
    settings = Settings(
        captions.read(args.captions),
        args.kind,
        args.metric,
        args.camera_axes,
        args.camera_poses,
        args.camera_scale,
        args.fov,
    )
    splits = layouts.split(find_scenes(args.scenes), args.scenes, args.test_scenes, lambda path: path.stem)
    records.build(Shots, args.out, splits, records.options(args), settings=settings)


if __name__ == "__main__":
    main()
