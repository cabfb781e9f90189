"""Row `rope_stream`: frame positions run on through the source behind the target, the official way."""

from ml_collections import ConfigDict

from configs.ablations import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.rope_frames = "stream"
    return config
