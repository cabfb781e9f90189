"""Examples and clips drawn from a data set of videos."""

from __future__ import annotations

import functools
from typing import Any

import grain
import numpy as np
from ml_collections import ConfigDict

from input_pipeline.augment import augment
from input_pipeline.caption_embeddings import COMMAND, CaptionEmbeddings, Draw
from input_pipeline.datasets.reading import open_records
from input_pipeline.fitting import Fit
from input_pipeline.latent_choice import choose_clip
from input_pipeline.latents import LatentCache
from input_pipeline.pairs import (
    MODES,
    clip,
    make_relative,
    random_clips,
    random_pair,
    random_shots,
    random_target,
    stretch,
)
from input_pipeline.remote import within
from input_pipeline.shots import Caching, Scene, SceneReader, together
from stp_jax.errors import InputError


def scene_fit(config: ConfigDict) -> Fit:
    """What the scenes of `config` are brought to."""
    return Fit((config.height, config.width), config.fps, config.camera_extent, config.depth > 0)


def open_scenes(config: ConfigDict, split: str, *, scenes: int, at_once: int, again: bool) -> SceneReader:
    """The scenes of a split, with `Caching` of up to `scenes` scenes and `config.cached_gb`.

    Raises:
      InputError: they cannot be read, or the first one does not fit.
    """
    records = open_records(config.path, config.kind, split)
    caching = Caching(scenes, config.cached_gb * 1e9, min(at_once, len(records)), again)
    reader = SceneReader(records, caching, scene_fit(config))
    scene_at(reader, 0, config)
    return reader


def scene_at(scenes: SceneReader, index: int, config: ConfigDict) -> Scene:
    """Scene `index`, checked. With `skip_short` the next one that is long enough takes its place.

    Raises:
      InputError: the scene does not fit the config, or with `skip_short` none is long enough.
    """
    scene = scenes[index]
    if config.skip_short:
        for following in range(index + 1, index + len(scenes)):
            if scene.source_frames >= config.frames:
                break
            scene = scenes[following % len(scenes)]
    check_scene(scene, config)
    return scene


def make_examples(
    config: ConfigDict, split: str, seed: int, epochs: int | None, workers: int = 1
) -> grain.MapDataset:
    """The examples of a data set in the order of `seed`, see `pipeline.make_dataset`.

    `workers` are the processes that take turns by example; it matters for what each of them keeps alone.
    """
    pairs, at_once = config.pairs_per_scene, config.scenes_at_once
    share, rest = divmod(at_once, workers)  # each process sees the same of these scenes again and again
    scenes = open_scenes(
        config, split, scenes=config.cached_scenes, at_once=at_once if rest else share, again=pairs > 1
    )
    place = functools.partial(_scene_of_example, seed, len(scenes), pairs, at_once)
    frozen, captions = config.copy_and_resolve_references(), _captions(config, split)
    draw = functools.partial(_draw_pair, scenes, frozen, captions)
    if config.source_latents:
        cache = _source_cache(config, split, len(scenes))
        draw = functools.partial(_draw_target, scenes, cache, frozen, captions)
    return (
        grain.MapDataset.range(len(scenes) * config.pairs_per_scene)
        .seed(seed)
        .repeat(epochs)
        .map_with_index(place)
        .random_map(draw)
    )


@functools.lru_cache(maxsize=32)  # a mixture has orders of several data sets
def _order_of_scenes(seed: int, epoch: int, scenes: int) -> np.ndarray:
    # Not Grain's shuffle: that takes milliseconds for each index when there are only a few.
    return np.random.default_rng([seed, epoch]).permutation(scenes)


def _scene_of_example(seed: int, scenes: int, pairs: int, together: int, index: int, _: Any) -> int:
    """The scene of example `index`: groups of shuffled scenes take turns until each has given its pairs."""
    epoch, index = divmod(index, scenes * pairs)
    group, index = divmod(index, together * pairs)
    group_size = min(together, scenes - group * together)
    return int(_order_of_scenes(seed, epoch, scenes)[group * together + index % group_size])


