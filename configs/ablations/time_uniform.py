"""Row `time_uniform`: of the four animation times of a latent frame only the last, embedded.

Compare `rope_shared`, which has all four; in both no rotary position tells animation times, too.
"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.update(animation_time="uniform", rope_frames="shared")
    return config
