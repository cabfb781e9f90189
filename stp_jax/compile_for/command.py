r"""Compiles the real train step, or the sampling step, for devices that are not there: will it fit, how fast?

    python -m stp_jax.compile_for --topology v5p:4x4x4 --config configs/wan_1_3b_plucker.py
    python -m stp_jax.compile_for --topology v6e:8x8 --config configs/wan_14b_plucker.py \
        --mesh fsdp=16 sequence=4
    python -m stp_jax.compile_for --topology gpu:8 --config configs/wan_14b_plucker.py --mesh sequence=8

For TPUs any machine does, with `pip install -e '.[tpu]'`: their compiler needs none. It takes some minutes
and a few GiB. Topologies are named as Cloud TPU names them: v4, v5e, v5p, v6e, tpu7x and the chips along each
axis. `gpu:8` are eight GPUs such as the one of this machine, joined by NVLink; their compiler needs one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import time
from typing import Any

from stp_jax.command_line import Parser, count, number, read_config
from stp_jax.compile_for.collectives import GIB, count_collectives
from stp_jax.errors import InputError, exit_on_input_error

# What the compiler asks the machine about, were it part of a pod.
NO_POD = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass
class Compiled:
    """What the compiler says of one program, for each device; sizes in GiB."""

    topology: str
    mesh: dict[str, int]
    batch_size: int
    state: float  # parameters, state and batch
    peak: float  # in use at most, these included
    memory: float  # of the device
    collectives: dict[str, tuple[int, float]]  # kind -> how many in a step, GiB received by them
    floor_seconds: float  # of the step, if every operation ran at the device's peak
    link_seconds: float  # of what is received, if all links of the device brought it
    compile_seconds: float
    over: float = 0.0  # by how much it does not fit
    average: float = 0.0  # of the state, an average of the parameters kept on the devices

    def report(self, mfu: float) -> str:
        devices = " x ".join(f"{axis} {size}" for axis, size in self.mesh.items() if size > 1) or "one device"
        lines = [f"{self.topology}, {devices}, batch {self.batch_size}"]
        if self.over:
            lines += [
                f"  does NOT fit: {self.over:.1f} GiB more than the {self.memory:.1f} GiB of a "
                f"device, {self.state:.1f} of them parameters, state and batch.",
                f"  {self.advice()}",
            ]
            return "\n".join(lines)
        lines.append(
            f"  memory of a device: at most {self.peak:.2f} of {self.memory:.0f} GiB, "
            f"{self.state:.2f} of them parameters, state and batch"
        )
        found = [f"{n} {kind} ({size:.2f} GiB)" for kind, (n, size) in self.collectives.items()]
        lines.append(f"  received in a step: {', '.join(found) or 'nothing'}")
        estimate = max(self.floor_seconds / mfu, self.link_seconds)
        lines.append(
            f"  step: {self.floor_seconds:.2f} s at the peak of the devices, {self.link_seconds:.2f} s of "
            f"their links meanwhile; {estimate:.2f} s at an assumed MFU of {mfu:.0%}"
        )
        lines.append(f"  compiled in {self.compile_seconds:.0f} s")
        return "\n".join(lines)

    def advice(self) -> str:
        """What would make it fit."""
        computing = self.memory + self.over - self.state
        savings = {
            "twice the devices, as sequence": (self.state + computing) / 2,
            "twice the devices, as fsdp": self.state / 2,
            "the average in the hosts' memory, as config.optimizer.ema_every=10": self.average,
        }
        enough = [f"{what} (saves {size:.1f})" for what, size in savings.items() if size > self.over]
        if enough:
            return f"What would make it fit, in GiB: {'; '.join(enough)}."
        times = 2 ** math.ceil(math.log2((self.memory + self.over) / self.memory))
        return f"It needs about {times} times the devices, as sequence."


def gpus_of(topology: str) -> int:
    """How many GPUs such as that of this machine are meant; 0: TPUs are."""
    match = re.fullmatch(r"gpu:(\d+)", topology)
    return int(match[1]) if match else 0


def make_pod(topology: str, sizes: dict[str, int]):
    """A mesh over the devices of a topology.

    Raises:
      InputError: an unknown topology, sizes that do not fill it, or no compiler for it here.
    """
    import jax
    from jax.experimental import topologies

    from stp_jax.devices.sharding import make_mesh

    if count := gpus_of(topology):
        if jax.default_backend() != "gpu":
            raise InputError(f"--topology {topology} needs a GPU of that kind; JAX sees none here.")
        pod = topologies.get_topology_desc(platform="cuda", topology=f"1x1x{count}")
        return make_mesh(**sizes, devices=pod.devices)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("The compiler for TPUs is missing: pip install 'stp-jax[tpu]'.")
    try:
        pod = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # the library raises bare exceptions of its runtime
        reason = str(error).splitlines()[0][:200]
        raise InputError(
            f"--topology {topology}: unknown ({reason}). Name it as v5p:4x4x4 or gpu:8."
        ) from None
    return make_mesh(**sizes, devices=pod.devices)


def abstract_step(config, mesh) -> tuple[Any, tuple]:
    """The jitted train step of a config, and what it takes, without any array."""
    import jax
    import jax.numpy as jnp

    from stp_jax.devices.sharding import batch_sharding
    from stp_jax.training.dit_task import DiTTask
    from stp_jax.training.optimizer import make_optimizer
    from stp_jax.training.state import abstract_state
    from stp_jax.training.step import make_train_step

    task = DiTTask(config, load=False)
    optimizer = make_optimizer(config.optimizer)
    state = abstract_state(task, optimizer, mesh, config.train.trainable, average=False)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    frozen = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), task.frozen
    )
    rows = batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((config.train.batch_size, *shape), dtype, sharding=rows)
        for name, (shape, dtype) in task.example_shapes().items()
    }
    progress = jax.ShapeDtypeStruct((), jnp.float32)
    step = make_train_step(task, optimizer, config)
    return step, (state, frozen, batch, progress)


def abstract_velocity(config, mesh) -> tuple[Any, tuple]:
    """One velocity of the model in bfloat16 for a batch of videos, as sampling asks for it."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from stp_jax.devices.sharding import batch_sharding, parameter_shardings
    from stp_jax.training.dit_task import DiTTask
    from stp_jax.weights import kinds

    task = DiTTask(config, load=False)
    model_config = dataclasses.replace(task.model_config, remat="none", ffn_parts=1)
    graph, shapes = kinds.abstract("dit", model_config)
    rows, size = batch_sharding(mesh), config.train.batch_size
    shardings = parameter_shardings(shapes, mesh)
    params = {
        name: jax.ShapeDtypeStruct(
            leaf.shape, jnp.bfloat16 if name.endswith("kernel") else jnp.float32, sharding=shardings[name]
        )
        for name, leaf in shapes.items()
    }
    batch = {
        name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=rows)
        for name, (shape, dtype) in task.example_shapes().items()
    }

    def velocity(params, frozen, batch, timestep):
        model = nnx.merge(graph, kinds.state_of(params))
        latents = batch["target_latents"].astype(jnp.float32)
        conditioning = task.condition(model, frozen, batch, latents.shape[1:4])
        clips = batch["source_latents"], timestep, conditioning, batch.get("memory_latents")
        return model(latents, *clips, differentiable=False)

    timestep = jax.ShapeDtypeStruct((size,), jnp.float32, sharding=rows)
    return jax.jit(velocity), (params, task.frozen, batch, timestep)


