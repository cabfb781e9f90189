"""One re-rendering as sample.py's flags ask for it: what is planned, the model, and what is written."""

from __future__ import annotations

import argparse
import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stp_jax.errors import InputError, importing
from stp_jax.media import sequences, writing
from stp_jax.media.lazy import Video, each
from stp_jax.media.sound import Sound
from stp_jax.rerender import progress, results, windows
from stp_jax.rerender.request import Request, read_notes, read_request
from stp_jax.rerender.soundtrack import soundtrack
from stp_jax.rerender.takes import Asked, Takes
from stp_jax.rerender.windows import Windows
from stp_jax.weights import native
from stp_jax.weights.native import SamplingNotes

if TYPE_CHECKING:  # JAX and the models are imported after all checks: mistakes, --help and --list do not wait
    from stp_jax.rerender.rerenderer import Rerenderer

ASSETS = Path(__file__).parents[1] / "assets"
EXAMPLE, EXAMPLE_CAMERAS = ASSETS / "example.mp4", ASSETS / "example_cameras.json"


class Plan(NamedTuple):
    """What is to be made."""

    request: Request
    fps: float  # of the new video
    sound: Sound | None
    summary: str  # how everything was read, to print
    windows: Windows | None = None  # of a long video


def notes_of(flags: argparse.Namespace) -> tuple[SamplingNotes, Takes]:
    """As `read_notes`; their frames are those of a window where the video is a long one."""
    notes, model = read_notes(flags.weights, frames=flags.window, size=flags.size)
    if not is_long(flags, notes):
        if flags.overlap is not None:
            raise InputError(f"--overlap {flags.overlap}: the video has one window alone: leave it out.")
        frames = flags.frames or flags.window
        return read_notes(flags.weights, frames=frames, size=flags.size)
    return notes, model


def is_long(flags: argparse.Namespace, notes: SamplingNotes) -> bool:
    """Whether a video has more frames than a window."""
    return (flags.frames or 0) > notes.frames


def set_defaults(flags: argparse.Namespace, model: Takes) -> None:
    """Sets the camera and the animation time that the model has by default."""
    if flags.keyframes is None:
        flags.camera = flags.camera or model.default_camera()
        flags.animation_time = flags.animation_time or model.default_animation_time()


def names(flags: argparse.Namespace) -> list[str]:
    """What a folder of results is named after."""
    controls = filter(None, (flags.keyframes, flags.camera, flags.animation_time))
    return [sequences.title(flags.video or EXAMPLE), *controls]


def plan(flags: argparse.Namespace, notes: SamplingNotes, model: Takes) -> Plan:
    """Reads everything that the flags name. Raises `InputError` as `read_request`."""
    request = _read_flagged_request(flags, notes, model)
    clock = request.target.animation_time
    fps, speed = results.playback(request.clip, request.fps, len(clock))
    sound, said = soundtrack(flags.video or EXAMPLE, request, fps)
    divided, lines = None, ""
    if is_long(flags, notes):
        overlap = flags.overlap
        if overlap is None:
            overlap = windows.default_overlap(clock, notes.frames, model, notes.sampling_overlap)
        divided = windows.plan(clock, notes.frames, overlap, len(request.clip.frames))
        lines = windows.describe(divided, model)
    return Plan(request, fps, sound, "\n".join(filter(None, (request.summary, speed, said, lines))), divided)


def _read_flagged_request(flags: argparse.Namespace, notes: SamplingNotes, model: Takes) -> Request:
    """What the flags ask for; without a video, of the bundled clip and its cameras."""
    asked = {name: getattr(flags, name) for name in Asked._fields}
    bundled = flags.video is None
    if bundled:
        asked["video"] = EXAMPLE
    if bundled and flags.source_cameras is None:
        of_file = {"source_camera_axes": "opencv", "source_camera_poses": "c2w"}
        asked |= {"source_cameras": EXAMPLE_CAMERAS, **of_file}
    # The bundled clip has too few frames to take them as the official code does.
    official = model.official and not bundled
    length = flags.frames if is_long(flags, notes) else None
    return read_request(notes, official=official, model=model, length=length, **asked)


def is_deep(flags: argparse.Namespace) -> bool:
    """Whether a form that is asked for has more than 8 bits."""
    return any(writing.FORMS[form].deep for form in flags.also or ())


def load_model(flags: argparse.Namespace, notes: SamplingNotes, *, deep: bool = False) -> Rerenderer:
    """The model that the flags ask for; raises `InputError` where it cannot do what they ask."""
    with importing():
        from stp_jax.devices.hardware import set_up_devices, use_compilation_cache

        use_compilation_cache()
        set_up_devices()
        from stp_jax.rerender.rerenderer import Rerenderer
    model = Rerenderer(
        flags.weights,
        loras=flags.lora or (),
        vae=flags.vae,
        text_encoder=flags.text_encoder,
        frames=notes.frames,
        height=notes.height,
        width=notes.width,
        steps=flags.steps,
        shift=flags.shift,
        guidance=flags.guidance,
        speed=flags.speed or "exact",
        guidance_interval=flags.guidance_interval,
        cache_threshold=flags.cache_threshold,
        attention=flags.attention,
        dtype=flags.dtype,
        tiled=flags.tiled,
        low_memory=flags.low_memory,
        deep=deep,
    )
    if flags.tiled:
        model.refuse_idle_tiles()
    for remark in model.remarks:
        print(f"Note: {remark}")
    print(f"Model: {model.title}\nComputing on {model.device}; the first run also compiles.")
    return model


