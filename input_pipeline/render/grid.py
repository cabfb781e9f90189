"""Renders scenes as camera x time grids: every camera of a rig films the same motion at every grid time.

    python -m input_pipeline.render --out data/scenes --seeds 0:2000

writes data/scenes/scene_000000/ ... scene_001999/, as `input_pipeline.datasets.cam_x_time` reads them. It
uses all cores, and started again it continues with the missing scenes. Seeds from 1000000 on are the
test split.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from input_pipeline.render.opengl import choose_backend
from input_pipeline.render.rig import Rig
from stp_jax import media
from stp_jax.command_line import Parser
from stp_jax.controls.camera_files import GRID_CONVENTION
from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.files import read_json, replace_file

FPS = 20  # of the files: two grid times for each source frame of 1/10 s


@dataclass(frozen=True)
class GridSettings:
    cameras: int = 17
    times: int = 33  # half source frames apart
    size: int = 128
    crf: int = 12


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
    return pictures, data


def camera_data(rig: Rig) -> dict[str, Any]:
    """World-to-camera matrices and intrinsics of a rig, by camera, as camera_data.json holds them."""
    names = [f"camera_{c:03d}" for c in range(len(rig.c2w))]
    return {
        "extrinsic": dict(zip(names, np.linalg.inv(rig.c2w).tolist(), strict=True)),
        "intrinsic": dict(zip(names, rig.intrinsics.tolist(), strict=True)),
    }


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
    pictures, data = render_grid(seed, settings)
    try:
        (partial / "videos").mkdir(parents=True)
        for c, video in enumerate(pictures):
            path = partial / "videos" / f"camera_{c:03d}.mp4"
            media.write_video(path, video, FPS, crf=settings.crf, pixel_format="yuv444p")
        with replace_file(partial / "camera_data.json") as file:
            file.write_text(json.dumps(data))
        os.replace(partial, folder)
    except (OSError, InputError) as error:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk has other uses for its room
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"scene {folder} is not written: {reason}") from None


def check_scene(folder: Path, settings: GridSettings) -> None:
    """Raises `InputError` unless the scene in `folder` is a grid of these cameras, times and pixels."""
    try:
        data = read_json(folder / "camera_data.json", dict)
        found = (len(data["cameras"]["extrinsic"]), len(data["animation_time"]), data["width"])
    except (InputError, KeyError, TypeError) as error:
        reason = error if isinstance(error, InputError) else f"{folder}/camera_data.json: lacks {error}"
        raise InputError(f"{reason}; remove the folder.") from None
    if found != (settings.cameras, settings.times, settings.size):
        cameras, times, size = found
        raise InputError(
            f"{folder} was rendered with --cameras {cameras} --times {times} --size {size}; "
            "give the same, or another --out."
        )


def write_grids(out: Path, seeds: range, settings: GridSettings, workers: int) -> int:
    """Renders the seeds whose folders are not there yet; returns how many.

    Raises:
      InputError: a scene that is there has another size, or `out` cannot be written.
    """
    missing = [seed for seed in seeds if not scene_folder(out, seed).exists()]
    for seed in set(seeds) - set(missing):
        check_scene(scene_folder(out, seed), settings)
    if not missing:
        return 0
    choose_backend()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; choose a folder that can be written.") from error
    # One thread in each process, for the software renderer, too: the processes share the cores.
    os.environ.update(LP_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    context = multiprocessing.get_context("spawn")  # an OpenGL context does not survive a fork
    with ProcessPoolExecutor(min(workers, len(missing)), context, _ignore_interrupts) as pool:
        jobs = [pool.submit(write_grid, out, seed, settings) for seed in missing]
        try:
            for job in tqdm(as_completed(jobs), total=len(jobs), unit="scene", smoothing=0.05):
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # scenes in progress are finished
            raise
    return len(missing)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process; the first one decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    defaults = GridSettings()
    parser = Parser("python -m input_pipeline.render", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the scene folders")
    parser.add_argument("--seeds", required=True, help="first:end (end not included)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument(
        "--cameras", type=int, default=defaults.cameras, help="on the rig (default: %(default)s)"
    )
    parser.add_argument(
        "--times", type=int, default=defaults.times, help="half source frames, odd (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=defaults.size, help="pixels (default: %(default)s)")
    parser.add_argument(
        "--crf", type=int, default=defaults.crf, help="x264 quality, lower is better (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    for flag, least, most in (
        ("workers", 1, 1024),
        ("cameras", 1, 1000),
        ("times", 3, 1000),
        ("size", 16, 4096),
        ("crf", 0, 51),
    ):
        if not least <= getattr(args, flag) <= most:
            raise InputError(f"--{flag} {getattr(args, flag)}: must be from {least} to {most}.")
    if args.times % 2 == 0:
        raise InputError(f"--times {args.times}: must be odd, to end on a whole source frame.")
    settings = GridSettings(args.cameras, args.times, args.size, args.crf)
    seeds = parse_seeds(args.seeds)
    try:
        written = write_grids(args.out, seeds, settings, args.workers)
    except KeyboardInterrupt:
        print("interrupted: the same command continues with the missing scenes", file=sys.stderr)
        sys.exit(130)
    print(f"{args.out}: {written} scenes rendered, {len(seeds) - written} were there already")
