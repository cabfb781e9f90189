"""Measures a start: reading the models from disk, compiling, encoding a video, and one step."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stp_jax.benchmark.measure import Measurement, in_own_process
from stp_jax.benchmark.settings import Settings
from stp_jax.benchmark.workloads import encoding, sampling
from stp_jax.devices.sharding import make_mesh
from stp_jax.models.config import DiTConfig
from stp_jax.models.vae import VAEConfig
from stp_jax.weights import kinds, native, reading, recognition


def write_random_model(
    folder: Path, kind: str, config: DiTConfig | VAEConfig, notes: dict[str, Any] | None = None
) -> None:
    """Writes a DiT or VAE (`kind`) with random weights, as a folder of ours; `notes` as of `save_weights`."""
    noise = 0.02 * np.random.default_rng(0).standard_normal(2**20, np.float32)
    parameters = {
        name: np.resize(noise, shape.shape).astype(config.dtype if len(shape.shape) > 1 else np.float32)
        for name, shape in kinds.shapes(kind, config).items()
    }
    fields = dataclasses.asdict(config)
    native.save_weights(folder, kind, parameters, fields, dtype=None, notes=notes, part_bytes=2**30)


def measure_start(
    settings: Settings, folder: Path, cache: Path, chunk: int | None, guidance: float | None, begun: float
) -> tuple[str, dict[str, float]]:
    """The device, and the seconds from `begun` (a `time.time`) to the end of each part, in their order."""
    seconds: dict[str, float] = {}

    def ended(part: str, *arrays: Any) -> None:
        jax.block_until_ready(arrays)
        seconds[part] = time.time() - begun

    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    mesh = make_mesh(devices=jax.devices()[:1])
    ended("imports and device")
    found = {kind: recognition.recognise(folder, kind) for kind in ("dit", "vae")}
    dit, state = reading.load(found["dit"], mesh, settings.dit.dtype)
    _, vae = reading.load(found["vae"], mesh, settings.vae.dtype)
    ended("reading the models", state, vae)
    with jax.set_mesh(mesh):
        encode, video = encoding(settings, chunk)
        source = jax.jit(encode)(vae, video)
        ended("encoding", source)
        ended("step 1", sampling(settings, dit, 1, guidance, mesh)(state, source))
    return jax.local_devices()[0].device_kind, seconds


def measure_starts(settings: Settings, chunk: int | None, guidance: float | None) -> list[Measurement]:
    """A first start, and a second one that finds the compiled functions of the first: a row for each part."""
    with tempfile.TemporaryDirectory() as folder:
        models_folder, cache = Path(folder) / "models", Path(folder) / "cache"
        for kind in ("dit", "vae"):
            in_own_process(write_random_model, models_folder, kind, getattr(settings, kind))
        measurements = []
        for name in ("first", "second"):
            begun = time.time()
            device, seconds = in_own_process(
                measure_start, settings, models_folder, cache, chunk, guidance, begun
            )
            measurements += [
                Measurement(f"{name} start, to the end of {part}", device, spent)
                for part, spent in seconds.items()
            ]
        return measurements
