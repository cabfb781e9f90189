"""Training of a flow map, from a teacher and from data, against its formula with plain calls of models."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import demo_few_step
from stp_jax import flow
from stp_jax.controls import cameras
from stp_jax.controls.view import view_of
from stp_jax.errors import InputError
from stp_jax.models.parameters import bind, flatten
from stp_jax.rerender.sampler import Sampler
from stp_jax.training.dit_task import DiTTask
from stp_jax.training.flow_map_task import FlowMapTask, dit_task
from stp_jax.training.state import graph_of
from stp_jax.weights import kinds, native
from stp_jax.weights.layouts import dit

B, KEY = 4, jax.random.key(3)


def few_step_config(**flow_map):
    config = demo_few_step.get_config()
    sizes = dict(dim=16, ffn_dim=16, layers=1, heads=2, channels=4, freq_dim=8, conditioning_dim=8)
    config.model.update(**sizes, remat="none")
    config.sampling.steps = 2
    config.flow_map.update(**flow_map)
    return config


def random_params(config, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: (0.2 * rng.standard_normal(leaf.shape) + name.endswith("scale")).astype(np.float32)
        for name, leaf in kinds.shapes("dit", config).items()
    }


@pytest.fixture(scope="module")
def batch():
    rng, path = np.random.default_rng(0), cameras.preset("orbit_left", 5)
    found = {}
    for clip in ("source", "target"):
        found[f"{clip}_latents"] = rng.standard_normal((B, 2, 4, 4, 4)).astype(np.float32)
        found[f"{clip}_c2w"] = np.broadcast_to(path.c2w, (B, 5, 4, 4)).astype(np.float32)
        found[f"{clip}_intrinsics"] = np.broadcast_to(path.intrinsics, (B, 5, 4)).astype(np.float32)
        found[f"{clip}_animation_time"] = rng.uniform(0, 4, (B, 5)).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The config of a small teacher, its parameters, and its folder."""
    config = dataclasses.replace(FlowMapTask(few_step_config(), load=False).model_config, flow_map=False)
    params, folder = random_params(config), tmp_path_factory.mktemp("teacher")
    native.save_weights(folder, "dit", params, dataclasses.asdict(config))
    return config, params, folder


@functools.partial(jax.jit, static_argnums=0)
def call(config, params, batch, x, sigma, target_sigma):
    model = bind(kinds.abstract("dit", config)[0], params)
    views = view_of(batch, "target"), view_of(batch, "source")
    conditioning = model.condition(*views, latent_size=x.shape[1:4])
    ends = {"target_timestep": 1000 * target_sigma} if config.flow_map else {}
    return model(x, batch["source_latents"], 1000 * sigma, conditioning, **ends)


def velocity_of(config, params, batch):
    """`velocity(x, sigma, target_sigma)` of a model in float64, by its plain calls."""
    return lambda *given: np.asarray(call(config, params, batch, *map(np.float32, given)), np.float64)


def test_weights_of_the_teacher_are_the_teacher_until_training_changes_them(teacher, batch):
    config, params, _ = teacher
    task = FlowMapTask(few_step_config(), load=False)

    @jax.jit
    def initial():  # the compiler drops the others
        return {n: a for n, a in flatten(task.init(nnx.Rngs(0))).items() if n not in params}

    added = initial()
    assert {name.split(".")[0] for name in added} == {"interval_embedding"} and len(added) == 4
    assert all(task.may_start_random(name) for name in added)
    x, sigma, ends = batch["target_latents"], np.full(B, 0.7), np.array([0.7, 0, 0.3, 0.1])
    expected = velocity_of(config, params, batch)(x, sigma, sigma)
    flowing = dataclasses.replace(config, flow_map=True)
    begins = velocity_of(flowing, params | added, batch)
    np.testing.assert_array_equal(begins(x, sigma, ends), expected)
    trained = velocity_of(flowing, random_params(flowing, seed=1), batch)
    assert np.abs(trained(x, sigma, ends) - trained(x, sigma, sigma))[1:].min(0).max() > 1e-3


