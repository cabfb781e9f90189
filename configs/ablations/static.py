"""Row `static`: grids against scenes that stand still: one animation time alone.

Needs a cache that was encoded with --rules static --clips_per_path 1, in <latents>_static.
"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.update(rules="static", path="data/latents_static")
    return config
