"""Row `synchronised`: grids against plain multi-view videos: the diagonal alone, with whole clips warped.

Needs a cache that was encoded with --rules synchronised, in <latents>_synchronised.
"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.update(rules="synchronised", path="data/latents_synchronised")
    return config
