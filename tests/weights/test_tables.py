"""The tables of the published layouts: names, shapes, configs."""

import dataclasses

import numpy as np
import pytest

from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig
from stp_jax.models.text_encoder import TextEncoderConfig
from stp_jax.models.vae import VAEConfig
from stp_jax.weights import kinds
from stp_jax.weights.layouts import dit
from stp_jax.weights.layouts.table import lazy_parameters, stored_shapes, write_tensors
from stp_jax.weights.recognition import LAYOUTS
from tests.stored_tensors import (
    RECAMMASTER,
    SPACETIMEPILOT,
    TINY,
    TINY_DIT,
    WAN,
    identity,
    random_tensors,
)

TINY_MODELS = {
    "wan": TINY["dit"],
    "recammaster": DiTConfig(**RECAMMASTER | TINY_DIT),
    "spacetimepilot": DiTConfig(**SPACETIMEPILOT | TINY_DIT),
    "vae": TINY["vae"],
    "text_encoder": TINY["text_encoder"],
}


def kind_of(name: str) -> str:
    return name if name in LAYOUTS else "dit"


@pytest.mark.parametrize(
    "kind, config, tensors, parameters, md5",
    [
        ("dit", DiTConfig(**WAN), 825, 1_418_996_800, "9269f8db9040a9d860eaca435be61814"),
        (
            "dit",
            DiTConfig(**WAN, dim=5120, ffn_dim=13824, heads=40, layers=40),
            1095,
            14_288_491_584,
            "aafcfd9672c3a2456dc46e1cb6e52c70",
        ),
        ("dit", DiTConfig(**RECAMMASTER), 945, 1_490_420_800, "eba39c71759fed170880aaf589b469ba"),
        ("dit", DiTConfig(**SPACETIMEPILOT), 1305, 1_998_038_080, "7b64cd6b7156911155f67e7a52cd6c0c"),
        ("vae", VAEConfig(), 194, 126_892_531, "ccc42284ea13e1ad04693284c7a09be6"),
        ("text_encoder", TextEncoderConfig(), 242, 5_680_910_336, "9c8818c2cbea55eca56c7b447df170da"),
    ],
    ids=["Wan2.1 1.3B", "Wan2.1 14B", "ReCamMaster", "SpaceTimePilot", "VAE", "umT5"],
)
def test_official_names_and_shapes(kind, config, tensors, parameters, md5):
    shapes = stored_shapes(LAYOUTS[kind].rules(config, "official"), kinds.shapes(kind, config))
    assert len(shapes) == tensors
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters
    assert identity(shapes) == md5


@pytest.mark.parametrize(
    "name, layout",
    [(name, "official") for name in TINY_MODELS]
    + [(name, "diffusers") for name in ("wan", "vae", "text_encoder")],
)
def test_config_follows_from_the_tensors_and_a_round_trip_changes_nothing(name, layout):
    config, kind = TINY_MODELS[name], kind_of(name)
    tensors = random_tensors(kind, config, layout)
    described = {
        "official": {"dim": 64, "num_heads": 2},
        "diffusers": {"num_attention_heads": 2, "attention_head_dim": 32},
    }
    read = LAYOUTS[kind].read_config(tensors, layout, described[layout], "there")
    assert dataclasses.replace(read, dtype=config.dtype) == config
    rules = LAYOUTS[kind].rules(config, layout)
    written = dict(write_tensors(rules, lazy_parameters(rules, tensors)))
    assert written.keys() == tensors.keys()
    assert all(np.array_equal(written[name], tensors[name]) for name in tensors)


def test_titles():
    assert dit.title(DiTConfig(**SPACETIMEPILOT)) == "SpaceTimePilot 1.3B"
    assert dit.title(DiTConfig(**RECAMMASTER)) == "ReCamMaster 1.3B"
    assert "text-to-video 14B" in dit.title(DiTConfig(**WAN, dim=5120, heads=40))


def test_heads_are_128_wide_unless_a_config_says_otherwise():
    wide = DiTConfig(**WAN | TINY_DIT | {"dim": 256})
    tensors = random_tensors("dit", wide, "official")
    assert dit.read_config(tensors, "official", {}, "there").heads == 2
    assert dit.read_config(tensors, "official", {"dim": 256, "num_heads": 8}, "there").heads == 8
    of_another_model = {"dim": 1536, "num_heads": 12}
    assert dit.read_config(tensors, "official", of_another_model, "there").heads == 2
    narrow = random_tensors("dit", TINY["dit"], "official")
    with pytest.raises(InputError, match="width 64 does not tell the number of heads"):
        dit.read_config(narrow, "official", {}, "there")


def test_statistics_of_latents_come_from_the_config_beside_them():
    config = dataclasses.replace(TINY["vae"], latent_mean=(0.5,) * 16, latent_std=(2.0,) * 16)
    tensors = random_tensors("vae", config, "diffusers")
    described = {"latents_mean": [0.5] * 16, "latents_std": [2.0] * 16}
    assert LAYOUTS["vae"].read_config(tensors, "diffusers", described, "there") == config


def test_models_that_a_layout_cannot_hold_are_refused():
    with pytest.raises(InputError, match="Store it in our own form"):
        dit.rules(DiTConfig(text_dim=8), "official")
    with pytest.raises(InputError, match="Store this DiT under its official names"):
        dit.rules(DiTConfig(**SPACETIMEPILOT), "diffusers")


def test_image_to_video_is_refused_by_name():
    tensors = random_tensors("dit", TINY["dit"], "official") | {"img_emb.proj.0.weight": np.zeros(3)}
    with pytest.raises(InputError, match="image-to-video"):
        dit.read_config(tensors, "official", {}, "there")