def compile_for(topology: str, config, sizes: dict[str, int], what: str = "train") -> Compiled:
    """Compiles one step of `config` for a topology.

    Args:
      topology: as `v5p:4x4x4` or `gpu:8`.
      config: of a DiT that trains on latents.
      sizes: of the mesh, by axis; one may be -1.
      what: `train` or `sample`.

    Raises:
      InputError: see `make_pod`; a mesh that does not fit the model; a config of something else.
    """
    import jax

    from stp_jax.devices import hardware
    from stp_jax.models.attention import attention_backend
    from stp_jax.models.flop import dit_flop
    from stp_jax.training.config import check_run
    from stp_jax.training.dit_task import DiTTask
    from stp_jax.training.state import trained

    if config.task != "dit" or config.data.kind != "latents":
        raise InputError("compile_for takes the config of a DiT that trains on latents (data.kind).")
    mesh = make_pod(topology, sizes)
    check_run(config, mesh)
    kind = mesh.devices.flat[0].device_kind
    known = hardware.chip(kind)
    if known is None:
        raise InputError(
            f"--topology {topology}: nothing is known of {kind}; add it to stp_jax/devices/hardware.py."
        )
    cores = 2 if "7x" in kind.lower() else 1  # of a tpu7x chip each is a device with half of everything
    memory, backend = known.memory_gib / cores, "splash"
    if gpus_of(topology):  # XLA_PYTHON_CLIENT_MEM_FRACTION leaves less than there is
        memory, backend = jax.local_devices()[0].memory_stats()["bytes_limit"] / GIB, "cudnn"
    task = DiTTask(config, load=False)
    memory = task.model_config.memory > 0  # the larger of the two steps must fit
    flop = task.cost(memory)[1]
    if what == "sample":
        flop = dit_flop(task.model_config, task.latent_size(), memory=memory)
    result = Compiled(
        topology=topology,
        mesh=dict(mesh.shape),
        batch_size=config.train.batch_size,
        state=0.0,
        peak=0.0,
        memory=memory,
        collectives={},
        floor_seconds=flop * config.train.batch_size / mesh.size / (known.tflops * 1e12 / cores),
        link_seconds=0.0,
        compile_seconds=0.0,
    )
    started = time.monotonic()
    with jax.set_mesh(mesh), attention_backend(backend):
        step, arguments = (abstract_step if what == "train" else abstract_velocity)(config, mesh)
        if what == "train" and config.optimizer.ema_decay and config.optimizer.ema_every == 1:
            # Beside the program that is compiled here, but on the devices all the same.
            result.average = shard_gib(trained(arguments[0].params, config.train.trainable))
        result.state = result.average + shard_gib(arguments)
        lowered = step.lower(*arguments)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            result.over = excess(str(error))
            if not result.over:
                raise
            return result
    analysis: Any = compiled.memory_analysis()
    result.state = result.average + analysis.argument_size_in_bytes / GIB
    # The sum of temporaries would count some of them twice.
    result.peak = result.average + analysis.peak_memory_in_bytes / GIB
    result.over = max(0.0, result.peak - memory)  # compilers for GPUs do not refuse it
    result.collectives = count_collectives(compiled.as_text())
    received = sum(size for _, size in result.collectives.values())
    result.link_seconds = received * GIB / (known.links * 1e12 / cores)
    result.compile_seconds = time.monotonic() - started
    return result


