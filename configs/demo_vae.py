"""The VAE of the demo: Wan2.1's causal 4 x 8 x 8 architecture at small width.

On a CPU, with the bundled mini data set (2 cores: some minutes; a try-out, no useful model):

    python train.py --config configs/demo_vae.py --workdir runs/demo_vae

On one GPU, with rendered scenes (--seeds 1000000:1000032 are held out):

    python -m input_pipeline.render --out data/scenes --seeds 1000000:1000032
    python -m input_pipeline.render --out data/scenes --seeds 0:1000
    python -m input_pipeline.datasets.cam_x_time --scenes data/scenes --out data/cam_x_time \
        --test_seeds_from 1000000
    python train.py --config configs/demo_vae.py:gpu --workdir runs/demo_vae

One H100: 37 ms a step. With --config.train.seconds=300 (3,052 steps) from the weights of an earlier run
of 1,175 steps on whole clips: 26.5 dB on training crops, 28 to 30 dB on whole held-out clips
(docs/demo_model.md). All 20,000 steps take 12 minutes and have not been tried.
"""

from pathlib import Path

from ml_collections import ConfigDict

from input_pipeline.pipeline import default_config
from stp_jax.errors import InputError

ASSETS = Path(__file__).resolve().parent.parent / "stp_jax" / "assets"


def get_config(variant: str = "cpu") -> ConfigDict:
    if variant not in ("cpu", "gpu"):
        raise InputError(f"configs/demo_vae.py:{variant} is unknown; choose demo_vae.py or demo_vae.py:gpu")
    gpu = variant == "gpu"
    config = ConfigDict()
    config.task = "vae"
    config.seed = 0
    config.init_from = ""  # folder of weights to start from, instead of random ones
    config.model = dict(
        dim=24,
        z_dim=16,
        dim_mult=(1, 2, 4, 4),
        res_blocks=1,
        latent_mean=(0.0,) * 16,
        latent_std=(1.0,) * 16,
        dtype="bfloat16" if gpu else "float32",
        remat=False,
    )
    config.crop = 64  # pixels of the squares trained on: many small steps teach more than few large ones
    config.loss = dict(l1=1.0, l2=1.0, gradient=0.5, kl=1e-5)
    config.statistics_batches = 32 if gpu else 4  # to measure the spread of the latents on, at the end

    mini = default_config()
    mini.path = str(ASSETS / "cam_x_time_mini")
    config.data = mini.copy_and_resolve_references()
    config.data.flip = True
    if gpu:
        config.data.path = "data/cam_x_time"
        config.data.cached_scenes = 400
        config.data.permute_channels = True
    else:
        config.data.frames = 5
    config.pictures = dict(data=mini, split="test", count=4 if gpu else 2)

    config.optimizer = dict(
        name="muon",
        muon_parameters=r"(?!decoder\.head_conv).*\.kernel",
        learning_rate=5e-3,
        muon_dtype="bfloat16" if gpu else "float32",
        adam_learning_rate=2e-3,
        weight_decay=0.01,
        b1=0.9,
        b2=0.99,
        clip=1.0,
        warmup_steps=200 if gpu else 20,
        schedule="cosine",
        decay_from=0.0,
        ema_decay=0.999 if gpu else 0.98,
        ema_every=1,
    )
    config.train = dict(
        steps=20_000 if gpu else 40,
        seconds=0,  # stop after so many seconds, if not 0; the learning rate then follows the clock
        batch_size=8 if gpu else 1,  # examples; each is two clips
        accumulate=1,
        trainable=".*",
        data_workers=0,
        max_skipped=20,  # steps in a row that are not finite, before the run stops
        validate_every=0,  # loss on held-out scenes; the best weights are kept in best/
        validation_batches=4,
        log_every=50 if gpu else 5,
        pictures_every=2_000 if gpu else 20,
        checkpoint_every=2_000 if gpu else 20,
        keep_checkpoints=2,
        export_every=0,
        export_dtype="float16",
    )
    config.mesh = dict(data=-1, fsdp=1, sequence=1, tensor=1)
    return config
