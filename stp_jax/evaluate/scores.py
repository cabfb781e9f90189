"""Runs models on the cases of a scene, and measures them beside baselines."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from input_pipeline.shots import Scene
from stp_jax.controls.view import View, view_of
from stp_jax.evaluate.cases import Case, cases_of, check_scene, example_of, nearest_source_frame
from stp_jax.evaluate.disturb import degrade
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.rows import CEILING, DEGRADED, NEAREST, SOURCE, TRUTH, WHOLE_SCENE, Row, Values
from stp_jax.media import metrics

Lpips = Callable[[np.ndarray, np.ndarray], float]


class Rerender(Protocol):
    """The model under test: a batch of source videos -> target videos, uint8 [B, F, H, W, 3]."""

    def __call__(
        self,
        source_video: np.ndarray,
        source: View,
        target: View,
        /,
        *,
        seed: int,
    ) -> np.ndarray: ...


Reconstruct = Callable[[np.ndarray], np.ndarray]  # through the VAE and back: uint8 [B, F, H, W, 3] -> same


class Model(NamedTuple):
    """A model to evaluate.

    Attributes:
      label: the name of its method.
      rerender: makes its videos.
      reconstruct: puts videos through its VAE. None: it has no VAE, and so no ceiling.
      vae: an identifier of its VAE; models that share a VAE share a ceiling.
      size: frames, height and width of its videos; None: any.
    """

    label: str
    rerender: Rerender
    reconstruct: Reconstruct | None
    vae: str = ""
    size: tuple[int, int, int] | None = None


def size_text(size: tuple[int, int, int]) -> str:
    """A size (frames, height, width) as text, for messages."""
    frames, height, width = size
    return f"{frames} frames of {width} x {height} pixels"


class Outcome(NamedTuple):
    """The videos of one case of one scene, and their first figures: `measure_scene` adds the others."""

    case: Case
    source: np.ndarray  # uint8 [F, H, W, 3]
    target: np.ndarray
    videos: dict[str, np.ndarray]  # by method
    values: dict[str, Values]  # by method


def ceilings(models: Sequence[Model]) -> dict[str, Reconstruct]:
    """The models' VAEs by the name of their method; models with the same VAE have one entry."""
    firsts: dict[str, tuple[str, Reconstruct]] = {}
    for model in models:
        if model.reconstruct is not None:
            firsts.setdefault(model.vae, (model.label, model.reconstruct))
    return {
        CEILING if len(firsts) == 1 else f"{CEILING} of {label}": reconstruct
        for label, reconstruct in firsts.values()
    }


def methods_of(models: Sequence[Model]) -> list[str]:
    """The columns of the tables: the models, the baselines, the ceilings."""
    return [*(model.label for model in models), NEAREST, SOURCE, *ceilings(models)]


def evaluate_scene(
    scene: Scene,
    number: int,
    frames: int,
    models: Sequence[Model],
    lpips: Lpips | None,
    measures: Sequence[Measure],
    *,
    seed: int,
    batch_size: int,
    chosen: Sequence[tuple[str, str]] | None = None,
) -> Iterator[Outcome]:
    """Yields the outcome of each case of a scene.

    PSNR, SSIM, LPIPS and the measures that use the device are done here, the others in `measure_scene`.

    Args:
      number: of the scene in its split, see `cases_of`.
      frames: F of each clip.
      seed: of the noise of its batches, which is the same for all models.
      batch_size: videos in one call of a model.
      chosen: group and mode of the cases wanted. None: all.

    Raises:
      InputError: the scene's grid lacks cells that the cases need.
    """
    check_scene(scene, frames)
    cases = [
        case
        for case in cases_of(number, len(scene.videos), frames)
        if chosen is None or (case.group, case.mode) in chosen
    ]
    labels = [model.label for model in models]
    for start in range(0, len(cases), batch_size):
        batch = cases[start : start + batch_size]
        examples = [example_of(scene, case) for case in batch]
        joined = {key: np.stack([e[key] for e in examples]) for key in examples[0]}
        videos = _videos(models, batch, joined, seed + start)
        for i, case in enumerate(batch):
            source, target = joined["source_video"][i], joined["target_video"][i]
            own = {method: video[i] for method, video in videos.items()}
            shown = {label: own[label] for label in labels}
            on_device = [measure for measure in measures if measure.on_device]
            measured = measure_case(scene, case, source, target, shown, on_device)
            yield Outcome(
                case, source, target, own, joined_values(picture_values(own, target, lpips), measured)
            )


