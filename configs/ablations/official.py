"""Row `official`: the official design (SpaceTimePilot: poses, convolution of animation times, frame positions
that run on) at this size, on our data.
"""

from ml_collections import ConfigDict

from configs.ablations import base

# The kernels of `fused` do not know the projector of these cameras.
DESIGN = dict(camera="pose12", animation_time="official_conv", rope_frames="stream", fused=False)


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.update(**DESIGN)
    return config
