"""An evaluation from held-out scenes to its folder of results."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from input_pipeline.datasets.reading import open_records
from input_pipeline.shots import Scene, SceneReader
from stp_jax.devices.hardware import compile_seconds
from stp_jax.errors import InputError
from stp_jax.evaluate import lpips
from stp_jax.evaluate.cases import CASES_PER_SCENE
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.measures import choose_available
from stp_jax.evaluate.report import Report
from stp_jax.evaluate.scores import Model, Outcome, compare_scene, evaluate_scene, methods_of, size_text


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

    Raises:
      InputError: the data set is missing or has too few scenes; a scene lacks cells that the cases need, or
        has another size than a model's videos; a needed measure is not available; `out` is in use.
    """
    reader = _open_scenes(data, split, scenes, models)
    with contextlib.ExitStack() as stack:
        for measure in measures:
            stack.callback(measure.close)
        measures, left_out = choose_available(measures, reader[0], data.frames, need_measures)
        measure_lpips = lpips.load()
        settings = settings | {
            "data": {"path": str(data.path), "split": split, "frames": data.frames},
            "scenes": scenes,
            "seed": seed,
            "batch_size": batch_size,  # the noise of a video depends on its place in the batch
            "measures": [m.name for m in measures],
            "left_out": sorted(left_out),
            "lpips": measure_lpips is not None,
        }
        if chosen is not None:
            settings |= {"cases": [list(case) for case in chosen]}
        report = Report(out, settings)
        log_left_out(left_out, measure_lpips is not None)
        run = functools.partial(
            evaluate_scene, frames=data.frames, lpips=measure_lpips, batch_size=batch_size, chosen=chosen
        )
        cases = CASES_PER_SCENE if chosen is None else len(chosen)
        left = range(len(report.scenes), scenes)
        _measure_scenes(report, reader, left, run, models, measures, seed, sheets, cases)
    notes = {"lpips": lpips.TITLE if measure_lpips else lpips.NOT_INSTALLED, "left_out": left_out}
    return report.finish([m.label for m in models], methods_of(models), measures, notes)


def _open_scenes(data: Any, split: str, scenes: int, models: Sequence[Model]) -> SceneReader:
    """The scenes of a split; raises `InputError` where they are too few or do not fit the models."""
    records = open_records(data.path, data.kind, split)
    if len(records) < scenes:
        raise InputError(f"--scenes {scenes}: split {split!r} of {data.path} has {len(records)} scenes.")
    reader = SceneReader(records, cached_scenes=1)
    _check_sizes(models, reader[0], data.frames)
    return reader


def log_left_out(left_out: dict[str, str], has_lpips: bool) -> None:
    """Prints a line for everything that is not measured."""
    if not has_lpips:
        tqdm.write(lpips.NOT_INSTALLED)
    for name, reason in left_out.items():
        tqdm.write(f"{name} is left out: {reason}")


def _measure_scenes(
    report: Report,
    reader: SceneReader,
    numbers: range,
    run: Callable[..., Iterator[Outcome]],
    models: Sequence[Model],
    measures: Sequence[Measure],
    seed: int,
    sheets: int,
    cases: int,
) -> None:
    """Adds the scenes of these numbers to the report, which has those before them."""
    labels = [model.label for model in models]
    videos = cases * len(models)
    tqdm.write(_plan(numbers.stop, numbers.start, videos))
    with tqdm(
        total=numbers.stop * videos,
        initial=numbers.start * videos,
        unit="video",
        smoothing=0,
        desc="compiling",
    ) as bar:
        pace = Pace(bar)
        for number in numbers:
            scene = reader[number]
            outcomes = []
            for outcome in run(
                scene, number, models=models, measures=measures, seed=seed + number * CASES_PER_SCENE
            ):
                pace.update(len(models))
                outcomes.append(outcome)
                if number < sheets:
                    report.show(scene.name, outcome, labels)
            rows = [row for outcome in outcomes for row in outcome.rows]
            report.add_scene(rows + compare_scene(scene, outcomes, models, measures))
            pace.say()


class Pace:
    """Moves a bar, and says after the first scene how long the rest takes, as measured on that scene.

    Compiling belongs to the first videos alone, and is left out of the measurement.
    """

    def __init__(self, bar: tqdm):
        self._bar, self._before, self._said = bar, bar.n, False
        self._started, self._compiled = time.monotonic(), compile_seconds()

    def update(self, videos: int) -> None:
        if self._bar.desc:
            self._bar.set_description_str("")
        self._bar.update(videos)

    def say(self) -> None:
        """To be called when a scene is complete."""
        made, left = self._bar.n - self._before, self._bar.total - self._bar.n
        if self._said or not made:
            return
        self._said = True
        compiling = compile_seconds() - self._compiled
        seconds = max(0.0, time.monotonic() - self._started - compiling)
        self._bar.start_t = self._bar._time() - seconds
        if left:
            tqdm.write(
                f"The first {made} videos took {duration(seconds)}, and compiling {duration(compiling)}: "
                f"the other {left} will take about {duration(seconds / made * left)}."
            )


def duration(seconds: float) -> str:
    """Seconds as text, in whole seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _plan(scenes: int, done: int, videos: int) -> str:
    text = f"{scenes} scenes, {videos} videos each: {scenes * videos} videos to make"
    text = f"{text}, of which {done * videos} are done" if done else text
    return f"{text}. How long that takes is measured on the first scene, and said after it."


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
