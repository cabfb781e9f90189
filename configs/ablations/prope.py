"""Row `prope`: do projective cameras inside attention (PRoPE) help beside the rays?"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.camera_attention = "prope"
    return config
