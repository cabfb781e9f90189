"""Batches from a latent cache; a share of them has a memory, latent frames of earlier output."""

from __future__ import annotations

import functools
from typing import NamedTuple

import grain
import numpy as np
from ml_collections import ConfigDict

from input_pipeline import mixture
from input_pipeline.config import FIT_FIELDS
from input_pipeline.latents import LatentCache
from input_pipeline.remote import within
from stp_jax.errors import InputError


class _Source(NamedTuple):
    """A latent cache to draw examples from."""

    cache: LatentCache
    long: LatentCache | None  # that of examples with a memory
    targets: np.ndarray  # rows of the clips that may be targets
    choose: functools.partial  # (index of a target, rng) -> the rows of an example

    def rows(self, seed: int, epochs: int | None) -> grain.MapDataset:
        """The rows of the examples in the order of `seed`."""
        targets = grain.MapDataset.range(len(self.targets))
        return targets.seed(seed).shuffle().repeat(epochs).random_map(self.choose)


def make_batches(config, split, seed, batch_size, share, with_memory, epochs):
    """Batches of the latent cache `config.path`, or of a mixture of such; see `pipeline.make_dataset`.

    Args:
      share: gives this host's share of a data set, see `HostShare`.
      with_memory: whether a batch of this index has a memory.
    """
    if config.mixture:
        rows, gather = _mixed(config, split, seed, with_memory, epochs)
    else:
        source = _open(config, split)
        rows = source.rows(seed, epochs)
        gather = functools.partial(_gather, source.cache, source.long, with_memory)
    # Only row numbers are batched one by one; the arrays are gathered for a whole batch in one copy.
    # An endless stream has no remainder.
    batches = share(rows).batch(batch_size, drop_remainder=epochs is None)
    return batches.map_with_index(gather)


def _open(config: ConfigDict, split: str) -> _Source:
    """The latent cache of a config without a mixture; raises `InputError` where it does not fit."""
    if config.flip or config.permute_channels:
        raise InputError(
            "data.flip, data.permute_channels: latents cannot be changed; set them when encoding"
        )
    cache = LatentCache.open(within(config.path, split))
    if cache.frames != config.frames:
        raise InputError(
            f"latent cache {cache.path}: clips of {cache.frames} frames, but data.frames = {config.frames}"
        )
    rules = cache.meta.get("rules", "grid")  # older caches know no other
    if rules != config.rules and (config.warp or "static" in (rules, config.rules)):
        raise InputError(
            f"latent cache {cache.path}: encoded by the rules {rules!r}, but data.rules = {config.rules!r}"
        )
    for name, default in FIT_FIELDS.items():
        if config[name] not in (default, encoded := cache.meta.get(name, default)):
            raise InputError(
                f"latent cache {cache.path}: encoded with {name} = {encoded}, but data.{name} = "
                f"{config[name]}"
            )
    if cache.one_path and not config.warp:
        raise InputError(f"latent cache {cache.path}: of scenes of one camera; set data.warp to True")
    targets = target_rows(config, cache)
    other = config.modes.time_only + config.modes.both
    choose = functools.partial(
        _choose_rows,
        cache,
        same_path=config.modes.time_only / other if other else 0.0,
        source_warp=config.source_warp if config.warp else 0.0,
        targets=targets,
    )
    long = _memory_cache(config, split, cache) if config.memory_frames else None
    if long is not None:
        choose = functools.partial(_choose_both, choose, long, config.memory_frames)
    return _Source(cache, long, targets, choose)


def _mixed(config, split, seed, with_memory, epochs):
    """The rows of a mixture's examples, (number of the cache, rows), and what gathers a batch of them."""
    if config.memory_frames and not config.memory_path:
        raise InputError("data.memory_path: give the latent cache of the examples with a memory")
    parts = mixture.parts_of(config)
    sources = {name: _open(part, part.split or split) for name, part in parts.items()}
    first, *others = (source.cache for source in sources.values())
    for cache in others:
        if cache.latent_shape != first.latent_shape or cache.meta.get("vae") != first.meta.get("vae"):
            raise InputError(
                f"latent cache {cache.path}: clips of another size or VAE than {first.path}; the data sets "
                "of a mixture are encoded alike"
            )
    pattern = mixture.pattern_of(parts)
    examples = pattern.epoch([len(source.targets) for source in sources.values()])
    rows = mixture.Mixed(
        [source.rows(mixture.seed_of(name, seed), None) for name, source in sources.items()],
        pattern,
        None if epochs is None else epochs * examples,
        numbered=True,
    )
    caches = [source.cache for source in sources.values()]
    long = next(iter(sources.values())).long
    return rows, functools.partial(_gather_mixed, caches, long, with_memory)


