"""Measures the models at full size with random weights: seconds, memory, arithmetic.

    python -m stp_jax.benchmark                                  # everything, one GPU, some minutes
    python -m stp_jax.benchmark --only decode --chunks 1 4 10 --profile 15
    python -m stp_jax.benchmark --only video --devices 1 2       # one video on several GPUs
    python -m stp_jax.benchmark --small                          # a tiny model, to try the program on a CPU

Each measurement runs in a process of its own, so that its peak memory is its own. Prints a markdown table.
`seconds` is the median of the repetitions (the video is run once), `first` the first run with all that must
be compiled. `program` is what the compiled function needs: arguments, temporaries and results. `peak` is what
the device had in use at most; it includes what the compiler needs to try out kernels, unless these come from
a compilation cache (JAX_COMPILATION_CACHE_DIR). `start` is a new process that reads the models from disk,
encodes a video and takes one step: once with nothing compiled, and again with what the first one compiled.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tqdm import tqdm

from stp_jax import flow
from stp_jax.command_line import Parser, count, number, read_config
from stp_jax.controls.view import View
from stp_jax.devices.sharding import make_mesh, parameter_shardings
from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.models.attention import BACKENDS, attention_backend
from stp_jax.models.config import TEXT_TOKENS, DiTConfig
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.flop import dit_flop
from stp_jax.models.text_encoder import TextEncoder, TextEncoderConfig
from stp_jax.models.vae import VAE, VAEConfig, to_pixels
from stp_jax.rerender.rerenderer import vae_functions
from stp_jax.rerender.sampler import Sampler, at_once, jax_noise, mesh_for_one_video
from stp_jax.training.config import model_config
from stp_jax.weights import kinds, native, reading, recognition

SPACETIMEPILOT = DiTConfig(
    text_dim=4096, camera="pose12", animation_time="official_conv", rope_frames="stream"
)
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured: models, and the size of the video in pixels."""

    dit: DiTConfig
    vae: VAEConfig
    text: TextEncoderConfig = TextEncoderConfig()
    frames: int = 81
    height: int = 480
    width: int = 832
    repeats: int = 3
    profile: int = 0  # kernels to list
    attention: str | None = None  # backend

    @property
    def latent_size(self) -> tuple[int, int, int]:
        stride = self.vae.spatial_stride
        return (self.frames - 1) // self.vae.frame_stride + 1, self.height // stride, self.width // stride


SMALL = Settings(
    DiTConfig(dim=64, ffn_dim=128, layers=2, heads=2, channels=4, freq_dim=32, text_dim=16, dtype="float32"),
    VAEConfig(dim=8, z_dim=4, res_blocks=1, latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4),
    TextEncoderConfig(vocab=50, dim=16, attn_dim=16, heads=2, ffn_dim=32, layers=2, dtype="float32"),
    frames=9,
    height=32,
    width=32,
    repeats=2,
)


class Workload(NamedTuple):
    """What to run; `one_program`: whether it is compiled as a whole, or calls compiled functions itself."""

    function: Callable
    arguments: tuple
    flop: float
    one_program: bool = True


@dataclasses.dataclass
class Measurement:
    """Seconds, GiB and 10^12 operations; None: not known on this device."""

    name: str
    device: str
    seconds: float
    first_seconds: float | None = None
    program_gib: float | None = None
    peak_gib: float | None = None
    tflop: float | None = None
    kernels: list[tuple[str, float]] = dataclasses.field(default_factory=list)  # name, seconds

    @property
    def tflop_per_second(self) -> float | None:
        return None if self.tflop is None else self.tflop / self.seconds


def random_state(make: Callable[[], nnx.Module], dtype: str) -> tuple[nnx.GraphDef, nnx.State]:
    """A model with random parameters made on the device: matrices in `dtype`, vectors float32."""
    graph, shapes = nnx.split(nnx.eval_shape(make))
    leaves, tree = jax.tree.flatten(shapes)

    @jax.jit
    def draw(key: jax.Array) -> nnx.State:
        # All from one draw: a generator for each parameter would compile longer than the model.
        noise = 0.02 * jax.random.normal(key, (max(leaf.size for leaf in leaves),), dtype)

        def one(leaf):
            kind = dtype if leaf.ndim > 1 else jnp.float32
            return noise[: leaf.size].reshape(leaf.shape).astype(kind)

        return jax.tree.unflatten(tree, [one(leaf) for leaf in leaves])

    return graph, draw(jax.random.key(0))


