"""One training step: parts of a batch, steps that must not count, parameters that must not change."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import wan_1_3b_plucker
from stp_jax.controls.view import View
from stp_jax.devices.sharding import batch_sharding, make_mesh
from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.parameters import bind, flatten, merge_lora
from stp_jax.training.optimizer import make_optimizer
from stp_jax.training.state import LOSS, graph_of, init_state, random_key, trained
from stp_jax.training.step import accumulated, make_train_step
from stp_jax.weights import kinds
from tests.training.toy import WIDTH, ToyTask
from tests.training.toy_config import toy_config


def start(config, mesh=None):
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    task, optimizer = ToyTask(), make_optimizer(config.optimizer)
    state = init_state(task, optimizer, 0, mesh, trainable=config.train.trainable)
    return state, make_train_step(task, optimizer, config), task.frozen


def examples(seed=0, count=8):
    return {"x": np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)}


def copy(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_a_batch_give_the_mean_of_their_gradients(parts):
    batch = {"x": np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)}
    params = {"w": jnp.arange(3.0)}

    def loss(params, batch, key):
        value = jnp.mean(jnp.tanh(batch["x"] @ params["w"]) ** 2)
        return value, {"size": jnp.float32(len(batch["x"]))}

    (value, metrics), gradients = accumulated(loss, params, batch, jax.random.key(0), parts)
    expected, of_all = jax.value_and_grad(lambda p: loss(p, batch, None)[0])(params)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradients["w"], of_all["w"], rtol=1e-5)
    assert metrics["size"] == 8 / parts


def test_every_part_draws_its_own_noise_and_has_examples_of_every_device():
    seen = []

    def loss(params, batch, key):
        jax.debug.callback(lambda x, noise: seen.append((x, noise)), batch["x"], jax.random.normal(key))
        return jnp.sum(params["w"]), {}

    batch = {"x": np.arange(8)}  # on two devices: 0 .. 3 and 4 .. 7
    jax.block_until_ready(accumulated(loss, {"w": jnp.zeros(1)}, batch, jax.random.key(0), 2))
    jax.effects_barrier()
    assert sorted(tuple(x.tolist()) for x, _ in seen) == [(0, 2, 4, 6), (1, 3, 5, 7)]
    assert seen[0][1] != seen[1][1]


def test_accumulation_is_the_same_on_a_mesh():
    config = toy_config(accumulate=2, batch_size=16)
    results = []
    for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh(data=8)):
        with jax.set_mesh(mesh):
            state, step, frozen = start(config, mesh)
            batch = jax.device_put(examples(count=16), batch_sharding(mesh))
            state, metrics = step(state, frozen, batch, np.float32(0))
            results.append(copy((state.params, metrics)))
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_and_the_next_goes_on(bad):
    state, step, frozen = start(toy_config())
    state, metrics = step(state, frozen, examples(0), np.float32(0))
    assert metrics["skipped"] == 0
    before = copy(state)
    broken = examples(1)
    broken["x"][3, 2] = bad
    state, metrics = step(state, frozen, broken, np.float32(0))
    assert metrics["skipped"] == 1 and state.step == before.step + 1
    for after, old in zip(
        jax.tree.leaves((state.params, state.opt_state, state.ema)),
        jax.tree.leaves((before.params, before.opt_state, before.ema)),
        strict=True,
    ):
        np.testing.assert_array_equal(after, old)
    state, metrics = step(state, frozen, examples(2), np.float32(0))
    assert metrics["skipped"] == 0 and np.isfinite(metrics["loss"])
    assert not np.array_equal(state.params["bias"], before.params["bias"])


def test_only_the_parameters_named_are_trained():
    config = toy_config(trainable=r"blocks\..*")
    state, step, frozen = start(config)
    before = copy(state.params)
    assert list(state.ema) == ["blocks.kernel"]
    state, _ = step(state, frozen, examples(), np.float32(0))
    np.testing.assert_array_equal(state.params["bias"], before["bias"])
    assert not np.array_equal(state.params["blocks.kernel"], before["blocks.kernel"])
    assert state.averaged().keys() == before.keys()
    kept = [leaf.shape for leaf in jax.tree.leaves(state.opt_state)]
    assert before["bias"].shape not in kept


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("nothing", "names no parameter; there are "), ("(", "not a regular expression")],
)
def test_patterns_that_name_nothing_are_refused(pattern, message):
    with pytest.raises(InputError, match=message):
        start(toy_config(trainable=pattern))


def test_the_recipe_of_recammaster_names_its_modules():
    config = DiTConfig(
        dim=32, ffn_dim=16, layers=1, heads=2, channels=4, freq_dim=8, text_dim=8,
        camera="pose12_target", animation_time="none", rope_frames="stream",
    )  # fmt: skip
    chosen = trained(kinds.shapes("dit", config), wan_1_3b_plucker.RECAMMASTER_TRAINABLE)
    assert {name.split(".")[1] for name in chosen} == {
        *("camera", "projector", "q", "k", "v", "o", "norm_q", "norm_k")
    }


LORA = DiTConfig(
    dim=48, ffn_dim=64, layers=2, heads=2, channels=4, freq_dim=16, conditioning_dim=16, text_dim=8,
    lora_rank=4, dtype="float32",
)  # fmt: skip


@functools.partial(jax.jit, static_argnums=1)
def velocity(params, config):
    rng = np.random.default_rng(0)
    noisy, source = rng.standard_normal((2, 1, 2, 4, 4, 4)).astype(np.float32)
    view = View(
        c2w=np.broadcast_to(np.eye(4, dtype=np.float32), (1, 5, 4, 4)),
        intrinsics=np.ones((1, 5, 4), np.float32),
        animation_time=np.arange(5, dtype=np.float32)[None],
    )
    text = rng.standard_normal((1, 3, 8)).astype(np.float32)
    model = bind(kinds.abstract("dit", config)[0], params)
    conditioning = model.condition(view, view, text=text, latent_size=(2, 4, 4))
    return model(noisy, source, jnp.full(1, 300.0), conditioning)


def test_lora_starts_without_effect_and_leaves_as_plain_kernels():
    @jax.jit
    def initial():  # the compiler drops the others
        params = flatten(SpaceTimeDiT(LORA, rngs=nnx.Rngs(0)))
        return {name: array for name, array in params.items() if ".lora_" in name}

    rng, params = np.random.default_rng(2), initial()
    for name, leaf in kinds.shapes("dit", LORA).items():
        if name not in params:
            params[name] = 0.2 * rng.standard_normal(leaf.shape).astype(np.float32)
    plain = dataclasses.replace(LORA, lora_rank=0)
    matrices = [name for name in params if name.endswith("lora_a")]
    assert len(matrices) == 10 and all(".lora_" not in name for name in merge_lora(params))
    before = velocity(params, LORA)
    np.testing.assert_allclose(before, velocity(merge_lora(params), plain), atol=1e-5)
    for name in params:
        if name.endswith("lora_b"):
            params[name] = 0.3 * rng.standard_normal(params[name].shape).astype(np.float32)
    after = velocity(params, LORA)
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(after, velocity(merge_lora(params), plain), atol=2e-5)


def test_update_is_what_optax_does_alone():
    """The rate, the decay and the average, against the same few lines written out."""
    config = toy_config()
    config.optimizer.update(name="adamw", warmup_steps=0, schedule="constant")
    state, step, frozen = start(config)
    params = copy(state.params)
    state, _ = step(state, frozen, examples(), np.float32(0))
    plain = make_optimizer(config.optimizer)

    task = ToyTask()
    gradients = jax.grad(
        lambda p: task.loss(bind(graph_of(task), p), frozen, examples(), random_key(1, 0, LOSS))[0]
    )(params)
    updates, _ = plain.update(gradients, plain.init(params), params)
    expected = optax.apply_updates(params, updates)
    for name, array in expected.items():
        np.testing.assert_allclose(state.params[name], array, atol=1e-6)