def check_model(flags: argparse.Namespace, notes: SamplingNotes) -> None:
    """Finds the models as `load_model` does, and prints the same about them; no parameter is read.

    Raises:
      InputError: they are missing or damaged, do not fit together, or cannot do what the flags ask for.
    """
    if _nothing_to_find(flags):
        print(f"Model: {flags.weights}")
        return
    from stp_jax.rerender import pretrained  # and with it JAX, which takes longer than the rest of a dry run

    loras = flags.lora or ()
    models = pretrained.find_models(
        flags.weights,
        vae=flags.vae,
        text_encoder=flags.text_encoder,
        dtype=flags.dtype or "float32",
        official_rounding=None,
        loras=loras,
    )
    size = notes.frames, notes.height, notes.width
    models.vae.config.check_video_size(*size, patch=models.dit.config.patch)
    if flags.tiled:
        pretrained.refuse_idle_tiles(models.vae.config, *size)
    steps = notes.sampling_steps if flags.steps is None else flags.steps
    guidance = notes.sampling_guidance if flags.guidance is None else flags.guidance
    for remark in (*models.remarks, *pretrained.sampling_remarks(loras, steps, guidance)):
        print(f"Note: {remark}")
    print(f"Model: {models.dit.title}, {models.dit.path}")


def _nothing_to_find(flags: argparse.Namespace) -> bool:
    """Whether the weights are a whole folder of ours with nothing beside the DiT and its VAE, as the bundled
    one is, and no flag adds to them. Raises `InputError` where one of both is damaged."""
    folder = Path(flags.weights)
    if flags.lora or flags.vae or flags.text_encoder or flags.tiled:
        return False
    if not all((folder / f"{name}.json").is_file() for name in ("dit", "vae")):
        return False
    dit, vae = (native.open_model(folder, name)[0] for name in ("dit", "vae"))
    own = {"dit.json", "vae.json", *dit["files"], *vae["files"]}
    config = dit["config"]
    return (
        {path.name for path in folder.iterdir()} == own
        and "sha256" in dit
        and "sha256" in vae
        and config.get("source")
        and not config.get("text_dim")
        and config.get("channels") == vae["config"].get("z_dim")
    )


def rerender(
    model: Rerenderer, request: Request, flags: argparse.Namespace, report: progress.Progress | None = None
) -> np.ndarray:
    """The new video, made under a progress bar, or with another report of its progress."""
    with progress.bar() if report is None else contextlib.nullcontext(report) as show:
        return model(
            request.clip.frames,
            *request.in_world(),
            prompt=flags.prompt or "",
            negative_prompt=flags.negative_prompt,
            seed=flags.seed,
            progress=show,
        )


def forwards(model: Rerenderer, made: int, windows: int = 1) -> str:
    """A line on how much of a video's sampling was computed."""
    every = windows * model.steps * (1 if model.guidance == 1 else 2)
    return f"Forwards of the DiT: {made}" + (f" of {every}" if made < every else "")


def make(
    folder: Path,
    model: Rerenderer,
    planned: Plan,
    flags: argparse.Namespace,
    report: progress.Progress | None = None,
) -> np.ndarray:
    """Re-renders and writes everything into a folder, settings.json last; returns the video in 8 bits."""
    result = rerender(model, planned.request, flags, report)
    print(forwards(model, model.forwards))
    return np.asarray(write(folder, model, planned, flags, result, model.forwards))


def write(
    folder: Path,
    model: Rerenderer,
    planned: Plan,
    flags: argparse.Namespace,
    result: Video,
    made: int,
) -> Video:
    """Writes everything about a new video, uint8 or uint16 [F, H, W, 3]; returns it in 8 bits.

    `made`: forwards of the DiT that it took.
    """
    request, fps, sound = planned[:3]
    shown = result
    if result.dtype != np.uint8:
        shown = each(result, functools.partial(writing.to_8_bits, truncated=model.official))
    scale = enlarged(flags, model.notes)
    results.write_results(folder, request, shown, fps=fps, scale=scale, sound=sound)
    for form in dict.fromkeys(flags.also or ()):
        frames = result if writing.FORMS[form].deep else shown
        results.write_form(folder, form, frames, fps=fps, sound=sound)
    settings = vars(flags) | {"steps": model.steps, "shift": model.shift, "guidance": model.guidance}
    sampling = {"forwards": made, "speed": model.speed._asdict()}
    results.write_settings(
        folder / "settings.json", settings, request, device=model.device, fps=fps, **sampling
    )
    return shown


def enlarged(flags: argparse.Namespace, notes: SamplingNotes) -> int:
    """How many times the videos are enlarged."""
    return flags.scale or (3 if max(notes.height, notes.width) <= 256 else 1)


def written(flags: argparse.Namespace, notes: SamplingNotes) -> str:
    """A line for each thing that `make` writes."""
    scale = enlarged(flags, notes)
    size = f"{notes.width} x {notes.height}" + (f", enlarged {scale}x" if scale > 1 else "")
    first, *others = results.RESULT.format(size=size).splitlines()
    forms = [writing.FORMS[form] for form in dict.fromkeys(flags.also or ())]
    return "\n".join([first, *(f"  {form.name:20}  the same: {form.says}" for form in forms), *others])
