"""The config of the toy task; processes that only read it need not wait for JAX."""

from __future__ import annotations

from ml_collections import ConfigDict


def toy_config(**train) -> ConfigDict:
    """A config for the toy task; `train` changes fields of `config.train`."""
    config = ConfigDict(
        dict(
            task="toy",
            seed=1,
            init_from="",
            data=dict(path="none"),
            sampling=dict(steps=2, shift=1.0, guidance=1.0),
        )
    )
    config.sampling = dict(steps=2, shift=1.0, guidance=1.0)
    config.mesh = dict(data=-1, fsdp=1, sequence=1, tensor=1)
    config.pictures = dict(data=dict(path="none"), split="test", count=2)
    config.optimizer = dict(
        name="muon",
        muon_parameters=r"blocks\..*kernel",
        learning_rate=0.02,
        muon_dtype="float32",
        adam_learning_rate=0.01,
        weight_decay=0.01,
        b1=0.9,
        b2=0.99,
        clip=1.0,
        warmup_steps=2,
        schedule="cosine",
        decay_from=0.0,
        ema_decay=0.99,
        ema_every=1,
    )
    config.train = dict(
        steps=10, seconds=0, batch_size=8, data_workers=0, log_every=2, export_dtype="float32"
    )
    config.train.update(accumulate=1, trainable=".*", max_skipped=3, validate_every=0, validation_batches=2)
    config.train.update(checkpoint_every=0, keep_checkpoints=3, pictures_every=0, export_every=0)
    config.train.update(train)
    return config
