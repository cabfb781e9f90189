"""The flags of sample.py, and the text of its --list; without JAX, so that mistakes are found at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from stp_jax import user_input
from stp_jax.command_line import Parser, number
from stp_jax.controls import animation_time, camera_files, cameras
from stp_jax.errors import InputError
from stp_jax.media import sequences, writing
from stp_jax.official import time_patterns
from stp_jax.rerender import takes
from stp_jax.rerender.source_parts import LONGEST
from stp_jax.rerender.speed import PRESETS, choose
from stp_jax.rerender.takes import SAME_CAMERA
from stp_jax.weights import native

# What flags are called elsewhere, and here.
ELSEWHERE = {
    **dict.fromkeys(("time", "clock", "animation", "time_pattern", "timing"), "animation_time"),
    **dict.fromkeys(("keys", "keyframe", "key_frames", "direction"), "keyframes"),
    **dict.fromkeys(("trajectory", "cam_type", "move", "camera_path", "target_camera"), "camera"),
    **dict.fromkeys(("src_cam", "source_camera", "input_cameras", "poses"), "source_cameras"),
    **dict.fromkeys(("input", "source", "src", "source_video", "i"), "video"),
    **dict.fromkeys(("output", "output_dir", "outdir", "save_dir", "o"), "out"),
    **dict.fromkeys(("cfg", "cfg_scale", "guidance_scale"), "guidance"),
    **dict.fromkeys(("num_inference_steps", "num_steps"), "steps"),
    **dict.fromkeys(("ckpt", "checkpoint", "model", "models", "ckpt_path"), "weights"),
    **dict.fromkeys(("num_frames", "length"), "frames"),
    **dict.fromkeys(("format", "output_format", "codec", "save"), "also"),
    **dict.fromkeys(("batch", "job", "list_file"), "jobs"),
    **dict.fromkeys(("loras", "lora_path", "lora_weights", "adapter", "lora_file"), "lora"),
    **dict.fromkeys(("width", "height", "resolution"), "size"),
}


def parse_flags(argv: list[str], description: str | None = None) -> argparse.Namespace:
    """The flags by name. Raises `InputError` for an unknown flag or an impossible value."""
    parser = Parser(prog="sample.py", description=description)
    for group, add_flags in (
        ("what to re-render", _add_what),
        ("camera and time", _add_controls),
        ("model and sampling", _add_sampling),
        ("speed and its price (docs/speed.md)", _add_speed),
        ("size and memory", _add_size),
        ("results", _add_results),
    ):
        add_flags(parser.add_argument_group(group).add_argument)
    flags, extra = parser.parse_known_args(argv)
    if extra and extra[0].startswith("-"):
        known = [action.dest for action in parser._actions]
        raise user_input.unknown("flag", extra[0].lstrip("-").split("=")[0], known, ELSEWHERE)
    if extra:
        raise InputError(f"unexpected argument {extra[0]!r}: a video is given as --video FILE (see --help)")
    for name, value in vars(flags).items():
        # An unset variable of a shell must not mean the default; an empty prompt is a prompt.
        if value == "" and name not in ("prompt", "negative_prompt"):
            raise InputError(f"--{name} is empty (see --help)")
    choose(flags.speed, flags.attention, flags.guidance_interval, flags.cache_threshold)
    return flags


def _add_what(add: Callable[..., Any]) -> None:
    add(
        "--video",
        metavar="FILE",
        help="any video, GIF or WebP; a folder of pictures or a pattern, as 'shot/frame_%%04d.exr', "
        "'frame_####.png' or '*.jpg'; or a still picture (default: the bundled clip)",
    )
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
        help="how it was filmed: a file of camera poses along the whole video, in a form of --list; or "
        "'estimate', by its features (default: a camera that stands still)",
    )
    add(
        "--fov",
        type=number(1, 179),
        metavar="DEGREES",
        help="field of view across the shorter side of the picture, where no file has the intrinsics (50)",
    )


def _add_controls(add: Callable[..., Any]) -> None:
    add(
        "--camera",
        metavar="MOVE",
        help="a move of --list, as orbit_left or orbit_left:40; or several, as "
        "'orbit_left:30, hold, zoom_in'; or a file as for --source_cameras, in the same world "
        f"({takes.CAMERA})",
    )
    add(
        "--distance",
        type=number(0.01, 1e4),
        metavar="METRES",
        help=f"from the first source camera to what it looks at: moves circle it, and it sets the scale of "
        f"estimated cameras, and of camera files with depths ({cameras.DISTANCE:g})",
    )
    add(
        "--animation_time",
        metavar="TIME",
        help="a preset of --list; or keyframes 'frame:source frame, ...', counted from 0, also in "
        "seconds and per cent, '0s:0s, 1.5s:0.8s'; or a file "
        f"({takes.ANIMATION_TIME}; of models that are given none, forward)",
    )
    add(
        "--keyframes",
        metavar="FILE",
        help="camera, lens and animation time at some times, a .json (docs/keyframes.md, examples/); what it "
        "lacks is given by --camera and --animation_time (the source's own camera, forward)",
    )
    _add_reading(add)


def _add_reading(add: Callable[..., Any]) -> None:
    """How camera files are read."""
    add(
        "--camera_axes",
        choices=camera_files.AXES,
        help="of camera files that do not state them: x right, y down, z forward; or y up, z backward, as "
        "Blender and nerfstudio have them (opencv)",
    )
    add(
        "--camera_poses",
        choices=camera_files.POSES,
        help="whether such files have camera-to-world or world-to-camera poses (c2w)",
    )
    add(
        "--camera_scale",
        type=number(1e-6, 1e6),
        metavar="FACTOR",
        help="metres for a unit of length in camera files, where that is another, as in COLMAP's models; of "
        "the source's and the new camera's, which are in one world (1)",
    )
    add(
        "--key_poses",
        action="store_true",
        help="fewer poses than frames are key poses also in camera files that have one for each frame "
        "(official ones, RealEstate10K, TUM, KITTI); in other files they are anyway",
    )
    add(
        "--source_camera_axes",
        choices=camera_files.AXES,
        help="of --source_cameras, where they differ from --camera_axes",
    )
    add(
        "--source_camera_poses",
        choices=camera_files.POSES,
        help="of --source_cameras, where they differ from --camera_poses",
    )


def _add_sampling(add: Callable[..., Any]) -> None:
    add(
        "--seed",
        type=number(0, 2**32 - 1, int),
        default=0,
        help="of the noise; another seed invents unseen parts differently (0)",
    )
    add("--prompt", help="what is to be seen, for a model that takes text (nothing in particular)")
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
    add(
        "--lora",
        nargs="+",
        action="extend",
        metavar="FILE[:STRENGTH]",
        help="LoRAs, several are added up: .safetensors of diffusers, PEFT, Kohya, ComfyUI or DiffSynth; "
        "without a number their strength is 1. Those distilled for few steps want --steps and --guidance 1",
    )
    add("--vae", metavar="PATH", help="weights of the VAE (beside the others)")
    add("--text_encoder", metavar="PATH", help="weights of the text encoder (beside the others)")


def _add_speed(add: Callable[..., Any]) -> None:
    add(
        "--speed",
        choices=tuple(PRESETS),
        help="exact: nothing is left out; fast, draft: fewer computations, another result. They set the "
        "following, of which each that is given wins (exact)",
    )
    add(
        "--guidance_interval",
        nargs=2,
        type=number(0, 1),
        metavar=("LOW", "HIGH"),
        help="noise levels, from 0 to 1, at which the prompt guides; other steps take half of the time",
    )
    add(
        "--cache_threshold",
        type=number(0, 100),
        metavar="SHARE",
        help="a step reuses the last velocity where it is predicted to differ by less; 0: never",
    )
    add(
        "--attention",
        choices=("exact", "fp8"),
        help="fp8: in 8 bits, for long videos on NVIDIA GPUs from Hopper on; elsewhere it is exact",
    )


def _add_size(add: Callable[..., Any]) -> None:
    add(
        "--frames",
        type=number(1, 1_000_000, int),
        help="of the new video (as the weights say); more than a window has are made window by window, from "
        "consecutive frames of the source, and the same command goes on where it was stopped "
        "(docs/long_videos.md)",
    )
    add(
        "--window",
        type=number(1, 10_000, int),
        metavar="FRAMES",
        help="frames that are made at once, 4n + 1 (as the weights say)",
    )
    add(
        "--overlap",
        type=number(1, 10_000, int),
        metavar="FRAMES",
        help="frames that windows of a long video have in common, 4n + 1 (as the weights say, the bundled "
        "ones 5, or 1 where the clock stands still; otherwise models with a memory 1, official weights 17, "
        "others 5)",
    )
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


def _add_results(add: Callable[..., Any]) -> None:
    add("--out", metavar="FOLDER", help="a new or empty one (outputs/<clip>_<camera>_<animation time>)")
    add(
        "--scale",
        type=number(1, 16, int),
        help="enlarges the videos; 1 is the model's own size (3 for small ones)",
    )
    add(
        "--fps",
        type=number(0.1, 240),
        help="frames per second of the videos (the source's own, or to last 1 s); of a source of pictures, "
        f"how many of those there are a second ({sequences.FPS:g})",
    )
    add(
        "--also",
        nargs="+",
        choices=writing.FORMS,
        metavar="FORM",
        help="writes the new video in further forms, in the model's size: "
        + "; ".join(f"{name}: {form.says}" for name, form in writing.FORMS.items()),
    )
    add(
        "--jobs",
        metavar="FILE",
        help="several re-renderings with one start of the model: a JSON object a line with flags by name, as "
        '{"video": "a.mp4", "camera": "orbit_left", "seed": 3}; other flags are for all lines. The same '
        "command goes on where it was stopped",
    )
    add(
        "--dry_run",
        action="store_true",
        help="everything but the sampling: how files are read, which models are found, the camera path and "
        "the animation time, and the source as it is cropped",
    )
    add("--list", action="store_true", help="explain every camera move, animation time and file, and exit")


def explain_choices() -> str:
    """The text that --list prints: camera moves, animation times, and the files that both may come from."""

    def table(presets: dict[str, str]) -> str:
        width = max(18, *(len(name) + 2 for name in presets))
        return "\n".join(f"  {name:{width}}{explanation}" for name, explanation in presets.items())

    forms = "\n".join(f"  {form.title}\n      {form.summary}" for form in camera_files.FORMATS)
    return f"""--camera MOVE, MOVE:AMOUNT or MOVE:AMOUNT:START
{table(cameras.PRESETS | {SAME_CAMERA: "the source's own path: only the animation time changes"})}
  START is where the path begins: orbit_left:40:-20 goes from 20 degrees right to 20 degrees left.
  Names of other programs are understood: arc_left, translate_up, push_in, recammaster:1 to recammaster:10.