def target_rows(config: ConfigDict, cache: LatentCache) -> np.ndarray:
    """The rows of the cache's N * K clips that may be targets: all, or those that run forward in time."""
    rows = np.arange(cache.scenes * cache.clips)
    return rows if config.warp else rows[rows % cache.clips % cache.clips_per_path < cache.windows]


def _choose_rows(
    cache: LatentCache, index: int, rng: np.random.Generator, *, targets: np.ndarray, **options
) -> np.ndarray:
    target = int(targets[index])
    return np.array([target, cache.choose_source(target, rng, **options)])


def _gather(cache: LatentCache, long: LatentCache | None, with_memory, index: int, rows: np.ndarray):
    if long is not None and with_memory(index):
        return long.pairs_at(rows[:, 2], rows[:, 3], rows[:, 4:])
    return cache.pairs_at(rows[:, 0], rows[:, 1])


def _gather_mixed(caches: list[LatentCache], long: LatentCache | None, with_memory, index: int, numbered):
    numbers, rows = numbered
    if long is not None and with_memory(index):
        return long.pairs_at(rows[:, 2], rows[:, 3], rows[:, 4:])
    batch: dict[str, np.ndarray] = {}
    for number in np.unique(numbers):
        own = numbers == number
        for name, array in caches[number].pairs_at(rows[own, 0], rows[own, 1]).items():
            batch.setdefault(name, np.empty((len(rows), *array.shape[1:]), array.dtype))[own] = array
    return batch


def _memory_cache(config: ConfigDict, split: str, cache: LatentCache) -> LatentCache:
    """The cache of long paths that batches with a memory come from; `cache` is that of the others.

    Raises:
      InputError: its clips are of another form, or have no room for such a memory.
    """
    long = LatentCache.open(within(config.memory_path, split)) if config.memory_path else cache
    if long.windows == 1:
        raise InputError(
            f"latent cache {long.path}: its clips do not continue each other, as data.memory_frames needs; "
            "encode scenes of more frames with python -m stp_jax.encode_dataset --windows 2"
        )
    if long.meta.get("rules", "grid") != config.rules:
        raise InputError(f"latent cache {long.path}: not encoded by the rules {config.rules!r} of data.rules")
    if long.latent_shape != cache.latent_shape or long.meta.get("vae") != cache.meta.get("vae"):
        raise InputError(f"latent cache {long.path}: clips of another size or VAE than {cache.path}")
    if not config.memory_frames < long.latent_shape[0] or long.frames != 4 * long.latent_shape[0] - 3:
        raise InputError(
            f"data.memory_frames = {config.memory_frames}: a clip of latent cache {long.path} has "
            f"{long.latent_shape[0] - 1} latent frames of four pictures for a memory"
        )
    return long


def check_memory(config: ConfigDict) -> None:
    """Raises `InputError` where a setting of a memory makes no sense by itself."""
    if config.memory_frames and not mixture.reads_latents(config):
        raise InputError("data.memory_frames: a memory comes from a latent cache, data.kind = 'latents'")
    if config.memory_frames and not config.warp:
        raise InputError("data.memory_frames: not with data.warp = False")
    if config.memory_frames < 0 or not 0 <= config.memory_share <= 1:
        raise InputError("data.memory_frames: give 0 or more; data.memory_share: give 0 to 1")


def has_memory(share: float, seed: int, first: int, batch_size: int, index: int) -> bool:
    """Whether batch `index` of a run that begins with example `first` has a memory.

    It follows from the place of the batch in the global order, so all hosts agree, also after a restart.
    """
    return np.random.default_rng([seed, first + index * batch_size]).random() < share


def _choose_both(
    choose: functools.partial, long: LatentCache, count: int, target: int, rng: np.random.Generator
) -> np.ndarray:
    """Rows of an example without a memory, then of one with a memory, as the batch may need either."""
    plain = choose(target, rng)
    target, frames = long.choose_memory(count, rng)
    options = {name: choose.keywords[name] for name in ("same_path", "source_warp")}
    source = long.choose_source(target, rng, **options)
    return np.concatenate([plain, [target, source], frames])