class Simple(nnx.Module):
    """A mean velocity in closed form, with the interface of a DiT, for what no real model is needed for."""

    def __init__(self, strength):
        self.strength = nnx.Param(np.float32(strength))

    def condition(self, *views, text=None, latent_size):
        return None

    def __call__(self, x, source, timestep, conditioning, memory, *, target_timestep, differentiable=True):
        return self.strength[...] * x * self.factor(timestep / 1000, target_timestep / 1000) + 0.3 * source

    @staticmethod
    def factor(t, r):
        xp = t.__array_namespace__()
        return (xp.sin(3 * t) + t * r).reshape((-1, 1, 1, 1, 1))


def expected_errors(batch, u, v, delta):
    """Mean squared errors in float64 with the random numbers that the task draws; (x, t, r); the targets."""
    noise_key, sigma_key = jax.random.split(KEY)
    x0 = batch["target_latents"].astype(np.float64)
    noise = np.asarray(jax.random.normal(noise_key, x0.shape), np.float64)
    t = np.asarray(flow.random_levels(sigma_key, B).sigma, np.float64)
    share_key, level_key = jax.random.split(jax.random.fold_in(KEY, 2))
    r = t * np.asarray(jax.random.uniform(level_key, (B,)))
    r[np.asarray(jax.random.uniform(share_key, (B,))) < 0.5] = 0
    r[1::2] = t[1::2]
    column = (slice(None),) + (None,) * 4
    x = (1 - t[column]) * x0 + t[column] * noise
    velocity = noise - x0 if v is None else v(x, t, t)
    high, low = np.minimum(t + delta, 1), np.maximum(t - delta, r)
    above = u(x + (high - t)[column] * velocity, high, r)
    below = u(x - (t - low)[column] * velocity, low, r)
    target = velocity - ((t - r) / (high - low))[column] * (above - below)
    return ((u(x, t, r) - target) ** 2).mean((1, 2, 3, 4)), (x, t, r), target


