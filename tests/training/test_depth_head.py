"""The head for depth against float64 numpy; the tokens that it reads; training with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import demo
from stp_jax.controls import cameras
from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.models import fused
from stp_jax.models.parameters import bind, flatten
from stp_jax.training import depth_head
from stp_jax.training.dit_task import DiTTask
from stp_jax.training.optimizer import make_optimizer
from stp_jax.training.state import graph_of, init_state
from stp_jax.training.step import make_train_step
from stp_jax.weights import kinds
from tests.models import test_dit

B, F, GRID, DIM, CELLS, SCALE = 2, 9, (2, 3), 6, 2, 4.0


def head_inputs():
    """Parameters, tokens of three latent frames of each clip, and depth from 0.1 to 3 and of the sky."""
    rng = np.random.default_rng(0)
    head = depth_head.DepthHead(DIM, CELLS, 1e-6, rngs=nnx.Rngs(0))
    params = {name: 0.3 * rng.standard_normal(array.shape) for name, array in flatten(head).items()}
    tokens = rng.standard_normal((B, 6, *GRID, DIM))
    shape = (B, F, GRID[0] * CELLS, GRID[1] * CELLS)
    depth = {f"{clip}_depth": rng.uniform(0.1, 3, shape) for clip in ("target", "source")}
    depth["target_depth"][:, :, 0] = 0
    return head, params, tokens, depth


def reference_loss(params, tokens, depth):
    """One value at a time: the token that covers it, the pixel frame that a latent frame has it for."""
    mean = tokens.mean(-1, keepdims=True)
    normed = (tokens - mean) / np.sqrt(((tokens - mean) ** 2).mean(-1, keepdims=True) + 1e-6)
    normed = normed * params["norm.scale"] + params["norm.bias"]
    values = (normed @ params["linear.kernel"] + params["linear.bias"]).reshape(B, 6, *GRID, 4, CELLS, CELLS)
    total, count = 0.0, 0
    for clip, name in enumerate(("target_depth", "source_depth")):
        for latent_frame in range(3):
            for place in range(4):
                frame = 0 if latent_frame == 0 else 4 * latent_frame - 3 + place
                wanted = np.minimum(1, SCALE / 4 * depth[name][:, frame])
                for y in range(wanted.shape[1]):
                    for x in range(wanted.shape[2]):
                        row, column = y // CELLS, x // CELLS
                        of_token = values[:, 3 * clip + latent_frame, row, column, place]
                        error = np.abs(of_token[:, y % CELLS, x % CELLS] - wanted[:, y, x])
                        total += np.where(error < 0.05, error**2 / 0.1, error - 0.025).sum()
                        count += B
    return total / count


def test_loss_and_gradient_are_those_of_float64():
    head, params, tokens, depth = head_inputs()
    graph = nnx.split(head)[0]

    def loss(params, tokens):
        @dataclasses.dataclass
        class Model:
            config = test_dit.CONFIG
            depth_head = bind(graph, params)

        return depth_head.depth_loss(Model(), tokens, depth)

    single = {name: jnp.asarray(array, jnp.float32) for name, array in params.items()}
    value, (of_params, of_tokens) = jax.jit(jax.value_and_grad(loss, (0, 1)))(single, jnp.float32(tokens))
    np.testing.assert_allclose(value, reference_loss(params, tokens, depth), rtol=1e-5)

    rng = np.random.default_rng(1)
    for name in (*params, "tokens"):  # along a random direction
        gradient = of_tokens if name == "tokens" else of_params[name]
        direction = rng.standard_normal(gradient.shape)
        ends = []
        for step in (1e-6, -1e-6):
            moved = params | {"tokens": tokens}
            moved[name] = moved[name] + step * direction
            ends.append(reference_loss(moved, moved["tokens"], depth))
        expected = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose((np.asarray(gradient) * direction).sum(), expected, rtol=1e-3, atol=1e-5)


def test_the_target_is_in_units_of_scene_scale_and_bounded():
    depth = np.broadcast_to(np.float16([0, 1 / 8, 1 / 2, 1, 5])[:, None, None], (1, 5, 1, 1))
    found = depth_head.depth_target(jnp.asarray(depth), scene_scale=4.0)[0, :, :, 0, 0]
    np.testing.assert_array_equal(found, [[0, 0, 0, 0], [0.125, 0.5, 1, 1]])
    assert depth_head.depth_target(jnp.asarray(depth), scene_scale=2.0)[0, 1, 1, 0, 0] == 0.25


@pytest.mark.parametrize(("unroll", "remat", "after"), [(True, "none", 1), (False, "full", 2)])
def test_the_tokens_are_those_after_the_blocks_asked_for(unroll, remat, after):
    """They depend on the parameters of these blocks alone; the velocity is that of a plain call."""
    model = test_dit.randomised(dataclasses.replace(test_dit.CONFIG, unroll=unroll, remat=remat))
    x, params = test_dit.inputs(), flatten(model)
    graph, weight = nnx.split(model)[0], np.random.default_rng(0).standard_normal(test_dit.CONFIG.dim)

    def loss(bias):
        model = bind(graph, params | {"blocks.ffn_out.bias": bias})
        given = x["noisy"], x["source"], x["timestep"], test_dit.condition(model, x)
        velocity, tokens = model.with_tokens(*given, after=after)
        return jnp.sum(tokens * weight), (velocity, tokens)

    found, (velocity, tokens) = jax.jit(jax.grad(loss, has_aux=True))(params["blocks.ffn_out.bias"])
    assert tokens.shape == (2, 6, 4, 4, 48)
    np.testing.assert_array_equal(np.abs(found).max(1) > 1e-3, np.arange(3) < after)
    plain = test_dit.run(test_dit.randomised(test_dit.CONFIG), x)
    np.testing.assert_allclose(velocity, plain, atol=2e-5)


def test_an_update_that_waits_is_added():
    rng = np.random.default_rng(0)
    x, product, bias, gate = (rng.standard_normal(s) for s in ((2, 5, 3), (2, 5, 3), (3,), (2, 3)))
    update = fused.Update(*(jnp.asarray(a, jnp.float32) for a in (product, bias, gate)))
    found = fused.added(fused.Stream(jnp.asarray(x, jnp.float32), update))
    np.testing.assert_allclose(found, x + gate[:, None] * (product + bias), atol=1e-6)


def task_config(**loss):
    config = demo.get_config()
    sizes = dict(dim=32, ffn_dim=32, layers=3, heads=2, channels=4, freq_dim=8, conditioning_dim=8)
    config.model.update(**sizes, remat="none")
    config.optimizer.update(name="adamw", warmup_steps=1, learning_rate=3e-3)
    config.loss.update(**loss)
    return config


def test_training_makes_depth_known_and_leaves_the_head_behind():
    config = task_config(depth=0.5)
    config.model.layers = 2
    task, optimizer = DiTTask(config, load=False), make_optimizer(config.optimizer)
    assert config.data.depth == 0.5  # so that the data has depth, too
    rng, batch = np.random.default_rng(0), {}
    for clip in ("source", "target"):
        path = cameras.preset("orbit_left", 5)
        latents = rng.standard_normal((4, 2, 4, 4, 4)).astype(np.float32)
        batch[f"{clip}_latents"] = latents
        batch[f"{clip}_c2w"] = np.broadcast_to(path.c2w, (4, 5, 4, 4)).astype(np.float32)
        batch[f"{clip}_intrinsics"] = np.broadcast_to(path.intrinsics, (4, 5, 4)).astype(np.float32)
        batch[f"{clip}_animation_time"] = np.tile(np.arange(5, dtype=np.float32), (4, 1))
        of_frames = latents[..., 0][:, [0, 1, 1, 1, 1]]  # depth follows from the latents
        batch[f"{clip}_depth"] = (0.4 + 0.2 * np.tanh(of_frames)).astype(np.float16)
    mesh = make_mesh(devices=jax.devices()[:1])
    state = init_state(task, optimizer, 0, mesh)
    step, losses = make_train_step(task, optimizer, config), []
    first = {name: np.asarray(array) for name, array in state.params.items()}
    for _ in range(40):
        state, metrics = step(state._replace(ema={}), {}, batch, np.float32(0))
        losses.append({name: float(value) for name, value in metrics.items()})
        of_sum = losses[-1]["flow_loss"] + 0.5 * losses[-1]["depth_loss"]
        assert losses[-1]["loss"] == pytest.approx(of_sum, rel=1e-5)
    assert 0.3 < losses[0]["depth_loss"] < 0.45
    assert losses[-1]["depth_loss"] < 0.25 * losses[0]["depth_loss"]

    # What is exported is a model without a head.
    plain = kinds.shapes("dit", task.model_config)
    assert task.to_export(first).keys() == plain.keys()
    added = first.keys() - plain.keys()
    assert {name.split(".")[0] for name in added} == {"depth_head"} and len(added) == 4
    assert all(task.may_start_random(name) for name in added)
    # A batch without depth, as those of held-out scenes, has the loss of a model without the head.
    held_out = {name: array for name, array in batch.items() if "depth" not in name}
    graph, bare = graph_of(task), config.copy_and_resolve_references()
    bare.loss.depth = 0.0
    without = DiTTask(bare, load=False)
    head = {name: first[name] for name in added}

    def loss_with(params):
        loss, extras = task.loss(bind(graph, params | head), {}, held_out, jax.random.key(0))
        assert not extras
        return loss

    def loss_without(params):
        return without.loss(bind(graph_of(without), params), {}, held_out, jax.random.key(0))[0]

    exported = task.to_export(first)
    assert str(jax.make_jaxpr(loss_with)(exported)) == str(jax.make_jaxpr(loss_without)(exported))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(loss=dict(depth=-1)), r"config.loss.depth is -1"),
        (dict(loss=dict(depth=0.1, depth_layer=3)), "depth_layer is 3; the model has 3 layers"),
        (dict(loss=dict(depth=0.1), model=dict(layers=1)), "the model has 1 layers"),
        (dict(loss=dict(depth=0.1), train=dict(trainable=r"blocks\..*")), r"trainable must name the head"),
        (
            dict(
                loss=dict(depth=0.1),
                model=dict(source=False, camera="none", animation_time="none", rope_frames="stream"),
            ),
            "needs a model with a source",
        ),
    ],
)
def test_mistakes_are_named(changes, message):
    config = task_config()
    for section, fields in changes.items():
        config[section].update(fields)
    with pytest.raises(InputError, match=message):
        DiTTask(config, load=False)


def test_the_head_is_at_two_thirds_unless_set_and_needs_whole_squares():
    assert [depth_head.layer_of_head(0, layers) for layers in (2, 3, 9, 12, 30)] == [1, 2, 6, 8, 20]
    assert depth_head.layer_of_head(5, 12) == 5
    assert depth_head.cells_of_token(2, 8) == 2 and depth_head.cells_of_token(2, 4) == 1
    for patch, stride in ((1, 4), (2, 2), (3, 4)):
        with pytest.raises(InputError, match="a token is"):
            depth_head.cells_of_token(patch, stride)
