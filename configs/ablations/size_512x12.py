"""Row `size_512x12`: 512 wide, 12 layers, heads of 64: size against steps in equal time."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.update(dim=512, ffn_dim=1_920, layers=12, heads=8)
    return config
