"""Reads the parameters of a recognised model, onto the devices or into host memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, Sharding

from stp_jax.devices.sharding import parameter_shardings
from stp_jax.models.parameters import state_of
from stp_jax.weights import kinds, native
from stp_jax.weights.checksums import verified
from stp_jax.weights.layouts.table import check, lazy_parameters, read_parameters
from stp_jax.weights.recognition import Pretrained

#: how the published models are sampled
PUBLISHED_NOTES = native.SamplingNotes(
    frames=81,
    height=480,
    width=832,
    sampling_steps=20,
    sampling_shift=5.0,
    sampling_guidance=5.0,
    sampling_scaled_poses=True,
)


def sampling_notes(found: Pretrained) -> native.SamplingNotes:
    """The size of the videos of a DiT, and how to sample from it.

    Raises:
      InputError: weights of ours whose notes lack them.
    """
    return native.read_sampling_notes(found.path) if found.layout == "ours" else PUBLISHED_NOTES


def graph(found: Pretrained) -> nnx.GraphDef:
    """The structure of a model with `found.config`, without any array."""
    return kinds.abstract(found.kind, found.config)[0]


def read(
    found: Pretrained,
    like: Mapping[str, jax.ShapeDtypeStruct] | None = None,
    shardings: Mapping[str, Sharding] | None = None,
    *,
    allow_missing: Callable[[str], bool] | None = None,
    bar: bool = True,
) -> dict[str, Any]:
    """Parameters by dotted name.

    Args:
      found: the model.
      like: shape and dtype of the wanted parameters; default: those of the model as they are stored.
      shardings: of each of them; default: numpy arrays in host memory.
      allow_missing: whether the parameter of this name may be missing in the model; it is then left out.
      bar: whether a bar is shown where it takes long to read them onto devices.

    Raises:
      InputError: parameters are missing, left over or of another shape; they are named, and nothing is read.
        Numbers that are not finite; a file that does not match its checksum.
    """
    where = f"{found.path} ({found.title})"
    if like is None:
        like = kinds.shapes(found.kind, found.config)
        like = {
            name: jax.ShapeDtypeStruct(like[name].shape, parameter.dtype)
            for name, parameter in lazy_parameters(found.rules, found.tensors).items()
        }
    check(found.rules, found.tensors, like, where, allow_missing)
    with verified(found.sums):
        if shardings is not None:
            return read_parameters(found.rules, found.tensors, like, shardings, where, allow_missing, bar)
        lazy = lazy_parameters(found.rules, found.tensors)
        return {name: np.asarray(parameter, like[name].dtype) for name, parameter in lazy.items()}


def load(found: Pretrained, mesh: Mesh, dtype: str, *, bar: bool = True) -> tuple[nnx.GraphDef, nnx.State]:
    """Graph and parameters of a model, split over the mesh; `nnx.merge` makes the module from them.

    Kernels and embeddings are in `dtype`; biases, norms and modulations are float32. See `read` for `bar`.

    Raises:
      InputError: see `read`.
    """
    like = _loaded(found, mesh, dtype)
    shardings = {name: wanted.sharding for name, wanted in like.items()}
    return graph(found), state_of(read(found, like, shardings, bar=bar))


def abstract_state(found: Pretrained, mesh: Mesh, dtype: str) -> nnx.State:
    """What `load` returns as parameters, their shapes, dtypes and shardings alone: enough to compile."""
    return state_of(_loaded(found, mesh, dtype))


def _loaded(found: Pretrained, mesh: Mesh, dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = kinds.shapes(found.kind, found.config)
    shardings = parameter_shardings(shapes, mesh)
    return {
        name: jax.ShapeDtypeStruct(
            shape.shape, jnp.dtype(dtype) if _is_matrix(name) else jnp.float32, sharding=shardings[name]
        )
        for name, shape in shapes.items()
    }


def _is_matrix(name: str) -> bool:
    return name.rpartition(".")[2] in ("kernel", "token_embedding")
