"""Batches from a latent cache; a share of them has a memory, latent frames of earlier output."""

from __future__ import annotations

import functools
from typing import NamedTuple

import grain
import numpy as np
from ml_collections import ConfigDict

from input_pipeline import mixture
from input_pipeline.caption_embeddings import COMMAND, CaptionEmbeddings, Draw
from input_pipeline.config import FIT_FIELDS
from input_pipeline.latent_choice import choose_memory, choose_source, choose_window
from input_pipeline.latents import LatentCache
from input_pipeline.memory_outputs import MemoryOutputs
from input_pipeline.remote import within
from stp_jax.errors import InputError


class _Long(NamedTuple):
    """The latent cache of examples with a memory, and a model's own output for its clips, if it is given."""

    cache: LatentCache
    outputs: MemoryOutputs | None


class _Source(NamedTuple):
    """A latent cache to draw examples from."""

    cache: LatentCache
    long: _Long | None
    targets: np.ndarray  # rows of the clips that may be targets
    # (index of a target, rng) -> the rows of an example; before them, with captions, that of its caption, and
    # where there is a memory that of the caption of the example with a memory
    choose: functools.partial

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
        gather = functools.partial(_gather, source.cache, source.long, with_memory, bool(config.captions))
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
    cache = LatentCache.open(within(config.path, split), depth=config.depth > 0)
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
    choose = functools.partial(
        _choose_rows,
        cache,
        same_path=same_path(config.modes),
        source_warp=config.source_warp if config.warp else 0.0,
        targets=targets,
    )
    long = _open_long(config, split, cache) if config.memory_frames else None
    if long is not None:
        share = config.memory_output_share
        choose = functools.partial(_choose_both, choose, long, config.memory_frames, share)
    if config.captions:
        caches = (cache,) if long is None else (cache, long.cache)
        embeddings = CaptionEmbeddings.open(config.captions)
        captions = [_caption_rows(one, embeddings) for one in caches]
        draw = Draw(embeddings, config.caption_dropout)
        choose = functools.partial(_choose_captions, choose, draw, captions, [one.clips for one in caches])
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
    return rows, functools.partial(_gather_mixed, caches, long, with_memory, bool(config.captions))


def remarks(config: ConfigDict, split: str) -> list[str]:
    """What a user should know of the latent caches of `config`."""
    parts = mixture.parts_of(config).values() if config.get("mixture") else [config]
    paths = [within(part.path, part.get("split") or split) for part in parts if part.kind == "latents"]
    return [
        f"Latent cache {path} is of an earlier version, without checksums: damage may go unnoticed."
        for path in paths
        if not LatentCache.open(path).has_checksums
    ]


def target_rows(config: ConfigDict, cache: LatentCache) -> np.ndarray:
    """The rows of the cache's N * K clips that may be targets: all, or those that run forward in time."""
    rows = np.arange(cache.scenes * cache.clips)
    return rows if config.warp else rows[rows % cache.clips % cache.clips_per_path < cache.windows]


def same_path(modes: ConfigDict) -> float:
    """The share of warped targets whose source is on their own camera path."""
    other = modes.time_only + modes.both
    return modes.time_only / other if other else 0.0


def _choose_rows(
    cache: LatentCache, index: int, rng: np.random.Generator, *, targets: np.ndarray, **options
) -> np.ndarray:
    target = int(targets[index])
    return np.array([target, choose_source(cache, target, rng, **options)])


def _gather(cache: LatentCache, long: _Long | None, with_memory, captions, index: int, rows: np.ndarray):
    numbers = np.zeros(len(rows), int)
    return _gather_mixed([cache], long, with_memory, captions, index, (numbers, rows))


def _gather_mixed(
    caches: list[LatentCache], long: _Long | None, with_memory, captions: bool, index: int, numbered
):
    numbers, rows = numbered
    of_caption = captions * (1 if long is None else 2)
    picked, rows = rows[:, :of_caption].astype(np.int32), rows[:, of_caption:]
    if long is not None and with_memory(index):
        batch = _with_memory(long, rows[:, 2:])
        return batch | {"caption": picked[:, 1]} if captions else batch
    parts = np.unique(numbers)
    if len(parts) == 1:
        batch = caches[parts[0]].pairs_at(rows[:, 0], rows[:, 1])
    else:
        batch = {}
        for number in parts:
            own = numbers == number
            for name, array in caches[number].pairs_at(rows[own, 0], rows[own, 1]).items():
                batch.setdefault(name, np.empty((len(rows), *array.shape[1:]), array.dtype))[own] = array
    return batch | {"caption": picked[:, 0]} if captions else batch


