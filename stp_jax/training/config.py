"""Every field of a config: its default, its meaning, and its allowed values.

A file in configs/ states what differs from these defaults, as in `make_config(DiTTraining,
model=dict(dim=384))`. `--config.train.steps=100` on the command line changes a field afterwards. `check_run`
checks the result.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from input_pipeline import mixture
from input_pipeline.config import DataConfig
from stp_jax.devices.sharding import RULES, size_of
from stp_jax.errors import InputError
from stp_jax.flow import SAMPLINGS, WEIGHTINGS
from stp_jax.models.config import DiTConfig, without_retired
from stp_jax.models.vae import VAEConfig
from stp_jax.training.vae_loss import VAELossWeights
from stp_jax.user_input import unknown


def setting(
    default: Any,
    *,
    least: float = -math.inf,
    below: float = math.inf,
    choices: Sequence[str] = (),
    pattern: bool = False,
    optional: bool = False,
) -> Any:
    """A field with its check.

    Args:
      least, below: bounds of a number, the first one included.
      choices: all values that it may have.
      pattern: whether it is a regular expression.
      optional: whether a config may lack it.
    """
    check = dict(least=least, below=below, choices=choices, pattern=pattern, optional=optional)
    return dataclasses.field(default=default, metadata=check)


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """Noise levels in training, see `stp_jax.flow.random_levels`."""

    sampling: str = setting("uniform", choices=SAMPLINGS)
    shift: float = 3.0  # above 1: more of the noisy levels, where the scene is decided
    base_tokens: int = 0  # not 0: the shift follows from the number of tokens, see `flow.resolution_shift`
    weighting: str = setting("none", choices=WEIGHTINGS)
    memory_sigma: float = setting(0.2, optional=True)  # highest noise level of a memory, in [0, 1]


@dataclasses.dataclass(frozen=True)
class DiTLossConfig:
    """What is added to the loss of flow matching in training; losses on held-out scenes are without it."""

    # Weight of the error of a head for depth, see `stp_jax.training.depth_head`; 0: there is no head. The
    # data must have depth (render --depth_stride 8, encode_dataset --depth). Also data.depth.
    depth: float = setting(0.0, least=0)
    depth_layer: int = setting(0, least=0)  # blocks before the head; 0: two thirds of all


@dataclasses.dataclass(frozen=True)
class FlowMapConfig:
    """Training of a model with model.flow_map for few sampling steps, see `stp_jax.flow_map`."""

    # Weights of the model whose velocity is followed: distillation. Empty: the data's own velocity.
    teacher: str = ""
    instant_share: float = setting(0.5, least=0, below=1)  # examples that train the velocity itself
    clean_share: float = setting(0.25, least=0, below=1)  # examples whose step goes to the clean latents
    # Of the differences, in units of sigma; in bfloat16 more, see docs/few_step.md.
    delta: float = setting(0.02, least=1e-4, below=0.5)
    adaptive_power: float = setting(1.0, least=0)  # of the weight by an example's error; 0: all weigh 1


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How pictures are sampled, and the notes of exported weights for those who sample from them."""

    steps: int = setting(10, least=1)
    shift: float = 3.0
    guidance: float = 1.0  # by text, see `stp_jax.rerender.sampler`; 1: none


