"""The VAE of the demo: Wan2.1's causal 4 x 8 x 8 architecture at small width.

On a CPU, with the bundled mini data set (2 cores: some minutes; a try-out, no useful model):

    python train.py --config configs/demo_vae.py --workdir runs/demo_vae

On one GPU, with rendered scenes (--seeds 1000000:1000032 are held out):

    python -m input_pipeline.render --out data/scenes --seeds 1000000:1000032
    python -m input_pipeline.render --out data/scenes --seeds 0:1000
    python -m input_pipeline.datasets.cam_x_time --scenes data/scenes --out data/cam_x_time \
        --test_seeds_from 1000000
    python train.py --config configs/demo_vae.py:gpu --workdir runs/demo_vae

Two H200 GPUs: 26 ms a step. With --config.train.seconds=636 (15,340 steps, 800 scenes): 31.4 dB and an LPIPS
of 0.035 on held-out clips. That is the bundled VAE (docs/demo_model.md).
"""

from pathlib import Path

from ml_collections import ConfigDict

from stp_jax.errors import InputError
from stp_jax.training.config import VAETraining, make_config

ASSETS = Path(__file__).resolve().parent.parent / "stp_jax" / "assets"
MINI = dict(path=str(ASSETS / "cam_x_time_mini"))


def get_config(variant: str = "cpu") -> ConfigDict:
    if variant not in ("cpu", "gpu"):
        raise InputError(f"configs/demo_vae.py:{variant} is unknown; choose demo_vae.py or demo_vae.py:gpu")
    gpu = variant == "gpu"
    # Each of 16 processes reads two of the 32 scenes that alternate, so a scene is decoded once.
    rendered = dict(path="data/cam_x_time", permute_channels=True)
    rendered |= dict(scenes_at_once=32, pairs_per_scene=16, cached_scenes=100)
    return make_config(
        VAETraining,
        model=dict(
            dim=32 if gpu else 24,
            res_blocks=1,
            latent_mean=(0.0,) * 16,
            latent_std=(1.0,) * 16,
            dtype="bfloat16" if gpu else "float32",
        ),
        loss=dict(perceptual=0.3 if gpu else 0.0),  # needs the extra eval
        crop=64,  # many small steps teach more than few large ones
        statistics_batches=32 if gpu else 4,
        data=(rendered if gpu else MINI | dict(frames=5)) | dict(flip=True),
        pictures=dict(data=MINI, count=4 if gpu else 2),
        optimizer=dict(
            muon_parameters=r"(?!decoder\.head_conv).*\.kernel",
            learning_rate=5e-3,
            muon_dtype="bfloat16" if gpu else "float32",
            adam_learning_rate=2e-3,
            warmup_steps=200 if gpu else 20,
            schedule="cosine",
            ema_decay=0.999 if gpu else 0.98,
        ),
        train=dict(
            steps=20_000 if gpu else 40,
            batch_size=8 if gpu else 1,  # examples; each is two clips
            data_workers=16 if gpu else 0,
            log_every=50 if gpu else 5,
            pictures_every=2_000 if gpu else 20,
            checkpoint_every=2_000 if gpu else 20,
        ),
    )
