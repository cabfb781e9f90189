"""The third clip of the DiT: a memory of earlier output. Its numbers are checked in test_dit.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stp_jax.controls.view import View
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.parameters import bind, flatten
from stp_jax.weights import kinds
from tests.models.test_dit import CONFIG, condition, forward, inputs, randomised, run, with_memory

ROOM = dataclasses.replace(CONFIG, memory=2)


@functools.cache
def new_parameters(config):
    return flatten(SpaceTimeDiT(config, rngs=nnx.Rngs(0)))  # under jit it compiles longer


def with_room(without: SpaceTimeDiT) -> SpaceTimeDiT:
    """The model with room for a memory, whose role is that of a new model."""
    return bind(kinds.abstract("dit", ROOM)[0], new_parameters(ROOM) | flatten(without))


def test_a_model_with_room_for_a_memory_is_the_one_without_until_it_has_one():
    without, x = randomised(CONFIG), inputs()
    new, plain = new_parameters(ROOM), new_parameters(CONFIG)
    assert new.keys() - plain.keys() == {"camera_encoder.memory_role"}
    assert all(np.array_equal(new[name], array) for name, array in plain.items())
    room = with_room(without)
    compiled = []
    for model in (without, room):
        graph, state = nnx.split(model)
        compiled.append(forward.lower(graph, state, x).compile())
    np.testing.assert_array_equal(compiled[0](nnx.state(without), x), compiled[1](nnx.state(room), x))
    costs = [program.cost_analysis()["flops"] for program in compiled]
    assert costs[0] == costs[1]


def test_a_memory_of_source_frames_counts_as_a_longer_source_until_it_is_trained():
    """The source's latent frames 1 and 2 as the memory double their keys and values: softmax over twice as
    many. A source that repeats them has the same tokens in another order."""
    x = inputs()
    x |= {"source_animation_time": x["source_animation_time"] + np.float32(0.5)}
    repeated = {
        name: np.concatenate([x[name], x[name][:, 1:]], axis=1)
        for name in ("source", "source_c2w", "source_intrinsics", "source_animation_time")
    }
    plain = randomised(CONFIG)
    model = with_room(plain)
    memory = {"memory": x["source"][:, 1:]}
    memory |= {f"memory_{name}": x[f"source_{name}"][:, 1:] for name in View._fields}
    found, alone = run(model, x | memory), run(plain, x)
    np.testing.assert_allclose(found, run(plain, x | repeated), atol=1e-5 * np.abs(alone).max())
    assert np.abs(found - alone).max() > 1e-3


@pytest.mark.parametrize("key", ["memory", *(f"memory_{name}" for name in View._fields)])
@pytest.mark.parametrize("frame", [0, -1])
def test_every_frame_of_a_memory_counts(key, frame):
    model, x = randomised(dataclasses.replace(CONFIG, memory=2)), with_memory(inputs())
    changed = np.array(x[key])
    changed[:, frame] += 0.1
    assert np.abs(run(model, x | {key: changed}) - run(model, x)).max() > 1e-4


def test_every_parameter_has_a_finite_gradient_with_a_memory():
    model, x = randomised(dataclasses.replace(CONFIG, memory=2, remat="attention")), with_memory(inputs())
    graph, state = nnx.split(model)
    gradient = jax.jit(jax.grad(lambda state: jnp.mean(forward(graph, state, x) ** 2)))(state)
    for path, array in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(array).all() and np.abs(array).max() > 0, path


def test_a_memory_without_room_for_it_is_refused():
    x = with_memory(inputs())
    with pytest.raises(ValueError, match="takes no memory"):
        condition(randomised(CONFIG), x)
    model = randomised(dataclasses.replace(CONFIG, memory=2))
    with pytest.raises(ValueError, match="more or fewer frames"):
        jax.eval_shape(lambda: model(x["noisy"], x["source"], x["timestep"], condition(model, x)))
    with pytest.raises(ValueError, match="memory.animation_time"):
        condition(model, x | {"memory_animation_time": None})
    for changes in ({"camera": "pose12"}, {"animation_time": "official_conv"}, {"memory": -1}):
        with pytest.raises(ValueError, match="model.memory"):
            dataclasses.replace(CONFIG, **{"memory": 2} | changes)
