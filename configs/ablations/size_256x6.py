"""Row `size_256x6`: 256 wide, 6 layers, heads of 64: size against steps in equal time."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.update(dim=256, ffn_dim=960, layers=6, heads=4)
    return config
