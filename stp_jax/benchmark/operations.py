"""Counts the operations of a function that JAX can trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def count_flop(function: Callable, *arguments) -> float:
    """Multiplications and additions in the matrix products and convolutions of a function, loops included.

    Multiplications with padding count, too. Fused attention kernels are not seen.
    """
    return _flop(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flop(jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        outputs = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * outputs * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * outputs * math.prod(kernel) / channels
        else:
            times = equation.params["length"] if name == "scan" else 1
            total += times * sum(_flop(inner) for inner in _inner(equation.params))
    return total


def _inner(params: dict[str, Any]) -> Iterator:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr"):
                yield item.jaxpr
