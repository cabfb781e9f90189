"""Re-renders a video with a new camera and a new clock.

    python sample.py
    python sample.py --video clip.mp4 --camera orbit_left --animation_time "0:0, 8:8, 12:8, 16:16"
    python sample.py --weights models --video clip.mp4 --prompt "a dog runs over a meadow"

The first line takes the bundled clip and model, the last one a folder of official weights. Results go to
a new folder: the video, the same beside the source, a contact sheet, a picture of the camera path and clock,
and settings.json with all that it takes to repeat the run. Nothing is ever overwritten. --list shows every
camera move and every clock.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stp_jax import user_input
from stp_jax.command_line import Parser, number
from stp_jax.controls import animation_time, cameras
from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.official import time_patterns
from stp_jax.rerender.request import LONGEST, SAME_CAMERA, Request, read_request
from stp_jax.rerender.results import result_folder, write_results
from stp_jax.weights import native

# JAX and the models are imported after all checks: mistakes, --help and --list need not wait for them.

ASSETS = Path(__file__).parent / "stp_jax" / "assets"
EXAMPLE, EXAMPLE_CAMERAS = ASSETS / "example.mp4", ASSETS / "example_cameras.json"


def parse_flags(argv: list[str]) -> argparse.Namespace:
    """Raises `InputError` for a flag that does not exist or has a value that cannot be."""
    parser = Parser(prog="sample.py", description=__doc__)
    add = parser.add_argument_group("what to re-render").add_argument
    add("--video", metavar="FILE", help="any video, GIF or WebP (default: the bundled clip)")
    add("--start", type=number(0, 1e9), default=0.0, metavar="SECONDS", help="where to begin in it (0)")
    add(
        "--duration",
        type=number(1e-3, 1e9),
        metavar="SECONDS",
        help=f"how much of it (all, {LONGEST:g} at most)",
    )
    add(
        "--source_cameras",
        metavar="FILE",
        help="how it was filmed: .json, .npz or .npy with camera-to-world poses along the whole video, and "
        "intrinsics; see --list (default: a camera that stands still)",
    )
    add(
        "--fov",
        type=number(1, 179),
        default=50.0,
        metavar="DEGREES",
        help="field of view across the shorter side of the picture, where no file tells the intrinsics (50)",
    )
    add = parser.add_argument_group("how").add_argument
    add(
        "--camera",
        default="orbit_left:30:-15",
        metavar="MOVE",
        help="a move of --list, as orbit_left or orbit_left:40; or a file as for --source_cameras, in "
        "the same world (orbit_left:30:-15)",
    )
    add(
        "--distance",
        type=number(0.01, 1e4),
        default=cameras.DISTANCE,
        metavar="METRES",
        help="from the first source camera to what it looks at: moves circle this point (%(default)g)",
    )
    add(
        "--animation_time",
        default="bullet_time",
        metavar="CLOCK",
        help="a clock of --list; or keyframes 'frame:moment, ...', counted from 0; or a file (bullet_time)",
    )
    add(
        "--seed",
        type=number(0, 2**32 - 1, int),
        default=0,
        help="another seed dreams other unseen parts (0)",
    )
    add("--prompt", help="what is to be seen, for a model that takes text (nothing said)")
    add("--negative_prompt", help="what is not to be seen (a list of faults that Wan2.1 was tuned with)")
    add(
        "--guidance",
        type=number(0, 100),
        help="how strongly the prompt is followed; 1: no guidance, twice as fast (as the weights say)",
    )
    add("--steps", type=number(1, 1000, int), help="steps of sampling: more are slower (as the weights say)")
    add(
        "--shift",
        type=number(0.01, 100),
        help="above 1: more steps where noise is high (as the weights say)",
    )
    add(
        "--weights",
        default=str(native.BUNDLED),
        metavar="PATH",
        help="a folder that train.py wrote, an official checkpoint, or a folder with the downloaded files of "
        "a model (the bundled model)",
    )
    add("--vae", metavar="PATH", help="weights of the VAE (beside the others)")
    add("--text_encoder", metavar="PATH", help="weights of the text encoder (beside the others)")
    add = parser.add_argument_group("size and memory").add_argument
    add("--frames", type=number(1, 10_000, int), help="of the new video, 4n + 1 (as the weights say)")
    add(
        "--size",
        type=number(1, 10_000, int),
        nargs=2,
        metavar=("WIDTH", "HEIGHT"),
        help="of the new video in pixels (as the weights say)",
    )
    add(
        "--low_memory",
        action="store_true",
        help="load the VAE and the DiT in turn, never both: for small devices",
    )
    add(
        "--tiled",
        action="store_true",
        help="run the VAE in the official tiles, slower: to match official videos",
    )
    add("--dtype", choices=("bfloat16", "float32"), help="of the computation (bfloat16, on a CPU float32)")
    add = parser.add_argument_group("results").add_argument
    add("--out", metavar="FOLDER", help="a new or empty one (outputs/<clip>_<camera>_<clock>)")
    add(
        "--scale",
        type=number(1, 16, int),
        help="enlarges the videos; 1 is the model's own size (3 for small ones)",
    )
    add("--fps", type=number(0.1, 240), help="frames per second of the videos (the source's own speed)")
    parser.add_argument(
        "--list", action="store_true", help="explain every camera move, clock and file, and exit"
    )

    flags, extra = parser.parse_known_args(argv)
    if extra and extra[0].startswith("-"):
        known = [action.dest for action in parser._actions]
        raise user_input.unknown("flag", extra[0].lstrip("-").split("=")[0], known)
    if extra:
        raise InputError(f"unexpected argument {extra[0]!r}: a video is given as --video FILE (see --help)")
    for name, value in vars(flags).items():
        # An unset variable of a shell must not mean the default; an empty prompt says nothing, which is fine.
        if value == "" and name not in ("prompt", "negative_prompt"):
            raise InputError(f"--{name} is empty (see --help)")
    return flags


def explain_choices() -> str:
    def table(presets: dict[str, str]) -> str:
        width = max(18, *(len(name) + 2 for name in presets))
        return "\n".join(f"  {name:{width}}{explanation}" for name, explanation in presets.items())

    return f"""--camera MOVE, MOVE:AMOUNT or MOVE:AMOUNT:START
{table(cameras.PRESETS | {SAME_CAMERA: "the source's own path: the clock alone changes"})}
  START is where the path begins: orbit_left:40:-20 goes from 20 degrees right to 20 degrees left.