def _captions(config: ConfigDict, split: str) -> Draw | None:
    """What draws captions, if any are asked for.

    Raises:
      InputError: the captions of the data set are not all embedded.
    """
    if not config.captions:
        return None
    embeddings = CaptionEmbeddings.open(config.captions)
    records = open_records(config.path, config.kind, split)
    if records.may_have_captions and not embeddings.covers(records.identity):
        raise InputError(
            f"captions {config.captions}: lacks those of {config.path}, {config.kind}, {split}; add them "
            f"with {COMMAND} --data {config.path} --out {config.captions}"
        )
    return Draw(embeddings, config.caption_dropout)


def _with_caption(
    example: dict[str, np.ndarray], scene: Scene, captions: Draw | None, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The example with the row of its caption; drawn last, so that captions change nothing else."""
    if captions is None:
        return example
    return example | {"caption": np.asarray(captions(rng, scene.captions))}


def _draw_pair(
    scenes: SceneReader, config: ConfigDict, captions: Draw | None, index: int, rng: np.random.Generator
):
    scene = stretch(rng, scene_at(scenes, index, config), config.static_reach)
    source_warp = config.source_warp if config.warp else 0.0
    pair = together(
        scene,
        lambda cells: random_pair(
            cells, rng, config.frames, _probabilities(config), source_warp, config.rules
        ),
    )
    example = make_relative(*augment(rng, *pair, flip=config.flip, permute_channels=config.permute_channels))
    return _with_caption(example, scene, captions, rng)


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
    cache = LatentCache.open(within(config.source_latents, split), depth=config.depth > 0)
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
    scenes: SceneReader,
    cache: LatentCache,
    config: ConfigDict,
    captions: Draw | None,
    index: int,
    rng: np.random.Generator,
):
    """A source's latents from the cache, and a target clip for it."""
    scene = scene_at(scenes, index, config)
    row = index + len(scenes) * int(rng.integers(cache.scenes // len(scenes)))
    # Drawn again, as `make_clips` did: the cache does not hold which cameras of the rig a clip shows.
    again = np.random.default_rng([cache.meta["seed"], row])
    scene = stretch(again, scene, config.static_reach)
    first, shots = random_shots(scene, again, config.frames, cache.clips, cache.clips_per_path)
    place = choose_clip(cache, rng, source_warp=config.source_warp if config.warp else 0.0)
    camera, animation_time = shots[place]
    unseen = scene._replace(videos=np.empty((*scene.videos.shape[:2], 0, 0, 3), np.uint8))
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
    return _with_caption(make_relative(source, target), scene, captions, rng)


def draw_clips(
    scenes: SceneReader,
    config: ConfigDict,
    seed: int,
    clips: int,
    clips_per_path: int,
    windows: int,
    row: int,
) -> dict[str, Any]:
    """Row `row` of a latent cache, before it is encoded, see `pipeline.make_clips`."""
    rng = np.random.default_rng([seed, row])
    scene = stretch(rng, scene_at(scenes, row % len(scenes), config), config.static_reach)
    (drawn,) = together(
        scene,
        lambda cells: [random_clips(cells, rng, config.frames, clips, clips_per_path, config.rules, windows)],
    )
    (drawn,) = augment(rng, drawn, flip=config.flip, permute_channels=config.permute_channels)
    return {"row": row, "captions": scene.captions} | drawn


def check_scene(scene: Scene, config: ConfigDict) -> None:
    """Raises `InputError` where the config asks for what a scene does not have."""
    name, kind = f"scene {scene.name}", scene.kind
    as_filmed = kind == config.rules == "synchronised"
    if kind != "grid" and config.rules != "grid" and not as_filmed:
        raise InputError(
            f"{name}: data.rules = {config.rules!r} says how a full grid is used; this scene is of kind "
            f"{kind!r}, which has rules of its own: leave data.rules at 'grid'"
        )
    scene.check_length(config.frames)
    if kind == "single" and not (config.warp and config.modes.time_only > 0):
        raise InputError(
            f"{name}: one moving camera, so only the animation time can be chosen; set data.warp to True and "
            "data.modes.time_only above 0"
        )
    if 0 < config.static_reach < config.frames and kind == "static":
        raise InputError(f"{name}: data.static_reach = {config.static_reach} is below data.frames")
    only_one = scene.videos.shape[0] == 1 and kind in ("grid", "synchronised")
    moving = config.modes.camera_only + config.modes.both > 0 or not config.warp or config.rules == "static"
    if only_one and moving:
        raise InputError(
            f"{name}: one camera only; set data.modes camera_only and both to 0, data.warp to "
            "True and data.rules to another than static"
        )
