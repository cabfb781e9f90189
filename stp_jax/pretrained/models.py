"""The model classes by kind, and their parameters' names and shapes without any array."""

from __future__ import annotations

import functools
from typing import Any

import jax
from flax import nnx

from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.vae import VAE

KINDS = {"dit": SpaceTimeDiT, "vae": VAE}


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


def state_of(kind: str, config: Any, parameters: dict[str, jax.Array]) -> nnx.State:
    """The parameters as the state that `nnx.merge` takes with the model's structure."""
    _, state = nnx.split(nnx.eval_shape(lambda: KINDS[kind](config, rngs=nnx.Rngs(0))))
    flat = [
        (path, variable.replace(parameters[".".join(map(str, path))]))
        for path, variable in nnx.to_flat_state(state)
    ]
    return nnx.from_flat_state(flat)
