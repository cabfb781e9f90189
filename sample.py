"""Re-renders a video with a new camera and a new animation time.

    python sample.py
    python sample.py --video clip.mp4 --camera orbit_left --animation_time "0:0, 8:8, 12:8, 16:16"
    python sample.py --weights models --video clip.mp4 --prompt "a dog runs over a meadow"

The first line takes the bundled clip and model, the last one a folder of official weights. Results go to
a new folder: the video, the same beside the source, a contact sheet, a plot of the camera path and the
animation time, and settings.json with everything needed to repeat the run. Nothing is ever overwritten.
--list shows every camera move and every preset of animation time.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.rerender import progress
from stp_jax.rerender.flags import explain_choices, parse_flags
from stp_jax.rerender.request import Request, read_notes, read_request
from stp_jax.rerender.results import playback, result_folder, write_results, write_settings
from stp_jax.weights.native import SamplingNotes

if TYPE_CHECKING:  # JAX and the models are imported after all checks: mistakes, --help and --list do not wait
    from stp_jax.rerender.rerenderer import Rerenderer

ASSETS = Path(__file__).parent / "stp_jax" / "assets"
EXAMPLE, EXAMPLE_CAMERAS = ASSETS / "example.mp4", ASSETS / "example_cameras.json"


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    flags = parse_flags(sys.argv[1:] if argv is None else argv, description=__doc__)
    if flags.list:
        print(explain_choices())
        return
    started = time.monotonic()
    notes, official = read_notes(flags.weights, frames=flags.frames, size=flags.size)
    with result_folder(flags.out, flags.video or EXAMPLE, flags.camera, flags.animation_time) as folder:
        request = read_flagged_request(flags, notes, official)
        fps, speed = playback(request.clip, flags.fps)
        print(f"{request.summary}\n{speed}")
        model = load_model(flags, notes)
        for remark in model.remarks:
            print(f"Note: {remark}")
        print(f"Model: {model.title}\nComputing on {model.device}; the first run also compiles.")
        result = rerender(model, request, flags)
        scale = flags.scale or (3 if max(notes.height, notes.width) <= 256 else 1)
        write_results(folder, request, result, fps=fps, scale=scale)
        settings = vars(flags) | {"steps": model.steps, "shift": model.shift, "guidance": model.guidance}
        write_settings(folder / "settings.json", settings, request, device=model.device, fps=fps)
    enlarged = f", enlarged {scale}x" if scale > 1 else ""
    print(f"""Done in {time.monotonic() - started:.0f} s. In {folder}:
  result.mp4            the new video: the model's {notes.width} x {notes.height}{enlarged}
  side_by_side.mp4      the source and the new video
  contact_sheet.png     both as pictures
  cameras_and_time.png  the camera path and the animation time
  settings.json         everything needed to repeat this
{next_steps(notes.frames)}""")


def read_flagged_request(flags: argparse.Namespace, notes: SamplingNotes, official: bool) -> Request:
    """What the flags ask for; without a video, of the bundled clip and its cameras."""
    bundled = flags.video is None
    return read_request(
        notes,
        video=EXAMPLE if bundled else flags.video,
        camera=flags.camera,
        animation_time=flags.animation_time,
        source_cameras=EXAMPLE_CAMERAS if bundled and flags.source_cameras is None else flags.source_cameras,
        fov=flags.fov,
        distance=flags.distance,
        start=flags.start,
        duration=flags.duration,
        official=official and not bundled,  # the bundled clip has too few frames
    )


def load_model(flags: argparse.Namespace, notes: SamplingNotes) -> Rerenderer:
    """The model that the flags ask for; raises `InputError` where it cannot do what they ask."""
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
    return model


def rerender(model: Rerenderer, request: Request, flags: argparse.Namespace) -> np.ndarray:
    """The new video, made under a progress bar."""
    with progress.bar() as show:
        return model(
            request.clip.frames,
            *request.in_world(),
            prompt=flags.prompt or "",
            negative_prompt=flags.negative_prompt,
            seed=flags.seed,
            progress=show,
        )


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
