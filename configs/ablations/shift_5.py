"""Row `shift_5`: noise levels shifted further to the noisy ones (`base`: 3)."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.flow.shift = 5.0
    return config
