"""The task of a `SpaceTimeDiT` that is a flow map: few sampling steps, from a teacher or from data alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from stp_jax import flow, flow_map
from stp_jax.devices.distributed import log
from stp_jax.devices.sharding import constrain, gathered
from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.flop import dit_flop
from stp_jax.models.parameters import Params, bind
from stp_jax.training.config import FlowMapConfig, check_section
from stp_jax.training.dit_task import DiTTask, Noised
from stp_jax.training.state import TEACHER
from stp_jax.training.task import Batch
from stp_jax.weights import kinds, reading, recognition

TEACHER_STEPS = 32  # of the samples with which the validation loss compares
EXAMPLE_AXES = (1, 2, 3, 4)


def dit_task(config: ConfigDict, *, load: bool = True) -> DiTTask:
    """The task of a DiT: that of a flow map where `config.model.flow_map` says so.

    Raises:
      InputError: see `DiTTask` and `FlowMapTask`.
    """
    if config.model.get("flow_map"):
        return FlowMapTask(config, load=load)
    if "flow_map" in config and config.flow_map.teacher:
        raise InputError(
            f"config.flow_map.teacher is {config.flow_map.teacher}, but the model is no flow map: set "
            "--config.model.flow_map=true, or leave the teacher out."
        )
    return DiTTask(config, load=load)


class FlowMapTask(DiTTask):
    """Regression of the mean velocity of sampling steps of any length, see `stp_jax.flow_map`.

    The velocity at the noisy latents is a frozen teacher's (`config.flow_map.teacher`), or that of the data,
    `noise - x0`. Then the mean over all data with the same noisy latents is learned, as in flow matching.
    A step costs, in forwards of a batch, 3 of the model with its gradient, 1 of the teacher, and 2 without a
    gradient for the share of the examples whose step has a length.

    The validation loss is the mean squared difference, in latents, between samples of the model in
    `config.sampling.steps` and of the teacher in TEACHER_STEPS from the same noise; without a teacher it is
    the unweighted loss.
    """

    def __init__(self, config: ConfigDict, *, load: bool = True):
        self.teacher_config: DiTConfig | None = None
        if config.loss.depth:
            raise InputError("config.loss.depth is for models that are no flow maps: set it to 0.")
        super().__init__(config, load=load)
        section = config.flow_map
        check_section(FlowMapConfig, section, "config.flow_map")
        if section.instant_share + section.clean_share > 1:
            raise InputError(
                "config.flow_map: instant_share and clean_share are shares of one batch: at most 1."
            )
        if section.teacher:
            self._set_teacher(section.teacher, load)
            self._set_cost()

    def _set_teacher(self, path: str, load: bool) -> None:
        """Reads the teacher; with `load=False` it is taken to be like the model."""
        model = self.model_config
        if not load:
            teacher = dataclasses.replace(model, flow_map=False, lora_rank=0)
            arrays: dict[str, Any] = dict(kinds.shapes("dit", teacher))
        else:
            found = recognition.recognise(path, "dit")
            teacher, arrays = found.config, reading.read(found)
            _check_teacher(path, teacher, model)
            log(f"The teacher is {found.title}, {found.path}.")
        # It is computed as the model is; its kernels are stored in the dtype they are multiplied in.
        teacher = dataclasses.replace(
            teacher, dtype=model.dtype, remat="none", official_rounding=model.official_rounding
        )
        if teacher.camera == model.camera:
            teacher = dataclasses.replace(teacher, unroll=model.unroll, fused=model.fused)
        self.teacher_config = teacher
        self._teacher_graph = kinds.abstract("dit", teacher)[0]
        dtypes = {
            name: jnp.dtype(model.dtype) if name.endswith(".kernel") else jnp.dtype("float32")
            for name in arrays
        }
        self.frozen[TEACHER] = {
            name: np.asarray(array, dtypes[name]) if load else jax.ShapeDtypeStruct(array.shape, dtypes[name])
            for name, array in arrays.items()
        }

    def _teacher(self, frozen: dict[str, Any]) -> SpaceTimeDiT:
        params = frozen[TEACHER]
        # As in the training step: stacked blocks are gathered one by one, where they are used.
        few = {name: array for name, array in params.items() if not name.startswith("blocks.")}
        return bind(self._teacher_graph, params | gathered(few))

    def cost(self, memory: bool) -> tuple[int, float]:
        tokens, flop = super().cost(memory)
        of_forward = functools.partial(dit_flop, latent_size=self.latent_size(), memory=memory)
        flop += 2 * (1 - self.config.flow_map.instant_share) * of_forward(self.model_config)
        if self.teacher_config is not None:
            flop += of_forward(self.teacher_config)
        return tokens, flop

    def loss(self, model, frozen, batch, key):
        section = self.config.flow_map
        errors, instant, weight = self._errors(model, frozen, batch, key)
        loss = jnp.mean(weight * flow_map.adaptive_weight(errors, section.adaptive_power) * errors)
        means = {"velocity_error": errors[instant], "mean_velocity_error": errors[~instant]}
        return loss, {name: jnp.mean(part) for name, part in means.items() if part.size}

    def validation_loss(self, model, frozen, batch, key):
        if self.teacher_config is None:
            errors, _, weight = self._errors(model, frozen, batch, key)
            return jnp.mean(weight * errors)
        noised, steps = self._noised(frozen, batch, key), self.config.sampling.steps
        sigmas = functools.partial(flow.sampling_sigmas, shift=self.config.sampling.shift)
        sample = functools.partial(self._sample, frozen, batch, noised)
        wanted = sample(self._teacher(frozen), sigmas(TEACHER_STEPS))
        return jnp.mean(jnp.square(sample(model, sigmas(steps)) - wanted))

    def _sample(
        self, frozen: Params, batch: Batch, noised: Noised, model: SpaceTimeDiT, sigmas: np.ndarray
    ) -> jax.Array:
        """Latents after Euler steps from the noise; see `Sampler.sample`, which is not for inside jit."""
        conditioning = self.condition(model, frozen, batch, noised.target.shape[1:4])

        def step(x: jax.Array, levels: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            timestep = jnp.full(len(x), flow.MAX_TIMESTEP * levels[0])
            ends = flow.MAX_TIMESTEP * levels[1]
            given = x, noised.source, timestep, conditioning, noised.memory
            return flow.euler_step(x, model(*given, target_timestep=ends), *levels), None

        return jax.lax.scan(step, noised.noise, (jnp.asarray(sigmas[:-1]), jnp.asarray(sigmas[1:])))[0]

    def _errors(
        self, model: SpaceTimeDiT, frozen: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, np.ndarray, jax.Array]:
        """Mean squared errors of the mean velocities `[B]`; which examples have none but the velocity itself,
        bool `[B]`; the weights of the noise levels `[B]`."""
        section, noised = self.config.flow_map, self._noised(frozen, batch, key)
        sigma = noised.levels.sigma
        instant = flow_map.instantaneous(len(sigma), section.instant_share)
        ends = flow_map.random_target_levels(jax.random.fold_in(key, 2), sigma, instant, section.clean_share)
        predict = functools.partial(self._predict, frozen=frozen)
        predicted = predict(model, batch, noised.x, noised.source, noised.memory, sigma, ends)
        velocity = noised.velocity()
        if self.teacher_config is not None:
            given = batch, noised.x, noised.source, noised.memory, sigma, sigma
            velocity = predict(self._teacher(frozen), *given)
        target = velocity
        if (moving := np.flatnonzero(~instant)).size:
            still = nnx.merge(*_stopped(model))
            of_moving = self._targets(still, predict, batch, noised, velocity, ends, moving)
            target = target.at[moving].set(of_moving)
        errors = jnp.square(predicted - jax.lax.stop_gradient(target))
        return jnp.mean(errors, axis=EXAMPLE_AXES), instant, noised.levels.weight

    def _targets(
        self,
        model: SpaceTimeDiT,
        predict: Callable[..., jax.Array],
        batch: Batch,
        noised: Noised,
        velocity: jax.Array,
        target_sigma: jax.Array,
        moving: np.ndarray,
    ) -> jax.Array:
        """Mean velocities to regress to, for the examples `moving` of the batch."""
        x, v, sigma, ends = (a[moving] for a in (noised.x, velocity, noised.levels.sigma, target_sigma))
        points = flow_map.ends(x, v, sigma, ends, self.config.flow_map.delta)
        twice = np.concatenate([moving, moving])  # both points in one forward
        taken = jax.tree.map(lambda a: _take(a, twice), (batch, noised.source, noised.memory, target_sigma))
        rows, source, memory, both_ends = taken
        xs, sigmas = (
            constrain(jnp.concatenate(pair), "batch", *(None,) * (pair[0].ndim - 1))
            for pair in ((points.x_above, points.x_below), (points.sigma_above, points.sigma_below))
        )
        u_above, u_below = jnp.split(predict(model, rows, xs, source, memory, sigmas, both_ends), 2)
        return flow_map.mean_velocity_target(v, u_above, u_below, sigma, ends, points)

    def _predict(
        self,
        model: SpaceTimeDiT,
        batch: Batch,
        x: jax.Array,
        source: jax.Array,
        memory: jax.Array | None,
        sigma: jax.Array,
        target_sigma: jax.Array,
        *,
        frozen: Params,
    ) -> jax.Array:
        """A model's mean velocity of the steps from `sigma` to `target_sigma`, both `[B]`."""
        conditioning = self.condition(model, frozen, batch, x.shape[1:4])
        given = x, source, flow.MAX_TIMESTEP * sigma, conditioning, memory
        return model(*given, target_timestep=flow.MAX_TIMESTEP * target_sigma)


def _stopped(model: SpaceTimeDiT) -> tuple[nnx.GraphDef, nnx.State]:
    """A model whose parameters are constants to the gradient."""
    graph, state = nnx.split(model)
    return graph, jax.lax.stop_gradient(state)


def _take(array: jax.Array, rows: np.ndarray) -> jax.Array:
    return constrain(array[rows], "batch", *(None,) * (array.ndim - 1))


def _check_teacher(path: str, teacher: DiTConfig, model: DiTConfig) -> None:
    """Raises `InputError` where a teacher cannot be given what the model is given."""
    for name in ("channels", "text_dim", "source"):
        theirs, own = getattr(teacher, name), getattr(model, name)
        if theirs != own:
            raise InputError(
                f"config.flow_map.teacher = {path} has {name} {theirs}, but config.model.{name} is {own}."
            )
    if model.memory and not teacher.memory:
        raise InputError(
            f"config.flow_map.teacher = {path} takes no memory, but config.model.memory is {model.memory}."
        )
