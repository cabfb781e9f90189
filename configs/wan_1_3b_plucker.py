"""A space-time DiT of Wan2.1's 1.3B size with Plücker rays and our animation-time encoder: the pods' recipe.

Starts from the weights of Wan2.1 text-to-video; what they lack (the encoders of camera and animation time)
starts so that it changes nothing. With diffusion_pytorch_model.safetensors, Wan2.1_VAE.pth,
models_t5_umt5-xxl-enc-bf16.pth and google/umt5-xxl/ in a folder models/:

    python -m stp_jax.text --weights models --prompt "" --out models/no_text.npz
    for split in train test; do
        python -m stp_jax.encode_dataset --data data/cam_x_time --vae models/Wan2.1_VAE.pth \
            --out data/wan_latents --frames 81 --size 832 480 --split $split
    done
    python train.py --config configs/wan_1_3b_plucker.py --workdir runs/wan_1_3b

480 x 832 pixels, 81 frames, 65,520 tokens. Parameters and the optimizer's state take 16.1 GiB, split over
fsdp and sequence, and the average 5.4 GiB of the host's memory. One video on one H100 takes 6.35 s a step and
41 GiB, with --config.model.ffn_parts=2 6.4 s and 38 GiB, with --config.model.remat=offload 6.5 s and 35 GiB;
two or four GPUs do 97 % of that each. Meshes, pods, LoRA, targets decoded anew instead of cached:
docs/scaling.md. Not yet trained: hours and results are unknown.
"""

from ml_collections import ConfigDict

from input_pipeline.pipeline import default_config

WAN_1_3B = dict(
    dim=1536, ffn_dim=8960, layers=30, heads=12, channels=16, patch=2, freq_dim=256, text_dim=4096
)
# What ReCamMaster trains of its own form of the model (camera="pose12_target"), by
# --config.train.trainable=...: the camera encoder, the projector and self-attention.
RECAMMASTER_TRAINABLE = r"blocks\.(camera|projector|[qkvo]|norm_[qk])\..*"
# With --config.model.lora_rank=32: the matrices beside the kernels, and what Wan lacks.
LORA_TRAINABLE = r".*\.lora_[ab]|(blocks\.)?(camera|animation_time).*"


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.task = "dit"
    config.seed = 0
    config.vae = "models/Wan2.1_VAE.pth"
    config.text = "models/no_text.npz"  # embedding of the prompt that all clips share
    config.init_from = "models/diffusion_pytorch_model.safetensors"
    config.scene_scale = 4.0  # metres that count as 1
    config.model = dict(
        **WAN_1_3B,
        conditioning_dim=256,
        scene_scale=config.get_ref("scene_scale"),
        camera="plucker",
        animation_time="frames",
        rope_frames="stream",  # the positions that Wan2.1 was trained with
        dtype="bfloat16",
        remat="attention",
        ffn_parts=1,
        lora_rank=0,
    )
    config.flow = dict(sampling="uniform", shift=5.0, base_tokens=0, weighting="none")

    data = default_config()
    data.update(kind="latents", path="data/wan_latents", frames=81, height=480, width=832)
    config.data = data
    config.pictures = dict(data=data.copy_and_resolve_references(), split="test", count=1)
    config.sampling = dict(steps=20, shift=5.0, guidance=5.0)

    config.optimizer = dict(
        name="adamw",
        learning_rate=5e-5,
        weight_decay=0.01,
        b1=0.9,
        b2=0.99,
        clip=1.0,
        warmup_steps=500,
        schedule="constant",
        decay_from=0.0,
        ema_decay=0.999,
        ema_every=10,  # steps; in between it waits in the host's memory
    )
    config.train = dict(
        steps=20_000,
        seconds=0,
        batch_size=8,
        accumulate=1,
        trainable=".*",
        data_workers=0,
        max_skipped=20,  # steps in a row that are not finite, before the run stops
        validate_every=500,  # loss on held-out scenes; the best weights are kept in best/
        validation_batches=4,
        log_every=20,
        pictures_every=1_000,
        checkpoint_every=500,
        keep_checkpoints=2,
        export_every=0,
        export_dtype="bfloat16",
    )
    config.mesh = dict(data=1, fsdp=-1, sequence=1, tensor=1)
    return config
