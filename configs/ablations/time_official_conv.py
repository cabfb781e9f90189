"""Row `time_official_conv`: the official convolution of animation times.

Compare `rope_shared`, which has our encoder; in both no rotary position tells animation times, too.
"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.update(animation_time="official_conv", rope_frames="shared")
    return config