--camera FILE, --source_cameras FILE (OpenCV axes: x right, y down, z forward; metres)
  .json             {{"c2w": [F x 4 x 4 numbers], "intrinsics": [4] or [F x 4]}}
  .npz              arrays of the same names; .npy: c2w alone
  camera_data.json  of a rendered scene: the path runs through its cameras
  official files    SpaceTimePilot's *extrinsics*.npy (world-to-camera) and camera_data.json; MultiCamVideo's
                    camera_extrinsics.json:cam05
  intrinsics are fx, fy, cx, cy divided by width, height, width, height of the picture. A path of more poses
  than frames is followed evenly. Without --source_cameras, the poses of --camera are relative to the source's
  first camera.

--animation_time CLOCK (i: the frame, L: the last)
{table(animation_time.PRESETS)}

--animation_time official:NAME, SpaceTimePilot's patterns for 81 frames
{table(time_patterns.PATTERNS)}

--animation_time KEYFRAMES, as "0:0, 8:8, 12:8, 16:16"
  Frame 0 shows moment 0, frame 8 moment 8, the motion stands still until frame 12, then runs to the end at
  double speed. Moments are frames of the source and may have fractions; linear in between.

--animation_time FILE
  .json, .npy, .txt or .csv with the moment of every frame; .txt and .csv may have keyframes."""


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    flags = parse_flags(sys.argv[1:] if argv is None else argv)
    if flags.list:
        print(explain_choices())
        return
    started = time.monotonic()
    notes, official = read_notes(flags)
    video = EXAMPLE if flags.video is None else flags.video
    source_cameras = flags.source_cameras
    if flags.video is None and source_cameras is None:
        source_cameras = EXAMPLE_CAMERAS
    with result_folder(flags.out, video, flags.camera, flags.animation_time) as folder:
        request = read_request(
            notes,
            video=video,
            camera=flags.camera,
            clock=flags.animation_time,
            source_cameras=source_cameras,
            fov=flags.fov,
            distance=flags.distance,
            start=flags.start,
            duration=flags.duration,
            official=official and flags.video is not None,  # the bundled clip has not frames enough
        )
        print(request.summary)

        from stp_jax.devices.hardware import use_compilation_cache
        from stp_jax.rerender.rerenderer import Rerenderer

        use_compilation_cache()
        model = Rerenderer(
            flags.weights,
            vae=flags.vae,
            text_encoder=flags.text_encoder,
            frames=notes.frames,
            height=notes.height,
            width=notes.width,
            steps=flags.steps,
            shift=flags.shift,
            guidance=flags.guidance,
            dtype=flags.dtype,
            tiled=flags.tiled,
            low_memory=flags.low_memory,
        )
        for name in ("prompt", "negative_prompt"):
            if getattr(flags, name) and not model.takes_text:
                raise InputError(f"--{name}: {flags.weights} takes no text; leave it out.")
        print(f"Model: {model.title}\nComputing on {model.device}; the first run also compiles.")
        result = rerender_with_bar(model, request, flags)
        fps = flags.fps or request.clip.fps
        scale = flags.scale or (3 if max(notes.height, notes.width) <= 256 else 1)
        write_results(folder, request, result, fps=fps, scale=scale)
        settings = vars(flags) | {"steps": model.steps, "shift": model.shift, "guidance": model.guidance}
        write_settings(folder / "settings.json", settings, request, device=model.device, fps=fps)
    enlarged = f", enlarged {scale}x" if scale > 1 else ""
    print(f"""Done in {time.monotonic() - started:.0f} s. In {folder}:
  result.mp4            the new video: the model's {notes.width} x {notes.height}{enlarged}
  side_by_side.mp4      the source and the new video
  contact_sheet.png     both as pictures
  cameras_and_time.png  the camera path and the clock
  settings.json         all that it takes to repeat this
{next_steps(notes.frames)}""")


def read_notes(flags: argparse.Namespace) -> tuple[native.SamplingNotes, bool]:
    """The size of the videos to make: the flags', or what the weights are for; and if these are official."""
    if not Path(flags.weights).exists():
        raise InputError(f"--weights {flags.weights} does not exist. Give a weights file or a folder.")
    if (Path(flags.weights) / "dit.json").is_file():
        notes = native.read_sampling_notes(flags.weights)
        camera = str(native.read_index(flags.weights, "dit")["config"].get("camera"))
    else:
        from stp_jax.weights import reading, recognition

        found = recognition.recognise(flags.weights, "dit")
        notes, camera = reading.sampling_notes(found), found.config.camera
    official = camera.startswith("pose12")
    width, height = flags.size or (notes.width, notes.height)
    return notes._replace(frames=flags.frames or notes.frames, height=height, width=width), official


