"""The model classes by kind, and names and shapes of their parameters, without any array."""

from __future__ import annotations

import functools
from typing import Any

import jax
from flax import nnx

from stp_jax.models import parameters
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.text_encoder import TextEncoder
from stp_jax.models.vae import VAE

KINDS: dict[str, Any] = {"dit": SpaceTimeDiT, "vae": VAE, "text_encoder": TextEncoder}


class _OneKey:
    """Stands in for `nnx.Rngs` where nothing is drawn: to count keys takes a third of the VAE's tracing."""

    def __init__(self):
        self._key = jax.random.key(0)

    def params(self) -> jax.Array:
        return self._key


@functools.lru_cache(maxsize=16)
def abstract(kind: str, config: Any) -> tuple[nnx.GraphDef, dict[str, jax.ShapeDtypeStruct]]:
    """The graph of a model, and shape and dtype of its parameters by dotted name."""
    rngs = _OneKey if kind == "vae" else lambda: nnx.Rngs(0)  # the others' blocks are made under `vmap`
    return parameters.abstract(lambda: KINDS[kind](config, rngs=rngs()))


def shapes(kind: str, config: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of the parameters of a model by dotted name."""
    return abstract(kind, config)[1]
