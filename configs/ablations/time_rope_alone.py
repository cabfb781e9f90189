"""Row `time_rope_alone`: is the rotary position by animation time enough, without any embedding?"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.animation_time = "none"
    return config
