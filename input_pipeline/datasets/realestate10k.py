"""RealEstate10K: clips of walks through houses, filmed by one camera; nothing in the world moves.

    [cameras/][train/|test/]0123456789abcdef.txt
        the video's address; then of each frame a line: time stamp in microseconds, fx fy cx cy (by width and
        height), 0 0, 3 x 4 world-to-camera (OpenCV axes)

The data set itself has no pictures. They lie beside, in one of these forms, the first that is there:

    frames/0123456789abcdef/52553000.jpg, ...   a picture for each time stamp (--frames; jpg, jpeg or png)
    videos/0123456789abcdef.mp4                 the clip, with as many frames as the text has (--videos)
    videos/ab-CdEfGhIj.mp4                      the whole video, by its id; time stamps pick frames

--frames and --videos may also have folders train/ and test/. Pictures and whole videos are encoded anew at
the conversion (H.264); a whole video is decoded from its start on, so that cut clips convert faster.

A scene is named by its text. Its kind is "static", its unit is unknown (structure from motion). Texts below
test/ are the test split. Clips whose videos are gone are broken scenes: the conversion lists them.

The form of the texts was tried on files of this form that other programs wrote; the data set's videos were
not.

    python -m input_pipeline.datasets.realestate10k --scenes RealEstate10K --out data/built
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from input_pipeline.datasets import captions, layouts, records
    from stp_jax.controls import camera_files
    from stp_jax.controls.cameras import Cameras
    from stp_jax.media import decode

_SUFFIXES = (".jpg", ".jpeg", ".png")
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov")
_ID = re.compile(r"(?:[?&]v=|youtu\.be/|/embed/|/shorts/)([\w-]{11})(?![\w-])")
_SPLITS = ("", "train", "test")


class Settings(NamedTuple):
    """What the command line says.

    Attributes:
      captions: of scenes by name.
      frames, videos: folders of pictures and of videos; None: `frames` and `videos` beside the texts.
    """

    captions: Mapping[str, Sequence[str]] = {}
    frames: Path | None = None
    videos: Path | None = None


class Realestate10k(records.SceneBuilder):
    """Builder of RealEstate10K; see the module."""

    name = "realestate10k"
    defaults = Settings()

    def read_scene(self, folder: Path) -> dict[str, Any]:
        return read_scene(folder, self.settings)


def read_scene(text: Path, settings: Settings = Settings()) -> dict[str, Any]:  # noqa: B008 (immutable)
    """The record of a clip, given its text.

    Raises:
      InputError: the text has another form; pictures are missing, damaged, or not those of its lens; a time
        stamp has no frame in the video.
    """
    stamps, title = _time_stamps(text)
    fps = float(np.clip(1e6 / np.median(np.diff(stamps)), 1, 120))
    video, size = _video_of(text, stamps, title, settings, fps)
    read = layouts.read_cameras(text, len(stamps), size)
    lens = read.cameras.intrinsics
    layouts.check_square_pixels(text, lens, size)
    if isinstance(video, bytes):
        data = video
    else:
        even, lens = layouts.even_part(size, lens, text)
        data = layouts.encoded((image[: even[0], : even[1]] for image in video), fps)
    return layouts.record(
        text.stem,
        "static",
        [data],
        [Cameras(read.cameras.c2w, lens)],
        len(stamps),
        fps,
        metric=False,
        captions=captions.of_scene(text.stem, settings.captions),
        where=text,
    )


def _time_stamps(text: Path) -> tuple[np.ndarray, str]:
    """Microseconds of the frames, whole float64 [F], and the video's address, if there is one."""
    file = camera_files.load(text)
    if not file.form.startswith("RealEstate10K") or file.numbers is None or len(file.numbers.at) < 2:
        raise InputError(f"{text}: expected two lines or more of RealEstate10K's form, with time stamps")
    title = getattr(camera_files.content(text).data, "title", "")
    return file.numbers.at, title