def _with_memory(long: _Long, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Examples with a memory, for the rows that `_choose_both` draws."""
    if long.outputs is None:
        return long.cache.pairs_at(rows[:, 0], rows[:, 1], rows[:, 2:])
    memory, own = rows[:, 2:-1], rows[:, -1] == 1
    batch = long.cache.pairs_at(rows[:, 0], rows[:, 1], memory)
    batch["memory_latents"][own] = long.outputs.latents_at(memory[own])
    return batch


def _caption_rows(cache: LatentCache, embeddings: CaptionEmbeddings) -> list[np.ndarray]:
    """The rows of each scene's captions. Raises `InputError` where one is not embedded."""
    missing = {text for texts in cache.captions for text in texts if text not in embeddings}
    if missing:
        raise InputError(
            f"captions {embeddings.path}: {len(missing)} captions of latent cache {cache.path} are not "
            f"embedded, such as {min(missing)[:40]!r}; add them with {COMMAND} --data {cache.path} --out "
            f"{embeddings.path}"
        )
    return [np.array([embeddings.row(text) for text in texts], np.int32) for texts in cache.captions]


def _choose_captions(
    choose: functools.partial,
    draw: Draw,
    captions: list[list[np.ndarray]],
    clips: list[int],
    index: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """The rows that `choose` draws, after rows of captions of the scenes of their targets; these are drawn
    last, so that captions change nothing else."""
    rows = choose(index, rng)
    scenes = [int(target) // count for target, count in zip(rows[::2], clips, strict=False)]
    picked = [draw.of_rows(rng, of_all[scene]) for of_all, scene in zip(captions, scenes, strict=True)]
    return np.concatenate([picked, rows])


def _open_long(config: ConfigDict, split: str, cache: LatentCache) -> _Long:
    long = _memory_cache(config, split, cache)
    if not config.memory_outputs:
        return _Long(long, None)
    return _Long(long, MemoryOutputs.open(within(config.memory_outputs, split), long))


def _memory_cache(config: ConfigDict, split: str, cache: LatentCache) -> LatentCache:
    """The cache of long paths that batches with a memory come from; `cache` is that of the others.

    Raises:
      InputError: its clips are of another form, or have no room for such a memory.
    """
    long = cache
    if config.memory_path:
        long = LatentCache.open(within(config.memory_path, split), depth=config.depth > 0)
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
    if not 0 <= config.memory_output_share <= 1:
        raise InputError(f"data.memory_output_share = {config.memory_output_share}: give 0 to 1")
    if config.memory_outputs and not config.memory_frames:
        raise InputError(f"data.memory_outputs = {config.memory_outputs}: it needs data.memory_frames")


def has_memory(config: ConfigDict, seed: int, first: int, batch_size: int, index: int) -> bool:
    """Whether batch `index` of a run that begins with example `first` has a memory.

    It follows from the place of the batch in the global order, so all hosts agree, also after a restart.
    """
    return np.random.default_rng([seed, first + index * batch_size]).random() < config.memory_share


def _choose_both(
    choose: functools.partial,
    long: _Long,
    count: int,
    output_share: float,
    target: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Rows of an example without a memory, then of one with a memory, as the batch may need either; where
    there is a model's own output, at last whether (1 or 0) it is this example's memory."""
    plain = choose(target, rng)
    target, frames = choose_memory(long.cache, count, rng)
    options = {name: choose.keywords[name] for name in ("same_path", "source_warp")}
    source = choose_source(long.cache, target, rng, **options)
    if long.outputs is None:
        return np.concatenate([plain, [target, source], frames])
    own = rng.random() < output_share
    if own:  # what the model made up depends on what this source does not show
        source = choose_window(long.cache, target, long.outputs.source_path(target), rng)
    return np.concatenate([plain, [target, source], frames, [int(own)]])
