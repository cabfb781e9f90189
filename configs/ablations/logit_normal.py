"""Row `logit_normal`: noise levels logit-normal (Esser et al. 2024) and shifted by 3 as in `base`."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.flow.sampling = "logit_normal"
    return config
