"""What the presets of speed do to videos whose truth is known: PSNR against `exact` and against the truth.

    python -m input_pipeline.render --out /tmp/scenes --seeds 2000000:2000002      # of validation
    python -m input_pipeline.datasets.cam_x_time --scenes /tmp/scenes --out /tmp/data
    python benchmarks/speed_quality.py --data /tmp/data                            # ten videos of each scene

The cases of `stp_jax.evaluate` of each scene are made by every preset from the same noise, in float32, one by
one. `python -m stp_jax.evaluate --speed exact fast draft` measures more against the truth, and
`python -m stp_jax.benchmark --compare_speeds` needs no data set.
"""

from __future__ import annotations

from pathlib import Path

from stp_jax.errors import exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from input_pipeline.datasets.reading import open_records
    from input_pipeline.shots import SceneReader
    from stp_jax.command_line import Parser, count
    from stp_jax.controls.view import View
    from stp_jax.evaluate.cases import cases_of, example_of
    from stp_jax.media.metrics import psnr
    from stp_jax.rerender.rerenderer import Rerenderer
    from stp_jax.rerender.speed import PRESETS
    from stp_jax.weights import native

Example = dict[str, np.ndarray]


def read_examples(data: Path, split: str, scenes: int | None, frames: int) -> list[Example]:
    records = open_records(data, "cam_x_time", split)
    reader = SceneReader(records, cached_scenes=1)
    examples = []
    for number in range(len(records) if scenes is None else scenes):
        scene = reader[number]
        examples += [example_of(scene, case) for case in cases_of(number, len(scene.videos), frames)]
    return examples


def make(model: Rerenderer, examples: list[Example]) -> tuple[list[np.ndarray], list[int]]:
    """The new videos, and the forwards of each."""

    def view(example: Example, clip: str) -> View:
        return View(*(example[f"{clip}_{name}"] for name in View._fields))

    videos, forwards = [], []
    for seed, one in enumerate(examples):
        videos.append(model(one["source_video"], view(one, "source"), view(one, "target"), seed=seed))
        forwards.append(model.forwards)
    return videos, forwards


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python benchmarks/speed_quality.py", description=__doc__)
    parser.add_argument("--weights", type=Path, default=native.BUNDLED, help="default: the bundled model")
    parser.add_argument("--data", type=Path, required=True, help="folder of a built Cam x Time data set")
    parser.add_argument("--split", default="validation", help="default: validation")
    parser.add_argument("--scenes", type=count, help="default: all")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS), help="default: all")
    given = parser.parse_args(argv)
    exact: list[np.ndarray] = []
    for preset in dict.fromkeys(["exact", *given.presets]):
        model = Rerenderer(given.weights, speed=preset, dtype="float32")
        if not exact:
            examples = read_examples(given.data, given.split, given.scenes, model.notes.frames)
            print(f"{model.title}, {model.steps} steps, {len(examples)} videos\n")
            print(
                "| --speed | forwards | dB to exact: mean | least | dB to the truth |\n|---|---|---|---|---|"
            )
        videos, forwards = make(model, examples)
        exact = exact or videos
        truth = np.mean([psnr(a, b["target_video"]) for a, b in zip(videos, examples, strict=True)])
        found = [psnr(*pair) for pair in zip(videos, exact, strict=True)]
        to_exact = "| " if preset == "exact" else f"{np.mean(found):.1f} | {np.min(found):.1f}"
        made = " to ".join(str(one) for one in sorted({min(forwards), max(forwards)}))
        print(f"| {preset} | {made} | {to_exact} | {truth:.3f} |", flush=True)


if __name__ == "__main__":
    main()
