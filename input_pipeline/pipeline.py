"""Batches of training examples from a data set or a latent cache, with Grain.

An example is a source and a target clip of one scene (`pairs.make_relative`):

    source_video, target_video                      uint8 [F, H, W, 3]; or instead of either
    source_latents, target_latents                  float16 [F', H', W', C]
    source_c2w, target_c2w                          float32 [F, 4, 4], relative to the source's first camera
    source_intrinsics, target_intrinsics            [F, 4]
    source_animation_time, target_animation_time    [F]

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
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from input_pipeline import latent_batches
from input_pipeline.augment import augment
from input_pipeline.datasets.reading import check_name, open_records
from input_pipeline.host_share import HostShare
from input_pipeline.latents import LatentCache
from input_pipeline.pairs import (
    MODES,
    RULES,
    clip,
    make_relative,
    random_clips,
    random_pair,
    random_shots,
    random_target,
)
from input_pipeline.shots import Scene, SceneReader
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
    otherwise each scene `pairs_per_scene` times.

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
    with_memory = functools.partial(
        latent_batches.has_memory, config.memory_share, seed, first_example, batch_size
    )
    if rows is not None:
        batch_size = len(rows)
    if config.kind == "latents":
        dataset = latent_batches.make_batches(config, split, seed, batch_size, share, with_memory, epochs)
    else:
        dataset = _video_examples(config, split, seed, share, epochs)
    threads = read_threads or _default_threads(num_workers)
    iter_dataset = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if num_workers:
        options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
        iter_dataset = in_processes(iter_dataset, options)
    if config.kind != "latents":
        # Batched last: workers take turns by example, and with them the scenes that each has to decode.
        iter_dataset = iter_dataset.batch(batch_size)
    return iter_dataset


def count_examples(config: ConfigDict, split: str) -> int:
    """The number of examples in an epoch of `make_dataset`.

    Raises:
      InputError: the data set is missing, empty, or of another kind.
    """
    if config.kind == "latents":
        cache = LatentCache.open(Path(config.path) / split)
        return len(latent_batches.target_rows(config, cache))
    return count_scenes(config, split) * config.pairs_per_scene


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

    An element has row (int), video uint8 [K, F, H, W, 3], c2w [K, F, 4, 4], intrinsics [K, F, 4] and
    animation_time [K, F] of `pairs.random_clips`, K = `clips`. Row r shows scene r modulo the number of
    scenes (`count_scenes`), with clips and augmentation that depend on (seed, r) alone: rows beyond the
    number of scenes are further passes over them.

    Args:
      rows: the rows wanted, all scenes once by default; to finish a cache, its `missing()`.
      num_workers: worker processes; 0 reads with threads only.
      read_threads: threads per process; by default one of each worker, else one per CPU.
    """
    check_config(config)
    scenes = SceneReader(open_records(config.path, config.kind, split), cached_scenes=0)
    _check_scene(scenes[0], config)
    if rows is None:
        rows = list(range(len(scenes)))
    frozen = config.copy_and_resolve_references()
    draw = functools.partial(_draw_clips, scenes, frozen, seed, clips, clips_per_path, windows)
    threads = read_threads or (1 if num_workers else _default_threads(0))
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
    check_name(config.kind)
    if not config.path:
        raise InputError("data.path: give the folder of the data set")
    if set(config.modes) != set(MODES) or min(config.modes.values()) < 0 or sum(config.modes.values()) <= 0:
        raise InputError(f"data.modes: give a weight of 0 or more for each of {', '.join(MODES)}")
    if config.rules not in RULES:
        raise InputError(f"data.rules = {config.rules!r}: must be one of {', '.join(RULES)}")
    if config.rules != "grid" and config.source_latents:
        raise InputError(f"data.rules = {config.rules!r}: not with data.source_latents")
    latent_batches.check_memory(config)
    for name in ("pairs_per_scene", "scenes_at_once", "frames"):
        if config[name] < 1:
            raise InputError(f"data.{name} = {config[name]}: must be at least 1")


