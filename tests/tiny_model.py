"""Weights of a tiny random model, for tests that need a whole one."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from stp_jax.models.config import DiTConfig
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.parameters import flatten, load_into
from stp_jax.models.vae import VAE, VAEConfig
from stp_jax.weights import native

FRAMES, SIZE, STEPS, SHIFT = 5, 32, 3, 2.0
NOTES = native.SamplingNotes(FRAMES, SIZE, SIZE, STEPS, SHIFT)._asdict()
VAE_CONFIG = VAEConfig(
    dim=8,
    z_dim=4,
    dim_mult=(1, 1, 1),
    res_blocks=1,
    temporal_downsample=(True, True),
    latent_mean=(0.1,) * 4,
    latent_std=(0.5,) * 4,
)
DIT_CONFIG = DiTConfig(
    dim=48, ffn_dim=96, layers=2, heads=2, channels=4, freq_dim=32, conditioning_dim=16, dtype="float32"
)


@functools.cache
def random_parameters(make, seed: int, scale: float) -> dict[str, np.ndarray]:
    """Normal numbers for every parameter, so that nothing is zero and all conditioning has an effect."""
    shapes = flatten(zeros(make))
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(array.shape) * scale + name.endswith(("scale", "gamma"))).astype(
            np.float32
        )
        for name, array in shapes.items()
    }


def zeros(make):
    """A model whose parameters are zero."""
    graph, state = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graph, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state))


def make_vae() -> VAE:
    return VAE(VAE_CONFIG, rngs=nnx.Rngs(0))


def make_dit() -> SpaceTimeDiT:
    return SpaceTimeDiT(DIT_CONFIG, rngs=nnx.Rngs(0))


def write_tiny_model(folder: Path) -> Path:
    vae, dit = random_parameters(make_vae, 0, 0.15), random_parameters(make_dit, 1, 0.15)
    native.save_weights(folder, "vae", vae, dataclasses.asdict(VAE_CONFIG))
    native.save_weights(folder, "dit", dit, dataclasses.asdict(DIT_CONFIG), notes=NOTES)
    return folder


def edit_index(folder: Path, name: str, **fields) -> None:
    """Changes the JSON of weights; it then is as in earlier versions, without checksums."""
    path = folder / f"{name}.json"
    index = json.loads(path.read_text())
    for key, value in fields.items():
        index[key] = index[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps({key: index[key] for key in ("config", "notes", "files")}))


def read_tiny_model(folder: Path):
    """The two models, without the code under test."""
    vae, dit = zeros(make_vae), zeros(make_dit)
    load_into(vae, native.read_weights(folder, "vae"), "vae")
    load_into(dit, native.read_weights(folder, "dit"), "dit")
    return vae, dit
