"""Row `demo_depth`: `demo` with a head that predicts depth, in training alone, as in `aux_depth`."""

from ml_collections import ConfigDict

from configs.ablations import demo


def get_config() -> ConfigDict:
    config = demo.get_config()
    config.loss.depth = 0.1
    return config
