"""Re-renders a video with a new camera and a new animation time.

    python sample.py
    python sample.py --video clip.mp4 --camera orbit_left --animation_time "0:0, 8:8, 12:8, 16:16"
    python sample.py --weights models --video clip.mp4 --prompt "a dog runs over a meadow"
    python sample.py --video clip.mp4 --camera path.json --dry_run
    python sample.py --keyframes examples/bullet_time.json

The first line takes the bundled clip and model, the third one a folder of official weights. Results go to
a new folder: the video, the same beside the source, a contact sheet, a plot of the camera path and the
animation time, the camera path as files, and settings.json with everything needed to repeat the run. Nothing
is ever overwritten.
--dry_run shows how files are read and what would be made; --list every camera move and animation time.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # Ctrl-C while the modules below are imported, which takes a while
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"\nStopped.\n"), os._exit(130)))

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from stp_jax.errors import exit_on_input_error
from stp_jax.rerender import progress, results
from stp_jax.rerender.estimated_cameras import is_asked
from stp_jax.rerender.flags import explain_choices, next_steps, parse_flags
from stp_jax.rerender.request import Request, read_notes, read_request
from stp_jax.rerender.takes import Asked, Takes, refuse_idle_flags
from stp_jax.weights.native import SamplingNotes

if TYPE_CHECKING:  # JAX and the models are imported after all checks: mistakes, --help and --list do not wait
    import numpy as np

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
    notes, model_takes = read_notes(flags.weights, frames=flags.frames, size=flags.size)
    refuse_idle_flags(flags, model_takes, notes)
    if flags.keyframes is None:
        flags.camera = flags.camera or model_takes.default_camera()
        flags.animation_time = flags.animation_time or model_takes.default_animation_time()
    controls = filter(None, (flags.keyframes, flags.camera, flags.animation_time))
    names = flags.video or EXAMPLE, *controls, *["dry_run"] * flags.dry_run
    with results.result_folder(flags.out, *names) as folder:
        if is_asked(flags.source_cameras):
            print("Estimating how the clip was filmed, which takes a few seconds a frame.", flush=True)
        request = read_flagged_request(flags, notes, model_takes)
        fps, speed = results.playback(request.clip, flags.fps)
        print(request.summary, speed, sep="\n")
        if flags.dry_run:
            results.write_plan(folder, request, fps)
            print(f"Dry run: nothing is computed. In {folder}:\n{results.PLAN}")
            return
        model = load_model(flags, notes)
        for remark in model.remarks:
            print(f"Note: {remark}")
        print(f"Model: {model.title}\nComputing on {model.device}; the first run also compiles.")
        result = rerender(model, request, flags)
        scale = flags.scale or (3 if max(notes.height, notes.width) <= 256 else 1)
        results.write_results(folder, request, result, fps=fps, scale=scale)
        settings = vars(flags) | {"steps": model.steps, "shift": model.shift, "guidance": model.guidance}
        results.write_settings(folder / "settings.json", settings, request, device=model.device, fps=fps)
    size = f"{notes.width} x {notes.height}" + (f", enlarged {scale}x" if scale > 1 else "")
    print(f"Done in {time.monotonic() - started:.0f} s. In {folder}:")
    print(f"{results.RESULT.format(size=size)}\n{next_steps(notes.frames)}")


def read_flagged_request(flags: argparse.Namespace, notes: SamplingNotes, model: Takes) -> Request:
    """What the flags ask for; without a video, of the bundled clip and its cameras."""
    bundled = flags.video is None
    asked = {name: getattr(flags, name) for name in Asked._fields} | {"video": flags.video or EXAMPLE}
    if bundled and flags.source_cameras is None:
        asked |= dict(source_cameras=EXAMPLE_CAMERAS, source_camera_axes="opencv", source_camera_poses="c2w")
    # The bundled clip has too few frames to take them as the official code does.
    return read_request(notes, official=model.official and not bundled, model=model, **asked)


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
    if flags.tiled:
        model.refuse_idle_tiles()
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


def interrupt(*_) -> None:
    """Ends the run, and tries again after a while: in a callback of a library an interrupt is lost."""
    signal.setitimer(signal.ITIMER_REAL, 2)
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
