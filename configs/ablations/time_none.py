"""Row `time_none`: what is lost without any animation time, neither embedded nor as rotary position?"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.update(animation_time="none", rope_frames="shared")
    return config
