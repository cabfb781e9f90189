"""Row `rope_shared`: frames of one number in target and source share a position, whatever they show."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.rope_frames = "shared"
    return config
