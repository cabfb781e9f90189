"""The demo model for few sampling steps: a flow map distilled from it, for any number of steps.

On a CPU, from the bundled model, with the bundled mini data set (a try-out, no useful model):

    python train.py --config configs/demo_few_step.py --workdir runs/few_step

On all GPUs of a machine, from the weights of a run, with new scenes:

    python launch/train_demo.py --config configs/demo_few_step.py:gpu --seconds 1500 --seeds 108800:110400 \
        --from runs/demo/weights --out runs/few_step

The model begins with the weights of `init_from` (`--from`), and follows the velocity of the same model, which
stays as it is, unless `flow_map.teacher` names another. docs/few_step.md has the formulas and the cost.
"""

from ml_collections import ConfigDict

from configs import demo
from stp_jax.errors import InputError


def get_config(variant: str = "cpu") -> ConfigDict:
    if variant not in ("cpu", "gpu"):
        raise InputError(
            f"configs/demo_few_step.py:{variant} is unknown; choose demo_few_step.py or demo_few_step.py:gpu"
        )
    config = demo.get_config(variant)
    with config.unlocked():
        config.init_from = str(demo.ASSETS / "demo")
        config.flow_map.delta = 0.05 if variant == "gpu" else 0.02  # in bfloat16 more: docs/few_step.md
        config.flow_map.teacher = config.get_oneway_ref("init_from")
        config.model.update(**demo.SIZE, flow_map=True)  # as the teacher
        config.optimizer.update(learning_rate=1e-3, adam_learning_rate=2e-4)  # it is trained already
    return config
