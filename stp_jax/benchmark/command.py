"""Measures the models at full size with random weights: seconds, memory, arithmetic.

    python -m stp_jax.benchmark                                  # everything, one GPU, some minutes
    python -m stp_jax.benchmark --only decode --chunks 1 4 10 --profile 15
    python -m stp_jax.benchmark --only video --devices 1 2       # one video on several GPUs
    python -m stp_jax.benchmark --small                          # a tiny model, to try the program on a CPU
    python -m stp_jax.benchmark --compare_speeds --weights models --video clip.mp4    # its own --help

Each measurement runs in a process of its own, so that its peak memory is its own. Prints a markdown table.
`seconds` is the median of the repetitions (the video is run once), `first` the first run with all that must
be compiled. `program` is what the compiled function needs: arguments, temporaries and results. `peak` is what
the device had in use at most; it includes what the compiler needs to try out kernels, unless these come from
a compilation cache (JAX_COMPILATION_CACHE_DIR). `start` is a new process that reads the models from disk,
encodes a video and takes one step: once with nothing compiled, and again with what the first one compiled.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

import jax
from tqdm import tqdm

from stp_jax.benchmark import speeds
from stp_jax.benchmark.measure import Measurement, in_own_process, measure
from stp_jax.benchmark.settings import SMALL, SPACETIMEPILOT, Settings, refuse_existing
from stp_jax.benchmark.start import measure_starts
from stp_jax.benchmark.workloads import workloads
from stp_jax.command_line import Parser, count, number, read_config
from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.files import new_file
from stp_jax.models.attention import BACKENDS
from stp_jax.models.config import DiTConfig
from stp_jax.models.vae import VAEConfig


def markdown_table(measurements: list[Measurement]) -> str:
    """The measurements as a markdown table."""
    rows = [
        "| work | seconds | TFLOP | TFLOP/s | first, seconds | program, GiB | peak, GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for m in measurements:
        figures = (
            (m.seconds, ".3f"),
            (m.tflop, ".3g"),
            (m.tflop_per_second, ".3g"),
            (m.first_seconds, ".1f"),
            (m.program_gib, ".2f"),
            (m.peak_gib, ".2f"),
        )
        cells = ["" if figure is None else format(figure, form) for figure, form in figures]
        rows.append(f"| {m.name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def read_model_config(spec: str) -> DiTConfig:
    """The DiT of a config file, such as configs/demo.py or configs/demo.py:gpu.

    Raises:
      InputError: the file cannot be read, or it configures another kind of model.
    """
    config = read_config(spec)
    if config.get("task") != "dit":
        raise InputError(f"--config {spec}: the config of a DiT is needed (config.task = 'dit').")
    try:
        return DiTConfig(**config.model.to_dict())
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"--config {spec}: config.model is not that of a DiT ({error}).") from None


def parse_flags(arguments: list[str]) -> argparse.Namespace:
    """The flags of the command.

    Raises:
      InputError: flags that contradict each other, or an output that exists.
    """
    parser = Parser(prog="python -m stp_jax.benchmark", description=__doc__)
    add = parser.add_argument
    add("--config", metavar="FILE", help="whose DiT is measured; default: SpaceTimePilot, 1.3B")
    kinds = ["dit", "encode", "decode", "text", "video", "start"]
    add("--only", nargs="+", choices=kinds, default=kinds, help="default: all")
    add("--frames", type=count, help="of the video; default 81")
    add("--height", type=count, help="default 480")
    add("--width", type=count, help="default 832")
    whole = "latent frames that the VAE works on at a time, 0: all; the video takes the first; default 1 2 4"
    add("--chunks", nargs="+", type=number(0, 10**6, int), default=[1, 2, 4], help=whole)
    add("--steps", type=count, default=20, help="of the video; default 20")
    add("--guidance", type=number(1, 100), default=5.0, help="of the video by text; 1: none; default 5")
    add("--devices", nargs="+", type=count, default=[1], help="that compute the video; default 1")
    add("--repeats", type=count, help="runs whose median is taken; default 3")
    add(
        "--profile",
        type=number(0, 1000, int),
        default=0,
        help="number of the costliest kernels to list; default 0",
    )
    add(
        "--attention",
        choices=(*BACKENDS, "fp8"),
        help="default: what fits the device; fp8: of the DiT, in 8 bits",
    )
    add("--out", help="write the figures to this JSON file, too")
    add("--small", action="store_true", help="a tiny model and video, for trying it out")
    flags = parser.parse_args(arguments)
    refuse_existing(flags.out)
    if flags.small and flags.config:
        raise InputError("--small measures a tiny model of its own: give it without --config")
    return flags


def settings_of(flags: argparse.Namespace) -> Settings:
    """The settings that the flags ask for.

    Raises:
      InputError: no such config, or a size that the models cannot work at.
    """
    settings = SMALL
    if not flags.small:
        dit = read_model_config(flags.config) if flags.config else SPACETIMEPILOT
        dit = dataclasses.replace(dit, dtype="bfloat16", remat="none", ffn_parts=1)
        settings = Settings(dit, VAEConfig(dtype="bfloat16"))
    given = {name: getattr(flags, name) for name in ("frames", "height", "width", "repeats")}
    in_8_bits = flags.attention == "fp8"
    mode = "fp8" if in_8_bits else settings.dit.sampling_attention
    settings = dataclasses.replace(
        settings,
        dit=dataclasses.replace(settings.dit, sampling_attention=mode),
        profile=flags.profile,
        attention=None if in_8_bits else flags.attention,
        **{name: value for name, value in given.items() if value},
    )
    size = settings.frames, settings.height, settings.width
    settings.vae.check_video_size(*size, patch=settings.dit.patch)
    return settings


def write_figures(path: str, measurements: list[Measurement]) -> None:
    """Writes the measurements as JSON; the file appears once it is complete."""
    figures = [dataclasses.asdict(measured) for measured in measurements]
    with new_file(path) as partial:
        partial.write_text(json.dumps(figures, indent=1) + "\n")


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    if speeds.FLAG in words:
        speeds.main(words)
        return
    flags = parse_flags(words)
    settings = settings_of(flags)
    measurements = []
    guidance = flags.guidance if flags.guidance != 1 and settings.dit.text_dim else None
    chunks = [chunk or None for chunk in flags.chunks]
    chosen = workloads(flags.only, chunks, flags.steps, guidance, flags.devices)
    for name, make in tqdm(chosen.items(), unit="measurement"):
        measured = in_own_process(measure, name, make, settings)
        measurements.append(measured)
        tqdm.write(f"{name}: {measured.seconds:.3f} s, the first time {measured.first_seconds:.0f} s")
        for kernel, seconds in measured.kernels:
            tqdm.write(f"  {1e3 * seconds:9.2f} ms  {kernel[:120]}")
    if "start" in flags.only:
        measurements += measure_starts(settings, chunks[0], guidance)
    print(
        f"{measurements[0].device}, jax {jax.__version__}: {settings.frames} frames of {settings.width} x "
        f"{settings.height}, batch 1, {settings.dit.dtype}\n\n{markdown_table(measurements)}"
    )
    if flags.out:
        write_figures(flags.out, measurements)
