"""The mesh and its rules: the same numbers on eight devices as on one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from configs import demo
from stp_jax.controls import cameras
from stp_jax.devices.sharding import (
    AXES,
    batch_sharding,
    global_batch,
    host_rows,
    make_mesh,
    padded_tokens,
    parameter_shardings,
)
from stp_jax.errors import InputError
from stp_jax.models import layers
from stp_jax.training.dit_task import DiTTask
from stp_jax.training.optimizer import make_optimizer
from stp_jax.training.state import abstract_state, init_state
from stp_jax.training.step import make_train_step

FRAMES = 5


def test_parameters_are_split_along_their_largest_divisible_dimension():
    mesh = make_mesh(data=1, fsdp=4, sequence=2)
    shapes = {"wide": (30, 64, 256), "by_four": (63, 68), "odd": (63, 65), "small": (8,)}
    tree = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    specs = {name: sharding.spec for name, sharding in parameter_shardings(tree, mesh).items()}
    assert specs["wide"] == P(None, None, ("fsdp", "sequence"))
    assert specs["by_four"] == P(None, "fsdp")
    assert all(part is None for name in ("odd", "small") for part in specs[name])


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": 16}, {"data": -1, "fsdp": 3}, {"data": 0}])
def test_mesh_that_does_not_fill_the_devices_is_refused(sizes):
    with pytest.raises(InputError, match="config.mesh.*8 devices"):
        make_mesh(**sizes)


@pytest.mark.parametrize(
    ("tokens", "sizes", "padded"),
    [
        (65_520, {}, 65_520),
        (65_520, {"data": 4, "tensor": 2}, 65_520),
        (65_520, {"sequence": 2, "data": 4}, 65_520),
        (65_520, {"sequence": 4, "data": 2}, 65_536),  # 16,380 of a device are no multiple of 8
        (65_520, {"sequence": 8}, 65_536),
        (30, {"sequence": 8}, 64),
    ],
    ids=str,
)
def test_every_device_gets_as_many_tokens_and_a_multiple_that_fast_kernels_take(tokens, sizes, padded):
    with jax.set_mesh(make_mesh(**{"data": 1} | sizes, devices=None if sizes else jax.devices()[:1])):
        assert padded_tokens(tokens) == padded


def real_step(batch_size=8, heads=4, memory=0):
    """The real train step of a small text-taking DiT on latents: its state, batch, and compiled function."""
    config = demo.get_config()
    config.model.update(
        dim=48, ffn_dim=96, layers=3, heads=heads, channels=4, freq_dim=16, conditioning_dim=16, text_dim=12
    )
    config.model.update(remat="attention", ffn_parts=2, memory=memory)
    config.optimizer.update(name="adamw", clip=1e9, b1=0.0, warmup_steps=1)
    config.loss.depth = 0.5  # the head reads the tokens of a block in the middle
    rng = np.random.default_rng(0)
    task = DiTTask(config, load=False)  # latents need no VAE
    task.frozen = {"text": rng.standard_normal((1, 512, 12)).astype(np.float32)}
    # 18 tokens of the target, 36 together: neither divides by 8.
    batch = {}
    for clip in ("source", "target", "memory")[: 3 if memory else 2]:
        count, frames = (memory, 4 * memory) if clip == "memory" else (2, FRAMES)
        path = cameras.preset("orbit_left", frames)
        batch[f"{clip}_latents"] = rng.standard_normal((batch_size, count, 6, 6, 4)).astype(np.float32)
        batch[f"{clip}_c2w"] = np.broadcast_to(path.c2w, (batch_size, frames, 4, 4))
        batch[f"{clip}_intrinsics"] = np.broadcast_to(path.intrinsics, (batch_size, frames, 4))
        if clip != "memory":
            batch[f"{clip}_depth"] = rng.uniform(0, 0.5, (batch_size, frames, 6, 6)).astype(np.float16)
        batch[f"{clip}_animation_time"] = rng.uniform(0, 4, (batch_size, frames)).astype(np.float32)
    return config, task, batch


def run_step(config, task, batch, mesh):
    """Loss, and the gradient as AdamW's first moment has it, b1 being 0."""
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(config.optimizer)
        shapes = abstract_state(task, optimizer, mesh)
        state = jax.tree.map(lambda a: jax.device_put(np.zeros(a.shape, a.dtype), a.sharding), shapes)
        rng = np.random.default_rng(1)  # a new model's zeros would hide most of the gradients
        params = {
            name: jax.device_put(0.1 * rng.standard_normal(a.shape, np.float32), a.sharding)
            for name, a in sorted(state.params.items())
        }
        state = state._replace(params=params)
        batch = jax.device_put(batch, batch_sharding(mesh))
        step = make_train_step(task, optimizer, config)
        shardings = {name: array.sharding for name, array in state.params.items()}
        state, metrics = step(state, task.frozen, batch, np.float32(0))
        for name, array in state.params.items():
            assert array.sharding.is_equivalent_to(shardings[name], array.ndim), name
    gradients = optax.tree.get(state.opt_state, "mu")
    return float(metrics["loss"]), {name: np.asarray(array) for name, array in gradients.items()}


