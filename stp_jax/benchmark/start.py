"""Measures a start: reading the models from disk, compiling, encoding a video, and one step."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from stp_jax import flow
from stp_jax.benchmark.early import begin_start
from stp_jax.benchmark.measure import Measurement, in_own_process
from stp_jax.benchmark.settings import Settings
from stp_jax.controls.view import View
from stp_jax.devices.sharding import make_mesh
from stp_jax.models.config import TEXT_TOKENS, DiTConfig
from stp_jax.models.vae import VAEConfig
from stp_jax.rerender import given
from stp_jax.rerender.models_on_device import ModelOnDevice, put, read_ahead, vae_functions
from stp_jax.rerender.sampler import Sampler
from stp_jax.weights import kinds, native, recognition

SHOWN = 0.03  # seconds; shorter parts of compiling are summed up
# What JAX tells of compiling: tracing in Python, lowering, and the rest, which the cache shortens.
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling, or from the cache",
}


class Part(NamedTuple):
    """A part of a start; `begin` and `end` are seconds from the start of its process."""

    name: str
    begin: float
    end: float


class Timeline:
    """The parts of a start, of all threads.

    Args:
      begun: when the process was started, a `time.time()`.
    """

    def __init__(self, begun: float):
        self._begun = begun
        self._parts = [Part("imports", 0.0, time.time() - begun)]
        self._short: list[float] = []  # seconds
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, duration_secs: float, **details: str | int) -> None:
        if event not in EVENTS:
            return
        end = time.time() - self._begun
        if duration_secs < SHOWN:
            self._short.append(duration_secs)
        else:
            name = f"  {EVENTS[event]}: {details.get('fun_name')}"
            self._parts.append(Part(name, end - duration_secs, end))

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Notes when the block begins and ends."""
        begin = time.time() - self._begun
        yield
        self._parts.append(Part(name, begin, time.time() - self._begun))

    def in_thread(self, name: str, wait: Callable[[], Any]) -> threading.Thread:
        """Notes in a thread when `wait`, which begins now, returns."""

        def run() -> None:
            with self.part(f"[{name}]"):
                wait()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def parts(self) -> tuple[list[Part], str]:
        """The parts by when they began, and a line about the short ones."""
        count, seconds = len(self._short), sum(self._short)
        short = f"{count} parts of compiling of less than {SHOWN:g} s each: {seconds:.2f} s together"
        return sorted(self._parts, key=lambda part: part.begin), short


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
) -> tuple[str, list[Part], str]:
    """The device, the parts of a start as `Rerenderer` makes it, and a line about the short ones.

    What a user's video, its cameras and a cached prompt would be is in host memory at the beginning.
    """
    gc.freeze()
    gc.enable()
    timeline = Timeline(begun)
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    with timeline.part("waiting for the device"):
        mesh = make_mesh(devices=jax.devices()[:1])
    with timeline.part("recognising the models"):
        found = [recognition.recognise(folder, kind) for kind in ("vae", "dit")]
    with timeline.part("their structures"):
        vae, dit = (ModelOnDevice(one, mesh, getattr(settings, one.kind).dtype) for one in found)
    threads = [
        timeline.in_thread(f"reading the {kind}", ahead.result)
        for kind, ahead in zip(("VAE", "DiT"), read_ahead(vae, dit), strict=True)
        if ahead
    ]
    with jax.set_mesh(mesh):
        source = _encoded(timeline, settings, vae, chunk)
        threads.append(timeline.in_thread("encoding", source.block_until_ready))
        _first_step(timeline, settings, dit, source, guidance)
    for thread in threads:
        thread.join()
    return jax.local_devices()[0].device_kind, *timeline.parts()


def _encoded(timeline: Timeline, settings: Settings, vae: ModelOnDevice, chunk: int | None) -> jax.Array:
    """Latents of a video, which are still being computed."""
    shape = (1, settings.frames, settings.height, settings.width, 3)
    video = put(np.zeros(shape, np.uint8), vae.mesh)  # takes as long as any other to encode
    encode, _ = vae_functions(vae.graph, chunk=chunk, decode_chunk=chunk)
    with timeline.part("compiling the encoder"):
        encode.lower(vae.shapes, video).compile()
    with timeline.part("waiting for the VAE's weights"):
        state = jax.block_until_ready(vae.state())
    with timeline.part("beginning to encode"):
        return encode(state, video)[0]


def _first_step(
    timeline: Timeline, settings: Settings, dit: ModelOnDevice, source: jax.Array, guidance: float | None
) -> None:
    poses = np.broadcast_to(np.eye(4, dtype=np.float32), (1, settings.frames, 4, 4))
    lenses = np.broadcast_to(np.array([0.8, 1.4, 0.5, 0.5], np.float32), (1, settings.frames, 4))
    clock = np.arange(settings.frames, dtype=np.float32)[None]
    view = jax.tree.map(lambda array: put(array, dit.mesh), View(poses, lenses, clock))
    config, text = settings.dit, None
    if config.text_dim:
        embedded = np.resize(np.linspace(-1, 1, 2**15), (1, TEXT_TOKENS, config.text_dim))
        text = put(embedded.astype(config.dtype), dit.mesh)
    conditions = (view, view), text, None if guidance is None else text
    with timeline.part("drawing noise"):
        noise = put(given.noise(0, source.shape, official=True, dtype=config.dtype), dit.mesh)
    sampler, sigmas = Sampler(dit.graph), flow.sampling_sigmas(1, shift=5.0)
    with timeline.part("compiling the step"):
        sampler.compile(dit.shapes, *conditions, noise, source, None, sigmas, guidance=guidance)
    with timeline.part("waiting for the DiT's weights"):
        state = jax.block_until_ready(dit.state())
    with timeline.part("conditioning and step"):
        conditioning = sampler.condition(state, *conditions, latent_size=settings.latent_size)
        jax.block_until_ready(sampler.sample(state, noise, source, conditioning, sigmas, guidance=guidance))


def measure_starts(settings: Settings, chunk: int | None, guidance: float | None) -> list[Measurement]:
    """A first start, and a second one that finds the compiled functions of the first; prints their parts."""
    with tempfile.TemporaryDirectory() as folder:
        models_folder, cache = Path(folder) / "models", Path(folder) / "cache"
        for kind in ("dit", "vae"):
            in_own_process(write_random_model, models_folder, kind, getattr(settings, kind))
        measurements = []
        for name in ("first start", "second start"):
            options = settings, models_folder, cache, chunk, guidance, time.time()
            device, parts, short = in_own_process(measure_start, *options, first=begin_start)
            print(f"{name}: seconds from its beginning; parts in [] run beside the others")
            for part in parts:
                print(f"  {part.begin:6.2f} - {part.end:6.2f}  {part.name}")
            print(f"  {short}\n")
            end = max(part.end for part in parts)
            measurements.append(Measurement(name, device, end, parts=[tuple(part) for part in parts]))
        return measurements
