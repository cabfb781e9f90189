"""The model classes by kind, and their parameters' names and shapes without any array."""

from __future__ import annotations

import functools
from typing import Any

import jax
from flax import nnx

from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.text_encoder import TextEncoder
from stp_jax.models.vae import VAE

KINDS: dict[str, Any] = {"dit": SpaceTimeDiT, "vae": VAE, "text_encoder": TextEncoder}


@functools.lru_cache(maxsize=16)
def abstract(kind: str, config: Any) -> tuple[nnx.GraphDef, dict[str, jax.ShapeDtypeStruct]]:
    """Structure of a model, and shape and dtype of its parameters by dotted name."""
    graph, state = nnx.split(nnx.eval_shape(lambda: KINDS[kind](config, rngs=nnx.Rngs(0))))
    shapes = {
        ".".join(map(str, path)): jax.ShapeDtypeStruct(variable.shape, variable.dtype)
        for path, variable in nnx.to_flat_state(state)
    }
    return graph, shapes


def shapes(kind: str, config: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of the parameters of a model by dotted name."""
    return abstract(kind, config)[1]


def state_of(parameters: dict[str, jax.Array]) -> nnx.State:
    """Parameters by dotted name as the state that `nnx.merge` takes beside the model's structure."""
    flat: dict[tuple, Any] = {
        tuple(int(key) if key.isdigit() else key for key in name.split(".")): nnx.Param(array)
        for name, array in parameters.items()
    }
    return nnx.from_flat_state(flat)
