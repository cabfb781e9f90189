"""An evaluation from held-out scenes to its folder of results."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from input_pipeline.config import CAMERA_EXTENT
from input_pipeline.datasets.reading import open_records
from input_pipeline.fitting import Fit
from input_pipeline.shots import Scene, SceneReader
from stp_jax.errors import InputError
from stp_jax.evaluate import lpips
from stp_jax.evaluate.cases import CASES_PER_SCENE
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.measures import choose_available, closed_at_the_end
from stp_jax.evaluate.pace import Pace, plan, seconds_of_a_video, seconds_of_measures
from stp_jax.evaluate.report import Report
from stp_jax.evaluate.rows import Row
from stp_jax.evaluate.scores import Lpips, Model, Outcome, evaluate_scene, methods_of, size_text
from stp_jax.evaluate.workers import SceneMeasurer, default_workers


def evaluate(
    models: Sequence[Model],
    *,
    data: Any,
    split: str,
    scenes: int,
    seed: int,
    batch_size: int,
    sheets: int,
    out: str | os.PathLike,
    settings: dict[str, Any],
    measures: Sequence[Measure] = (),
    need_measures: bool = False,
    chosen: Sequence[tuple[str, str]] | None = None,
    workers: int | None = None,
) -> str:
    """Measures models on the first scenes of a split, writes the folder `out`, and returns the table.

    Args:
      models: with labels that differ from each other and from the names of the baselines.
      data: settings of the data set, see `input_pipeline.pipeline.default_config`; `kind`, `path`, `frames`.
      scenes: number of scenes.
      seed: of the noise; every scene has its own, derived from it.
      batch_size: videos in one call of a model.
      sheets: number of scenes of which contact sheets and videos are written.
      settings: what else the figures depend on, such as the weights; written beside the figures.
      measures: what is measured beside PSNR, SSIM and LPIPS.
      chosen: group and mode of the cases wanted. None: all.
      need_measures: whether a measure that is not available is an error; otherwise it is left out by name.
      workers: processes that measure, see `stp_jax.evaluate.workers`. None: as `default_workers` says.

    Raises:
      InputError: the data set is missing or has too few scenes; a scene lacks cells that the cases need, or
        has another size than a model's videos; a needed measure is not available; `out` is in use.
    """
    reader = _open_scenes(data, split, scenes, models)
    with closed_at_the_end(measures):
        measures, left_out = choose_available(measures, reader[0], data.frames, need_measures)
        measure_lpips = lpips.load()
        read = {"path": str(data.path), "split": split, "frames": data.frames}
        # The noise of a video depends on its place in the batch.
        settings = settings | {"data": read, "scenes": scenes, "seed": seed, "batch_size": batch_size}
        if chosen is not None:
            settings |= {"cases": [list(case) for case in chosen]}
        report, notes = open_report(out, settings, measures, left_out, measure_lpips)
        cases = CASES_PER_SCENE if chosen is None else len(chosen)
        labels = [model.label for model in models]
        with measuring(report, models, measures, scenes, cases, workers, measure_lpips is not None) as add:
            for number in range(len(report.scenes), scenes):
                scene = reader[number]
                outcomes = evaluate_scene(
                    *(scene, number, data.frames, models, measure_lpips, measures),
                    seed=seed + number * CASES_PER_SCENE,
                    batch_size=batch_size,
                    chosen=chosen,
                )
                add(scene, report.showing(scene.name, outcomes, labels) if number < sheets else outcomes)
    return report.finish(labels, methods_of(models), measures, notes)


def _open_scenes(data: Any, split: str, scenes: int, models: Sequence[Model]) -> SceneReader:
    """The scenes of a split; raises `InputError` where they are too few or do not fit the models."""
    records = open_records(data.path, data.kind, split)
    if len(records) < scenes:
        raise InputError(f"--scenes {scenes}: split {split!r} of {data.path} has {len(records)} scenes.")
    fit = Fit(fps=data.get("fps", 0.0), camera_extent=data.get("camera_extent", CAMERA_EXTENT))
    reader = SceneReader(records, cached_scenes=1, fit=fit)
    _check_sizes(models, reader[0], data.frames)
    return reader


def open_report(
    out: str | os.PathLike,
    settings: dict[str, Any],
    measures: Sequence[Measure],
    left_out: dict[str, str],
    measure_lpips: Lpips | None,
) -> tuple[Report, dict[str, Any]]:
    """The report of an evaluation in `out`, and notes for its end; prints a line for what is not measured."""
    report = Report(
        out,
        settings
        | {
            "measures": [m.name for m in measures],
            "left_out": sorted(left_out),
            "lpips": measure_lpips is not None,
        },
    )
    if measure_lpips is None:
        tqdm.write(lpips.NOT_INSTALLED)
    for name, reason in left_out.items():
        tqdm.write(f"{name} is left out: {reason}")
    return report, {"lpips": lpips.TITLE if measure_lpips else lpips.NOT_INSTALLED, "left_out": left_out}


@contextlib.contextmanager
def measuring(
    report: Report,
    models: Sequence[Model],
    measures: Sequence[Measure],
    scenes: int,
    cases: int,
    workers: int | None,
    has_lpips: bool,
) -> Iterator[Callable[[Scene, Iterable[Outcome]], None]]:
    """Gives a function that measures a scene and adds it to the report, which may have some already.

    It says how long all that takes, and shows a bar.

    Args:
      scenes: their number; those that the report has count.
      cases: of a scene.
      has_lpips: whether LPIPS is measured.
    """
    done, videos = len(report.scenes), cases * len(models)
    workers = min(scenes - done, default_workers(scenes) if workers is None else workers)
    seconds = seconds_of_a_video(models)
    measured = cases * seconds_of_measures(measures, models, has_lpips, workers)
    tqdm.write(plan(scenes, done, videos, None if seconds is None else cases * seconds, measured))
    if workers:
        tqdm.write(f"{workers} processes measure the videos.")
    bar = tqdm(total=scenes * videos, initial=done * videos, unit="video", smoothing=0, desc="compiling")
    pace = Pace(bar, first=max(1, workers) * videos)

    def finished(rows: Sequence[Row]) -> None:
        report.add_scene(rows)
        pace.say()

    def progress(measured: int) -> None:
        pace.update(measured * len(models))

    labels = [model.label for model in models]
    with bar, SceneMeasurer(measures, labels, workers, finished, progress) as measurer:
        yield measurer.add


def _check_sizes(models: Sequence[Model], scene: Scene, frames: int) -> None:
    """Raises `InputError` where a model's videos are of another size than the data's."""
    height, width = scene.videos.shape[2:4]
    size = (frames, height, width)
    for model in models:
        if model.size and model.size != size:
            raise InputError(
                f"--weights {model.label}: its videos are {size_text(model.size)}, "
                f"the data's {size_text(size)}."
            )
