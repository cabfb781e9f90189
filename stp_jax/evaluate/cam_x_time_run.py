"""An evaluation on the published Cam x Time set: time control in five modes, averaged as its script does."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.shots import Scene
from stp_jax.controls.view import View
from stp_jax.errors import InputError
from stp_jax.evaluate import lpips
from stp_jax.evaluate.cam_x_time_folder import (
    FRAMES,
    HEIGHT,
    MODES,
    OFFICIAL_SEED,
    WIDTH,
    SceneFiles,
    Source,
    find_videos,
    read_folder,
    read_frames,
    read_source,
    summary,
    target_animation_time,
)
from stp_jax.evaluate.cases import TIME, Case, nearest_source_frame
from stp_jax.evaluate.measure import Measure
from stp_jax.evaluate.measures import choose_available, closed_at_the_end
from stp_jax.evaluate.rows import NEAREST, SOURCE, Row
from stp_jax.evaluate.run import measuring, open_report
from stp_jax.evaluate.scores import (
    Lpips,
    Model,
    Outcome,
    ceilings,
    joined_values,
    measure_case,
    methods_of,
    picture_values,
)

Videos = dict[str, dict[tuple[str, str], Path]]  # by label; of each by (scene, mode)


def evaluate_cam_x_time(
    models: Sequence[Model],
    folder: str | os.PathLike,
    *,
    videos: dict[str, str] | None = None,
    scenes: int | None,
    sheets: int,
    out: str | os.PathLike,
    settings: dict[str, Any],
    seed: int = OFFICIAL_SEED,
    fov: float = 50.0,
    measures: Sequence[Measure] = (),
    need_measures: bool = False,
    workers: int | None = None,
) -> str:
    """Measures models on the evaluation set, writes the folder `out`, and returns the table.

    Args:
      models: all of one size; each `rerender` is a `Rerenderer`.
      folder: see `stp_jax.evaluate.cam_x_time_folder.read_folder`.
      videos: by label, folders for `stp_jax.evaluate.cam_x_time_folder.find_videos`. They are measured at
        the size of the models; without models at 81 frames of 832 x 480.
      scenes: only the first n. None: all.
      sheets: number of scenes of which contact sheets and videos are written.
      settings: what else the figures depend on, such as the weights; written beside the figures.
      seed: of the noise; the same for every case, as in the official evaluation.
      fov: of the source in degrees, see `stp_jax.evaluate.cam_x_time_folder.read_source`.
      measures, need_measures, workers: as in `stp_jax.evaluate.run.evaluate`; only measures with
        `needs_grid` False.

    Raises:
      InputError: the set or a folder of videos is incomplete; the models' number of frames does not fit;
        a needed measure is not available; `out` is in use or cannot be written.
    """
    size = (models[0].size if models else None) or (FRAMES, HEIGHT, WIDTH)
    times = {mode: target_animation_time(mode, size[0]) for mode in MODES}
    files = read_folder(folder, scenes=scenes)
    made = {label: find_videos(path, files) for label, path in (videos or {}).items()}
    models = [*models, *(Model(label, _no_model, None) for label in made)]
    with closed_at_the_end(measures):
        first = scene_of(files[0], read_source(files[0], *size, fov))
        measures, left_out = choose_available(measures, first, size[0], need_measures)
        measure_lpips = lpips.load()
        data = {"path": str(folder), "kind": "Cam x Time evaluation set", "frames": size[0]}
        of_run = {"data": data, "videos": videos or {}, "scenes": len(files), "seed": seed, "fov": fov}
        report, notes = open_report(out, settings | of_run, measures, left_out, measure_lpips)
        run = functools.partial(
            _outcome, size=size, models=models, made=made, measures=measures, lpips=measure_lpips, seed=seed
        )
        labels = [model.label for model in models]
        with measuring(
            report, models, measures, len(files), len(times), workers, measure_lpips is not None
        ) as add:
            for number, scene in list(enumerate(files))[len(report.scenes) :]:
                source = read_source(scene, *size, fov)
                outcomes = (run(scene, source, mode, time) for mode, time in times.items())
                shown = report.showing(scene.name, outcomes, labels) if number < sheets else outcomes
                add(scene_of(scene, source), shown)
    notes["as_published"] = {label: _as_published(report.rows, label) for label in methods_of(models)}
    return report.finish(labels, methods_of(models), measures, notes)


def scene_of(files: SceneFiles, source: Source) -> Scene:
    """The source as a scene for the measures: F cameras, each with one frame at its own time; not a grid."""
    return Scene(
        files.name,
        source.video[:, None],
        source.view.c2w[:, None],
        source.view.intrinsics[:, None],
        source.view.animation_time[:1],
        kind="single",
    )


def _no_model(*_: Any, **__: Any) -> np.ndarray:
    raise InputError("this video is read from a folder, not made")


def _as_published(rows: Sequence[Row], method: str) -> dict[str, dict[str, float]]:
    own = [row for row in rows if row.method == method]
    return summary((row.mode, row.scene, row.number("psnr_frames")) for row in own)


def _outcome(
    scene: SceneFiles,
    source: Source,
    mode: str,
    time: np.ndarray,
    *,
    size: tuple[int, int, int],
    models: Sequence[Model],
    made: Videos,
    measures: Sequence[Measure],
    lpips: Lpips | None,
    seed: int,
) -> Outcome:
    target = read_frames(scene.truths[mode], *size)
    path = np.arange(size[0])  # the source's own camera path
    case = Case(TIME, mode, path, path, source.view.animation_time, time)
    videos: dict[str, np.ndarray] = {}
    for model in models:
        if model.label in made:
            videos[model.label] = read_frames(made[model.label][scene.name, mode], *size)
        else:
            rerender: Any = model.rerender  # takes a prompt, too
            videos[model.label] = rerender(*source, View(animation_time=time), prompt=scene.prompt, seed=seed)
    on_device = [measure for measure in measures if measure.on_device]
    measured = measure_case(scene_of(scene, source), case, source.video, target, dict(videos), on_device)
    videos[NEAREST] = source.video[nearest_source_frame(case)]
    videos[SOURCE] = source.video
    videos |= {name: reconstruct(target[None])[0] for name, reconstruct in ceilings(models).items()}
    values = joined_values(picture_values(videos, target, lpips), measured)
    return Outcome(case, source.video, target, videos, values)
