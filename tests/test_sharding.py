"""The mesh and its rules: the same numbers on eight devices as on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from stp_jax import cameras, weights
from stp_jax.errors import InputError
from stp_jax.models.dit import DiTConfig, SpaceTimeDiT
from stp_jax.sharding import batch_sharding, make_mesh, parameter_shardings
from stp_jax.training.state import bind

CONFIG = DiTConfig(
    dim=48, ffn_dim=96, layers=2, heads=2, channels=4, freq_dim=16, conditioning_dim=16, dtype="float32"
)
FRAMES, LATENTS = 5, (8, 2, 8, 8, 4)


@pytest.fixture(scope="module")
def single():
    """Parameters, a batch, and the loss and gradients on one device."""
    model = SpaceTimeDiT(CONFIG, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    params = {
        k: jnp.asarray(0.1 * rng.standard_normal(v.shape), jnp.float32)
        for k, v in weights.flatten(model).items()
    }
    path = cameras.preset("orbit_left", FRAMES)
    batch = {
        "target": rng.standard_normal(LATENTS).astype(np.float32),
        "source": rng.standard_normal(LATENTS).astype(np.float32),
        "timestep": np.linspace(10, 990, 8, dtype=np.float32),
        "c2w": np.broadcast_to(path.c2w, (8, FRAMES, 4, 4)),
        "intrinsics": np.broadcast_to(path.intrinsics, (8, FRAMES, 4)),
        "animation_time": rng.uniform(0, 4, (8, FRAMES)).astype(np.float32),
    }
    graph = nnx.graphdef(model)

    def loss(params, batch):
        model = bind(graph, params)
        path = (batch["c2w"], batch["intrinsics"], batch["animation_time"])
        conditioning = model.condition(*path, *path, latent_size=batch["target"].shape[1:4])
        return jnp.mean((model(batch["target"], batch["source"], batch["timestep"], conditioning) - 1) ** 2)

    return loss, params, batch, jax.jit(jax.value_and_grad(loss))(params, batch)


@pytest.mark.parametrize(
    "sizes", [{"data": 8}, {"fsdp": 8, "data": 1}, {"data": 2, "fsdp": 2, "sequence": 2}]
)
def test_loss_and_gradients_on_eight_devices_equal_those_on_one(single, sizes):
    loss, params, batch, (expected_loss, expected) = single
    mesh = make_mesh(**sizes)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, parameter_shardings(params, mesh))
        batch = jax.device_put(batch, batch_sharding(mesh))
        value, gradients = jax.jit(jax.value_and_grad(loss))(params, batch)
    np.testing.assert_allclose(value, expected_loss, rtol=1e-5)
    for name, gradient in gradients.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(gradient, expected[name], atol=1e-5 * max(scale, 1), err_msg=name)


def test_parameters_are_split_along_their_largest_divisible_dimension():
    mesh = make_mesh(data=2, fsdp=4)
    tree = {"wide": jnp.zeros((30, 64, 256)), "odd": jnp.zeros((63, 65)), "small": jnp.zeros((8,))}
    specs = {name: sharding.spec for name, sharding in parameter_shardings(tree, mesh).items()}
    assert specs["wide"] == P(None, None, "fsdp")
    assert all(part is None for name in ("odd", "small") for part in specs[name])


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": 16}, {"data": -1, "fsdp": 3}, {"data": 0}])
def test_mesh_that_does_not_fill_the_devices_is_refused(sizes):
    with pytest.raises(InputError, match="config.mesh.*8 devices"):
        make_mesh(**sizes)
