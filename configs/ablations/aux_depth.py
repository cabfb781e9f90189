"""Row `aux_depth`: a head predicts the depth of both clips after two thirds of the blocks, in training alone.

Needs caches with depth: scenes of `render --depth_stride 8`, encoded with --depth. Other rows read them, too.
"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.loss.depth = 0.1
    return config
