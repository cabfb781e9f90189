"""An evaluation on the published Cam x Time set: time control at five modes, averaged as its script does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from stp_jax.controls.view import View
from stp_jax.evaluate import lpips
from stp_jax.evaluate.cam_x_time_folder import (
    MODES,
    OFFICIAL_SEED,
    SceneFiles,
    Source,
    moments,
    read_folder,
    read_frames,
    read_source,
)
from stp_jax.evaluate.cases import TIME, Case, nearest_source_frame
from stp_jax.evaluate.report import Report
from stp_jax.evaluate.rows import NEAREST, SOURCE, Row
from stp_jax.evaluate.scores import Lpips, Model, Outcome, ceilings, methods_of, picture_values


def evaluate_cam_x_time(
    models: Sequence[Model],
    folder: str | os.PathLike,
    *,
    scenes: int | None,
    sheets: int,
    out: str | os.PathLike,
    settings: dict[str, Any],
    seed: int = OFFICIAL_SEED,
    fov: float = 50.0,
) -> str:
    """Measures models on the evaluation set, writes the folder `out`, and returns the table.

    Args:
      models: of one size, `stp_jax.rerender.Rerenderer` each: they take a prompt, and no target cameras.
      folder: see `stp_jax.evaluate.cam_x_time_folder.read_folder`.
      scenes: only the first n. None: all.
      sheets: scenes of which contact sheets and videos are written.
      settings: what else the figures depend on, such as the weights: written beside them.
      seed: of the noise, the same for every case, as there.
      fov: of the source in degrees, see `stp_jax.evaluate.cam_x_time_folder.read_source`.

    Raises:
      InputError: the set is incomplete; the models' number of frames does not fit it; `out` is in use or
        cannot be written.
    """
    size = models[0].size
    assert size is not None
    times = {mode: moments(mode, size[0]) for mode in MODES}
    files = read_folder(folder, scenes=scenes)
    measure_lpips = lpips.load()
    settings = settings | {
        "data": {"path": str(folder), "kind": "Cam x Time evaluation set", "frames": size[0]},
        "scenes": len(files),
        "seed": seed,
        "fov": fov,
        "lpips": measure_lpips is not None,
    }
    report = Report(out, settings)
    if measure_lpips is None:
        tqdm.write(lpips.NOT_INSTALLED)
    done = len(report.scenes)
    videos = len(MODES) * len(models)
    tqdm.write(f"{len(files)} scenes, {videos} videos each: {len(files) * videos} videos to make")
    with tqdm(total=len(files) * videos, initial=done * videos, unit="video") as bar:
        for number, scene in enumerate(files[done:], start=done):
            rows: list[Row] = []
            source = read_source(scene, *size, fov)
            for mode, time in times.items():
                outcome = _outcome(scene, source, mode, time, size, models, measure_lpips, seed)
                bar.update(len(models))
                rows += outcome.rows
                if number < sheets:
                    report.show(scene.name, outcome, [model.label for model in models])
            report.add_scene(rows)
    notes = {"lpips": lpips.TITLE if measure_lpips else lpips.NOT_INSTALLED}
    return report.finish([model.label for model in models], methods_of(models), (), notes)


def _outcome(
    scene: SceneFiles,
    source: Source,
    mode: str,
    time: np.ndarray,
    size: tuple[int, int, int],
    models: Sequence[Model],
    measure_lpips: Lpips | None,
    seed: int,
) -> Outcome:
    target = read_frames(scene.truths[mode], *size)
    path = np.arange(size[0])  # the source's own camera path
    case = Case(TIME, mode, path, path, source.view.animation_time, time)
    videos: dict[str, np.ndarray] = {}
    for model in models:
        rerender: Any = model.rerender  # takes a prompt, too
        videos[model.label] = rerender(*source, View(animation_time=time), prompt=scene.prompt, seed=seed)
    videos[NEAREST] = source.video[nearest_source_frame(case)]
    videos[SOURCE] = source.video
    videos |= {name: reconstruct(target[None])[0] for name, reconstruct in ceilings(models).items()}
    values = picture_values(videos, target, measure_lpips)
    rows = [Row(scene.name, TIME, mode, *pair) for pair in values.items()]
    return Outcome(case, source.video, target, videos, rows)
