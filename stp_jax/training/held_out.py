"""The model on scenes that it is not trained on: pictures to look at, and the loss."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from input_pipeline.mixture import parts_of
from input_pipeline.pipeline import make_dataset
from stp_jax.devices.distributed import log
from stp_jax.devices.sharding import global_batch, host_rows
from stp_jax.models.parameters import Params, bind
from stp_jax.training.metrics import Writer
from stp_jax.training.state import PICTURES, VALIDATION, frozen_shardings, graph_of, random_key
from stp_jax.training.task import Task


def read_batches(
    config: ConfigDict,
    count: int,
    batch_size: int,
    rows: Sequence[int] | None = None,
    seed: int | None = None,
    data: ConfigDict | None = None,
) -> list[dict[str, np.ndarray]]:
    """The first batches of held-out examples, always the same; only these `rows` of each batch.

    Args:
      data: their data set, instead of `config.pictures.data`.

    Raises:
      InputError: the data set cannot be read.
    """
    data = config.pictures.data if data is None else data
    iterator = iter(
        make_dataset(
            data,
            split=data.get("split") or config.pictures.split,
            seed=config.seed if seed is None else seed,
            batch_size=batch_size,
            rows=rows,
        )
    )
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


class Preview:
    """Pictures and figures on one fixed batch, with the averaged weights and the same noise each time.

    Frozen weights that training does not need are on the devices only while it works; so, too, in
    `Validation`.
    """

    def __init__(self, task: Task, config: ConfigDict, frozen: Params, mesh: Mesh):
        self._task, self._frozen, self._seed = task, task.frozen | frozen, config.seed
        everywhere = NamedSharding(mesh, P())
        (batch,) = read_batches(config, 1, config.pictures.count)
        self._batch = jax.device_put(batch, everywhere)
        self._generate = task.generator(everywhere)

    def write(self, writer: Writer, params: Params, step: int) -> None:
        """Generates with these weights and writes pictures and figures of the step."""
        key = random_key(self._seed, 0, PICTURES)
        generated = jax.device_get(self._generate(params, self._frozen, self._batch, key))
        videos, numbers = self._task.show(generated)
        writer.pictures(step, videos)
        writer.scalars(step, {f"preview/{name}": value for name, value in numbers.items()})
        log(", ".join([f"step {step}", *(f"{name} {value:.3f}" for name, value in numbers.items())]))


class Validation:
    """The loss on some fixed batches with fixed noise, with the averaged weights.

    Batches are computed in as many parts as in training. With `config.train.validation` (batch_size, seed,
    flow) batches, noise and its levels are the same for runs that differ in these, to compare them. Where
    `config.pictures.data` is a mixture, every data set of it is measured by itself, with the same noise.
    """

    def __init__(self, task: Task, config: ConfigDict, frozen: Params, mesh: Mesh):
        run = config.train
        size, seed = run.batch_size // run.accumulate, config.seed
        count = run.validation_batches * run.accumulate
        if "validation" in run:
            count = run.validation_batches
            size, seed = run.validation.batch_size, run.validation.seed
            task = task.with_flow(run.validation.flow)
        self._frozen = task.frozen_for(config.pictures.data) | frozen
        shardings = frozen_shardings(self._frozen, mesh)
        self._on_devices = jax.jit(lambda tree: tree, out_shardings=shardings)
        data = config.pictures.data
        self._parts = parts_of(data) if data.get("mixture") else {"": data}
        rows = host_rows(mesh, size)
        self._batches = {
            name: [
                global_batch(batch, mesh, size)
                for batch in read_batches(config, count, size, rows, seed, part)
            ]
            for name, part in self._parts.items()
        }
        self._keys = [random_key(seed, i, VALIDATION) for i in range(count)]
        graph = graph_of(task)
        self._loss = jax.jit(lambda params, *inputs: task.validation_loss(bind(graph, params), *inputs))

    def losses(self, params: Params) -> dict[str, float]:
        """`loss`: the mean loss with these weights. Of a mixture it is the mean over its data sets by their
        weights, and `<name>/loss` are those of each."""
        frozen = self._on_devices(self._frozen)
        losses = {
            name: [self._loss(params, frozen, *one) for one in zip(batches, self._keys, strict=True)]
            for name, batches in self._batches.items()
        }
        means = {name: float(np.mean(values)) for name, values in jax.device_get(losses).items()}
        if list(means) == [""]:
            return {"loss": means[""]}
        weights = [part.weight for part in self._parts.values()]
        mean = float(np.average(list(means.values()), weights=weights))
        return {"loss": mean} | {f"{name}/loss": value for name, value in means.items()}
