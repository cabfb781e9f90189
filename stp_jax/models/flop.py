"""Floating-point operations: of the DiT, counted from its config, and of any traced function."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

from stp_jax.models.config import TEXT_TOKENS, DiTConfig


def dit_flop(
    config: DiTConfig,
    latent_size: tuple[int, int, int],
    *,
    memory: bool = False,
    trained: Container[str] | None = None,
) -> float:
    """Multiplications and additions in the matrix products of one forward pass of one video.

    Not counted: what is computed once per video (keys and values of the text, embedded cameras), and what
    LoRA adds. The projection of the rays in each block is counted.

    Args:
      config: of the model.
      latent_size: (F', H', W') of the latents.
      memory: whether the video has a memory of `config.memory` latent frames.
      trained: names of the trained parameters; if given, a train step is counted, without recomputation: each
        product and the two products of its gradients, or only one of these for a kernel that is not trained.
    """
    c = config
    counts = c.clip_tokens(latent_size, c.memory if memory else 0)
    target, tokens = counts["target"], sum(counts.values())
    queries, keys = (c.layers - 1) * tokens + target, c.layers * tokens  # of all blocks
    values = c.channels * c.patch**2
    kernels = {
        "patch_embedding": tokens * values * c.dim,
        "timestep_embedding.layer_in": c.freq_dim * c.dim,
        "timestep_embedding.layer_out": c.dim**2,
        "timestep_projection": 6 * c.dim**2,
        "blocks.q": queries * c.dim**2,
        "blocks.k": keys * c.dim**2,
        "blocks.v": keys * c.dim**2,
        "blocks.o": queries * c.dim**2,
        "blocks.ffn_in": queries * c.dim * c.ffn_dim,
        "blocks.ffn_out": queries * c.dim * c.ffn_dim,
        "head": target * c.dim * values,
    }
    attention = 2 * queries * tokens * c.dim
    if c.flow_map:
        kernels |= {
            "interval_embedding.layer_in": c.freq_dim * c.dim,
            "interval_embedding.layer_out": c.dim**2,
        }
    if c.text_dim:
        kernels |= {f"blocks.cross_attn.{name}": queries * c.dim**2 for name in "qo"}
        attention += 2 * queries * TEXT_TOKENS * c.dim
    if c.camera == "plucker":
        kernels["blocks.camera"] = keys * c.conditioning_dim * c.dim
    elif c.camera != "none":
        kernels["blocks.projector"] = queries * c.dim**2
    if trained is None:
        return 2.0 * (attention + sum(kernels.values()))
    of_kernels = sum((3 if f"{name}.kernel" in trained else 2) * count for name, count in kernels.items())
    return 2.0 * (3 * attention + of_kernels)


def traced_flop(jaxpr: Any) -> float:
    """Multiplications and additions in the matrix products and convolutions of a function.

    A loop counts with its length where it has a fixed one (scan), else once.

    Args:
      jaxpr: of the function, as `jax.jit(f).trace(*arguments).jaxpr`.
    """
    total = 0.0
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)  # a closed one
    for one in jaxpr.eqns:
        if one.primitive.name == "dot_general":
            (contracted, _), _ = one.params["dimension_numbers"]
            shape = one.invars[0].aval.shape
            total += 2.0 * one.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        elif one.primitive.name == "conv_general_dilated":
            kernel = one.invars[1].aval
            outputs = kernel.shape[one.params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * one.outvars[0].aval.size * kernel.size / outputs
        times = one.params["length"] if one.primitive.name == "scan" else 1
        for value in one.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    total += times * traced_flop(inner)
    return total
