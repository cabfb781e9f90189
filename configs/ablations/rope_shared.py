"""Row `rope_shared`: target and source frames of one number share a position, whatever their animation times."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.rope_frames = "shared"
    return config
