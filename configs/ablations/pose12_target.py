"""Row `pose12_target`: the official encoder told the target's poses alone (ReCamMaster), instead of rays."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.camera = "pose12_target"
    return config
