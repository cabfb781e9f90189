"""Renders scenes as camera x time grids: every camera of a rig films the same motion at every grid time.

    python -m input_pipeline.render --out data/scenes --seeds 0:2000

writes data/scenes/scene_000000/ ... scene_001999/, as `input_pipeline.datasets.cam_x_time` reads them. It
uses all cores and all GPUs, and started again it continues with the missing scenes. Seeds from 1000000 on are
the test split. Depth, object numbers and clips with a clock for each object: docs/rendering.md.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from input_pipeline.remote import local_folder
from input_pipeline.render import clocks, layers
from input_pipeline.render.opengl import choose_backend, gpus_to_draw_with
from input_pipeline.render.rig import camera_data
from stp_jax import media
from stp_jax.command_line import Parser
from stp_jax.controls.camera_files import GRID_CONVENTION
from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.files import read_json, replace_file

if TYPE_CHECKING:  # they import mujoco, which must not be before the choice of a backend
    from input_pipeline.render.film import Film
    from input_pipeline.render.scene import Scene

FPS = 20  # of the files: two grid times for each source frame of 1/10 s
COARSE_DEPTH = "coarse_depth"


@dataclass(frozen=True)
class GridSettings:
    cameras: int = 17
    times: int = 33  # half source frames apart
    size: int = 128
    crf: int = 12
    depth: bool = False
    ids: bool = False  # of objects
    depth_stride: int = 0  # side of the squares of coarse depth, pixels; 0: none
    object_clocks: int | tuple[clocks.Clip, ...] = 0  # clips with a clock for each object: how many, or which


class Strip(NamedTuple):
    """Videos that are drawn together: cameras side by side, time by time.

    Attributes:
      folder: of the clip in its scene's folder; empty for the plain grid.
      cameras: which of the rig's.
      moments: at each time, the frames of all cameras by the folder of their videos: `videos`, uint8
        [C, H, W, 3]; `depth`, uint16 [C, H, W] as in `layers`; `ids`, uint8 [C, H, W]. And `COARSE_DEPTH`,
        float32 [C, H / stride, W / stride], which is written to no video.
    """

    folder: str
    cameras: range
    moments: Iterator[dict[str, np.ndarray]]


def render_grid(seed: int, settings: GridSettings) -> tuple[np.ndarray, dict[str, Any]]:
    """Renders the scene of a seed; `opengl.choose_backend` must have been called.

    Returns:
      uint8 [C, T, H, W, 3], the same bytes for the same seed, settings and OpenGL library; and what
      camera_data.json holds.
    """
    from input_pipeline.render import film, scene  # not before the choice of a backend

    drawn = scene.draw(seed, settings.cameras, settings.times)
    with film.Film(drawn, settings.size, settings.size) as camera:
        pictures = np.stack([camera.shoot(t) for t in range(settings.times)], 1)
    return pictures, describe(drawn, seed, settings)


@contextlib.contextmanager
def open_scene(seed: int, settings: GridSettings) -> Iterator[tuple[dict[str, Any], Iterator[Strip]]]:
    """What camera_data.json of a seed holds, and its videos strip by strip, each to be used before the next.

    `opengl.choose_backend` must have been called.
    """
    from input_pipeline.render import film, scene  # not before the choice of a backend

    drawn = scene.draw(seed, settings.cameras, settings.times)
    data = describe(drawn, seed, settings)
    with film.Film(drawn, settings.size, settings.size) as camera:
        yield data, _strips(drawn, camera, data, settings)


def _strips(drawn: Scene, camera: Film, data: dict[str, Any], settings: GridSettings) -> Iterator[Strip]:
    plain: dict[str, Any] = {"folder": "", "animation_time": {}}
    for clip in [plain, *data.get("object_clocks", [])]:
        for part in camera.strips():
            moments = _moments(drawn, camera, part, clip["animation_time"], settings)
            yield Strip(clip["folder"], range(part.start, part.stop), moments)


def _moments(
    drawn: Scene, camera: Film, part: slice, curves: clocks.Clip, settings: GridSettings
) -> Iterator[dict[str, np.ndarray]]:
    poses = drawn.rig.c2w[part], drawn.rig.intrinsics[part]
    for t in range(settings.times):
        now = {name: curve[t] for name, curve in curves.items()}
        frames: dict[str, np.ndarray] = {}
        if settings.depth_stride and not curves:  # of the plain grid alone
            cell = settings.depth_stride
            frames["videos"], frames[COARSE_DEPTH] = camera.shoot_with_depth(t, *poses, cell=cell)
        else:
            frames["videos"] = camera.shoot(t, *poses, clocks=now)
        if settings.depth or settings.ids:
            inverse_depth, ids = camera.survey(t, *poses, clocks=now)
            if settings.depth:
                frames["depth"] = layers.to_code(inverse_depth)
            if settings.ids:
                frames["ids"] = ids
        yield frames


def describe(drawn: Scene, seed: int, settings: GridSettings) -> dict[str, Any]:
    """What camera_data.json of a scene holds."""
    data = {
        "convention": GRID_CONVENTION,
        "width": settings.size,
        "height": settings.size,
        "fps": FPS,
        "seed": seed,
        "rig": drawn.rig.kind,
        "animation_time": [t / 2 for t in range(settings.times)],
        "cameras": camera_data(drawn.rig),
    }
    if settings.depth:
        data["depth"] = {"folder": "depth", "form": layers.FORM, "nearest": layers.NEAREST}
    if settings.ids:
        data["ids"] = {"folder": "ids"}
    if settings.depth_stride:
        data["coarse_depth"] = {"file": f"{COARSE_DEPTH}.npy", "stride": settings.depth_stride}
    if settings.ids or settings.object_clocks:
        data["objects"] = layers.objects(drawn)
    if settings.object_clocks:
        clips = clocks.of_scene(settings.object_clocks, seed, _moving(data), settings.times)
        data["object_clocks"] = [
            {"folder": f"clocks_{number:03d}", "animation_time": clip} for number, clip in enumerate(clips)
        ]
    return data


def _moving(data: dict[str, Any]) -> list[str]:
    return [thing["name"] for thing in data["objects"] if thing["moves"]]


def scene_folder(out: Path, seed: int) -> Path:
    return out / f"scene_{seed:06d}"


def write_grid(out: Path, seed: int, settings: GridSettings) -> None:
    """Renders a seed into its folder under `out`, which appears only once it is complete.

    Raises:
      InputError: it cannot be written.
    """
    folder = scene_folder(out, seed)
    partial = folder.with_suffix(".tmp")
    if partial.exists():
        shutil.rmtree(partial)
    try:
        with open_scene(seed, settings) as (data, strips):
            coarse = [_write_strip(partial / strip.folder, strip, settings) for strip in strips]
        if settings.depth_stride:
            np.save(partial / f"{COARSE_DEPTH}.npy", np.concatenate([part for part in coarse if part.size]))
        with replace_file(partial / "camera_data.json") as file:
            file.write_text(json.dumps(data))
        os.replace(partial, folder)
    except (OSError, InputError) as error:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk has other uses for its room
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"scene {folder} is not written: {reason}") from None


def _write_strip(folder: Path, strip: Strip, settings: GridSettings) -> np.ndarray:
    """Writes the videos of a strip side by side: only what the encoders look ahead is held in memory.

    Returns:
      Its coarse depth, float16 [C, T, h, w]; empty if it has none.
    """
    coarse: list[np.ndarray] = []
    with contextlib.ExitStack() as files:
        writers: dict[str, list] = {}
        for frames in strip.moments:
            if COARSE_DEPTH in frames:
                coarse.append(frames.pop(COARSE_DEPTH).astype(np.float16))
            for name in frames if not writers else ():
                (folder / name).mkdir(parents=True, exist_ok=True)
                writers[name] = [
                    files.enter_context(_writer(folder / name, c, settings)) for c in strip.cameras
                ]
            for name, of_cameras in frames.items():
                for put, frame in zip(writers[name], of_cameras, strict=True):
                    put(frame)
    return np.stack(coarse, 1) if coarse else np.empty(0, np.float16)


def _writer(folder: Path, camera: int, settings: GridSettings):
    """What opens the file of one camera for frames of the folder's kind."""
    path, size = folder / f"camera_{camera:03d}", settings.size
    if folder.name == "videos":
        return media.video_writer(path.with_suffix(".mp4"), size, size, FPS, crf=settings.crf)
    kind = np.uint16 if folder.name == "depth" else np.uint8
    return layers.writer(path.with_suffix(".mkv"), size, size, FPS, kind)