--camera "MOVE SHARE EASE, MOVE SHARE EASE, ...", as "orbit_left:30, hold 20%, zoom_in:1.5 ease_out"
  Each begins where the one before it ended. SHARE: per cent of the video; the others have equal parts of the
  rest. EASE: linear, ease (at rest at both ends; of several moves the default), ease_in, ease_out.

--camera FILE, --source_cameras FILE (metres)
{forms}
  A form is known by what a file holds, whatever its name; how it was read is printed. Our own files, lists of
  matrices, TUM and KITTI are camera-to-world in OpenCV axes (x right, y down, z forward) unless --camera_axes
  opengl and --camera_poses w2c say otherwise. intrinsics are fx, fy, cx, cy of the video's whole picture, or
  3 x 3 matrices; divided by width, height, width, height, or in pixels (of "width" x "height" in the file,
  else of the video, or of twice the principal point). FOLDER:2 chooses camera 2 of a COLMAP model.
  Without --source_cameras, the poses of --camera are relative to the source's first camera.
  --source_cameras estimate finds the cameras of a handheld clip by its features (pip install
  'stp-jax[poses]'); --distance sets the scale, --fov the lens if it is known. It sets the scale of files
  with depths, too (COLMAP's points, MegaSaM, VGGT); of others --camera_scale does.
  A file with as many poses as the video has frames has one for each of them; with as many as the model has
  frames, one for each frame of the new video; any other number is spread evenly. Fewer than that are key
  poses of a smooth path; in forms with a pose for each frame (official files, RealEstate10K, TUM, KITTI) only
  with --key_poses. A --camera file with as many poses as the source's has them at the same frames. What was
  read is printed; --dry_run shows it alone.

--keyframes FILE
  .json with camera, lens and animation time at some times of the new video: docs/keyframes.md.

--animation_time PRESET (i: the frame, L: the last)
{table(animation_time.PRESETS)}

--animation_time official:NAME, SpaceTimePilot's patterns for 81 frames
{table(time_patterns.PATTERNS)}

--animation_time KEYFRAMES, as "0:0, 8:8, 12:8, 16:16"
  Frame 0 shows source frame 0, frame 8 source frame 8, the motion stands still until frame 12, then runs to
  the end at double speed. Source frames may have fractions; linear in between.
  "0s:0s, 1.5s:0.8s, 100%:50%": seconds of the new video as it plays (--fps) and of the source from --start
  on; 100% is the last frame.

--animation_time FILE
  .json, .npy, .txt or .csv with the source frame that each frame shows; .txt and .csv may have keyframes."""


def next_steps(frames: int) -> str:
    """Commands to try after a run on a video of F frames."""
    half, most, last = (frames - 1) // 2, 3 * (frames - 1) // 4, frames - 1
    return f"""Try next:
  python sample.py --camera spiral_right --animation_time reverse
  python sample.py --camera dolly_in --animation_time "0:0, {half}:{half}, {most}:{half}, {last}:{last}"
  python sample.py --keyframes examples/bullet_time.json
  python sample.py --video your_clip.mp4
  python sample.py --list"""
