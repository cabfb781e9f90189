"""Every config makes the model that its name says: parameters counted without making them."""

import importlib
import math
import re
from pathlib import Path

import jax
import pytest
from flax import nnx

from input_pipeline.mixture import parts_of, reads_latents
from input_pipeline.pipeline import check_config
from stp_jax.command_line import read_config
from stp_jax.training.config import model_config

ROOT = Path(__file__).parent.parent


def model_parameters(config_name: str) -> int:
    from stp_jax.models.config import DiTConfig
    from stp_jax.models.dit import SpaceTimeDiT

    config = importlib.import_module(f"configs.{config_name}").get_config()
    model = model_config(DiTConfig, config.model)
    state = nnx.state(nnx.eval_shape(lambda: SpaceTimeDiT(model, rngs=nnx.Rngs(0))), nnx.Param)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))


def test_spacetimepilot_has_the_published_number_of_parameters():
    assert model_parameters("spacetimepilot_1_3b") == 1_998_038_080


@pytest.mark.parametrize(
    ("name", "wan", "width", "layers"),
    [("wan_1_3b_plucker", 1_418_996_800, 1536, 30), ("wan_14b_plucker", 14_288_491_584, 5120, 40)],
)
def test_our_recipes_add_only_their_encoders_to_wan(name, wan, width, layers):
    e, rays, waves = 256, 4 * 4 * 6, 4 * 256
    dense = lambda i, o: i * o + o  # noqa: E731
    encoders = sum(dense(n, 2 * e) + dense(2 * e, e) for n in (rays, waves)) + 2 * e
    assert model_parameters(name) == wan + encoders + layers * 2 * dense(e, width)


def test_every_field_that_the_documents_set_by_a_flag_exists():
    configs = [
        importlib.import_module(f"configs.{name}").get_config()
        for name in ("demo", "demo_few_step", "demo_mixture", "demo_vae", "wan_1_3b_plucker")
    ]
    known = {path for config in configs for path in fields(config)}
    documents = [p for kind in ("*.md", "*.py", "*.sh", "*.yaml") for p in ROOT.glob(f"**/{kind}")]
    named = {
        (path, field)
        for path in documents
        if not any(part.startswith(".") or part in ("tests", "runs") for part in path.relative_to(ROOT).parts)
        for field in re.findall(r"--config\.([a-z_0-9.]*[a-z_0-9])[= ]", path.read_text())
    }
    assert len(named) > 20
    missing = [
        f"{path.relative_to(ROOT)}: {field}" for path, field in named if field not in known | {"field"}
    ]
    assert not missing, missing


@pytest.mark.parametrize(("variant", "latents"), [("cpu", False), ("gpu", True)])
def test_the_demo_on_a_mixture_has_its_data_sets_and_flags(variant, latents):
    flags = ["--config.data.mixture.static.weight=0", "--config.data.mixture.grids.weight=3"]
    config = read_config(str(ROOT / f"configs/demo_mixture.py:{variant}"), [*flags, "--config.data.frames=9"])
    check_config(config.data)
    parts = parts_of(config.data)
    assert [(name, part.weight) for name, part in parts.items()] == [("grids", 3.0), ("synchronised", 1.0)]
    assert reads_latents(config.data) == latents and all(part.frames == 9 for part in parts.values())


def fields(config, before: str = "") -> list[str]:
    found = []
    for name, value in config.items():
        found += [before + name, *(fields(value, f"{before}{name}.") if hasattr(value, "items") else [])]
    return found
