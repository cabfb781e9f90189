"""The state that a training run carries from step to step."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from stp_jax.devices.distributed import log
from stp_jax.devices.sharding import constrain_parameters, parameter_shardings
from stp_jax.errors import InputError
from stp_jax.models.parameters import Params, abstract, flatten
from stp_jax.training.task import Task
from stp_jax.weights import reading, recognition
from stp_jax.weights.recognition import Pretrained


class TrainState(NamedTuple):
    """Everything that a step reads and writes; all of it goes into a checkpoint."""

    step: jax.Array  # int32, steps done
    params: Params  # float32
    opt_state: optax.OptState  # of the trained parameters
    ema: Params  # exponential moving average of the trained parameters; empty if the config asks for none

    def averaged(self) -> Params:
        """All parameters, those that are trained by their average."""
        return self.params | in_memory(self.ema, "device")


# Purposes of random keys: keys of one step never collide, and a resumed run draws the same numbers.
INIT, LOSS, PICTURES, VALIDATION = range(4)
TEACHER = "teacher"  # the name of a teacher's weights among the frozen ones


def random_key(seed: int, step: int | jax.Array, purpose: int) -> jax.Array:
    """The random key of a step for one of the purposes above."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), purpose)


def trained(params: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """Those of the parameters whose whole name matches the pattern `config.train.trainable`.

    Raises:
      InputError: it is not a regular expression, or no parameter's name matches.
    """
    try:
        chosen = {name: array for name, array in params.items() if re.fullmatch(pattern, name)}
    except re.error as error:
        raise InputError(
            f"config.train.trainable {pattern!r} is not a regular expression: {error}."
        ) from None
    if not chosen:
        raise InputError(
            f"config.train.trainable {pattern!r} names no parameter; there are "
            f"{', '.join(list(params)[:6])}, .."
        )
    return chosen


def frozen_shardings(frozen: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Places of the weights that a loss reads: whole on every device; a teacher is split like a model."""
    whole = NamedSharding(mesh, P())
    return {
        name: parameter_shardings(value, mesh) if name == TEACHER else jax.tree.map(lambda _: whole, value)
        for name, value in frozen.items()
    }


def graph_of(task: Task) -> nnx.GraphDef:
    """The model's structure without any array."""
    return abstract(lambda: task.init(nnx.Rngs(0)))[0]


def init_state(
    task: Task,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh,
    init_from: str = "",
    trainable: str = ".*",
    average: bool = True,
) -> TrainState:
    """A new state, split over the mesh; parameters are random or read from the weights `init_from`.

    These may be of any layout that `stp_jax.weights` reads. Parameters that the task allows to start at
    random may be missing in them.

    Raises:
      InputError: `init_from` does not hold weights of this model; see `trained`.
    """

    def random_params() -> Params:
        return flatten(task.init(nnx.Rngs(random_key(seed, 0, INIT))))

    shapes = jax.eval_shape(random_params)
    trained(shapes, trainable)
    shardings = parameter_shardings(shapes, mesh)
    params: Params = {}
    if init_from:
        found = recognition.recognise(init_from, task.name)
        task.check_start(found.config)
        for remark in recognition.remarks(found):
            log(remark)
        found = _fitting(found, shapes, task)
        params = reading.read(found, shapes, shardings, allow_missing=task.may_start_random)
    missing = {name: sharding for name, sharding in shardings.items() if name not in params}
    if missing:
        if params:
            modules = ", ".join(sorted({name.rpartition(".")[0] for name in missing}))
            log(f"Started from {found.title}; it lacks and training begins with: {modules}.")

        def missing_params() -> Params:
            random = random_params()
            return {name: random[name] for name in missing}  # the compiler drops the others

        params |= jax.jit(missing_params, out_shardings=missing)()

    def rest(params: Params) -> TrainState:
        # The average starts as a copy: the step donates the whole state, and no buffer may be donated twice.
        chosen = trained(params, trainable)
        ema = jax.tree.map(jnp.copy, chosen) if average else {}
        return TrainState(jnp.int32(0), params, optimizer.init(chosen), ema)

    shardings = parameter_shardings(jax.eval_shape(rest, params), mesh)
    return jax.jit(rest, out_shardings=shardings)(params)


def _fitting(found: Pretrained, shapes: Mapping[str, Any], task: Task) -> Pretrained:
    """Weights without the parameters that a model of these shapes lacks, as far as the task allows it."""
    left_out = [rule for rule in found.rules if rule.ours not in shapes and task.may_leave_out(rule.ours)]
    if not left_out:
        return found
    names = ", ".join(sorted(rule.ours for rule in left_out))
    log(f"Started from {found.title}, without what this model has no use for: {names}.")
    stored = {name for rule in left_out for name in rule.names()}
    rules = [rule for rule in found.rules if rule not in left_out]
    tensors = {name: tensor for name, tensor in found.tensors.items() if name not in stored}
    return dataclasses.replace(found, rules=rules, tensors=tensors)


def abstract_state(
    task: Task, optimizer: optax.GradientTransformation, mesh, trainable: str = ".*", average: bool = True
) -> TrainState:
    """Shapes, types and shardings of a state, without any array.

    Raises:
      InputError: see `trained`.
    """

    def create() -> TrainState:
        params = flatten(task.init(nnx.Rngs(0)))
        chosen = trained(params, trainable)
        return TrainState(jnp.int32(0), params, optimizer.init(chosen), dict(chosen) if average else {})

    shapes = jax.eval_shape(create)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        parameter_shardings(shapes, mesh),
    )


def in_memory(tree: Any, kind: str) -> Any:
    """Arrays in the memory of their devices (`device`) or of the host (`pinned_host`)."""
    return jax.device_put(tree, jax.tree.map(lambda array: array.sharding.with_memory_kind(kind), tree))


class Average:
    """Keeps the exponential moving average of the trained parameters.

    Updated every step, it stays on the devices. Updated less often, it waits in the host's memory, which
    saves 4 bytes per parameter on the devices. The decay is then raised to the number of steps between, which
    gives nearly the same average.

    Args:
      config: ema_decay, ema_every (steps).
    """

    def __init__(self, config: Any):
        self._every = config.ema_every

        def update(ema: Params, params: Params, step: jax.Array) -> Params:
            return constrain_parameters(update_ema(ema, params, step, config.ema_decay, config.ema_every))

        self._update = jax.jit(update, donate_argnums=0)

    def place(self, state: TrainState) -> TrainState:
        """The state with its average in the memory where it waits."""
        return state._replace(ema=in_memory(state.ema, "device" if self._every == 1 else "pinned_host"))

    def take(self, state: TrainState, step: int) -> TrainState:
        """The state after `step` steps, with its average; the one before is donated."""
        if not state.ema or step % self._every:
            return state
        if self._every == 1:
            return state._replace(ema=self._update(state.ema, state.params, state.step))
        jax.block_until_ready(state.params)  # there may be no room for the average while a step runs
        ema = in_memory(state.ema, "device")
        state = self.place(state._replace(ema=self._update(ema, state.params, state.step)))
        return jax.block_until_ready(state)


def update_ema(ema: Params, params: Params, step: jax.Array, decay: float, every: int = 1) -> Params:
    """The average after `step` steps, `every` steps after the last update.

    The decay is smaller at first, so that the average is useful early.
    """
    d = jnp.minimum(decay, step / (9.0 + step)) ** every
    return {name: d * e + (1 - d) * params[name] for name, e in ema.items()}
