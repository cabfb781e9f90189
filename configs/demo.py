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

from input_pipeline.pipeline import default_config
from stp_jax.errors import InputError

ASSETS = Path(__file__).resolve().parent.parent / "stp_jax" / "assets"


def get_config(variant: str = "cpu") -> ConfigDict:
    if variant not in ("cpu", "gpu"):
        raise InputError(f"configs/demo.py:{variant} is unknown; choose demo.py or demo.py:gpu")
    gpu = variant == "gpu"
    config = ConfigDict()
    config.task = "dit"
    config.seed = 0
    config.vae = str(ASSETS / "demo")  # folder of weights
    config.init_from = ""  # folder of weights to start from, instead of random ones
    config.scene_scale = 4.0  # metres that count as 1
    # Latent frames of earlier output that the model may be given to continue a long video; 0: none. With 4:
    # --config.memory=4 --config.data.memory_path=FOLDER, a latent cache written with --windows.
    config.memory = 0
    config.model = dict(
        dim=384,
        ffn_dim=1408,
        layers=9,
        heads=8,
        channels=16,
        patch=2,
        freq_dim=256,
        conditioning_dim=128,
        scene_scale=config.get_ref("scene_scale"),
        memory=config.get_ref("memory"),
        animation_time="frames",
        rope_frames="animation_time",
        dtype="bfloat16" if gpu else "float32",
        remat="none" if gpu else "full",
        unroll=gpu,
        fused=gpu,
        ffn_parts=1,
        lora_rank=0,
    )
    # More of the noisy levels, where the scene is decided.
    config.flow = dict(sampling="uniform", shift=3.0, base_tokens=0, weighting="none", memory_sigma=0.2)

    mini = default_config()
    mini.path = str(ASSETS / "cam_x_time_mini")
    config.data = mini.copy_and_resolve_references()
    config.data.memory_frames = config.get_ref("memory")
    if gpu:
        config.data.kind = "latents"
        config.data.path = "data/latents"
    config.pictures = dict(data=mini, split="test", count=4 if gpu else 2)
    config.sampling = dict(steps=10, shift=3.0, guidance=1.0)

    config.optimizer = dict(
        name="muon",
        muon_parameters=r"blocks\..*\.kernel",
        learning_rate=3e-3,
        muon_dtype="bfloat16" if gpu else "float32",
        adam_learning_rate=1e-3,
        weight_decay=0.05,
        b1=0.9,
        b2=0.99,
        clip=1.0,
        warmup_steps=500 if gpu else 20,
        schedule="linear",
        decay_from=0.3,
        ema_decay=0.999 if gpu else 0.98,
        ema_every=1,
    )
    config.train = dict(
        steps=150_000 if gpu else 60,
        seconds=0,  # stop after so many seconds, if not 0; the learning rate then follows the clock
        batch_size=64 if gpu else 2,
        accumulate=1,  # parts of the batch that are worked on one after the other
        trainable=".*",  # regular expression for the names of the parameters that are trained
        data_workers=0,
        max_skipped=20,  # steps in a row that are not finite, before the run stops
        validate_every=0,  # loss on held-out scenes; the best weights are kept in best/
        validation_batches=4,
        log_every=100 if gpu else 5,
        pictures_every=5_000 if gpu else 30,
        checkpoint_every=5_000 if gpu else 20,
        keep_checkpoints=2,
        export_every=0,
        export_dtype="float16",
    )
    config.mesh = dict(data=-1, fsdp=1, sequence=1, tensor=1)
    return config
