"""Merges LoRAs into a DiT while it is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stp_jax.errors import InputError
from stp_jax.weights import kinds
from stp_jax.weights.adapters import Layer, Lora, read_adapter
from stp_jax.weights.changes import Change, Difference, LowRank
from stp_jax.weights.layouts import dit
from stp_jax.weights.layouts.table import Rule, stored_shapes
from stp_jax.weights.recognition import Pretrained
from stp_jax.weights.untrusted import shown

SHOWN = 3  # layers that do not fit, in a line


class Merged(NamedTuple):
    """What became of a LoRA.

    Attributes:
      lora: its file and strength.
      layers: how many it changes.
      left_out: what of it does not fit, with the reason where it is not the name.
    """

    lora: Lora
    layers: int
    left_out: tuple[str, ...]

    def remark(self) -> str:
        """A line for the user."""
        layers = f"{self.layers} layer{'s' if self.layers > 1 else ''}"
        line = f"{self.lora.path} (LoRA) is merged into {layers}, strength {self.lora.strength:g}."
        if not self.left_out:
            return line
        names = ", ".join(self.left_out[:SHOWN]) + (", .." if len(self.left_out) > SHOWN else "")
        count = len(self.left_out)
        verbs = "do not fit and are" if count > 1 else "does not fit and is"
        return f"{line} {count} of its layers {verbs} left out: {names}."


class _Target(NamedTuple):
    """A stored tensor of a layout: a layer of one of our parameters."""

    rule: Rule
    layer: int | None
    shape: tuple[int, ...]


def merge(found: Pretrained, loras: Sequence[Lora]) -> tuple[Pretrained, list[Merged]]:
    """A DiT whose parameters are changed by LoRAs when they are read.

    Args:
      found: of any layout.
      loras: all are added to it; a file may be given once.

    Raises:
      InputError: see `read_adapter`; a LoRA that changes nothing of this model; a file given twice.
    """
    if not loras:
        return found, []
    targets = _targets(found)
    changes: dict[str, list[Change]] = {}
    merged: list[Merged] = []
    for lora in loras:
        if any(lora.path.resolve() == one.lora.path.resolve() for one in merged):
            raise InputError(
                f"--lora {lora.path} is given twice: give it once, with the sum of its strengths."
            )
        merged.append(_merge_one(found, lora, targets, changes))
    rules = [dataclasses.replace(rule, changes=tuple(changes.get(rule.ours, ()))) for rule in found.rules]
    return dataclasses.replace(found, rules=rules), merged


def _targets(found: Pretrained) -> dict[str, _Target]:
    """Every tensor of the model by its names in all layouts, with `_` for `.` as Kohya writes them."""
    shapes = kinds.shapes("dit", found.config)
    targets: dict[str, _Target] = {}
    for layout in dit.LAYOUTS:
        for rule in dit.named_rules(found.config, layout):
            stored = stored_shapes([rule], shapes)
            for n, (name, shape) in enumerate(stored.items()):
                targets[_flat(name)] = _Target(rule, n if rule.pieces else None, shape)
    return targets


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _merge_one(
    found: Pretrained, lora: Lora, targets: dict[str, _Target], changes: dict[str, list[Change]]
) -> Merged:
    """Appends the changes of one LoRA, by our names."""
    fitting, left_out = 0, []
    for module, layer in read_adapter(lora.path).items():
        fits, wrong = False, []
        for name, part in _parts(module, layer):
            target = targets.get(_flat(name)) or targets.get(_flat(name.removesuffix(".weight")))
            change = target and part.change(target, lora.strength)
            if target is None:
                wrong = [_text(module)]
            elif change is None:
                wrong = [f"{_text(module)} ({_text(part.shape)} instead of {_text(target.shape)})"]
            else:
                fits = True
                changes.setdefault(target.rule.ours, []).append(change)
        fitting += fits
        left_out += wrong if fits or wrong else [_text(module)]
    if not fitting:
        raise InputError(
            f"--lora {lora.path} fits no layer of {found.title}: {', '.join(left_out[:SHOWN])}, .. "
            "It was made for another model: give one for this."
        )
    return Merged(lora, fitting, tuple(left_out))


def _text(found: Any) -> str:
    """A name or a shape found in a file."""
    return shown(found)[1:-1] if isinstance(found, str) else " x ".join(map(str, found))


@dataclasses.dataclass(frozen=True, eq=False)
class _Pair:
    """The matrices of a LoRA for one kernel."""

    down: np.ndarray
    up: np.ndarray
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.up), *self.down.shape[1:])

    def change(self, target: _Target, strength: float) -> Change | None:
        """What it adds to the target; None: it is of another shape."""
        rank, wanted = len(self.down), target.shape
        flat = (len(self.up), self.down.size // rank)
        kernel = target.rule.ours.endswith("kernel")
        if not kernel or flat != (wanted[0], math.prod(wanted[1:])) or self.up.size != wanted[0] * rank:
            return None
        # Rows of down are like filters of the layer, and are converted as these are.
        down = target.rule.form.to_ours(self.down.reshape(rank, *wanted[1:]))
        return LowRank(target.layer, down, self.up.reshape(-1, rank).T, strength * self.scale)


@dataclasses.dataclass(frozen=True, eq=False)
class _Whole:
    """The difference of a whole tensor."""

    values: np.ndarray
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def change(self, target: _Target, strength: float) -> Change | None:
        """What it adds to the target; None: it is of another shape."""
        if [n for n in self.shape if n != 1] != [n for n in target.shape if n != 1]:
            return None
        values = target.rule.form.to_ours(self.values.reshape(target.shape))
        return Difference(target.layer, values, strength * self.scale)


def _parts(module: str, layer: Layer) -> list[tuple[str, _Pair | _Whole]]:
    """What a file has for a module, with the names of the tensors that it changes."""
    parts: list[tuple[str, _Pair | _Whole]] = []
    if layer.down is not None and layer.up is not None:
        parts.append((f"{module}.weight", _Pair(layer.down, layer.up, layer.scale)))
    if layer.weight is not None:
        parts.append((f"{module}.weight", _Whole(layer.weight)))
    if layer.bias is not None:
        parts.append((f"{module}.bias", _Whole(layer.bias, layer.bias_scale)))
    if layer.modulation is not None:
        parts.append((f"{module}.modulation", _Whole(layer.modulation)))
    return parts
