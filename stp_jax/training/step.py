"""One training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from stp_jax.training.optimizer import schedule
from stp_jax.training.state import LOSS, TrainState, bind, graph_of, random_key, update_ema
from stp_jax.training.tasks import Task


def make_train_step(task: Task, optimizer: optax.GradientTransformation, config: Any) -> Callable:
    """Returns `step(state, frozen, batch, progress) -> state, metrics`, compiled; `state` is used up.

    Args:
      task: what is trained.
      optimizer: from `make_optimizer`.
      config: seed and optimizer (schedule, ema_decay).
    """
    graph = graph_of(task)

    def train_step(state: TrainState, frozen, batch, progress) -> tuple[TrainState, dict[str, jax.Array]]:
        key = random_key(config.seed, state.step, LOSS)

        def loss_fn(params):
            return task.loss(bind(graph, params), frozen, batch, key)

        (loss, metrics), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        rate = schedule(config.optimizer, state.step, progress)
        params = optax.apply_updates(state.params, jax.tree.map(lambda u: rate * u, updates))
        ema = update_ema(state.ema, params, state.step, config.optimizer.ema_decay)
        metrics = {
            "loss": loss,
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": rate * config.optimizer.learning_rate,
        } | metrics
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return jax.jit(train_step, donate_argnums=0)
