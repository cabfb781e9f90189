"""Row `pose12_target`: the official encoder of the target's poses alone (ReCamMaster), instead of rays."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.camera = "pose12_target"
    config.model.fused = False  # the kernels do not know the projector of these cameras
    return config
