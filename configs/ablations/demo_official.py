"""Row `demo_official`: `demo` with the official design, as in `official`."""

from ml_collections import ConfigDict

from configs.ablations import demo
from configs.ablations.official import DESIGN


def get_config() -> ConfigDict:
    config = demo.get_config()
    config.model.update(**DESIGN)
    return config
