"""Runs a re-renderer on the cases of a scene, and measures it beside baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from input_pipeline.shots import Scene
from stp_jax.cameras import Cameras
from stp_jax.evaluation import metrics
from stp_jax.evaluation.cases import Case, cases_of, check_scene, example_of, nearest_source_frame

OURS, NEAREST, SOURCE, CEILING = "ours", "nearest source frame", "source as it is", "VAE ceiling"
METHODS = (OURS, NEAREST, SOURCE, CEILING)
BASELINES = (NEAREST, SOURCE)


class Rerender(Protocol):
    """The model under test: a batch of videos, uint8 [B, F, H, W, 3], to as many."""

    def __call__(
        self,
        source_video: np.ndarray,
        source_cameras: Cameras,
        source_animation_time: np.ndarray,
        target_cameras: Cameras,
        target_animation_time: np.ndarray,
        /,
        *,
        seed: int,
    ) -> np.ndarray: ...


Reconstruct = Callable[[np.ndarray], np.ndarray]  # through the VAE and back: uint8 [B, F, H, W, 3] -> same


class Score(NamedTuple):
    """How near one method's video is to the ground truth."""

    scene: str
    group: str
    mode: str
    method: str
    psnr: float
    ssim: float
    lpips: float | None  # None: not measured


class Outcome(NamedTuple):
    """One case of one scene."""

    case: Case
    source: np.ndarray  # uint8 [F, H, W, 3]
    target: np.ndarray
    videos: dict[str, np.ndarray]  # by method
    scores: list[Score]


def evaluate_scene(
    scene: Scene,
    number: int,
    frames: int,
    rerender: Rerender,
    reconstruct: Reconstruct,
    lpips: Callable[[np.ndarray, np.ndarray], float] | None,
    *,
    seed: int,
    batch_size: int,
) -> Iterator[Outcome]:
    """Yields the outcome of each case of the scene of this number; `seed` sets the noise of its batches.

    Raises:
      InputError: the scene's grid has not the cells that the cases need.
    """
    check_scene(scene, frames)
    cases = cases_of(number, len(scene.videos), frames)
    for start in range(0, len(cases), batch_size):
        batch = cases[start : start + batch_size]
        examples = [example_of(scene, case) for case in batch]
        joined: dict[str, Any] = {key: np.stack([e[key] for e in examples]) for key in examples[0]}
        source = joined["source_video"]
        videos = {
            OURS: rerender(
                source,
                Cameras(joined["source_c2w"], joined["source_intrinsics"]),
                joined["source_animation_time"],
                Cameras(joined["target_c2w"], joined["target_intrinsics"]),
                joined["target_animation_time"],
                seed=seed + start,
            ),
            NEAREST: np.stack([source[i, nearest_source_frame(case)] for i, case in enumerate(batch)]),
            SOURCE: source,
            CEILING: reconstruct(joined["target_video"]),
        }
        for i, case in enumerate(batch):
            target = joined["target_video"][i]
            own = {method: video[i] for method, video in videos.items()}
            yield Outcome(case, source[i], target, own, _scores(scene.name, case, own, target, lpips))


def _scores(scene: str, case: Case, videos: dict[str, np.ndarray], target: np.ndarray, lpips) -> list[Score]:
    def score(method: str) -> Score:
        video = videos[method]
        return Score(
            scene,
            case.group,
            case.mode,
            method,
            metrics.psnr(video, target),
            metrics.ssim(video, target),
            lpips(video, target) if lpips else None,
        )

    with ThreadPoolExecutor(len(videos)) as threads:
        return list(threads.map(score, videos))


def mean_scores(scores: Sequence[Score]) -> dict[str, dict[str, float | None]]:
    """The mean of each metric over `scores`, by method."""
    means: dict[str, dict[str, float | None]] = {}
    for method in METHODS:
        of_method = [score for score in scores if score.method == method]
        means[method] = {
            metric: None if any(v is None for v in values) else float(np.mean(values))
            for metric in ("psnr", "ssim", "lpips")
            for values in [[getattr(score, metric) for score in of_method]]
        }
    return means
