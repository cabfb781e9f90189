"""Compiles a step for a topology: the train step, or one velocity for sampling, without any array."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from input_pipeline.mixture import reads_latents
from stp_jax.compile_for.collectives import GIB, count_collectives
from stp_jax.compile_for.report import Compiled
from stp_jax.compile_for.topology import gpus_of
from stp_jax.devices import hardware
from stp_jax.devices.sharding import batch_sharding, make_mesh, parameter_shardings
from stp_jax.errors import InputError
from stp_jax.models.attention import attention_backend
from stp_jax.models.flop import dit_flop
from stp_jax.models.parameters import bind
from stp_jax.training.config import check_run
from stp_jax.training.dit_task import DiTTask
from stp_jax.training.flow_map_task import dit_task
from stp_jax.training.optimizer import make_optimizer
from stp_jax.training.state import abstract_state, frozen_shardings, trained
from stp_jax.training.step import make_train_step
from stp_jax.weights import kinds


def make_pod(topology: str, sizes: dict[str, int]):
    """A mesh over the devices of a topology.

    Raises:
      InputError: an unknown topology, sizes that do not fill it, or no compiler for it here.
    """
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
    """The jitted train step of a config, and its arguments as shapes, without any array."""
    task = dit_task(config, load=False)
    optimizer = make_optimizer(config.optimizer)
    state = abstract_state(task, optimizer, mesh, config.train.trainable, average=False)
    frozen = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        task.frozen,
        frozen_shardings(task.frozen, mesh),
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
    """The jitted function for one velocity in bfloat16, as in sampling, and its arguments as shapes."""
    task = dit_task(config, load=False)
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
        model = bind(graph, params)
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
    if config.task != "dit" or not reads_latents(config.data):
        raise InputError("compile_for takes the config of a DiT that trains on latents (data.kind).")
    mesh = make_pod(topology, sizes)
    check_run(config, mesh)
    device = _device_of(topology, mesh)
    task = dit_task(config, load=False)
    result = Compiled(
        topology=topology,
        mesh=dict(mesh.shape),
        batch_size=config.train.batch_size,
        memory=device.memory_gib,
        floor_seconds=_flop(task, what) * config.train.batch_size / mesh.size / (device.tflops * 1e12),
    )
    started = time.monotonic()
    with jax.set_mesh(mesh), attention_backend("cudnn" if gpus_of(topology) else "splash"):
        step, arguments = (abstract_step if what == "train" else abstract_velocity)(config, mesh)
        if what == "train" and config.optimizer.ema_decay and config.optimizer.ema_every == 1:
            # It is not an argument of the compiled program, but it is on the devices.
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
    _read_analysis(result, compiled, device.links)
    result.compile_seconds = time.monotonic() - started
    return result


def _device_of(topology: str, mesh: Mesh) -> hardware.Chip:
    """One device of the mesh.

    Raises:
      InputError: nothing is known of this kind.
    """
    kind = mesh.devices.flat[0].device_kind
    known = hardware.chip(kind)
    if known is None:
        raise InputError(
            f"--topology {topology}: nothing is known of {kind}; add it to stp_jax/devices/hardware.py."
        )
    if gpus_of(topology):  # XLA_PYTHON_CLIENT_MEM_FRACTION keeps some of the memory back
        stats: Any = jax.local_devices()[0].memory_stats()
        return known._replace(memory_gib=stats["bytes_limit"] / GIB)
    if "7x" in kind.lower():  # of a tpu7x chip each core is a device with half of everything
        return hardware.Chip(*(amount / 2 for amount in known))
    return known


def _flop(task: DiTTask, what: str) -> float:
    """Operations for one video of a step; with a memory, as the larger of the two steps must fit."""
    memory = task.model_config.memory > 0
    if what == "sample":
        return dit_flop(task.model_config, task.latent_size(), memory=memory)
    return task.cost(memory)[1]


def _read_analysis(result: Compiled, compiled: Any, links: float) -> None:
    """Sets memory and exchanges of `result` as the compiler gives them; `links` in 10^12 bytes a second."""
    analysis: Any = compiled.memory_analysis()
    result.state = result.average + analysis.argument_size_in_bytes / GIB
    # The sum of temporaries would count some of them twice.
    result.peak = result.average + analysis.peak_memory_in_bytes / GIB
    result.over = max(0.0, result.peak - result.memory)  # compilers for GPUs do not refuse it
    result.collectives = count_collectives(compiled.as_text())
    received = sum(size for _, size in result.collectives.values())
    result.link_seconds = received * GIB / (links * 1e12)


def shard_gib(tree: Any) -> float:
    """GiB that one device holds of a tree of abstract arrays with shardings."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.sharding is not None]
    shapes = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf in leaves]
    return sum(math.prod(shape) * size for shape, size in shapes) / GIB


def excess(message: str) -> float:
    """By how many GiB a program does not fit, from the compiler's error; 0: it is another error."""
    gib = {"G": 1, "M": 2**10, "K": 2**20}
    if match := re.search(r"[Ee]xceeded hbm capacity by ([\d.]+)([GMK])", message):
        return float(match[1]) / gib[match[2]]
    if match := re.search(r"\(([\d.]+)([GMK])\) exceeds available HBM \(([\d.]+)([GMK])\)", message):
        return float(match[1]) / gib[match[2]] - float(match[3]) / gib[match[4]]
    return 0.0
