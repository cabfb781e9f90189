"""Row `value_residual`: does every block's share in the values of the first one help?"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.value_residual = True
    return config
