"""Row `shift_1`: noise levels uniform, without a shift to the noisy ones (`base`: 3)."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.flow.shift = 1.0
    return config
