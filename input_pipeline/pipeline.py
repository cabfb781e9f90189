"""Batches of training examples from a data set or a latent cache, with Grain.

An example is a source and a target clip of one scene (`pairs.make_relative`):

    source_video, target_video                      uint8 [F, H, W, 3]; or instead of either
    source_latents, target_latents                  float16 [F', H', W', C]
    source_c2w, target_c2w                          float32 [F, 4, 4], relative to the source's first camera
    source_intrinsics, target_intrinsics            [F, 4]
    source_animation_time, target_animation_time    [F]
    source_depth, target_depth                      float16 [F, h, w], see `datasets.form`: with data.depth

With `config.captions` an example has the embedding of a caption, too:

    text                                            float16 [T, D], zeros behind its end
    has_caption                                     bool; false: none, or it was dropped

A batch has a leading axis [B]. All examples of some batches may have a memory, too. These are latent frames
of an earlier stretch of the camera path and of the curve of animation time that the target continues:
memory_latents float16 [K, H', W', C], and of their pixel frames memory_c2w [4K, 4, 4], memory_intrinsics
[4K, 4], memory_animation_time [4K].

Each example depends only on the seed and on its place in the global order, so any number of hosts, workers
and threads gives the same batches: each host reads its part of every batch (`HostShare`).
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Sequence
from typing import Any

import grain
from absl import flags
from ml_collections import ConfigDict

from input_pipeline import latent_batches, mixture, video_examples
from input_pipeline.caption_embeddings import CaptionEmbeddings, with_text
from input_pipeline.datasets.reading import check_name, open_records
from input_pipeline.host_share import HostShare
from input_pipeline.latents import LatentCache
from input_pipeline.pairs import MODES, RULES
from input_pipeline.remote import within
from stp_jax.errors import InputError


def make_dataset(
    config: ConfigDict,
    *,
    split: str,
    seed: int,
    batch_size: int,
    rows: Sequence[int] | None = None,
    num_workers: int = 0,
    read_threads: int | None = None,
    epochs: int | None = None,
    first_example: int = 0,
) -> grain.IterDataset:
    """Batches of shuffled training examples of a split, endless unless `epochs` is given.

    With `kind = "latents"` an epoch has each clip once as the target (without `warp` each forward one);
    otherwise each scene `pairs_per_scene` times. That of a mixture is as long as `mixture.Pattern.epoch`
    says: the data sets are shuffled and repeated by themselves, and each is seen at least once.

    Args:
      config: as `default_config`.
      split: name of the split, "train" or "test".
      seed: the order, the pairs and the augmentation follow from it.
      batch_size: examples in a batch of all hosts. Only the last batch of limited `epochs` may be smaller.
      rows: those of every batch that this host reads, ascending; all by default.
      num_workers: worker processes; 0 reads with threads only.
      read_threads: threads per process; by default one per CPU in all.
      epochs: number of epochs, or None for no end.
      first_example: where in the order of all hosts' examples to begin, the number that a run has seen
        already; the number of hosts and workers does not matter.

    Raises:
      InputError: the data set is missing, empty, or of another kind, or a setting does not fit it.
    """
    check_config(config)
    share = functools.partial(HostShare, batch_size=batch_size, rows=rows, first=first_example)
    with_memory = functools.partial(latent_batches.has_memory, config, seed, first_example, batch_size)
    batch_size = batch_size if rows is None else len(rows)
    latents = mixture.reads_latents(config)
    if latents:
        dataset = latent_batches.make_batches(config, split, seed, batch_size, share, with_memory, epochs)
    elif config.mixture:
        dataset = share(_mixed_examples(config, split, seed, epochs))
    else:
        dataset = share(video_examples.make_examples(config, split, seed, epochs, num_workers or 1))
    threads = read_threads or _default_threads(num_workers)
    iter_dataset = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if num_workers:
        options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
        iter_dataset = in_processes(iter_dataset, options)
    if not latents:
        # Batched last: workers take turns by example, and with them the scenes that each has to decode.
        iter_dataset = iter_dataset.batch(batch_size)
    if config.captions:  # last: embeddings are large, and worker processes send the rows of them alone
        embeddings = CaptionEmbeddings.open(config.captions)
        iter_dataset = iter_dataset.map(functools.partial(with_text, embeddings))
    return iter_dataset


def _mixed_examples(config: ConfigDict, split: str, seed: int, epochs: int | None) -> mixture.Mixed:
    """The examples of a mixture of videos, in order."""
    parts = mixture.parts_of(config)
    return mixture.Mixed(
        [
            video_examples.make_examples(part, part.split or split, mixture.seed_of(name, seed), None)
            for name, part in parts.items()
        ],
        mixture.pattern_of(parts),
        None if epochs is None else epochs * count_examples(config, split),
    )


def count_examples(config: ConfigDict, split: str) -> int:
    """The number of examples in an epoch of `make_dataset`.

    Raises:
      InputError: the data set is missing, empty, or of another kind.
    """
    if config.mixture:
        counts = count_by_part(config, split)
        return mixture.pattern_of(mixture.parts_of(config)).epoch(list(counts.values()))
    if config.kind == "latents":
        cache = LatentCache.open(within(config.path, split))
        return len(latent_batches.target_rows(config, cache))
    return count_scenes(config, split) * config.pairs_per_scene


def count_by_part(config: ConfigDict, split: str) -> dict[str, int]:
    """The number of examples in an epoch of each data set of a mixture, by name; without a mixture none."""
    parts = mixture.parts_of(config) if config.get("mixture") else {}
    return {name: count_examples(part, part.split or split) for name, part in parts.items()}


def check_captions(config: ConfigDict, split: str) -> None:
    """Raises `InputError` where `config.captions` has no effect: no scene has a caption.

    Data sets whose captions are not all embedded, which `make_dataset` refuses, may have some.
    """
    if not config.get("captions"):
        return
    embeddings = CaptionEmbeddings.open(config.captions)
    parts = mixture.parts_of(config).values() if config.mixture else [config]
    for part in parts:
        place = part.get("split") or split
        if part.kind == "latents":
            without = not any(LatentCache.open(within(part.path, place)).captions)
        else:
            records = open_records(part.path, part.kind, place)
            without = not records.may_have_captions or embeddings.lacks_captions(records.identity)
        if not without:
            return
    paths = ", ".join(str(part.path) for part in parts)
    raise InputError(
        f"data.captions = {config.captions}: no scene of {paths} has a caption; leave out "
        "data.captions and data.caption_dropout, or build the data set with captions"
    )


def make_clips(
    config: ConfigDict,
    *,
    split: str,
    seed: int,
    clips: int,
    clips_per_path: int,
    windows: int = 1,
    rows: list[int] | None = None,
    num_workers: int = 0,
    read_threads: int | None = None,
) -> grain.IterDataset:
    """The clips to encode into a latent cache, one element per row of the cache, in order.

    An element has row (int), captions (texts), and video uint8 [K, F, H, W, 3], c2w [K, F, 4, 4], intrinsics
    [K, F, 4] and animation_time [K, F] of `pairs.random_clips`, K = `clips`. Row r shows scene r modulo the
    number of scenes (`count_scenes`), with clips and augmentation that depend on (seed, r) alone: rows
    beyond the number of scenes are further passes over them.

    Args:
      rows: the rows wanted, all scenes once by default; to finish a cache, its `missing()`.
      num_workers: worker processes; 0 reads with threads only.
      read_threads: threads per process; by default one of each worker, else one per CPU.
    """
    check_config(config)
    if config.mixture:
        raise InputError("data.mixture: the data sets of a mixture are encoded one by one")
    threads = read_threads or (1 if num_workers else _default_threads(0))
    scenes = video_examples.open_scenes(config, split, scenes=0, at_once=threads, again=clips > 1)
    if rows is None:
        rows = list(range(len(scenes)))
    frozen = config.copy_and_resolve_references()
    draw = functools.partial(video_examples.draw_clips, scenes, frozen, seed, clips, clips_per_path, windows)
    dataset = (
        grain.MapDataset.source(rows)
        .map(draw)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    )
    if num_workers:
        dataset = in_processes(dataset, grain.MultiprocessingOptions(num_workers=num_workers))
    return dataset


def in_processes(dataset: grain.IterDataset, options: grain.MultiprocessingOptions) -> grain.IterDataset:
    """The data set, read by worker processes."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads flags of its own, which our commands do not have
    return _StartedTogether(dataset.mp_prefetch(options, worker_init_fn=ignore_signals))


