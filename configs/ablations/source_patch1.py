"""Row `source_patch1`: does the source in four times as many tokens, of one latent cell, keep more detail?"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.source_patch = 1
    return config
