"""Row `size_768x12`: 768 wide, 12 layers, heads of 64: size against steps in equal time."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.update(dim=768, ffn_dim=2_816, layers=12, heads=12)
    return config