def dit_workload(settings: Settings) -> Workload:
    """One velocity of the DiT, everything that does not depend on the timestep known."""
    config = settings.dit
    graph, state = random_state(lambda: SpaceTimeDiT(config, rngs=nnx.Rngs(0)), config.dtype)
    views, text = _conditioning_inputs(settings)

    @jax.jit
    def condition(state, views, text):
        return nnx.merge(graph, state).condition(*views, text=text, latent_size=settings.latent_size)

    def forward(state, noisy, source, conditioning):
        timestep = jnp.full((1,), 500.0)
        return nnx.merge(graph, state)(noisy, source, timestep, conditioning, differentiable=False)

    latents = jax.random.normal(jax.random.key(1), (1, *settings.latent_size, config.channels))
    arguments = (state, latents, latents if config.source else None, condition(state, views, text))
    return Workload(forward, arguments, dit_flop(config, settings.latent_size))


def _conditioning_inputs(settings: Settings) -> tuple[tuple[View, View], jax.Array | None]:
    """The views of target and source, and embedded text for a model that takes it."""
    config, frames = settings.dit, settings.frames
    poses = jnp.broadcast_to(jnp.eye(4), (1, frames, 4, 4))
    lenses = jnp.broadcast_to(jnp.array([0.8, 1.4, 0.5, 0.5]), (1, frames, 4))
    clock = jnp.arange(frames, dtype=jnp.float32)[None]
    view, text = View(poses, lenses, clock), None
    if config.text_dim:
        shape = (1, TEXT_TOKENS, config.text_dim)
        text = jax.random.normal(jax.random.key(2), shape, config.dtype)
    return (view, view), text


def encoding(settings: Settings, chunk: int | None) -> tuple[Callable, jax.Array]:
    """`encode(state, uint8 video) -> latents`, and a video."""
    graph, _ = kinds.abstract("vae", settings.vae)
    shape = (1, settings.frames, settings.height, settings.width, 3)
    video = jax.random.randint(jax.random.key(1), shape, 0, 256, jnp.uint8)
    return lambda state, video: nnx.merge(graph, state).encode(video, chunk=chunk), video


def decoding(settings: Settings, chunk: int | None) -> tuple[Callable, jax.Array]:
    """`decode(state, latents) -> uint8 video`, and latents."""
    graph, _ = kinds.abstract("vae", settings.vae)
    latents = jax.random.normal(jax.random.key(1), (1, *settings.latent_size, settings.vae.z_dim))
    return (
        lambda state, latents: nnx.merge(graph, state).decode(latents, chunk=chunk, finish=to_pixels),
        latents,
    )


def sampling(
    settings: Settings, graph: nnx.GraphDef, steps: int, guidance: float | None, mesh: Mesh
) -> Callable:
    """`sample(state, latents of the source) -> latents`, with embedded text on the devices."""
    (views, words), sampler = _conditioning_inputs(settings), Sampler(graph)
    negative = None if guidance is None else words
    sigmas = flow.sampling_sigmas(steps, shift=5.0)
    paired = at_once(guidance is not None, 1, mesh)

    def sample(state, source):
        conditioning = sampler.condition(
            state, views, words, negative, latent_size=settings.latent_size, at_once=paired
        )
        noise = jax_noise(0, source.shape)
        return sampler.sample(state, noise, source, conditioning, sigmas, guidance=guidance, at_once=paired)

    return sample


def vae_workload(settings: Settings, part: Callable, chunk: int | None) -> Workload:
    """`part` is `encoding` or `decoding`."""
    _, state = random_state(lambda: VAE(settings.vae, rngs=nnx.Rngs(0)), settings.vae.dtype)
    function, x = part(settings, chunk)
    return Workload(function, (state, x), count_flop(function, state, x))


def text_workload(settings: Settings) -> Workload:
    """The embedding of one prompt of full length; the embedding table is looked up, not multiplied with."""
    config = settings.text
    graph, state = random_state(lambda: TextEncoder(config, rngs=nnx.Rngs(0)), config.dtype)

    def embed(state, ids, mask):
        return nnx.merge(graph, state)(ids, mask)

    ids = jax.random.randint(jax.random.key(1), (1, TEXT_TOKENS), 0, config.vocab)
    arguments = (state, ids, jnp.ones((1, TEXT_TOKENS), bool))
    return Workload(embed, arguments, count_flop(embed, *arguments))


