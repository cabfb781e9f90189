"""Optimizers and their schedule, for parameters held as one dict from dotted name to array."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from stp_jax.command_line import check_fields
from stp_jax.errors import InputError
from stp_jax.training.muon import orthogonalize

MUON_MOMENTUM = 0.95
SCHEDULES = ("cosine", "linear", "constant")
FIELDS = (
    *("name", "learning_rate", "weight_decay", "b1", "b2", "clip"),
    *("warmup_steps", "schedule", "decay_from", "ema_decay", "ema_every"),
)
MUON_FIELDS = ("muon_parameters", "muon_dtype", "adam_learning_rate")
RANGES = (  # field, least value, and what it must be below
    *(("weight_decay", 0, math.inf), ("clip", 0, math.inf), ("warmup_steps", 0, math.inf)),
    *(("b1", 0, 1), ("b2", 0, 1), ("decay_from", 0, 1), ("ema_decay", 0, 1), ("ema_every", 1, math.inf)),
    *(("learning_rate", 0, math.inf), ("adam_learning_rate", 0, math.inf)),
)


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Gradient clipping, then Muon or AdamW at their peak learning rates; the schedule is applied by
    `schedule`.

    With `muon`, the kernels named by `muon_parameters` follow Muon, and everything else Adam with
    `adam_learning_rate`; see `stp_jax.training.muon`. Updates of both are of one size, so that their rates
    are of one magnitude.

    Args:
      config: name, learning_rate, adam_learning_rate, weight_decay, muon_parameters (regular expression),
        muon_dtype (of the iterations), b1, b2, clip (0: none).

    Raises:
      InputError: an unknown optimizer, schedule or field; a number that makes no sense.
    """
    needed = FIELDS + (MUON_FIELDS if config.get("name") == "muon" else ())
    check_fields(config, "config.optimizer", needed, optional=MUON_FIELDS)
    for name, least, below in RANGES:
        if not least <= config.get(name, least) < below:
            raise InputError(
                f"config.optimizer.{name} is {config[name]}; it must be at least {least:g}"
                f"{'' if below == math.inf else f' and below {below:g}'}."
            )
    if config.schedule not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise InputError(f"config.optimizer.schedule is {config.schedule!r}; choose one of {known}.")
    if config.name == "muon":
        if config.muon_dtype not in ("float32", "bfloat16"):
            raise InputError(
                f"config.optimizer.muon_dtype is {config.muon_dtype!r}; choose float32, bfloat16."
            )
        try:
            chosen = re.compile(config.muon_parameters)
        except re.error as error:
            pattern = config.muon_parameters
            raise InputError(
                f"config.optimizer.muon_parameters {pattern!r} is no regular expression: {error}."
            ) from None

        muon = optax.chain(
            optax.trace(MUON_MOMENTUM, nesterov=True),
            orthogonalize(config.muon_dtype),
            optax.add_decayed_weights(config.weight_decay),
            optax.scale_by_learning_rate(config.learning_rate),
        )
        adam = optax.nadamw(config.adam_learning_rate, b1=config.b1, b2=config.b2, weight_decay=0.0)
        inner = optax.partition(
            {"muon": muon, "adam": adam},
            lambda params: {name: "muon" if chosen.fullmatch(name) else "adam" for name in params},
        )
    elif config.name == "adamw":
        inner = optax.adamw(
            config.learning_rate,
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=lambda params: {name: name.endswith("kernel") for name in params},
        )
    else:
        raise InputError(f"config.optimizer.name is {config.name!r}; choose muon or adamw.")
    return optax.chain(optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(), inner)


def schedule(config: Any, step: jax.Array, progress: jax.Array) -> jax.Array:
    """The factor in [0, 1] on every learning rate: linear warm-up over steps, then decay over the run's
    progress.

    Args:
      config: warmup_steps, schedule, decay_from (share of the run after which the decay begins).
      step: steps done before this one.
      progress: share of the run that is done, in [0, 1]; of its steps or of its time, whichever is further.
    """
    warmup = jnp.minimum(1.0, (step + 1) / max(1, config.warmup_steps))
    p = jnp.clip((progress - config.decay_from) / (1 - config.decay_from), 0, 1)
    decay = {"cosine": 0.5 * (1 + jnp.cos(jnp.pi * p)), "linear": 1 - p, "constant": jnp.ones_like(p)}
    return warmup * decay[config.schedule]
