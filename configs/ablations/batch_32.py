"""Row `batch_32`: half of the batch, and more steps in equal time."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.train.batch_size = 32
    return config
