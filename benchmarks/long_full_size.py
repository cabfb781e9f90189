"""Seconds and memory of each window of a long video at full size, with random weights.

    python benchmarks/long_full_size.py                     # three windows of 81 frames, 832 x 480, on a GPU
    python benchmarks/long_full_size.py --small             # a tiny model, to try the program on a CPU

The model is the 1.3B one that is trained here (Plücker rays, a memory of four latent frames) without text,
the source is moving noise. Prints a line for each window: its seconds, and the most memory that the device
and the process had in use until then. Neither should grow after the second window, the first one with a
memory.
"""

from __future__ import annotations

import dataclasses
import resource
import tempfile
import time
from pathlib import Path

from stp_jax.errors import exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import jax
    import numpy as np

    from stp_jax.benchmark.settings import SMALL, SPACETIMEPILOT, Settings
    from stp_jax.benchmark.start import write_random_model
    from stp_jax.command_line import Parser, count
    from stp_jax.controls import cameras
    from stp_jax.controls.view import View
    from stp_jax.devices.hardware import use_compilation_cache
    from stp_jax.models.vae import VAEConfig
    from stp_jax.rerender import long, windows
    from stp_jax.rerender.rerenderer import Rerenderer
    from stp_jax.weights import native

MEMORY = 4  # latent frames


def write_models(folder: Path, settings: Settings, steps: int) -> None:
    """Random weights of a DiT with a memory and of a VAE."""
    memory = min(MEMORY, settings.latent_size[0] - 1)
    dit = dataclasses.replace(
        settings.dit, text_dim=0, camera="plucker", animation_time="frames", memory=memory
    )
    size = settings.frames, settings.height, settings.width
    notes = native.SamplingNotes(*size, steps, 5.0)
    write_random_model(folder, "dit", dit, notes._asdict())
    write_random_model(folder, "vae", settings.vae)


def moving_noise(frames: int, height: int, width: int) -> np.ndarray:
    """A source uint8 [F, H, W, 3] of coarse noise that moves to the left, a cell a frame."""
    cells = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8 + frames, 3), np.uint8)
    return np.stack([cells[:, i : i + width // 8].repeat(8, 0).repeat(8, 1) for i in range(frames)])


def peaks() -> str:
    """The most memory that was in use so far, of the device and of the process."""
    device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"device {device:.2f} GiB, process {process:.2f} GiB"


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python benchmarks/long_full_size.py", description=__doc__)
    parser.add_argument("--windows", type=count, default=3)
    parser.add_argument("--steps", type=count, default=10, help="of each window; default 10")
    parser.add_argument("--small", action="store_true", help="a tiny model and video, for trying it out")
    flags = parser.parse_args(argv)
    use_compilation_cache()
    settings = SMALL if flags.small else Settings(SPACETIMEPILOT, VAEConfig(dtype="bfloat16"))
    length = flags.windows * (settings.frames - 1) + 1
    times = np.arange(length, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), settings, flags.steps)
        model = Rerenderer(folder)
        print(f"{model.title}; {model.device}; {length} frames, {flags.steps} steps a window")
        source = moving_noise(length, settings.height, settings.width)
        still, moved = (cameras.preset(f"truck_right:{amount}", length) for amount in (0, 1))
        plan = windows.plan(times, settings.frames, 1, length)
        views = View(*still, times), View(*moved, times)
        video = long.LongVideo(
            model, plan, lambda numbers: source[numbers], *views, long.Pieces(Path(folder))
        )
        begun = time.monotonic()
        for number in video.make():
            print(f"window {number + 1}: {time.monotonic() - begun:.1f} s, {peaks()}", flush=True)
            begun = time.monotonic()


if __name__ == "__main__":
    main()
