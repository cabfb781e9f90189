"""One training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from stp_jax.devices.sharding import constrain_parameters, gathered
from stp_jax.models.parameters import Params, bind
from stp_jax.training.optimizer import schedule
from stp_jax.training.state import (
    LOSS,
    TrainState,
    graph_of,
    random_key,
    trained,
)
from stp_jax.training.task import Batch, Task

Metrics = dict[str, jax.Array]


def make_train_step(task: Task, optimizer: optax.GradientTransformation, config: Any) -> Callable:
    """Returns `step(state, frozen, batch, progress) -> state, metrics`, compiled; `state` is donated.

    The state is passed and returned without its average, which `Average` keeps. A step whose loss or gradient
    is not finite changes only the number of steps; `metrics["skipped"]` is then 1.

    Args:
      task: the model and its loss.
      optimizer: from `make_optimizer`.
      config: seed, optimizer (schedule), train (accumulate, trainable).
    """
    graph, run = graph_of(task), config.train

    def train_step(state: TrainState, frozen, batch: Batch, progress) -> tuple[TrainState, Metrics]:
        key = random_key(config.seed, state.step, LOSS)
        chosen = trained(state.params, run.trainable)

        def loss_fn(chosen: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
            params = state.params | chosen
            # Stacked blocks are gathered one by one, where they are used.
            few = {name: array for name, array in params.items() if not name.startswith("blocks.")}
            return task.loss(bind(graph, params | gathered(few)), frozen, batch, key)

        (loss, metrics), gradients = accumulated(loss_fn, chosen, batch, key, run.accumulate)
        gradients = constrain_parameters(gradients)
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(gradients, state.opt_state, chosen)
        rate = schedule(config.optimizer, state.step, progress)
        new = optax.apply_updates(chosen, jax.tree.map(lambda u: rate * u, updates))
        new, opt_state = jax.tree.map(
            lambda after, before: jnp.where(finite, after, before),
            (new, opt_state),
            (chosen, state.opt_state),
        )
        metrics = {
            "loss": loss,
            "gradient_norm": norm,
            "learning_rate": rate * config.optimizer.learning_rate,
            "skipped": 1.0 - finite,
        } | metrics
        # The next step must find the state laid out as this one did.
        return constrain_parameters(TrainState(state.step + 1, state.params | new, opt_state, {})), metrics

    return jax.jit(train_step, donate_argnums=0)


def accumulated(
    loss_fn: Callable, params: Params, batch: Batch, key: jax.Array, parts: int
) -> tuple[tuple[jax.Array, Metrics], Params]:
    """`value_and_grad` of a loss on a batch, as the mean over `parts` of the batch, one after the other.

    Every part has examples on every device. Activations need the memory of one part.
    """
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    if parts == 1:
        return gradient(params, batch, key)
    size = len(jax.tree.leaves(batch)[0]) // parts

    def gradient_of_part(params: Params, examples: Batch, part: jax.Array):
        return gradient(params, examples, jax.random.fold_in(key, part[0]))

    mean = optax.microbatching.AccumulationType.MEAN
    averaged = optax.microbatch(gradient_of_part, argnums=(1, 2), microbatch_size=size, accumulator=mean)
    # Example i belongs to part i % parts.
    return averaged(params, batch, jnp.tile(jnp.arange(parts), size))
