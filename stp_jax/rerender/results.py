"""The output folder of sample.py: videos, pictures and settings.json."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stp_jax import media
from stp_jax.controls.formats.writing import to_nerfstudio, to_ours
from stp_jax.controls.paths import Cameras
from stp_jax.controls.view import View
from stp_jax.errors import InputError
from stp_jax.files import new_file
from stp_jax.media import writing
from stp_jax.media.lazy import Video, each
from stp_jax.media.sound import Sound
from stp_jax.rerender.request import Request, playing_rate

# What the files in a folder are, to print: those of `write_plan`, and those of a whole run.
_CONTROLS = """  cameras_and_time.png  the camera path and the animation time
  new_camera.json       the camera path, for --camera; camera_path.json: the same for nerfstudio's viewer"""
PLAN = f"""  source.png            the source as the model is given it
{_CONTROLS}"""
RESULT = f"""  result.mp4            the new video: the model's {{size}}
  side_by_side.mp4      the source and the new video
  contact_sheet.png     both as pictures
{_CONTROLS}
  settings.json         everything needed to repeat this"""


NAMES = (
    *("result.mp4", "side_by_side.mp4", "contact_sheet.png", "cameras_and_time.png", "new_camera.json"),
    *("camera_path.json", "source_cameras.json", "settings.json"),
)


@contextlib.contextmanager
def result_folder(
    out: str | None,
    *names: str | os.PathLike[str],
    goes_on: Callable[[Path], bool] = lambda folder: False,
) -> Iterator[Path]:
    """Yields a new folder, which is removed again if the block fails and has written nothing.

    Args:
      out: the folder, new or empty; None: a new one in outputs/, named after `names`.
      names: of files, presets, ...
      goes_on: whether a folder that is there is to be gone on with; it may raise `InputError` for `out`.

    Raises:
      InputError: `out` is not empty, or cannot be written.
    """
    folder = Path(out or "outputs")
    try:
        if out is None:
            name = folder_name(*names)
            numbered = itertools.chain([name], (f"{name}_{n}" for n in itertools.count(2)))
            numbered_folders = (folder / name for name in numbered)
            folder = next(path for path in numbered_folders if goes_on(path) or not os.path.lexists(path))
        elif folder.is_dir() and any(folder.iterdir()) and not goes_on(folder):
            raise InputError(f"--out {folder} is not empty and nothing is overwritten: choose a new folder.")
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=not made)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"the output folder {folder} cannot be written ({error.strerror}): choose another with --out."
        ) from None
    try:
        yield folder
    except BaseException:
        if made:
            with contextlib.suppress(OSError):  # something was written: it stays
                folder.rmdir()
        raise


def folder_name(*names: str | os.PathLike[str]) -> str:
    """A name for results, after files, presets, ..."""
    return "_".join(map(_short_name, names))


def _short_name(text: str | os.PathLike[str]) -> str:
    """A part of a folder's name for a file, a preset or keyframes."""
    text = os.path.basename(text)
    if re.fullmatch(r"[\d.,:s%\s]+", text):
        return "keyframes"
    text = re.sub(r"\.[A-Za-z]\w*$", "", text)  # but not the fraction of orbit_left:22.5
    return re.sub(r"[^\w.+-]+", "_", text).strip("_.")[:40] or "clip"


def playback(clip: media.Clip, fps: float | None = None, frames: int | None = None) -> tuple[float, str]:
    """Frames per second of the results, and a sentence that says so.

    See `playing_rate`, which has the same arguments; `frames` are those of the new video, by default as many
    as the clip's.
    """
    frames = frames or len(clip.frames)
    chosen = playing_rate(clip, fps)
    factor = clip.fps / chosen
    speed = "at the speed of the source"
    if frames > 1 and not 0.99 < factor < 1.01:
        slower = f"{factor:.3g} times slower" if factor > 1 else f"{1 / factor:.3g} times faster"
        speed = f"{slower} than the source" + ("" if fps else "; --fps chooses another rate")
    return chosen, f"Result: {frames} frames at {chosen:.3g} fps, {frames / chosen:.3g} s, {speed}"


@contextlib.contextmanager
def saying_what_is_there(folder: Path) -> Iterator[None]:
    """Errors of writing become an `InputError` that names the files that are complete."""
    try:
        yield
    except (OSError, InputError) as error:
        cause = str(error) if isinstance(error, InputError) else f"{folder}: {error.strerror or error}."
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        there = f"Written before: {', '.join(names)}" if names else "Nothing was written"
        raise InputError(f"{cause} {there} in {folder}.") from error


