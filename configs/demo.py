"""The demo model: a space-time DiT of 128 x 128 pixels and 17 frames, in the latents of configs/demo_vae.py.

On a CPU, with the bundled mini data set and VAE (2 cores: 7 minutes; a try-out, no useful model):

    python train.py --config configs/demo.py --workdir runs/demo

On one GPU, with rendered scenes (configs/demo_vae.py makes the data and the VAE):

    python -m stp_jax.encode_dataset --data data/cam_x_time --vae runs/demo_vae/weights --out data/latents \
        --clips_per_scene 32 --workers 6 --batch_size 32 --flip --permute_channels
    python train.py --config configs/demo.py:gpu --workdir runs/demo --config.vae=runs/demo_vae/weights

One H100, 1,000 scenes: 43 to 48 ms a step. With --config.train.seconds=530 (12,149 steps) the loss is 0.24,
after 1,200 s more from those weights (24,436 steps) 0.21 and still falling; on held-out scenes 19.3 dB in
camera control and 19.2 dB in both at once, 5.3 and 5.2 dB above the better baseline (docs/demo_model.md). All
150,000 steps take 2 hours and have not been tried.
"""

from pathlib import Path

from ml_collections import ConfigDict

from stp_jax.errors import InputError
from stp_jax.training.config import DiTTraining, make_config

ASSETS = Path(__file__).resolve().parent.parent / "stp_jax" / "assets"
MINI = dict(path=str(ASSETS / "cam_x_time_mini"))


def get_config(variant: str = "cpu") -> ConfigDict:
    if variant not in ("cpu", "gpu"):
        raise InputError(f"configs/demo.py:{variant} is unknown; choose demo.py or demo.py:gpu")
    gpu = variant == "gpu"
    return make_config(
        DiTTraining,
        vae=str(ASSETS / "demo"),
        model=dict(
            dim=384,
            ffn_dim=1408,
            layers=9,
            heads=8,
            conditioning_dim=128,
            dtype="bfloat16" if gpu else "float32",
            remat="none" if gpu else "full",
            unroll=gpu,
            fused=gpu,
        ),
        data=dict(kind="latents", path="data/latents") if gpu else MINI,
        pictures=dict(data=MINI, count=4 if gpu else 2),
        optimizer=dict(
            muon_dtype="bfloat16" if gpu else "float32",
            weight_decay=0.05,
            warmup_steps=500 if gpu else 20,
            schedule="linear",
            decay_from=0.3,
            ema_decay=0.999 if gpu else 0.98,
        ),
        train=dict(
            steps=150_000 if gpu else 60,
            batch_size=64 if gpu else 2,
            log_every=100 if gpu else 5,
            pictures_every=5_000 if gpu else 30,
            checkpoint_every=5_000 if gpu else 20,
        ),
    )
