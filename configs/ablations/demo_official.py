"""Row `demo_official`: `demo` with the official design, as in `official`."""

from ml_collections import ConfigDict

from configs.ablations import demo


def get_config() -> ConfigDict:
    config = demo.get_config()
    config.model.update(camera="pose12", animation_time="official_conv", rope_frames="stream")
    config.model.fused = False  # the kernels do not know the projector of these cameras
    return config