def check_scene(folder: Path, settings: GridSettings) -> None:
    """Raises `InputError` unless the scene in `folder` was rendered with these settings, but for `crf`."""
    try:
        data = read_json(folder / "camera_data.json", dict)
        found = (len(data["cameras"]["extrinsic"]), len(data["animation_time"]), data["width"])
        clips = [clip["animation_time"] for clip in data.get("object_clocks", [])]
        stride = data["coarse_depth"]["stride"] if "coarse_depth" in data else 0
        wanted = clips
        if settings.object_clocks and clips:
            wanted = clocks.of_scene(settings.object_clocks, data["seed"], _moving(data), settings.times)
    except (InputError, KeyError, TypeError) as error:
        reason = error if isinstance(error, InputError) else f"{folder}/camera_data.json: lacks {error}"
        raise InputError(f"{reason}; remove the folder.") from None
    extras = ("depth" in data, "ids" in data, bool(clips), stride)
    asked = (settings.depth, settings.ids, bool(settings.object_clocks), settings.depth_stride)
    same = extras == asked and clips == wanted
    if found != (settings.cameras, settings.times, settings.size) or not same:
        cameras, times, size = found
        given = f"--cameras {cameras} --times {times} --size {size}"
        given += " --depth" * extras[0] + " --ids" * extras[1]
        given += f" --object_clocks, {len(clips)} clips" * extras[2]
        given += f" --depth_stride {stride}" * bool(stride)
        raise InputError(f"{folder} was rendered with {given}; give the same, or another --out.")


