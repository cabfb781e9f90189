"""Row `pose12`: the official encoder of both clips' poses, with its projector, instead of rays."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.camera = "pose12"
    return config