@pytest.fixture(scope="module")
def on_one_device():
    return run_step(*real_step(), make_mesh(devices=jax.devices()[:1]))


MESHES = [
    dict(fsdp=8),  # splits the batch as data=8 does, and the parameters
    dict(sequence=4, tensor=2),  # one part of the tokens is padding alone
]


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_the_real_train_step_is_the_same_on_every_mesh(on_one_device, sizes, monkeypatch):
    monkeypatch.setattr(layers, "LONG_SEQUENCE", 0)  # gates multiply kernels, as at full size
    loss, gradients = run_step(*real_step(), make_mesh(**{"data": 1} | sizes))
    same_step(loss, gradients, *on_one_device)


def test_so_is_the_step_with_a_memory(monkeypatch):
    expected = run_step(*real_step(memory=3), make_mesh(devices=jax.devices()[:1]))
    monkeypatch.setattr(layers, "LONG_SEQUENCE", 0)
    same_step(*run_step(*real_step(memory=3), make_mesh(1, fsdp=2, sequence=2, tensor=2)), *expected)
    assert np.abs(expected[1]["camera_encoder.memory_role"]).max() > 1e-7


def same_step(loss, gradients, expected_loss, expected):
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(gradient, expected[name], atol=1e-5 * max(scale, 1), err_msg=name)


def test_optimizer_state_and_average_are_split_as_the_parameters():
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    config, task, _ = real_step()
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(config.optimizer)
        state = init_state(task, optimizer, 0, mesh)
    specs = {name: array.sharding.spec for name, array in state.params.items()}
    assert specs["blocks.q.kernel"] == P(None, ("fsdp", "sequence"), "tensor")
    assert specs["blocks.o.kernel"] == P(None, "tensor", ("fsdp", "sequence"))
    assert specs["blocks.ffn_in.bias"] == P(None, "tensor")
    for tree in (state.ema, optax.tree.get(state.opt_state, "mu"), optax.tree.get(state.opt_state, "nu")):
        for name, array in tree.items():
            assert array.sharding.is_equivalent_to(state.params[name].sharding, array.ndim), name


@pytest.mark.parametrize(
    ("sizes", "hosts", "rows"),
    [
        (dict(data=8), [0, 0, 0, 0, 1, 1, 1, 1], [range(8), range(8, 16)]),
        (dict(data=8), [0, 1, 0, 1, 0, 1, 0, 1], [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]]),
        (dict(data=2, fsdp=2, sequence=2), [0, 0, 1, 1, 1, 1, 2, 2], [range(4), range(4, 12), range(12, 16)]),
        (dict(data=1, sequence=8), [0, 0, 0, 0, 1, 1, 1, 1], [range(16), range(16)]),  # both hold all rows
        (dict(data=2, tensor=4), [0, 0, 1, 1, 2, 2, 3, 3], [range(8), range(8), range(8, 16), range(8, 16)]),
    ],
    ids=str,
)
def test_each_host_reads_the_rows_that_its_devices_hold(sizes, hosts, rows):
    class Device:
        def __init__(self, host):
            self.process_index = host

    devices = np.array([Device(host) for host in hosts])
    sizes = {"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1} | sizes

    class FakeMesh:
        shape = sizes

    FakeMesh.devices = devices.reshape([sizes[axis] for axis in AXES])
    assert [host_rows(FakeMesh, 16, process) for process in range(len(rows))] == [list(r) for r in rows]


def test_a_batch_from_a_hosts_rows_is_the_batch():
    mesh = make_mesh(data=2, fsdp=2, sequence=2)
    batch = {"x": np.arange(24.0).reshape(8, 3)}
    on_devices = global_batch(batch, mesh, 8)["x"]
    assert on_devices.sharding.is_equivalent_to(batch_sharding(mesh), 2)
    np.testing.assert_array_equal(on_devices, batch["x"])
