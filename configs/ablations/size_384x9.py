"""Row `size_384x9`: 384 wide, 9 layers as `base`, but heads of 64 as the other sizes."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.heads = 6
    return config
