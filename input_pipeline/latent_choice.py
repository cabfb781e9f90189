"""What is drawn out of a latent cache: the source of a target, and a target with a memory.

Clips are rows of all N * K of a cache, latent frames rows of all N * K * F'; see `latents` for their order.
"""

from __future__ import annotations

import numpy as np

from input_pipeline.latents import LatentCache


def choose_source(
    cache: LatentCache, target: int, rng: np.random.Generator, *, same_path: float, source_warp: float
) -> int:
    """Draws the source clip for a target clip.

    A warped target takes the forward clip of its own camera path with probability `same_path`; otherwise, and
    for every forward target, the source has another path. With probability `source_warp` the source is a
    warped clip too, where its path has one that is not the target. Where there is only one path, it is that
    of the source, too, and the source of a forward target is warped.

    Of long paths the source is the forward window that shows most of the target's animation times.
    """
    path = choose_source_path(cache, target, rng, same_path=same_path)
    if cache.windows > 1:
        return choose_window(cache, target, path, rng)
    scene, clip = divmod(target, cache.clips)
    source = path * cache.clips_per_path
    if source == clip or rng.random() < source_warp:
        end = min(source + cache.clips_per_path, cache.clips)
        others = [k for k in range(source + 1, end) if k != clip]
        source = int(rng.choice(others)) if others else source
    return scene * cache.clips + source


def choose_source_path(cache: LatentCache, target: int, rng: np.random.Generator, *, same_path: float) -> int:
    """Draws the source's camera path for a target clip, of those of its scene; see `choose_source`."""
    path, place = divmod(target % cache.clips, cache.clips_per_path)
    paths = -(-cache.clips // cache.clips_per_path)
    if cache.one_path or (place >= cache.windows and rng.random() < same_path):
        return path
    return int(path + rng.integers(1, paths)) % paths


def choose_window(cache: LatentCache, target: int, path: int, rng: np.random.Generator) -> int:
    """The forward window of a camera path of the target's scene that shows most of the target's times."""
    scene, clip = divmod(target, cache.clips)
    times = cache.animation_time[scene, clip]
    starts = (cache.frames - 1) * np.arange(cache.windows)[:, None]
    shown = ((times >= starts) & (times <= starts + cache.frames - 1)).sum(1)
    window = int(rng.choice(np.flatnonzero(shown == shown.max())))
    return scene * cache.clips + path * cache.clips_per_path + window


def choose_memory(cache: LatentCache, count: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """Draws a target clip that continues others, evenly, and a memory for it.

    The memory is `count` latent frames, in their order, out of all windows before the target's on its path,
    without frame 0 of each, which encodes a single picture. The frames are given as rows [count].

    Returns:
      The target's row, and the rows of the memory.
    """
    path = int(rng.integers(cache.scenes * cache.clips // cache.windows))
    window = int(rng.integers(1, cache.windows))
    rows = memory_rows(cache, path * cache.windows, window)
    return path * cache.windows + window, np.sort(rng.choice(rows, count, replace=False))


def memory_rows(cache: LatentCache, first: int, windows: int) -> np.ndarray:
    """The rows of all latent frames that a memory may have, of the windows from the clip `first` on."""
    frames = cache.latent_shape[0]
    clips = first + np.arange(windows)
    return (clips[:, None] * frames + np.arange(1, frames)).ravel()


def choose_clip(cache: LatentCache, rng: np.random.Generator, *, source_warp: float) -> int:
    """Draws one of a scene's K clips as a source: forward, or with probability `source_warp` a warped one."""
    forward = np.arange(cache.clips) % cache.clips_per_path == 0
    wanted = ~forward if rng.random() < source_warp and not forward.all() else forward
    return int(rng.choice(np.flatnonzero(wanted)))