def rerender_with_bar(model, request: Request, flags: argparse.Namespace):
    """Calls the model under a progress bar."""
    form = "{desc:20}{percentage:4.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=1.0, bar_format=form) as bar:

        def show(what: str, done: float) -> None:
            bar.n = done  # update() would leave out parts shorter than the longest so far
            bar.set_description_str(what)

        return model(
            request.clip.frames,
            request.in_world(request.source),
            request.source_animation_time,
            None if request.same_camera else request.in_world(request.target),
            request.target_animation_time,
            prompt=flags.prompt or "",
            negative_prompt=flags.negative_prompt,
            seed=flags.seed,
            progress=show,
        )


def write_settings(path: Path, settings: dict[str, Any], request: Request, **more: Any) -> None:
    """Writes a command that repeats the run, and the numbers that its names stood for."""
    given = {
        key: value
        for key, value in settings.items()
        if key not in ("list", "out") and value is not None and value is not False
    }
    command = ["python", "sample.py"]
    for key, value in given.items():
        if value is True:
            command.append(f"--{key}")
        elif isinstance(value, (list, tuple)):
            command += [f"--{key}", *map(str, value)]
        else:
            command.append(f"--{key}={value}")
    used = {
        "seconds": request.seconds,
        "source_size": request.clip.source_size,
        "source_animation_time": request.source_animation_time.tolist(),
        "target_animation_time": request.target_animation_time.tolist(),
        "source_cameras": {key: value.tolist() for key, value in request.source._asdict().items()},
        "target_cameras": {key: value.tolist() for key, value in request.target._asdict().items()},
    }
    result = {"command": shlex.join(command), "settings": given, "used": used | more}
    path.write_text(json.dumps(result, indent=1) + "\n")


def next_steps(frames: int) -> str:
    half, most, last = (frames - 1) // 2, 3 * (frames - 1) // 4, frames - 1
    return f"""Try next:
  python sample.py --camera spiral_right --animation_time reverse
  python sample.py --camera dolly_in --animation_time "0:0, {half}:{half}, {most}:{half}, {last}:{last}"
  python sample.py --video your_clip.mp4
  python sample.py --list"""


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
