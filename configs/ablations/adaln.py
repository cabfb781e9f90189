"""Row `adaln`: does animation time do better when it scales and shifts both norms (AdaLN)?"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.animation_time_modulation = True
    return config
