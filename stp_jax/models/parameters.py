"""Parameters of a model by dotted name, and conversion between them and modules.

`blocks.q.kernel` is the attribute `kernel` of `q` of `blocks`; numbers are indices of a list. Weights files,
checkpoints, optimizers and sharding rules all use these names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stp_jax.errors import InputError

Params = dict[str, jax.Array]  # dotted name -> array


def flatten(module: nnx.Module) -> Params:
    """Every parameter of a module by its dotted name."""
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {_name(path): variable[...] for path, variable in flat}


def abstract(make: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, dict[str, jax.ShapeDtypeStruct]]:
    """The graph of the module that `make` returns, and by dotted name the shape and dtype of its parameters.

    No array is made.
    """
    graph, state = nnx.split(nnx.eval_shape(make))
    shapes = {
        _name(path): jax.ShapeDtypeStruct(variable.shape, variable.dtype)
        for path, variable in nnx.to_flat_state(state)
    }
    return graph, shapes


def state_of(params: Mapping[str, Any]) -> nnx.State:
    """Parameters as the state that `nnx.merge` takes beside a module's structure; undoes `flatten`."""
    flat: dict[tuple, Any] = {
        tuple(int(key) if key.isdigit() else key for key in name.split(".")): nnx.Param(array)
        for name, array in params.items()
    }
    return nnx.from_flat_state(flat)


def bind(graph: nnx.GraphDef, params: Mapping[str, Any]) -> Any:
    """The module of this structure with these parameters."""
    return nnx.merge(graph, state_of(params))


def load_into(module: nnx.Module, tensors: Mapping[str, np.ndarray], where: str) -> None:
    """Replaces every parameter of `module` in place, casting to the parameter's dtype.

    Args:
      module: to change.
      tensors: by dotted name.
      where: the origin of the tensors, for messages.

    Raises:
      InputError: a tensor is missing, left over or of another shape; they are named.
    """
    wanted = flatten(module)
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} has shape {tensors[name].shape}, not {wanted[name].shape}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise InputError(f"{where} holds weights of another model: {'; '.join(problems[:4])}{more}.")
    for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        variable[...] = jnp.asarray(tensors[_name(path)], variable[...].dtype)


def merge_lora(params: Params) -> Params:
    """Parameters with every `lora_a @ lora_b` merged into its kernel, see `layers.Dense`."""
    merged = {name: array for name, array in params.items() if ".lora_" not in name}
    for name, a in params.items():
        if name.endswith(".lora_a"):
            module = name.removesuffix("lora_a")
            merged[f"{module}kernel"] = params[f"{module}kernel"] + a @ params[f"{module}lora_b"]
    return merged


def _name(path: tuple) -> str:
    return ".".join(map(str, path))
