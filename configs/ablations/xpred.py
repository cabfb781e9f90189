"""Row `xpred`: does a network that predicts the clean latents, and so the velocity, learn faster?"""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.prediction = "x0"
    return config
