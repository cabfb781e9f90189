"""Row `batch_128`: twice the batch, and fewer steps in equal time."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.train.batch_size = 128
    return config
