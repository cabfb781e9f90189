"""Mixtures: several data sets, each with its share of the examples. See docs/mixtures.md.

Which data set an example is of follows from its place in the global order and the weights alone. Each data
set is shuffled and repeated by itself: its n-th example in the mixture is the n-th of its own order.
"""

from __future__ import annotations

import functools
import math
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import grain
import numpy as np
from ml_collections import ConfigDict

from input_pipeline.config import PartConfig
from stp_jax.errors import InputError
from stp_jax.user_input import unknown

DENOMINATOR = 1000  # of weights as fractions, at most
BLOCK = 64  # examples whose places are mixed, see `Pattern`
_FIELDS = tuple(PartConfig.__dataclass_fields__)


class Pattern:
    """Which part each place in the order of a mixture belongs to.

    It repeats after `period` places, the fewest in which all shares are whole numbers: `shares`. Within a
    period the parts alternate as evenly as their shares allow. The places of each block of 64 are then
    shuffled, always in the same way: otherwise each of a few worker processes, which take turns, could have
    the examples of one part alone, and one of them all the long videos.

    Args:
      weights: of the parts, all above 0. They are taken as the nearest fractions with denominators up to
        `DENOMINATOR`.
    """

    def __init__(self, weights: Sequence[float]):
        fractions = [Fraction(weight).limit_denominator(DENOMINATOR) for weight in weights]
        common = math.lcm(*(fraction.denominator for fraction in fractions))
        shares = [int(fraction * common) for fraction in fractions]
        divisor = math.gcd(*shares)
        self.shares = [share // divisor for share in shares]
        self.period = sum(self.shares)

    def __call__(self, index: int) -> tuple[int, int]:
        """The part of place `index`, and the number of places before it that are of this part."""
        period, place = divmod(index, self.period)
        block, place = divmod(place, BLOCK)
        start = block * BLOCK
        place = start + int(_shuffled(period, block, min(BLOCK, self.period - start))[place])
        before, after = self._counts(place), self._counts(place + 1)
        part = next(i for i, (less, more) in enumerate(zip(before, after, strict=True)) if less < more)
        return part, period * self.shares[part] + before[part]

    def _counts(self, places: int) -> list[int]:
        """How many of the first places of an unshuffled period are of each part.

        The first part has its share of the places, rounded up; the others share the rest in the same way.
        """
        counts, rest, weight = [], places, self.period
        for share in self.shares:
            others = rest * (weight - share) // weight
            counts.append(rest - others)
            rest, weight = others, weight - share
        return counts

    def epoch(self, examples: Sequence[int]) -> int:
        """Places of an epoch: the fewest whole periods in which no part has an example left that was not
        used, if an epoch of each part by itself has these `examples`."""
        return self.period * max(-(-n // share) for n, share in zip(examples, self.shares, strict=True))


@functools.lru_cache(maxsize=64)
def _shuffled(period: int, block: int, size: int) -> np.ndarray:
    return np.random.default_rng([period, block]).permutation(size)


class Mixed(grain.MapDataset):
    """The examples of several data sets in one order.

    Args:
      parents: endless data sets, in the order of the pattern's weights.
      pattern: which of them each place belongs to.
      length: number of places; None: no end.
      numbered: whether examples come with the number of their data set: (number, example).
    """

    def __init__(
        self,
        parents: Sequence[grain.MapDataset],
        pattern: Pattern,
        length: int | None,
        numbered: bool = False,
    ):
        super().__init__(parents)
        self._pattern, self._numbered = pattern, numbered
        self._length = sys.maxsize if length is None else length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        part, place = self._pattern(index)
        example = self._parents[part][place]
        return (part, example) if self._numbered else example

    def __str__(self) -> str:
        return f"Mixed({self._pattern.shares})"


def parts_of(config: ConfigDict) -> dict[str, ConfigDict]:
    """The data sets of a mixture by name, in the order of their names: each with the fields of `config`, its
    own instead where it has them, `weight` and `split`. Those of weight 0 are left out.

    Raises:
      InputError: a part has no such field, a name or weight is none, all weights are 0, or a part reads
        latents and another videos.
    """
    parts = {}
    for name in sorted(config.mixture):
        own = _checked(name, config.mixture[name])
        part = config.copy_and_resolve_references()
        part.unlock()
        part.mixture = {}
        part.weight, part.split = 1.0, ""
        try:
            part.update(own)
        except (TypeError, ValueError) as error:  # a field of another type
            raise InputError(f"data.mixture.{name}: {error}") from None
        if part.weight > 0:
            parts[name] = part
    if not parts:
        raise InputError("data.mixture: give a weight above 0 to one of its data sets at least")
    if len({part.kind == "latents" for part in parts.values()}) > 1:
        kinds = ", ".join(f"{name} {part.kind!r}" for name, part in parts.items())
        raise InputError(f"data.mixture: of latents alone or of videos alone; there are {kinds}")
    return parts


def _checked(name: str, part: Any) -> ConfigDict:
    """The fields of a part."""
    where = f"data.mixture.{name}"
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name) or hasattr(ConfigDict, name):
        raise InputError(f"data.mixture: {name!r} cannot be the name of a data set in a config")
    if not isinstance(part, Mapping | ConfigDict):
        raise InputError(f"{where}: must have the fields of a data set, such as weight, kind and path")
    for field in part:
        if field not in _FIELDS:
            raise unknown(f"field of {where}", field, _FIELDS)
    weight = part.get("weight", 1.0)
    if not isinstance(weight, int | float) or not (weight == 0 or 0.5 / DENOMINATOR < weight < 1e9):
        raise InputError(
            f"{where}.weight = {weight!r}: must be 0, or from {1 / DENOMINATOR:g} to 1e9; only the "
            "proportions of the weights count"
        )
    return ConfigDict(part).copy_and_resolve_references()


def pattern_of(parts: Mapping[str, ConfigDict]) -> Pattern:
    """The pattern of a mixture's parts."""
    return Pattern([part.weight for part in parts.values()])


def seed_of(name: str, seed: int) -> int:
    """The seed of a part's own order and pairs, so that those of one data set differ under two names."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0]) >> 1


def reads_latents(config: ConfigDict) -> bool:
    """Whether the batches of `config` are of latents alone."""
    kinds = [part.kind for part in parts_of(config).values()] if config.get("mixture") else [config.kind]
    return kinds == ["latents"] * len(kinds)


def refer(config: ConfigDict) -> None:
    """Lets fields that the parts of a mixture do not have refer to those of `config`, so that they can be
    set by flags: `--config.data.mixture.NAME.FIELD`.

    Raises:
      InputError: a part has no such field.
    """

    def follow(section: ConfigDict, field: str) -> Any:
        """A reference of its own: if it is set, the field that it followed stays what it is."""
        return section.get_ref(field).identity()

    for name in list(config.mixture):
        part = _checked(name, config.mixture[name])
        values: dict[str, Any] = {}
        for field, definition in PartConfig.__dataclass_fields__.items():
            if field == "modes":
                modes = part.get(field, {})
                values[field] = {mode: modes.get(mode, follow(config.modes, mode)) for mode in config.modes}
            elif field in part:  # a field takes values of the type of its first one
                values[field] = float(part[field]) if definition.type == "float" else part[field]
            else:
                own = field in ("path", "weight", "split")
                values[field] = definition.default if own else follow(config, field)
        config.mixture[name] = values
