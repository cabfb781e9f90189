"""As configs/wan_1_3b_plucker.py, at Wan2.1's 14B size.

    python train.py --config configs/wan_14b_plucker.py --workdir runs/wan_14b

Put the parts of Wan2.1-T2V-14B with their index into models/wan_14b/. Parameters and the optimizer's state
take 162 GiB, split over fsdp and sequence, and the average 54 GiB of the hosts' memory. One video on four
H200s (--config.mesh.fsdp=1 --config.mesh.sequence=4 --config.train.batch_size=1) takes 8.9 s a step and 81
GiB of each, by LoRA 7.4 s and 39 GiB. Not yet trained: hours and results are unknown.
"""

from ml_collections import ConfigDict

from configs import wan_1_3b_plucker

WAN_14B = wan_1_3b_plucker.WAN_1_3B | dict(dim=5120, ffn_dim=13824, layers=40, heads=40)


def get_config() -> ConfigDict:
    config = wan_1_3b_plucker.get_config()
    config.model.update(WAN_14B)
    config.init_from = "models/wan_14b"
    config.optimizer.learning_rate = 2e-5
    return config
