"""A space-time DiT of Wan2.1's 1.3B size with Plücker rays and our animation-time encoder: the pods' recipe.

Starts from the weights of Wan2.1 text-to-video; what they lack (the encoders of camera and animation time)
starts so that it changes nothing. With diffusion_pytorch_model.safetensors, Wan2.1_VAE.pth,
models_t5_umt5-xxl-enc-bf16.pth and google/umt5-xxl/ in a folder models/:

    python -m stp_jax.text --weights models --prompt "" --negative --out models/no_text.npz
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

from stp_jax.training.config import DiTTraining, make_config

WAN_1_3B = dict(
    dim=1536, ffn_dim=8960, layers=30, heads=12, channels=16, patch=2, freq_dim=256, text_dim=4096
)
# What ReCamMaster trains of its own form of the model (camera="pose12_target"), by
# --config.train.trainable=...: the camera encoder, the projector and self-attention.
RECAMMASTER_TRAINABLE = r"blocks\.(camera|projector|[qkvo]|norm_[qk])\..*"
# With --config.model.lora_rank=32: the matrices beside the kernels, and what Wan lacks.
LORA_TRAINABLE = r".*\.lora_[ab]|(blocks\.)?(camera|animation_time).*"


def get_config() -> ConfigDict:
    data = dict(kind="latents", path="data/wan_latents", frames=81, height=480, width=832)
    return make_config(
        DiTTraining,
        vae="models/Wan2.1_VAE.pth",
        text="models/no_text.npz",
        init_from="models/diffusion_pytorch_model.safetensors",
        model=dict(
            **WAN_1_3B,
            rope_frames="stream",  # the positions that Wan2.1 was trained with
            remat="attention",
        ),
        flow=dict(shift=5.0),
        sampling=dict(steps=20, shift=5.0, guidance=5.0),
        data=data,
        pictures=dict(data=data, count=1),
        optimizer=dict(name="adamw", learning_rate=5e-5, ema_every=10),
        train=dict(validate_every=500, export_dtype="bfloat16"),
        mesh=dict(data=1, fsdp=-1),
    )