def shard_gib(tree: Any) -> float:
    """What one device holds of a tree of abstract arrays with shardings."""
    import jax

    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.sharding is not None]
    shapes = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf in leaves]
    return sum(math.prod(shape) * size for shape, size in shapes) / GIB


def excess(message: str) -> float:
    """By how many GiB a program does not fit, from what the compiler says; 0: that is not what it says."""
    gib = {"G": 1, "M": 2**10, "K": 2**20}
    if match := re.search(r"[Ee]xceeded hbm capacity by ([\d.]+)([GMK])", message):
        return float(match[1]) / gib[match[2]]
    if match := re.search(r"\(([\d.]+)([GMK])\) exceeds available HBM \(([\d.]+)([GMK])\)", message):
        return float(match[1]) / gib[match[2]] - float(match[3]) / gib[match[4]]
    return 0.0


def parse_mesh(words: list[str]) -> dict[str, int]:
    """Raises `InputError` unless every word is as `fsdp=16`."""
    sizes = {}
    for word in words:
        match = re.fullmatch(r"(data|fsdp|sequence|tensor)=(-?\d+)", word)
        if match is None:
            raise InputError(f"--mesh {word}: give sizes of data, fsdp, sequence, tensor, as fsdp=16.")
        sizes[match[1]] = int(match[2])
    return sizes


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stp_jax.compile_for", description=__doc__)
    add = parser.add_argument
    add("--topology", required=True, help="such as v5p:4x4x4, or gpu:8")
    add("--config", required=True, metavar="FILE", help="such as configs/wan_1_3b_plucker.py")
    add("--mesh", nargs="+", default=[], metavar="AXIS=SIZE", help="default: as the config says")
    add("--batch_size", type=count, help="of all devices together; default: one video for each share of it")
    add("--accumulate", type=count, default=1, help="parts of the batch, one after the other")
    add("--remat", help="policy, see DiTConfig; default: as the config says")
    add("--sample", action="store_true", help="a velocity for sampling instead of the train step")
    add("--mfu", type=number(0.01, 1), default=0.45, help="assumed for the estimate; default 0.45")
    flags = parser.parse_args(arguments)
    if gpus_of(flags.topology):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    else:
        os.environ.update(NO_POD)
    config = read_config(flags.config)
    sizes = {"data": 1} | (parse_mesh(flags.mesh) or config.mesh.to_dict())
    if flags.remat:
        config.model.remat = flags.remat
    shares = make_pod(flags.topology, sizes).shape
    config.train.accumulate = flags.accumulate
    config.train.batch_size = flags.batch_size or flags.accumulate * shares["data"] * shares["fsdp"]
    print("Compiling: this takes some minutes ...", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        result = compile_for(flags.topology, config, sizes, "sample" if flags.sample else "train")
        print(result.report(flags.mfu))