class _StartedTogether(grain.IterDataset):
    """Data of worker processes, which all start at the first element.

    Where the state of their iterator was read or set before, as a prefetching thread does, Grain starts each
    process when it needs its first element: 20 of them took 95 s on a loaded machine.
    """

    def __iter__(self) -> grain.DatasetIterator:
        return _StartedTogetherIterator(iter(self._parent))


class _StartedTogetherIterator(grain.DatasetIterator):
    def __next__(self) -> Any:
        self._parent.start_prefetch()  # does nothing for processes that run
        return next(self._parent)

    def get_state(self) -> dict[str, Any]:
        return self._parent.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(state)


def ignore_signals(index: int, count: int) -> None:
    """Ignores signals in a worker: a terminal or scheduler sends them to all, the training process acts."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def count_scenes(config: ConfigDict, split: str) -> int:
    """The number of scenes in a split of a data set of videos."""
    return len(open_records(config.path, config.kind, split))


def check_config(config: ConfigDict) -> None:
    """Raises `InputError` where a setting makes no sense by itself."""
    if config.mixture:
        for field in ("path", "source_latents"):
            if config[field]:
                raise InputError(f"data.{field} = {config[field]!r}: not with data.mixture")
        for name, part in mixture.parts_of(config).items():
            _check_set(part, f"data.mixture.{name}")
    else:
        _check_set(config, "data")
    if config.source_latents and config.rules != "grid":
        raise InputError(f"data.rules = {config.rules!r}: not with data.source_latents")
    latent_batches.check_memory(config)
    if not 0 <= config.caption_dropout <= 1:
        raise InputError(f"data.caption_dropout = {config.caption_dropout}: give 0 to 1")
    if config.caption_dropout and not config.captions:
        raise InputError(f"data.caption_dropout = {config.caption_dropout}: it needs data.captions")
    if not config.depth >= 0:
        raise InputError(f"data.depth = {config.depth}: must be 0 or more")
    if config.frames < 1:
        raise InputError(f"data.frames = {config.frames}: must be at least 1")


def _check_set(config: ConfigDict, where: str) -> None:
    """`check_config` of the fields of one data set, which errors name as fields of `where`."""
    check_name(config.kind)
    if not config.path:
        raise InputError(f"{where}.path: give the folder of the data set")
    if set(config.modes) != set(MODES) or min(config.modes.values()) < 0 or sum(config.modes.values()) <= 0:
        raise InputError(f"{where}.modes: give a weight of 0 or more for each of {', '.join(MODES)}")
    if config.rules not in RULES:
        raise InputError(f"{where}.rules = {config.rules!r}: must be one of {', '.join(RULES)}")
    for name, least in (
        ("pairs_per_scene", 1),
        ("scenes_at_once", 1),
        ("static_reach", 0),
        ("fps", 0),
        ("cached_gb", 0),
    ):
        if not config[name] >= least:
            raise InputError(f"{where}.{name} = {config[name]}: must be at least {least}")
    if not 0 < config.camera_extent < 1e9:
        raise InputError(f"{where}.camera_extent = {config.camera_extent}: give metres, above 0")


def _default_threads(num_workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // max(1, num_workers))