@dataclasses.dataclass(frozen=True)
class PicturesConfig:
    """Held-out scenes, for pictures and for the validation loss."""

    data: DataConfig = DataConfig()
    split: str = "test"
    count: int = setting(2, least=1)  # pairs to show


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule, see `stp_jax.training.optimizer`."""

    name: str = setting("muon", choices=("muon", "adamw"))
    learning_rate: float = setting(3e-3, least=0)
    weight_decay: float = setting(0.01, least=0)
    b1: float = setting(0.9, least=0, below=1)
    b2: float = setting(0.99, least=0, below=1)
    clip: float = setting(1.0, least=0)  # of the gradient's norm; 0: no clipping
    warmup_steps: int = setting(500, least=0)
    schedule: str = setting("constant", choices=("cosine", "linear", "constant"))
    decay_from: float = setting(0.0, least=0, below=1)  # share of the run after which the decay begins
    ema_decay: float = setting(0.999, least=0, below=1)  # of the parameters' moving average; 0: none
    ema_every: int = setting(1, least=1)  # steps; above 1 the average waits in the host's memory
    # Of `muon` alone.
    muon_parameters: str = setting(r"blocks\..*\.kernel", pattern=True, optional=True)  # others follow Adam
    muon_dtype: str = setting("bfloat16", choices=("float32", "bfloat16"), optional=True)  # of its iterations
    adam_learning_rate: float = setting(1e-3, least=0, optional=True)


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Batches, noise and noise levels of the validation loss, to compare runs that differ in their own."""

    batch_size: int = setting(64, least=1)
    seed: int = 0
    flow: FlowConfig = FlowConfig()


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length and batches of a run, and when it writes what."""

    steps: int = setting(20_000, least=1)
    seconds: int = 0  # time limit, if not 0; the learning rate then follows the time
    batch_size: int = setting(8, least=1)  # examples
    accumulate: int = setting(1, least=1)  # parts of the batch that are computed one after the other
    trainable: str = ".*"  # regular expression for the names of the parameters that are trained
    data_workers: int = 0  # processes that read data; 0: threads alone
    max_skipped: int = setting(20, least=1)  # steps in a row that are not finite, before the run stops
    validate_every: int = 0  # loss on held-out scenes; the best weights are kept in best/
    validation_batches: int = setting(4, least=1)
    validation: ValidationConfig | None = setting(None, optional=True)
    log_every: int = setting(20, least=1)
    pictures_every: int = 1_000  # 0: none
    checkpoint_every: int = 500  # 0: only at the end
    keep_checkpoints: int = setting(2, least=1)
    export_every: int = 0  # weights of the run so far; 0: only at the end
    export_dtype: str = setting("float16", choices=("float32", "bfloat16", "float16"))


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of `stp_jax.devices.sharding`; -1: all that remain."""

    data: int = setting(-1, optional=True)
    fsdp: int = setting(1, optional=True)
    sequence: int = setting(1, optional=True)
    tensor: int = setting(1, optional=True)


@dataclasses.dataclass(frozen=True)
class Training:
    """The fields of every task."""

    task: str
    seed: int = 0
    init_from: str = ""  # weights to start from, instead of random ones
    data: DataConfig = DataConfig()
    pictures: PicturesConfig = PicturesConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()


@dataclasses.dataclass(frozen=True)
class DiTTraining(Training):
    """The config of a re-rendering model."""

    task: str = "dit"
    vae: str = ""  # weights
    # Embedding of the prompt of clips without a caption, for a model that takes text; see data.captions.
    text: str = ""
    scene_scale: float = 4.0  # metres that count as 1; also model.scene_scale
    # Latent frames of earlier output that the model may be given to continue a long video; 0: none. Also
    # model.memory and data.memory_frames. With 4: --config.memory=4 --config.data.memory_path=FOLDER, a
    # latent cache written with --windows.
    memory: int = 0
    model: DiTConfig = DiTConfig()
    flow: FlowConfig = FlowConfig()
    loss: DiTLossConfig = DiTLossConfig()
    flow_map: FlowMapConfig = FlowMapConfig()
    sampling: SamplingConfig = SamplingConfig()


@dataclasses.dataclass(frozen=True)
class VAETraining(Training):
    """The config of a VAE."""

    task: str = "vae"
    model: VAEConfig = VAEConfig()
    crop: int = 0  # pixels of the squares to train on; 0: whole clips
    loss: VAELossWeights = VAELossWeights()
    statistics_batches: int = 32  # to measure the spread of the latents on, at the end


TASKS: dict[str, type[Training]] = {"dit": DiTTraining, "vae": VAETraining}


def make_config(definition: type[Training], **changes: Any) -> ConfigDict:
    """A config with these changes of the defaults; sections are dictionaries.

    Fields that must agree are one: whichever is set, the others follow.

    Raises:
      InputError: there is no such field.
    """
    config = ConfigDict(_filled(definition, changes, "config"))
    mixture.refer(config.data)
    if definition is DiTTraining:
        if not config.pictures.data.captions:  # pictures and validation have captions where training has them
            config.pictures.data.captions = config.data.get_ref("captions")
        for section, field, source in (
            ("model", "scene_scale", "scene_scale"),
            ("model", "memory", "memory"),
            ("data", "memory_frames", "memory"),
        ):
            config[section][field] = config.get_ref(source)
        config.data.depth = config.loss.get_ref("depth")
    return config.lock()