def write_grids(
    out: Path, seeds: range, settings: GridSettings, workers: int, gpus: int | None = None
) -> int:
    """Renders the seeds whose folders are not there yet; returns how many.

    Args:
      workers: processes; they take the scenes in order, and the GPUs in turn.
      gpus: how many of them to use; by default all that this process may use.

    Raises:
      InputError: a scene that is there has another size, `out` cannot be written, or a process died before
        any scene was done.
    """
    missing = [seed for seed in seeds if not scene_folder(out, seed).exists()]
    for seed in set(seeds) - set(missing):
        check_scene(scene_folder(out, seed), settings)
    if not missing:
        return 0
    choose_backend()
    numbers = gpus_to_draw_with(gpus)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; choose a folder that can be written.") from error
    # One thread in each process, for the software renderer, too: the processes share the cores.
    os.environ.update(LP_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    rest = missing
    while rest:
        try:
            _write_all(out, rest, settings, min(workers, len(rest)), numbers)
        except BrokenProcessPool:
            before, rest = rest, [seed for seed in rest if not scene_folder(out, seed).exists()]
            if len(rest) == len(before):
                raise InputError(
                    f"--out {out}: a rendering process was killed, for want of memory perhaps, or its OpenGL "
                    "driver failed; the same command goes on, with fewer --workers if need be."
                ) from None
            tqdm.write(f"A rendering process died; {len(rest)} scenes are left.", sys.stderr)
        else:
            break
    return len(missing)


def _write_all(out: Path, seeds: list[int], settings: GridSettings, workers: int, gpus: list[int]) -> None:
    """Renders the seeds in processes. Raises `BrokenProcessPool` where one of these dies."""
    context = multiprocessing.get_context("spawn")  # an OpenGL context does not survive a fork
    turns = context.SimpleQueue()
    for worker in range(workers):
        turns.put(gpus[worker % len(gpus)] if gpus else None)
    with ProcessPoolExecutor(workers, context, _start_worker, (turns,)) as pool:
        jobs = [pool.submit(write_grid, out, seed, settings) for seed in seeds]
        try:
            on = f"{len(gpus)} GPUs" if gpus else os.environ["MUJOCO_GL"]
            for job in tqdm(as_completed(jobs), on, len(jobs), unit="scene", smoothing=0.05):
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # scenes in progress are finished
            raise


def _start_worker(gpus) -> None:
    """Takes the next GPU of a queue. Ctrl-C reaches every process; the first one decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    number = gpus.get()
    if number is not None:
        os.environ["MUJOCO_EGL_DEVICE_ID"] = str(number)  # MuJoCo reads it when it opens its first context


def parse_seeds(text: str) -> range:
    """`first:end` (end not included) or one seed."""
    first, colon, end = text.partition(":")
    try:
        seeds = range(int(first), int(end) if colon else int(first) + 1)
    except ValueError:
        seeds = range(0)
    if not seeds or seeds[0] < 0:
        raise InputError(f"--seeds {text}: give first:end, such as 0:2000 for 0 to 1999, or one seed.")
    return seeds


def _parser() -> Parser:
    defaults = GridSettings()
    parser = Parser("python -m input_pipeline.render", description=__doc__)
    parser.add_argument("--out", type=local_folder, required=True, help="folder for the scene folders")
    parser.add_argument("--seeds", required=True, help="first:end (end not included)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument(
        "--cameras", type=int, default=defaults.cameras, help="on the rig (default: %(default)s)"
    )
    parser.add_argument(
        "--times", type=int, default=defaults.times, help="half source frames apart (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=defaults.size, help="pixels (default: %(default)s)")
    parser.add_argument(
        "--crf", type=int, default=defaults.crf, help="x264 quality, lower is better (default: %(default)s)"
    )
    parser.add_argument("--depth", action="store_true", help="write depth, too")
    parser.add_argument(
        "--depth_stride",
        type=int,
        default=0,
        help="write coarse depth, a value for each square of this many pixels; training takes 8 (default: "
        "none)",
    )
    parser.add_argument("--ids", action="store_true", help="write which pixel is which object's, too")
    parser.add_argument(
        "--object_clocks",
        default="0",
        metavar="N or JSON",
        help="write clips in which each object has its own clock: how many, drawn, or a file of clocks",
    )
    parser.add_argument("--gpus", type=int, help="to draw with (default: all that EGL finds)")
    return parser


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    for flag, least, most in (
        ("workers", 1, 1024),
        ("cameras", 1, 1000),
        ("times", 3, 1000),
        ("size", 16, 4096),
        ("crf", 0, 51),
        ("depth_stride", 0, args.size),
    ):
        if not least <= getattr(args, flag) <= most:
            raise InputError(f"--{flag} {getattr(args, flag)}: must be from {least} to {most}.")
    if args.depth_stride and args.size % args.depth_stride:
        raise InputError(f"--depth_stride {args.depth_stride}: must divide --size {args.size}.")
    object_clocks = clocks.parse(args.object_clocks, args.times)
    grid = (args.cameras, args.times, args.size)
    settings = GridSettings(
        *grid, args.crf, args.depth, args.ids, object_clocks=object_clocks, depth_stride=args.depth_stride
    )
    seeds = parse_seeds(args.seeds)
    try:
        written = write_grids(args.out, seeds, settings, args.workers, args.gpus)
    except KeyboardInterrupt:
        print("interrupted: the same command continues with the missing scenes", file=sys.stderr)
        sys.exit(130)
    print(f"{args.out}: {written} scenes rendered, {len(seeds) - written} were there already")