def measure_scene(
    scene: Scene,
    outcomes: Iterable[Outcome],
    labels: Sequence[str],
    measures: Sequence[Measure],
    each: Callable[[], None] = lambda: None,
) -> list[Row]:
    """All rows of a scene: its outcomes' figures, those of the measures that do not use the device, and those
    of the whole scene.

    Args:
      labels: of the models, whose videos are measured.
      each: is called after each case.
    """
    measures = [measure for measure in measures if not measure.on_device]
    rows, done = [], []
    for outcome in outcomes:
        case, videos = outcome.case, {label: outcome.videos[label] for label in labels}
        measured = measure_case(scene, case, outcome.source, outcome.target, videos, measures)
        values = joined_values(outcome.values, measured)
        rows += [Row(scene.name, case.group, case.mode, *pair) for pair in values.items()]
        done.append(outcome)
        each()
    return rows + _compare_scene(scene, done, labels, measures)


def joined_values(first: dict[str, Values], second: dict[str, Values]) -> dict[str, Values]:
    """The figures of both, by method."""
    return {method: first.get(method, {}) | second.get(method, {}) for method in (*first, *second)}


def _compare_scene(
    scene: Scene, outcomes: Sequence[Outcome], labels: Sequence[str], measures: Sequence[Measure]
) -> list[Row]:
    """Rows of the figures that need all videos of a scene: one per model and one for the ground truth."""
    cases = [outcome.case for outcome in outcomes]
    videos = {label: [outcome.videos[label] for outcome in outcomes] for label in labels}
    videos[TRUTH] = [outcome.target for outcome in outcomes]
    rows = []
    for method, own in videos.items():
        values: Values = {}
        for measure in measures:
            values |= _named(measure, measure.compare(scene, cases, own))
        if values:
            rows.append(Row(scene.name, WHOLE_SCENE, WHOLE_SCENE, method, values))
    return rows


def measure_case(
    scene: Scene,
    case: Case,
    source: np.ndarray,
    target: np.ndarray,
    videos: dict[str, np.ndarray],
    measures: Sequence[Measure],
) -> dict[str, Values]:
    """The measures' figures of the models' videos, of the ground truth, and of it degraded, by method."""
    shown = videos | {TRUTH: target}
    level = metrics.psnr(next(iter(videos.values())), target)
    if np.isfinite(level) and any(measure.degraded for measure in measures):
        # Each video has its own noise: errors shared by all would look like a bias in the mean over scenes.
        seed = zlib.crc32(f"{scene.name} {case.group} {case.mode}".encode())
        shown[DEGRADED] = degrade(target, level, seed)
    values: dict[str, Values] = {}
    for method, video in shown.items():
        for measure in measures:
            if method != DEGRADED or measure.degraded:
                found = _named(measure, measure.measure(scene, case, source, target, video))
                values[method] = values.get(method, {}) | found
    return {method: found for method, found in values.items() if found}


def _named(measure: Measure, values: Values) -> Values:
    """Figures with the measure's name before theirs."""
    return {f"{measure.name}.{key}": value for key, value in values.items()}


def _videos(models: Sequence[Model], batch: Sequence[Case], joined: dict[str, Any], seed: int):
    source = joined["source_video"]
    videos = {
        model.label: model.rerender(source, view_of(joined, "source"), view_of(joined, "target"), seed=seed)
        for model in models
    }
    videos[NEAREST] = np.stack([source[i, nearest_source_frame(case)] for i, case in enumerate(batch)])
    videos[SOURCE] = source
    return videos | {
        name: reconstruct(joined["target_video"]) for name, reconstruct in ceilings(models).items()
    }


def picture_values(
    videos: dict[str, np.ndarray], target: np.ndarray, lpips: Lpips | None
) -> dict[str, Values]:
    """PSNR, SSIM and LPIPS of each method's video."""

    def values(method: str) -> Values:
        video = videos[method]
        found: Values = {
            "psnr": metrics.psnr(video, target),
            "psnr_frames": metrics.psnr_frames(video, target),
            "ssim": metrics.ssim(video, target),
        }
        return found | {"lpips": lpips(video, target)} if lpips else found

    with ThreadPoolExecutor(len(videos)) as threads:
        return dict(zip(videos, threads.map(values, videos), strict=True))
