"""Row `demo_mixture`: `demo` on grids, static scenes and synchronised videos, 2 : 1 : 1.

Needs caches in <latents>_static and <latents>_synchronised, too: configs/demo_mixture.py.
"""

from ml_collections import ConfigDict

from configs.ablations import demo
from input_pipeline.mixture import refer


def get_config() -> ConfigDict:
    config = demo.get_config()
    parts = {name: dict(path=f"data/latents_{name}", weight=1.0) for name in demo.KINDS}
    parts["grids"]["weight"] = 2.0
    with config.unlocked():
        config.data.update(path="", mixture=parts)
    refer(config.data)
    return config
