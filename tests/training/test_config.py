"""The definition of every field of a config, and the one reader of config files."""

import dataclasses
import json

import pytest

from stp_jax.command_line import read_config
from stp_jax.errors import InputError
from stp_jax.models.config import RETIRED, DiTConfig
from stp_jax.training.config import (
    DiTTraining,
    OptimizerConfig,
    TrainConfig,
    VAETraining,
    check_section,
    make_config,
    model_config,
)
from stp_jax.training.workdir import check_workdir, write_config


def test_a_config_has_every_field_and_says_only_what_differs():
    config = make_config(DiTTraining, model=dict(dim=384, heads=6), train=dict(steps=7))
    assert config.train.to_dict() == {  # an optional section is left out
        field.name: 7 if field.name == "steps" else field.default
        for field in dataclasses.fields(TrainConfig)
        if field.name != "validation"
    }
    assert model_config(DiTConfig, config.model) == DiTConfig(dim=384, heads=6)


def test_fields_that_must_agree_are_one():
    config = make_config(DiTTraining, memory=2)
    assert (config.model.memory, config.data.memory_frames, config.pictures.data.memory_frames) == (2, 2, 0)
    config.scene_scale = 2.0
    assert config.model.scene_scale == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(trian={}), "unknown field of config 'trian': did you mean train"),
        (dict(train=dict(step=3)), "unknown field of config.train 'step': did you mean steps"),
        (dict(data=dict(modes=dict(one=1.0))), "unknown field of config.data.modes 'one'"),
    ],
)
def test_unknown_fields_of_a_config_file_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        make_config(VAETraining, **changes)


def test_what_is_made_is_locked():
    with pytest.raises(AttributeError, match="learning_rat"):
        make_config(VAETraining).optimizer.learning_rat = 1.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ema_every", 0, "config.optimizer.ema_every is 0; it must be at least 1."),
        ("b1", 1.0, "config.optimizer.b1 is 1.0; it must be at least 0 and below 1."),
        ("schedule", "step", "config.optimizer.schedule is 'step'; choose cosine, linear, constant."),
        ("muon_parameters", "(", "config.optimizer.muon_parameters '[(]' is not a regular expression"),
    ],
)
def test_values_that_a_field_cannot_have_are_refused(field, value, message):
    section = make_config(DiTTraining).optimizer
    check_section(OptimizerConfig, section, "config.optimizer")
    section[field] = value
    with pytest.raises(InputError, match=message):
        check_section(OptimizerConfig, section, "config.optimizer")


def test_fields_on_the_command_line_have_the_types_of_the_config():
    fields = ["--config.train.steps", "7", "--config.memory=4", "--config.optimizer.learning_rate=1"]
    config = read_config("configs/demo.py:gpu", [*fields, "--config.model.unroll=false"])
    assert (config.train.steps, config.model.memory, config.model.unroll) == (7, 4, False)
    assert config.optimizer.learning_rate == 1.0 and config.train.batch_size == 64
    vae = read_config("configs/demo_vae.py", ["--config.model.dim_mult=(1, 2)"])
    assert vae.model.dim_mult == (1, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["--config.train.stepps=3"], "no such field: stepps. Did you mean"),
        (["--config.train.steps=many"], "train.steps=many"),
        (["--config.nothing.steps=3"], "no such field"),
        (["--steps=3"], "steps"),
        (["3"], "unexpected argument 3"),
    ],
)
def test_other_words_on_the_command_line_are_refused_in_one_line(fields, message):
    with pytest.raises(InputError, match=message) as error:
        read_config("configs/demo.py", fields)
    assert "\n" not in str(error.value)


def test_a_run_of_an_earlier_version_that_had_other_fields_goes_on(tmp_path):
    config = make_config(DiTTraining, train=dict(steps=7))
    write_config(tmp_path, config)
    assert check_workdir(tmp_path, config) == []
    earlier = json.loads((tmp_path / "config.json").read_text())
    del earlier["model"]["camera"], earlier["text"], earlier["flow"]["memory_sigma"]
    earlier["model"] |= RETIRED
    (tmp_path / "config.json").write_text(json.dumps(earlier))
    assert check_workdir(tmp_path, config) == []
    config.model.camera = "none"
    with pytest.raises(InputError, match="model.camera was plucker, is none"):
        check_workdir(tmp_path, config)