def video_workload(
    settings: Settings, chunk: int | None, steps: int, guidance: float | None, devices: int
) -> Workload:
    """uint8 video to uint8 video, as `Rerenderer` makes it."""
    tokens = math.prod(settings.latent_size) // settings.dit.patch**2
    mesh = mesh_for_one_video(jax.devices()[:devices], tokens, guided=guidance is not None, least_tokens=0)
    if mesh.size != devices:
        raise InputError(f"--devices {devices}: this video takes {mesh.size} of {len(jax.devices())} devices")
    graph, state = random_state(lambda: SpaceTimeDiT(settings.dit, rngs=nnx.Rngs(0)), settings.dit.dtype)
    vae_graph, vae = random_state(lambda: VAE(settings.vae, rngs=nnx.Rngs(0)), settings.vae.dtype)
    state, vae = (jax.device_put(one, parameter_shardings(one, mesh)) for one in (state, vae))
    encode, decode = vae_functions(vae_graph, chunk=chunk, decode_chunk=chunk)
    sample = sampling(settings, graph, steps, guidance, mesh)

    def rerender(state, vae, video):
        with jax.set_mesh(mesh):
            return decode(vae, sample(state, encode(vae, video)))

    velocities = steps * (1 if guidance is None else 2)
    flop = velocities * dit_flop(settings.dit, settings.latent_size)
    for part in (encoding, decoding):
        function, x = part(settings, chunk)
        flop += count_flop(function, vae, x)
    _, video = encoding(settings, chunk)
    return Workload(rerender, (state, vae, video), flop, one_program=False)


def workloads(
    only: list[str], chunks: list[int | None], steps: int, guidance: float | None, devices: list[int]
) -> dict[str, Callable[[Settings], Workload]]:
    """What to measure, by name."""
    chosen: dict[str, Callable[[Settings], Workload]] = {}
    if "dit" in only:
        chosen["DiT forward"] = dit_workload
    for kind, part in (("encode", encoding), ("decode", decoding)):
        for chunk in chunks if kind in only else []:
            name = f"VAE {kind}, {'whole' if chunk is None else f'chunks of {chunk}'}"
            chosen[name] = functools.partial(vae_workload, part=part, chunk=chunk)
    if "text" in only:
        chosen["text encoder, one prompt"] = text_workload
    for used in devices if "video" in only else []:
        name = f"video, {steps} steps{'' if guidance is None else ' with guidance'}"
        name += "" if used == 1 else f", {used} devices"
        chosen[name] = functools.partial(
            video_workload, chunk=chunks[0], steps=steps, guidance=guidance, devices=used
        )
    return chosen


def write_random_model(folder: Path, kind: str, config: DiTConfig | VAEConfig) -> None:
    """Writes a DiT or VAE (`kind`) with random weights, as a folder of ours."""
    noise = 0.02 * np.random.default_rng(0).standard_normal(2**20, np.float32)
    parameters = {
        name: np.resize(noise, shape.shape).astype(config.dtype if len(shape.shape) > 1 else np.float32)
        for name, shape in kinds.shapes(kind, config).items()
    }
    native.save_weights(folder, kind, parameters, dataclasses.asdict(config), dtype=None, part_bytes=2**30)


def measure_start(
    settings: Settings, folder: Path, cache: Path, chunk: int | None, guidance: float | None, begun: float
) -> tuple[str, float]:
    """The device, and the seconds from `begun` (a `time.time`) to the end of step 1, loading included."""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    mesh = make_mesh(devices=jax.devices()[:1])
    found = {kind: recognition.recognise(folder, kind) for kind in ("dit", "vae")}
    dit, state = reading.load(found["dit"], mesh, settings.dit.dtype)
    _, vae = reading.load(found["vae"], mesh, settings.vae.dtype)
    with jax.set_mesh(mesh):
        encode, video = encoding(settings, chunk)
        latents = sampling(settings, dit, 1, guidance, mesh)(state, jax.jit(encode)(vae, video))
        jax.block_until_ready(latents)
    return jax.local_devices()[0].device_kind, time.time() - begun


def measure_starts(settings: Settings, chunk: int | None, guidance: float | None) -> list[Measurement]:
    """A first start, and a second one that finds the compiled functions of the first."""
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
            measurements.append(Measurement(f"{name} start, to the end of step 1", device, seconds))
        return measurements


