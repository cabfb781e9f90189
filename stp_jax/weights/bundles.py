"""Which models a file holds, by the names of its tensors.

Programs put a prefix before all names of a model, and some save several models in one file, each with its
own: `model.diffusion_model.`, `vae.`, `text_encoders.umt5xxl.transformer.` for Wan in ComfyUI's checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError

# A layout is recognised by tensors that only it has.
SIGNATURES = {
    r"blocks\.\d+\.self_attn\.": ("dit", "official"),
    r"blocks\.\d+\.attn1\.": ("dit", "diffusers"),
    r"(en|de)coder\.(down|up)samples\.\d+\.": ("vae", "official"),
    r"(en|de)coder\.(down|up)_blocks\.\d+\.": ("vae", "diffusers"),
    r"blocks\.\d+\.pos_embedding\.": ("text_encoder", "official"),
    r"encoder\.block\.\d+\.layer\.": ("text_encoder", "diffusers"),
    r"enc\.blk\.\d+\.attn_rel_b\.": ("text_encoder", "gguf"),
}
# What programs write before the names of all tensors of a model: `model.diffusion_model.` (ComfyUI),
# `pipe.dit.` (modules of Lightning), `module.`, ..
PREFIXED = [re.compile(rf"((?:[A-Za-z_]\w*\.){{1,6}}?){signature}") for signature in SIGNATURES]
# What wrappers of PyTorch write in the middle of names.
WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def models_in(tensors: Mapping[str, Any], path: Path) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The models of a file by kind: their layout, and their tensors under the names of that layout.

    Raises:
      InputError: it holds several models of a kind; some tensors belong to none.
    """
    bare = {WRAPPERS.sub("", name): array for name, array in tensors.items()}
    if len(bare) < len(tensors):
        bare = dict(tensors)
    signed = _signed(bare)
    if signed:
        return {signed[0]: (signed[1], bare)}
    prefixes = _prefixes(bare)
    models: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for prefix, (kind, layout) in prefixes.items():
        named = {name.removeprefix(prefix): a for name, a in bare.items() if name.startswith(prefix)}
        if kind in models:
            raise _several(path, bare, next(iter(prefixes)))
        models[kind] = layout, named
    roots = {prefix.split(".")[0] for prefix in prefixes} if len(prefixes) > 1 else set()
    for name in bare:
        if models and not name.startswith(tuple(prefixes)) and name.split(".")[0] not in roots:
            raise _several(path, bare, next(iter(prefixes)), name)
    return models


def _prefixes(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """What stands before the names of models, with their kind and layout."""
    prefixes: dict[str, tuple[str, str]] = {}
    for name in names:
        for pattern, of in zip(PREFIXED, SIGNATURES.values(), strict=True):
            found = pattern.match(name)
            if found:
                prefixes.setdefault(found[1], of)
    return prefixes


def _several(path: Path, names: Iterable[str], prefix: str, other: str | None = None) -> InputError:
    one = next(name for name in names if name.startswith(prefix))
    other = other or next(name for name in names if not name.startswith(prefix))
    return InputError(
        f"{path} holds more than one model: {one}, .. beside {other}, .. Read are one DiT, VAE and text "
        f"encoder; save the tensors whose names begin with {prefix} in a file of their own."
    )


def _signed(names: Iterable[str]) -> tuple[str, str] | None:
    """Kind and layout of the model whose tensors have these names."""
    of = (of for signature, of in SIGNATURES.items() if any(re.match(signature, name) for name in names))
    return next(of, None)
