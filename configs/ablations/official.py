"""Row `official`: the official design (SpaceTimePilot: poses, convolution of animation times, frame positions
that run on) at this size, on our data.
"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.update(camera="pose12", animation_time="official_conv", rope_frames="stream")
    return config