def _filled(definition: type, changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a section; fields whose default is None are left out."""
    fields = dataclasses.fields(definition)
    for name in changes:
        if name not in [field.name for field in fields]:
            raise unknown(f"field of {where}", name, [field.name for field in fields])
    values: dict[str, Any] = {}
    for field in fields:
        if "parts" in field.metadata:  # sections by names of the user's own
            values[field.name] = dict(changes.get(field.name, {}))
        elif dataclasses.is_dataclass(field.default):
            section = changes.get(field.name, {})
            values[field.name] = _filled(type(field.default), section, f"{where}.{field.name}")
        elif field.name in changes or field.default is not None:
            values[field.name] = changes.get(field.name, field.default)
    return values


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """A config of an earlier version as JSON values, with the fields of this one.

    Fields that it lacks have their defaults; those of its model that are gone and were not used are left out.
    """
    if config.get("task") not in list(TASKS):  # of a damaged file it may be a list, which no dict can look up
        return config
    if isinstance(config.get("model"), dict):
        config = config | {"model": without_retired(config["model"])}
    return _joined(json.loads(json.dumps(_filled(TASKS[config["task"]], {}, "config"))), config)


def _joined(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    joined = defaults | values
    for name, section in defaults.items():
        if isinstance(section, dict) and isinstance(values.get(name), dict):
            joined[name] = _joined(section, values[name])
    return joined


def check_section(
    definition: type, values: ConfigDict, where: str, *, optional: bool = True, unused: Sequence[str] = ()
) -> None:
    """Raises `InputError` unless a section has just the fields of its definition, with values they can have.

    Args:
      optional: whether it may lack its optional fields.
      unused: fields whose values do not matter.
    """
    fields = dataclasses.fields(definition)
    needed = [f.name for f in fields if not (optional and f.metadata.get("optional"))]
    if missing := [name for name in needed if name not in values]:
        raise InputError(f"{where} lacks {', '.join(missing)}. stp_jax/training/config.py has every field.")
    known = [field.name for field in fields]
    if strange := [name for name in values if name not in known]:
        raise unknown(f"field of {where}", strange[0], known)
    for field in fields:
        if field.name in values and field.name not in unused and field.metadata:
            _check_value(f"{where}.{field.name}", values[field.name], field.metadata)


def _check_value(name: str, value: Any, check: Mapping[str, Any]) -> None:
    least, below, choices = check["least"], check["below"], check["choices"]
    if (least, below) != (-math.inf, math.inf) and not least <= value < below:
        upper = "" if below == math.inf else f" and below {below:g}"
        raise InputError(f"{name} is {value}; it must be at least {least:g}{upper}.")
    if choices and value not in choices:
        raise InputError(f"{name} is {value!r}; choose {', '.join(choices)}.")
    if check["pattern"]:
        try:
            re.compile(value)
        except re.error as error:
            raise InputError(f"{name} {value!r} is not a regular expression: {error}.") from None


def check_run(config: ConfigDict, mesh: Mesh) -> None:
    """Raises `InputError` for fields and values of `config` that are impossible on this mesh.

    The sections `model`, `data`, `flow` and `optimizer` are checked where they are used.
    """
    run, optimizer = config.train, config.optimizer
    unused = [] if run.get("validate_every", 1) else ["validation_batches"]
    check_section(TrainConfig, run, "config.train", unused=unused)
    if "validation" in run:
        check_section(ValidationConfig, run.validation, "config.train.validation")
    check_section(
        PicturesConfig, config.pictures, "config.pictures", unused=[] if run.pictures_every else ["count"]
    )
    if "sampling" in config:
        check_section(SamplingConfig, config.sampling, "config.sampling")
    averaged = optimizer.get("ema_decay") and optimizer.get("ema_every", 1)
    if averaged and averaged > run.steps:
        raise InputError(
            f"config.optimizer.ema_every is {averaged}: in a run of {run.steps} steps the average would "
            "never be taken."
        )
    shards = size_of(RULES.batch, mesh)
    if run.batch_size % (shards * run.accumulate):
        parts = f" in {run.accumulate} parts" if run.accumulate > 1 else ""
        raise InputError(
            f"config.train.batch_size {run.batch_size} does not divide over {shards} devices{parts} "
            f"({' x '.join(RULES.batch)} of config.mesh)."
        )


def model_config(definition: type, values: ConfigDict) -> Any:
    """The model's config dataclass, made of `config.model`.

    Raises:
      InputError: a field that it does not have, or a value that it cannot have.
    """
    fields = {field.name for field in dataclasses.fields(definition)}
    strange = sorted(set(values) - fields)
    if strange:
        raise InputError(f"config.model has no field {strange[0]!r}; it has {', '.join(sorted(fields))}.")
    try:
        return definition(**values.to_dict())
    except ValueError as error:
        raise InputError(f"config.model: {error}") from None
