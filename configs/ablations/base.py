r"""Row `base`: the demo model before these experiments, with heads of 64; others change one thing.

    python benchmarks/ablations.py --rows base size_512x12 --seconds 480 --gpus 4 --data data/built \
        --latents data/latents --out runs/ablations

What all rows share: no pictures, and every 1,000 steps the loss on the same 256 pairs of the validation split
with the same noise, whatever a row's own seed, batch size and noise levels are.
"""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
    config = demo.get_config("gpu")
    config.model.update(dim=384, ffn_dim=1408, layers=9, heads=6, rope_frames="animation_time")
    config.flow.shift = 3.0
    config.pictures.split = "validation"
    config.train.update(pictures_every=0, validate_every=1_000, validation_batches=4, checkpoint_every=4_000)
    with config.unlocked():
        flow = config.flow.copy_and_resolve_references()
        config.train.validation = dict(batch_size=64, seed=0, flow=flow)
    return config
