"""Optimizers and their schedule, for parameters held as one dict from dotted name to array."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from stp_jax.training.config import OptimizerConfig, check_section
from stp_jax.training.muon import orthogonalize

MUON_MOMENTUM = 0.95


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Gradient clipping, then Muon or AdamW, at their peak learning rates; `schedule` scales the updates.

    Args:
      config: see `stp_jax.training.config.OptimizerConfig`.

    Raises:
      InputError: an unknown optimizer, schedule or field; an impossible value.
    """
    is_muon = config.get("name") == "muon"
    check_section(OptimizerConfig, config, "config.optimizer", optional=not is_muon)
    clipped = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    return optax.chain(clipped, _muon(config) if is_muon else _adamw(config))


def _muon(config: Any) -> optax.GradientTransformation:
    """Muon for the kernels that `muon_parameters` names, and Adam with `adam_learning_rate` for the rest.

    See `stp_jax.training.muon`. Updates of both have the same size, so their learning rates are comparable.
    """
    chosen = re.compile(config.muon_parameters)
    muon = optax.chain(
        optax.trace(MUON_MOMENTUM, nesterov=True),
        orthogonalize(config.muon_dtype),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(config.learning_rate),
    )
    adam = optax.nadamw(config.adam_learning_rate, b1=config.b1, b2=config.b2, weight_decay=0.0)
    return optax.partition(
        {"muon": muon, "adam": adam},
        lambda params: {name: "muon" if chosen.fullmatch(name) else "adam" for name in params},
    )


def _adamw(config: Any) -> optax.GradientTransformation:
    return optax.adamw(
        config.learning_rate,
        b1=config.b1,
        b2=config.b2,
        weight_decay=config.weight_decay,
        mask=lambda params: {name: name.endswith("kernel") for name in params},
    )


def schedule(config: Any, step: jax.Array, progress: jax.Array) -> jax.Array:
    """The factor in [0, 1] on every learning rate: linear warm-up by steps, then decay by the run's progress.

    Args:
      config: warmup_steps, schedule, decay_from (share of the run after which the decay begins).
      step: steps done before this one.
      progress: share of the run that is done, in [0, 1]; of its steps or of its time, whichever is further.
    """
    warmup = jnp.minimum(1.0, (step + 1) / max(1, config.warmup_steps))
    p = jnp.clip((progress - config.decay_from) / (1 - config.decay_from), 0, 1)
    decay = {"cosine": 0.5 * (1 + jnp.cos(jnp.pi * p)), "linear": 1 - p, "constant": jnp.ones_like(p)}
    return warmup * decay[config.schedule]