def test_loss_and_gradient_of_a_taught_model_are_those_of_the_formula(teacher, batch):
    """Against float64 on top of plain calls of both models."""
    teacher_config, teacher_params, folder = teacher
    task = dit_task(few_step_config(teacher=str(folder), delta=0.02, adaptive_power=0.5))
    assert isinstance(task, FlowMapTask)
    params = random_params(task.model_config, seed=1)
    frozen = {"teacher": task.frozen["teacher"]}

    def loss(params):
        return task.loss(bind(graph_of(task), params), frozen, batch, KEY)

    (found, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    u = velocity_of(task.model_config, params, batch)
    v = velocity_of(teacher_config, teacher_params, batch)
    errors, points, target = expected_errors(batch, u, v, 0.02)
    weight = (errors + 1e-3) ** -0.5
    assert float(found) == pytest.approx((weight * errors).mean(), rel=1e-3)
    assert float(metrics["velocity_error"]) == pytest.approx(errors[1::2].mean(), rel=1e-3)
    assert float(metrics["mean_velocity_error"]) == pytest.approx(errors[::2].mean(), rel=1e-3)
    # Targets and weights are constants to the gradient: along one direction of the parameters.
    name = "interval_embedding.layer_out.kernel"
    direction, ends = np.random.default_rng(2).standard_normal(params[name].shape), []
    for step in (1e-2, -1e-2):
        moved = params | {name: (params[name] + step * direction).astype(np.float32)}
        predicted = velocity_of(task.model_config, moved, batch)(*points)
        ends.append((weight * ((predicted - target) ** 2).mean((1, 2, 3, 4))).mean())
    expected = (ends[0] - ends[1]) / 2e-2
    assert (np.asarray(gradient[name]) * direction).sum() == pytest.approx(expected, rel=2e-2)


def test_without_a_teacher_the_velocity_is_that_of_the_data(batch):
    task = FlowMapTask(few_step_config(teacher="", delta=0.1), load=False)

    def u(x, t, r):
        return 0.8 * x * Simple.factor(t, r) + 0.3 * batch["source_latents"].astype(np.float64)

    errors, _, _ = expected_errors(batch, u, None, 0.1)
    loss, metrics = task.loss(Simple(0.8), {}, batch, KEY)
    assert float(loss) == pytest.approx((errors / (errors + 1e-3)).mean(), rel=1e-4)
    assert float(metrics["mean_velocity_error"]) == pytest.approx(errors[::2].mean(), rel=1e-4)
    found = task.validation_loss(Simple(0.8), {}, batch, KEY)
    assert float(found) == pytest.approx(errors.mean(), rel=1e-4)


def test_the_validation_loss_is_the_distance_from_many_steps_of_the_teacher(batch, monkeypatch):
    task = FlowMapTask(few_step_config(), load=False)
    monkeypatch.setattr(task, "_teacher", lambda frozen: Simple(0.5))
    noise = jax.random.normal(jax.random.split(KEY)[0], (B, 2, 4, 4, 4))

    def sample(strength, steps):
        x, levels = np.asarray(noise, np.float64), np.linspace(1, 0, steps + 1)
        levels = 3 * levels / (1 + 2 * levels)
        for t, r in zip(levels[:-1], levels[1:], strict=True):
            u = strength * x * Simple.factor(np.full(B, t), r) + 0.3 * batch["source_latents"]
            x = x + (r - t) * u
        return x

    own = sample(0.8, 2)
    found = task.validation_loss(Simple(0.8), {}, batch, KEY)
    assert float(found) == pytest.approx(((own - sample(0.5, 32)) ** 2).mean(), rel=1e-4)
    # The sampler of videos takes the same steps.
    graph, state = nnx.split(Simple(0.8))
    given = state, noise, batch["source_latents"], None, flow.sampling_sigmas(2, 3.0)
    np.testing.assert_allclose(Sampler(graph).sample(*given), own, atol=1e-5 * np.abs(own).max())


def test_a_step_costs_five_thirds_of_a_plain_one(teacher):
    task = dit_task(few_step_config(teacher=str(teacher[2])), load=False)
    plain = few_step_config()
    plain.model.flow_map = False
    plain.flow_map.teacher = ""
    assert task.flop == pytest.approx(5 / 3 * dit_task(plain, load=False).flop, rel=0.01)
    assert jax.tree.leaves(task.frozen["teacher"])[0].shape == jnp.shape(
        next(iter(kinds.shapes("dit", task.teacher_config).values()))
    )


def test_the_teacher_follows_the_weights_to_start_from_unless_it_is_set():
    config = demo_few_step.get_config("gpu")
    assert config.flow_map.teacher == config.init_from
    config.init_from = "runs/other/weights"
    assert config.flow_map.teacher == "runs/other/weights"
    config.flow_map.teacher = "runs/teacher/weights"
    assert config.init_from == "runs/other/weights"


def test_mistakes_are_named(teacher):
    folder = str(teacher[2])
    for changes, message in (
        (dict(loss=dict(depth=0.1)), "loss.depth is for models that are no flow maps"),
        (dict(flow_map=dict(instant_share=0.8, clean_share=0.4)), "shares of one batch"),
        (dict(flow_map=dict(delta=0.0)), "config.flow_map.delta is 0"),
        (dict(model=dict(channels=8)), "has channels 4, but config.model.channels is 8"),
        (dict(memory=2), "takes no memory, but config.model.memory is 2"),
        (dict(model=dict(flow_map=False)), "the model is no flow map"),
    ):
        config = few_step_config(teacher=folder)
        for name, value in changes.items():
            config[name].update(value) if isinstance(value, dict) else config.update({name: value})
        with pytest.raises(InputError, match=message):
            dit_task(config)
    plain = DiTTask(few_step_config(teacher=""), load=False)
    plain.model_config = teacher[0]
    with pytest.raises(InputError, match="weights of a flow map, for few steps"):
        plain.check_start(dataclasses.replace(teacher[0], flow_map=True))
    with pytest.raises(InputError, match="this DiT is a flow map .*--format ours"):
        dit.rules(dataclasses.replace(teacher[0], flow_map=True), "diffusers")
