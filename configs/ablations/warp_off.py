"""Row `warp_off`: what does temporal warping bring? Time runs forward in source and target.

By the rules `grid` and `synchronised` the pairs are then the same.
"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.warp = False
    return config
