"""Stored tensors with random values, the same ones wherever a name and a shape are the same."""

import hashlib
import zlib

import jax
import numpy as np

from stp_jax.models.config import DiTConfig
from stp_jax.models.parameters import bind
from stp_jax.models.text_encoder import TextEncoderConfig
from stp_jax.models.vae import VAEConfig
from stp_jax.weights import kinds
from stp_jax.weights.layouts.table import lazy_parameters, stored_shapes
from stp_jax.weights.recognition import LAYOUTS

WAN = {"text_dim": 4096, "source": False, "camera": "none", "animation_time": "none", "rope_frames": "stream"}
RECAMMASTER = WAN | {"source": True, "camera": "pose12_target"}
SPACETIMEPILOT = RECAMMASTER | {"camera": "pose12", "animation_time": "official_conv"}
TINY_DIT = {"dim": 64, "ffn_dim": 48, "layers": 2, "heads": 2, "channels": 4, "freq_dim": 16, "text_dim": 12}
TINY = {
    "dit": DiTConfig(**WAN | TINY_DIT, dtype="float32"),
    "vae": VAEConfig(dim=8),
    "text_encoder": TextEncoderConfig(
        vocab=40, dim=24, attn_dim=32, heads=4, ffn_dim=28, layers=2, dtype="float32"
    ),
}


def random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values that depend on nothing but the name and the shape."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    leaf = name.rpartition(".")[2]
    if leaf == "bias":
        noise *= 0.1
    elif leaf == "gamma" or len(shape) == 1:
        noise = 1 + 0.3 * noise
    elif leaf == "weight":
        noise /= np.prod(shape[1:]) ** 0.5
    return noise.astype(np.float32)


def random_tensors(kind: str, config, layout: str) -> dict[str, np.ndarray]:
    """All tensors of a model in a layout."""
    shapes = stored_shapes(LAYOUTS[kind].rules(config, layout), kinds.shapes(kind, config))
    return {name: random_tensor(name, shape) for name, shape in shapes.items()}


def build(kind: str, config, layout: str, tensors: dict[str, np.ndarray] | None = None):
    """Our model with these parameters, by default random ones."""
    tensors = random_tensors(kind, config, layout) if tensors is None else tensors
    parameters = lazy_parameters(LAYOUTS[kind].rules(config, layout), tensors)
    arrays = jax.device_put({name: np.asarray(value) for name, value in parameters.items()})
    return bind(kinds.abstract(kind, config)[0], arrays)


def identity(shapes: dict[str, tuple[int, ...]]) -> str:
    """The md5 by which official code tells state dicts: of all names, and names with shapes, sorted."""
    named = [f"{name}:{'_'.join(map(str, shape))}" for name, shape in shapes.items()]
    return hashlib.md5(",".join(sorted([*shapes, *named])).encode()).hexdigest()


def normal(seed: int, *shape: int) -> np.ndarray:
    """Inputs; numpy promises that these numbers never change."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


# Inputs of the tiny models.
NOISY, TEXT = normal(0, 2, 3, 4, 6, 4), normal(1, 2, 5, 12)
TIMESTEP = np.array([120.0, 978.26], np.float32)
VIDEO = np.tanh(normal(2, 1, 9, 16, 8, 3))
LATENTS = normal(3, 1, 3, 1, 2, 16)
IDS = np.random.RandomState(4).randint(2, 40, (2, 7))
MASK = np.array([[1] * 7, [1] * 4 + [0] * 3])
