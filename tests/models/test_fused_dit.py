"""A DiT with the GPU kernels, interpreted on the CPU, against the same one with XLA's operations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stp_jax.devices.sharding import batch_sharding, make_mesh
from stp_jax.models import fused, fused_heads
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.parameters import flatten
from tests.models.test_dit import CONFIG, condition, inputs, randomised

CONFIG = dataclasses.replace(CONFIG, layers=2, unroll=True)


@pytest.fixture
def kernels(monkeypatch):
    """Makes the kernels available; gives a list with an entry for each that was traced."""
    run, calls = fused.call, []

    def interpreted(*arguments, interpret):
        calls.append(arguments)
        return run(*arguments, interpret=True)

    monkeypatch.setattr(fused, "available", lambda dtype: True)
    for module in (fused, fused_heads):
        monkeypatch.setattr(module, "call", interpreted)
    return calls


def loss_and_gradients(model: SpaceTimeDiT, x: dict) -> tuple[np.ndarray, dict]:
    """The prediction, and gradients by dotted name of its product with fixed random numbers."""
    graph, state = nnx.split(model)
    weight = np.random.default_rng(1).standard_normal(x["noisy"].shape).astype(np.float32)

    def loss(state, x):
        model = nnx.merge(graph, state)
        y = model(x["noisy"], x["source"], x["timestep"], condition(model, x))
        return jnp.mean(y * weight), y

    gradients, y = jax.device_get(jax.jit(jax.grad(loss, has_aux=True))(state, x))
    return y, flatten(nnx.merge(graph, gradients))


def eight_inputs() -> dict:
    x = inputs()
    x |= {clip: x[clip][:, :, :6, :6] for clip in ("noisy", "source")}  # 9 tokens a frame: there is padding
    return {name: np.concatenate([a, a[::-1], a, a]) for name, a in x.items()}


@functools.cache
def expected() -> tuple[np.ndarray, dict]:
    """Of one device and without kernels, also where there are some."""
    return loss_and_gradients(randomised(CONFIG), eight_inputs())


def test_the_kernels_compute_the_same_in_a_scan(kernels):
    without = expected()
    assert not kernels
    config = dataclasses.replace(CONFIG, unroll=False, remat="full", fused=True)
    same(loss_and_gradients(randomised(config), eight_inputs()), without)
    assert kernels


def test_the_kernels_compute_on_eight_devices_what_one_does_without_them(kernels):
    without, mesh = expected(), make_mesh(data=8)
    with jax.set_mesh(mesh):
        model = randomised(dataclasses.replace(CONFIG, fused=True))
        got = loss_and_gradients(model, jax.device_put(eight_inputs(), batch_sharding(mesh)))
    same(got, without)
    # Forward and backward: two norms in each of two blocks, the head's norm, which adds the last update, and
    # queries and keys of the first block; the last computes those of the target alone, without a kernel.
    assert len(kernels) == 2 * (2 * 2 + 1 + 1)


def same(got, expected):
    np.testing.assert_allclose(got[0], expected[0], atol=2e-5 * np.abs(expected[0]).max())
    assert got[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        tolerance = 1e-4 * np.abs(gradient).max() + 1e-8
        np.testing.assert_allclose(got[1][name], gradient, atol=tolerance, err_msg=name)