def write_results(
    folder: Path,
    request: Request,
    result: Video,
    *,
    fps: float,
    scale: int,
    sound: Sound | None = None,
) -> None:
    """Writes videos, enlarged by `scale`, a contact sheet, the cameras, and a picture of both controls.

    Raises:
      InputError: a file cannot be written, as on a full disk; it names those that were.
    """
    from stp_jax.media import pictures

    source = request.clip.frames
    if len(source) != len(result):  # a long video, whose clock may linger
        source = source.of_length(len(result))
    videos = {"source": source, "result": result}
    large = {label: enlarge(video, scale) if scale > 1 else video for label, video in videos.items()}
    with saying_what_is_there(folder):
        media.write_video(folder / "result.mp4", large["result"], fps, sound=sound)
        media.write_video(folder / "side_by_side.mp4", pictures.side_by_side(large), fps, sound=sound)
        pictures.contact_sheet(folder / "contact_sheet.png", videos)
        _plot(folder, request)
        _write_cameras(folder, request, fps)


def write_form(folder: Path, form: str, result: Video, *, fps: float, sound: Sound | None = None) -> None:
    """Writes the result in one of `stp_jax.media.writing.FORMS`, in its own size.

    Raises:
      InputError: as `write_results`.
    """
    with saying_what_is_there(folder):
        writing.write_form(form, folder, result, fps, sound)


def _write_cameras(folder: Path, request: Request, fps: float) -> None:
    """Writes the new camera path in the world of the source's, and the source's own if it was estimated.

    Lenses are those of the whole picture, so that the files can be given with the same video.
    """
    source, target = request.cameras_in_world()
    height, width = request.clip.source_size
    files = {
        "new_camera.json": to_ours(target, (width, height)),
        "camera_path.json": to_nerfstudio(target, (width, height), fps),
    }
    if request.estimated:
        # A short clip shows frames more than once.
        numbers, first = np.unique(request.clip.source_frames, return_index=True)
        source = Cameras(*(array[first] for array in source))
        files["source_cameras.json"] = to_ours(source, (width, height), numbers.tolist())
    for name, data in files.items():
        with new_file(folder / name) as partial:
            partial.write_text(json.dumps(data) + "\n")


def write_plan(folder: Path, request: Request, fps: float) -> None:
    """Writes what a dry run shows: the source as it is cropped, the cameras, and a picture of both controls.

    Raises:
      InputError: as `write_results`.
    """
    from stp_jax.media import pictures

    with saying_what_is_there(folder):
        pictures.contact_sheet(folder / "source.png", {"source": request.clip.frames})
        _plot(folder, request)
        _write_cameras(folder, request, fps)


def _plot(folder: Path, request: Request) -> None:
    from stp_jax.media import pictures

    marks = () if request.marks is None else tuple(request.marks)
    path = folder / "cameras_and_time.png"
    pictures.plot_cameras_and_time(path, request.source, request.target, *marks)


def enlarge(video: Video, scale: int) -> Video:
    """Enlarges a video smoothly, uint8 [F, H, W, 3] -> [F, scale H, scale W, 3]."""
    size = (video.shape[2] * scale, video.shape[1] * scale)
    return each(
        video, lambda frame: np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
    )


def write_settings(path: Path, settings: dict[str, Any], request: Request, **more: Any) -> None:
    """Writes the command that repeats the run, and the numbers that its presets and files stood for.

    Args:
      settings: sample.py's flags by name.
      more: further values that were used, by name.

    Raises:
      InputError: as `write_results`.
    """
    given = {
        key: value
        for key, value in settings.items()
        if key not in ("list", "out", "dry_run", "jobs") and value is not None and value is not False
    }
    used = {
        "seconds": request.seconds,
        "source_size": request.clip.source_size,
        "source_animation_time": request.source.animation_time.tolist(),
        "target_animation_time": request.target.animation_time.tolist(),
        "source_cameras": _cameras_of(request.source),
        "target_cameras": _cameras_of(request.target),
    }
    result = {"command": _command(given), "settings": given, "used": used | more}
    with saying_what_is_there(path.parent), new_file(path) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")


def _cameras_of(view: View) -> dict[str, list]:
    return {"c2w": view.c2w.tolist(), "intrinsics": view.intrinsics.tolist()}


def _command(flags: dict[str, Any]) -> str:
    """The command line of sample.py with these flags."""
    return shlex.join(["python", "sample.py", *words(flags)])


def words(flags: Mapping[str, Any]) -> list[str]:
    """The words of sample.py's command line for flags by name; those that are None or False are left out."""
    made: list[str] = []
    for key, value in flags.items():
        if value is True:
            made.append(f"--{key}")
        elif isinstance(value, (list, tuple)):
            made += [f"--{key}", *map(str, value)]
        elif value is not None and value is not False:
            made.append(f"--{key}={value}")
    return made
