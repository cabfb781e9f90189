"""Row `demo`: the design that these experiments led to, on grids; the loss on held-out scenes is also taken
on static scenes and on synchronised videos of moving cameras.

The held-out caches of those are in <latents>_static and <latents>_synchronised; configs/demo_mixture.py makes
such caches.
"""

from ml_collections import ConfigDict

from configs.ablations import base
from configs.demo import SIZE
from input_pipeline.mixture import refer

KINDS = ("grids", "static", "synchronised")


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.update(**SIZE, rope_frames="stream")
    config.flow.shift = 1.0
    config.pictures.data.kind = "latents"
    with config.unlocked():
        config.pictures.data.update(
            path="", mixture={name: dict(path=f"data/latents_{name}") for name in KINDS}
        )
    refer(config.pictures.data)
    return config
