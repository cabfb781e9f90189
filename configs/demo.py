"""The demo model: a space-time DiT of 128 x 128 pixels and 17 frames, in the latents of configs/demo_vae.py.

On a CPU, with the bundled mini data set and VAE (2 cores: 10 minutes; a try-out, no useful model):

    python train.py --config configs/demo.py --workdir runs/demo

On one GPU, with rendered scenes (configs/demo_vae.py makes the data and the VAE):

    python -m stp_jax.encode_dataset --data data/cam_x_time --vae runs/demo_vae/weights --out data/latents \
        --clips_per_scene 32 --workers 6 --batch_size 32 --flip --permute_channels
    python train.py --config configs/demo.py:gpu --workdir runs/demo --config.vae=runs/demo_vae/weights

The design is what docs/ablations.md found: 512 wide, 12 layers, heads of 128 (38.7 M parameters), rays, all
four animation times of a latent frame, Wan's frame positions, uniform noise levels. One H100: 38 ms a step:
150,000 steps take 1.6 hours. The bundled weights are of this design, trained by launch/train_demo.py
(docs/demo_model.md). On a CPU the model is smaller: 384 wide, 9 layers.
"""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from stp_jax.errors import InputError
from stp_jax.training.config import DiTTraining, FlowConfig, make_config

ASSETS = Path(__file__).resolve().parent.parent / "stp_jax" / "assets"
FLOW = dataclasses.asdict(FlowConfig(shift=1.0))
MINI = dict(path=str(ASSETS / "cam_x_time_mini"))
SIZE = dict(dim=512, ffn_dim=1792, layers=12, heads=4)  # of the bundled model
CPU_SIZE = dict(dim=384, ffn_dim=1408, layers=9, heads=3)


def get_config(variant: str = "cpu") -> ConfigDict:
    if variant not in ("cpu", "gpu"):
        raise InputError(f"configs/demo.py:{variant} is unknown; choose demo.py or demo.py:gpu")
    gpu = variant == "gpu"
    return make_config(
        DiTTraining,
        vae=str(ASSETS / "demo"),
        model=dict(
            **(SIZE if gpu else CPU_SIZE),
            conditioning_dim=128,
            rope_frames="stream",
            dtype="bfloat16" if gpu else "float32",
            remat="none" if gpu else "full",
            unroll=gpu,
            fused=gpu,
        ),
        flow=FLOW,
        sampling=dict(steps=4),  # more of them lose PSNR and gain nothing in LPIPS, see docs/demo_model.md
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
            data_workers=4 if gpu else 0,  # drawing examples would delay the process that starts steps
            log_every=100 if gpu else 5,
            pictures_every=5_000 if gpu else 30,
            checkpoint_every=5_000 if gpu else 20,
        )
        # Runs of other batches, seeds and devices have comparable losses on held-out scenes.
        | (dict(validation=dict(batch_size=64, seed=0, flow=FLOW)) if gpu else {}),
    )
