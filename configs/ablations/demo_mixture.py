"""Row `demo_mixture`: `demo` on grids, static scenes and synchronised videos, mixed as in
configs/demo_mixture.py.

Needs caches in <latents>_static and <latents>_synchronised, too; that config has the commands.
"""

from ml_collections import ConfigDict

from configs import demo_mixture
from configs.ablations import demo


def get_config() -> ConfigDict:
    config = demo.get_config()
    with config.unlocked():
        config.data = demo_mixture.get_config("gpu").data
    return config
