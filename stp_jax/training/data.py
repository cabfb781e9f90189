"""Training batches: this host's rows of them, and all hosts' together on the devices."""

from __future__ import annotations

import grain
from jax.sharding import Mesh
from ml_collections import ConfigDict

from input_pipeline.pipeline import make_dataset
from stp_jax.devices.sharding import global_batch, host_rows


def training_data(config: ConfigDict, seed: int, mesh: Mesh, first_example: int = 0) -> grain.IterDataset:
    """This host's rows of the training batches."""
    batch_size = config.train.batch_size
    return make_dataset(
        config.data,
        split="train",
        seed=seed,
        batch_size=batch_size,
        rows=host_rows(mesh, batch_size),
        num_workers=config.train.data_workers,
        first_example=first_example,
    )


def device_batches(dataset: grain.IterDataset, mesh: Mesh, batch_size: int) -> grain.DatasetIterator:
    """Batches of all hosts on the devices, prefetched two ahead."""
    batches = dataset.map(lambda batch: global_batch(batch, mesh, batch_size))
    return iter(grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=2))