def _default_threads(num_workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // max(1, num_workers))


def _video_examples(config, split, seed, share, epochs):
    scenes = SceneReader(open_records(config.path, config.kind, split), config.cached_scenes)
    _check_scene(scenes[0], config)
    place = functools.partial(
        _scene_of_example, seed, len(scenes), config.pairs_per_scene, config.scenes_at_once
    )
    draw = functools.partial(_draw_pair, scenes, config.copy_and_resolve_references())
    if config.source_latents:
        draw = functools.partial(
            _draw_target,
            scenes,
            _source_cache(config, split, len(scenes)),
            config.copy_and_resolve_references(),
        )
    return share(
        grain.MapDataset.range(len(scenes) * config.pairs_per_scene)
        .seed(seed)
        .repeat(epochs)
        .map_with_index(place)
        .random_map(draw)
    )


@functools.lru_cache(maxsize=4)
def _order_of_scenes(seed: int, epoch: int, scenes: int) -> np.ndarray:
    # Not Grain's shuffle: that takes milliseconds for each index when there are only a few.
    return np.random.default_rng([seed, epoch]).permutation(scenes)


def _scene_of_example(seed: int, scenes: int, pairs: int, together: int, index: int, _: Any) -> int:
    """The scene of example `index`: groups of shuffled scenes take turns until each has given its pairs."""
    epoch, index = divmod(index, scenes * pairs)
    group, index = divmod(index, together * pairs)
    group_size = min(together, scenes - group * together)
    return int(_order_of_scenes(seed, epoch, scenes)[group * together + index % group_size])


def _draw_pair(scenes: SceneReader, config: ConfigDict, index: int, rng: np.random.Generator):
    scene = scenes[index]
    _check_scene(scene, config)
    source_warp = config.source_warp if config.warp else 0.0
    pair = random_pair(scene, rng, config.frames, _probabilities(config), source_warp, config.rules)
    return make_relative(*augment(rng, *pair, flip=config.flip, permute_channels=config.permute_channels))


def _probabilities(config: ConfigDict) -> list[float]:
    weights = config.modes if config.warp else dict.fromkeys(MODES, 0) | {"camera_only": 1}
    modes = np.array([weights[mode] for mode in MODES], np.float64)
    return (modes / modes.sum()).tolist()


def _source_cache(config: ConfigDict, split: str, scenes: int) -> LatentCache:
    """The cache of `config.source_latents`.

    Raises:
      InputError: its clips cannot be those of this data.
    """
    if config.flip or config.permute_channels:
        raise InputError(
            "data.flip, data.permute_channels: targets are changed as their sources' latents were"
        )
    cache = LatentCache.open(Path(config.source_latents) / split)
    if cache.meta.get("rules", "grid") != "grid" or cache.windows > 1:
        raise InputError(
            f"latent cache {cache.path}: data.source_latents must be encoded by the rules 'grid', --windows 1"
        )
    if "seed" not in cache.meta:
        raise InputError(
            f"latent cache {cache.path}: joined from others; data.source_latents takes no such one"
        )
    vae = cache.meta.get("vae")
    stages = vae.get("temporal_downsample") if isinstance(vae, dict) else None
    if not isinstance(stages, list) or not {"flip", "permute_channels"} <= cache.meta.keys():
        raise InputError(f"{cache.path / 'meta.json'}: damaged, it lacks how its clips were encoded")
    stride = 2 ** len(stages)
    height, width = (stride * cells for cells in cache.latent_size)
    if (cache.frames, height, width) != (config.frames, config.height, config.width):
        raise InputError(
            f"latent cache {cache.path}: clips of {cache.frames} frames, {width} x {height}; the config asks "
            f"for {config.frames} frames, {config.width} x {config.height}"
        )
    if cache.scenes % scenes:
        raise InputError(
            f"latent cache {cache.path}: {cache.scenes} scenes, no multiple of the {scenes} of "
            f"{config.path}; encode that data set"
        )
    return cache


def _draw_target(
    scenes: SceneReader, cache: LatentCache, config: ConfigDict, index: int, rng: np.random.Generator
):
    """A source's latents from the cache, and a target clip for it."""
    scene = scenes[index]
    _check_scene(scene, config)
    row = index + len(scenes) * int(rng.integers(cache.scenes // len(scenes)))
    # Drawn again, as `make_clips` did: the cache does not hold which cameras of the rig a clip shows.
    again = np.random.default_rng([cache.meta["seed"], row])
    first, shots = random_shots(scene, again, config.frames, cache.clips, cache.clips_per_path)
    place = cache.choose_clip(rng, source_warp=config.source_warp if config.warp else 0.0)
    camera, animation_time = shots[place]
    unseen = scene._replace(videos=scene.videos[:, :, :0])
    known, target = augment(
        again,
        clip(unseen, camera, animation_time, first),
        random_target(scene, rng, camera, first, _probabilities(config)),
        flip=cache.meta["flip"],
        permute_channels=cache.meta["permute_channels"],
    )
    source = {name: array[0] for name, array in cache.clips_at(np.array([row * cache.clips + place])).items()}
    if not all(np.allclose(source[name], known[name], atol=1e-5) for name in ("c2w", "animation_time")):
        raise InputError(
            f"latent cache {cache.path}: not of scene {scene.name} of {config.path}; encode that data set"
        )
    return make_relative(source, target)


def _draw_clips(
    scenes: SceneReader,
    config: ConfigDict,
    seed: int,
    clips: int,
    clips_per_path: int,
    windows: int,
    row: int,
):
    scene = scenes[row % len(scenes)]
    _check_scene(scene, config)
    rng = np.random.default_rng([seed, row])
    drawn = random_clips(scene, rng, config.frames, clips, clips_per_path, config.rules, windows)
    (drawn,) = augment(rng, drawn, flip=config.flip, permute_channels=config.permute_channels)
    return {"row": row} | drawn


def _check_kind(kind: str, config: ConfigDict) -> None:
    """Raises `InputError` where no pairs are drawn of scenes of this kind, see `shots.KINDS`."""
    if kind not in ("grid", "synchronised"):
        raise InputError(
            f"data set {config.path}: pairs of scenes of kind {kind!r} are not drawn yet; such a data set "
            "can be opened, but not trained on"
        )
    if config.rules == "static" and kind != "grid":
        raise InputError("data.rules = 'static': moving cameras see each time from one place only")


def _check_scene(scene: Scene, config: ConfigDict) -> None:
    _check_kind(scene.kind, config)
    height, width = scene.videos.shape[2:4]
    if (height, width) != (config.height, config.width):
        raise InputError(
            f"scene {scene.name}: videos of {width} x {height}, but data.width x data.height = "
            f"{config.width} x {config.height}; render or resize the data set to that size"
        )
    scene.check_length(config.frames)
    only_one = scene.videos.shape[0] == 1
    moving = config.modes.camera_only + config.modes.both > 0 or not config.warp or config.rules == "static"
    if only_one and moving:
        raise InputError(
            f"scene {scene.name}: one camera only; set data.modes camera_only and both to 0, data.warp to "
            "True and data.rules to another than static"
        )
