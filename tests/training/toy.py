"""A task of a few hundred parameters for tests of the trainer itself."""

from __future__ import annotations

import functools
import json

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from input_pipeline.host_share import HostShare
from stp_jax.models.parameters import bind
from stp_jax.training import data, held_out, loop, run
from stp_jax.training.optimizer import make_optimizer
from stp_jax.training.state import graph_of
from stp_jax.training.step import make_train_step

WIDTH, LAYERS, EXAMPLES = 8, 3, 50


class Stack(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.blocks = nnx.Dict(
            kernel=nnx.Param(0.3 * jax.random.normal(rngs.params(), (LAYERS, WIDTH, WIDTH)))
        )
        self.bias = nnx.Param(jnp.zeros(WIDTH))

    def __call__(self, x):
        x, _ = jax.lax.scan(lambda x, kernel: (x + jnp.tanh(x @ kernel), None), x, self.blocks["kernel"][...])
        return x + self.bias[...]


class ToyTask:
    """Learns to shift its input; half of the loss is noise, as in flow matching."""

    name = "toy"
    frozen = {"shift": np.float32(0.5)}
    tokens, flop = 10, 1e6

    def __init__(self, config=None):
        pass

    def init(self, rngs):
        return Stack(rngs)

    def check_start(self, config):
        pass

    def may_start_random(self, name):
        return False

    def frozen_for(self, data):
        return self.frozen

    def loss(self, model, frozen, batch, key):
        noise = 0.1 * jax.random.normal(key, batch["x"].shape)
        loss = jnp.mean(jnp.square(model(batch["x"] + noise) - batch["x"] - frozen["shift"]))
        return loss, {"mean_input": jnp.mean(batch["x"])}

    def validation_loss(self, model, frozen, batch, key):
        return self.loss(model, frozen, batch, key)[0]

    def generator(self, sharding):
        def generate(params, frozen, batch, key):
            return {"y": bind(graph_of(self), params)(batch["x"])}

        return jax.jit(generate, out_shardings=sharding)

    def show(self, generated):
        return {"toy": np.zeros((5, 8, 8, 3), np.uint8)}, {"mean_output": float(np.mean(generated["y"]))}

    def to_export(self, params):
        return params

    def final_config(self, model, dataset):
        return {"width": WIDTH}

    def notes(self):
        return {}

    def companions(self):
        return {}


def make_toy_dataset(config, *, split, seed, batch_size, rows=None, num_workers=0, first_example=0):
    def draw(index, rng):
        return {"x": rng.standard_normal(WIDTH).astype(np.float32)}

    examples = grain.MapDataset.range(EXAMPLES).seed(seed).shuffle().repeat().random_map(draw)
    read_ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)  # by default 500 batches
    share = HostShare(examples, batch_size, rows, first_example)
    return share.batch(batch_size if rows is None else len(rows)).to_iter_dataset(read_ahead)


@functools.cache
def step_of(config: str):
    """The step that a run with this config compiles: one for all runs that would compile it alike."""
    config = ConfigDict(json.loads(config))
    return make_train_step(ToyTask(), make_optimizer(config.optimizer), config)


def make_toy_step(task, optimizer, config):
    parts = dict(seed=config.seed, optimizer=config.optimizer.to_dict())
    parts["train"] = {name: config.train[name] for name in ("accumulate", "trainable")}
    return step_of(json.dumps(parts))


def install(patch=setattr) -> None:
    """Lets the trainer train the toy task on its data."""
    patch(run, "make_task", ToyTask)
    patch(loop, "make_train_step", make_toy_step)
    patch(run, "count_examples", lambda config, split: EXAMPLES)
    for module in (data, held_out):
        patch(module, "make_dataset", make_toy_dataset)
