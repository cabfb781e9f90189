"""The official SpaceTimePilot model: 480 x 832 pixels, 81 frames, its own camera and animation-time encoders.

With SpacetimePilot_1.3B_v1.ckpt, Wan2.1_VAE.pth, models_t5_umt5-xxl-enc-bf16.pth and google/umt5-xxl/ in a
folder models/ (docs/official_weights.md):

    python sample.py --weights models --video clip.mp4 --prompt "a dog runs over a meadow" \
        --camera camera_extrinsics.json:cam05 --animation_time official:slowmo_first_half

No config is needed for that: the weights are recognised. For fine-tuning, make latents and the text embedding
as configs/wan_1_3b_plucker.py says, then

    python train.py --config configs/spacetimepilot_1_3b.py --workdir runs/spacetimepilot

It is then given poses in metres, unscaled, and the exported weights are sampled in the same way.
Time and memory of sampling are in docs/benchmarks.md. Fine-tuning was not tried at full size.
"""

from ml_collections import ConfigDict

from configs import wan_1_3b_plucker


def get_config() -> ConfigDict:
    config = wan_1_3b_plucker.get_config()
    config.init_from = "models/SpacetimePilot_1.3B_v1.ckpt"
    config.model.update(camera="pose12", animation_time="official_conv", rope_frames="stream")
    config.optimizer.learning_rate = 1e-5
    return config