def _video_of(
    text: Path, stamps: np.ndarray, title: str, settings: Settings, fps: float
) -> tuple[bytes | Iterator[np.ndarray], tuple[int, int]]:
    """A clip's video file as it is, or its pictures in their order; and their height and width."""
    root = text.parent.parent if text.parent.name in ("train", "test") else text.parent
    root = root.parent if root.name == "cameras" else root
    frames, videos = settings.frames or root / "frames", settings.videos or root / "videos"
    for split in _SPLITS:
        folder = frames / split / text.stem
        if folder.is_dir():
            files = _pictures_at(folder, stamps, text)
            size = layouts.picture(files[0]).shape[:2]
            return layouts.pictures(files, size), size
    found = _ID.search(title)
    named = [text.stem] + ([found[1]] if found else [])
    for name in named:
        for path in (videos / split / f"{name}{end}" for split in _SPLITS for end in _VIDEO_SUFFIXES):
            if path.is_file():
                return _of_video(path, stamps, text)
    sought = f"{frames}/{text.stem}/, {' or '.join(f'{videos}/{name}.mp4' for name in named)}"
    raise InputError(f"{text}: no pictures of it; looked for {sought}")


def _pictures_at(folder: Path, stamps: np.ndarray, text: Path) -> list[Path]:
    """The picture of every time stamp."""
    there = {path.stem: path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES}
    names = [f"{stamp:.0f}" for stamp in stamps]
    missing = [name for name in names if name not in there]
    if missing:
        raise InputError(
            f"{folder}: no picture {missing[0]}{_SUFFIXES[0]}; {len(missing)} of the {len(names)} time "
            f"stamps of {text.name} have none"
        )
    return [there[name] for name in names]


def _of_video(
    path: Path, stamps: np.ndarray, text: Path
) -> tuple[bytes | Iterator[np.ndarray], tuple[int, int]]:
    """A cut clip as it is; of a whole video the frames at the time stamps."""
    read = layouts.read_video(path, moving=False)
    if read.frames == len(stamps):
        layouts.check_whole_frames(path)
        return read.data, read.size
    times = decode.stamps(path)
    seconds = stamps / 1e6
    places = np.searchsorted(times, seconds)
    before, after = np.clip(places - 1, 0, len(times) - 1), np.clip(places, 0, len(times) - 1)
    nearest = np.where(seconds - times[before] < times[after] - seconds, before, after)
    off = np.abs(times[nearest] - seconds) > 0.5 * np.median(np.diff(seconds)) + 1e-3
    off[1:] |= np.diff(nearest) < 1  # two lines cannot have one frame
    if off.any():
        i = int(np.argmax(off))
        raise InputError(
            f"{path}: has no frame at {seconds[i]:.3f} s, as {text.name} asks; it has {len(times)} frames in "
            f"{times[-1]:.3f} s, and the text {len(stamps)} lines"
        )
    size = layouts.picture(path).shape[:2]
    return _frames(path, nearest, size), size


def _frames(path: Path, numbers: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The frames of these ascending numbers, all of one size (height, width)."""
    wanted = set(numbers.tolist())
    with contextlib.closing(decode.frames(path)) as timed:
        for number, (_, picture) in enumerate(timed):
            if number in wanted:
                wanted.remove(number)
                image = picture()
                if image.shape[:2] != size:
                    raise InputError(f"{path}: its pictures change their size on the way")
                yield image
            if not wanted:
                return
    raise InputError(f"{path}: frame {min(wanted)} cannot be decoded; is it damaged?")


def find_texts(parent: Path) -> list[Path]:
    """The texts of the clips below `parent`. Raises `InputError` where there are none."""
    if not parent.is_dir():
        raise InputError(f"--scenes {parent}: no such folder")
    folders = [parent / top / split for top in ("", "cameras") for split in _SPLITS]
    found = [path for folder in folders for path in sorted(folder.glob("*.txt"))]
    if not found:
        raise InputError(f"--scenes {parent}: holds no scenes; expected [train/]0123456789abcdef.txt")
    return found


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = records.arguments(__doc__)
    layouts.add_flags(parser)
    parser.add_argument(
        "--frames", type=Path, help="folder of folders of pictures (default: frames in --scenes)"
    )
    parser.add_argument("--videos", type=Path, help="folder of videos (default: videos in --scenes)")
    args = parser.parse_args(argv)
    settings = Settings(captions.read(args.captions), args.frames, args.videos)
    texts = find_texts(args.scenes)
    top = args.scenes / "cameras" if (args.scenes / "cameras").is_dir() else args.scenes
    splits = layouts.split(texts, top, args.test_scenes)
    records.build(Realestate10k, args.out, splits, records.options(args), settings=settings)


if __name__ == "__main__":
    main()
