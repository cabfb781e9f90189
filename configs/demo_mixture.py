r"""The demo model on a mixture: grids, static scenes and synchronised videos of moving cameras.

On a CPU, a try-out (10 minutes on 2 cores) with the bundled mini data set alone, used by the rules of all
three kinds:

    python train.py --config configs/demo_mixture.py --workdir runs/demo_mixture

On one GPU, with scenes that are rendered and cut out of grids; --config.vae as in configs/demo.py:

    python -m input_pipeline.render --out data/scenes --seeds 0:1000
    python -m input_pipeline.render --out data/scenes_static --seeds 1000:1500
    python -m input_pipeline.render --out data/scenes_synchronised --seeds 1500:2000
    python -m input_pipeline.datasets.cam_x_time --scenes data/scenes --out data/built
    python -m input_pipeline.datasets.from_grids --scenes data/scenes_static --kind static --out data/built
    python -m input_pipeline.datasets.from_grids --scenes data/scenes_synchronised --kind synchronised \
        --out data/built
    FLAGS="--data data/built --vae VAE --workers 6 --clips_per_scene 32 --flip --permute_channels"
    python -m stp_jax.encode_dataset $FLAGS --out data/latents
    python -m stp_jax.encode_dataset $FLAGS --kind grids_static --out data/latents_static
    python -m stp_jax.encode_dataset $FLAGS --kind grids_synchronised --fps 10 --clips_per_path 8 \
        --out data/latents_synchronised
    python train.py --config configs/demo_mixture.py:gpu --workdir runs/demo_mixture --config.vae=VAE

`--config.data.mixture.static.weight=0` leaves a data set out. Pictures and the validation loss are those of
configs/demo.py. docs/ablations.md compares it with grids alone: a mixture is better on static scenes only.
"""

from ml_collections import ConfigDict

from configs import demo
from input_pipeline.mixture import refer


def get_config(variant: str = "cpu") -> ConfigDict:
    config = demo.get_config(variant)
    if variant == "gpu":
        parts = {
            "grids": dict(weight=2.0, path="data/latents"),
            "static": dict(weight=1.0, path="data/latents_static"),
            "synchronised": dict(weight=1.0, path="data/latents_synchronised"),
        }
    else:
        parts = {
            "grids": dict(weight=2.0, rules="grid"),
            "static": dict(weight=1.0, rules="static"),
            "synchronised": dict(weight=1.0, rules="synchronised"),
        }
        parts = {name: demo.MINI | dict(cached_scenes=8) | part for name, part in parts.items()}
    with config.unlocked():
        config.data.update(path="", mixture=parts)
    refer(config.data)
    return config