def in_own_process(function: Callable, *arguments):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def measure(name: str, make: Callable[[Settings], Workload], settings: Settings) -> Measurement:
    """Compiles and runs one workload."""
    device = jax.local_devices()[0]
    work = make(settings)
    jax.block_until_ready(work.arguments)
    function, program = work.function, None
    start = time.perf_counter()
    if work.one_program:
        with attention_backend(settings.attention):
            function = jax.jit(function).lower(*work.arguments).compile()
        memory: Any = function.memory_analysis()
        needed = ("argument_size_in_bytes", "temp_size_in_bytes", "output_size_in_bytes")
        program = sum(getattr(memory, name) for name in needed) / GIB

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(function(*work.arguments))
        return time.perf_counter() - start

    run()
    first_seconds = time.perf_counter() - start
    # Whole videos take a minute: one more run tells enough, and a trace of it would be huge.
    seconds = statistics.median(run() for _ in range(settings.repeats if work.one_program else 1))
    stats = device.memory_stats() or {}
    peak = stats["peak_bytes_in_use"] / GIB if "peak_bytes_in_use" in stats else None
    kernels = costliest_kernels(run, settings.profile) if settings.profile and work.one_program else []
    return Measurement(
        name, device.device_kind, seconds, first_seconds, program, peak, work.flop / 1e12, kernels
    )


def costliest_kernels(run: Callable[[], Any], most: int) -> list[tuple[str, float]]:
    """The seconds in GPU kernels of one run: in all of them, then in the costliest; on a CPU none."""
    seconds: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        for path in Path(folder).rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
                if "GPU" not in plane.name:
                    continue
                for line in plane.lines:
                    if "Stream" in line.name:
                        for event in line.events:
                            seconds[event.name] += event.duration_ns / 1e9
                            calls[event.name] += 1
    if not seconds:
        return []
    costliest = [(f"{calls[name]} x {name}", spent) for name, spent in seconds.most_common(most)]
    return [(f"{sum(calls.values())} x all kernels", sum(seconds.values())), *costliest]


def count_flop(function: Callable, *arguments) -> float:
    """Multiplications and additions in the matrix products and convolutions of a function, loops included.

    Multiplications with padding count, too. Fused attention kernels are not seen.
    """
    return _flop(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flop(jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        outputs = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * outputs * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * outputs * math.prod(kernel) / channels
        else:
            times = equation.params["length"] if name == "scan" else 1
            total += times * sum(_flop(inner) for inner in _inner(equation.params))
    return total


def _inner(params: dict[str, Any]) -> Iterator:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr"):
                yield item.jaxpr


def markdown_table(measurements: list[Measurement]) -> str:
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


def read_model_config(path: str) -> DiTConfig:
    """The DiT of a config file such as configs/spacetimepilot_1_3b.py.

    Raises:
      InputError: no such config, or of something else.
    """
    config = read_config(path)
    if config.get("task") != "dit":
        raise InputError(f"--config {path} is not of a re-rendering model (config.task = 'dit').")
    return model_config(DiTConfig, config.model)


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stp_jax.benchmark", description=__doc__)
    add = parser.add_argument
    add("--config", help="whose DiT is measured; default: SpaceTimePilot, 1.3B")
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
    add("--profile", type=number(0, 1000, int), default=0, help="also list so many of the costliest kernels")
    add("--attention", choices=BACKENDS, help="default: what fits the device")
    add("--out", help="write the figures to this JSON file, too")
    add("--small", action="store_true", help="a tiny model and video, for trying it out")
    flags = parser.parse_args(arguments)
    if flags.out and os.path.exists(flags.out):
        raise InputError(f"--out {flags.out}: exists already; name another file")

    if flags.small and flags.config:
        raise InputError("--small measures a tiny model of its own: leave --config out")
    settings = SMALL
    if not flags.small:
        dit = read_model_config(flags.config) if flags.config else SPACETIMEPILOT
        dit = dataclasses.replace(dit, dtype="bfloat16", remat="none", ffn_parts=1)
        settings = Settings(dit, VAEConfig(dtype="bfloat16"))
    given = {name: getattr(flags, name) for name in ("frames", "height", "width", "repeats")}
    settings = dataclasses.replace(
        settings,
        profile=flags.profile,
        attention=flags.attention,
        **{name: value for name, value in given.items() if value},
    )
    cell = settings.vae.spatial_stride * settings.dit.patch
    if (settings.frames - 1) % settings.vae.frame_stride or settings.height % cell or settings.width % cell:
        raise InputError(
            f"{settings.frames} frames of {settings.width} x {settings.height} pixels: the models take "
            f"{settings.vae.frame_stride}n + 1 frames and multiples of {cell} pixels"
        )

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
        figures = [dataclasses.asdict(measured) for measured in measurements]
        temporary = Path(f"{flags.out}.part")
        temporary.write_text(json.dumps(figures, indent=1) + "\n")
        temporary.rename(flags.out)


if __name__ == "__main__":
    main()
