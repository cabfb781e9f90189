"""What attention in 8 bits does to videos of a model: simulated, so that any machine can measure it.

    python benchmarks/fp8_quality.py                       # the bundled model, 2 CPU cores: some minutes
    python benchmarks/fp8_quality.py --weights runs/demo/weights --scenes 12

Of the first scenes of the bundled test split, the cases of `stp_jax.evaluate --quick` are made in float32,
with exact attention and with 8 bits in all blocks, or in all but the first and the last ones. PSNR against
the exact video tells what is lost, PSNR of both against the ground truth whether it matters. Before that the
error of attention itself on the activations of one video, by block: the norm of the difference as a share of
the norm, with what `stp_jax.models.fp8_attention` does before it rounds, and without.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from stp_jax.errors import exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from configs.demo import ASSETS
    from input_pipeline.datasets.reading import open_records
    from input_pipeline.shots import SceneReader
    from stp_jax.command_line import Parser, count
    from stp_jax.controls.view import View
    from stp_jax.evaluate.cases import QUICK_CASES, cases_of, example_of
    from stp_jax.media.metrics import psnr
    from stp_jax.models import fp8_attention
    from stp_jax.rerender.rerenderer import Rerenderer
    from stp_jax.rerender.sampler import _compiled as compiled
    from stp_jax.weights import native
    from stp_jax.weights.recognition import recognise

Example = dict[str, np.ndarray]
SIMULATED = "fp8_simulated"


def read_examples(scenes: int, frames: int) -> list[Example]:
    reader = SceneReader(open_records(ASSETS / "cam_x_time_mini", "cam_x_time", "test"), cached_scenes=1)
    examples = []
    for number in range(scenes):
        scene = reader[number]
        cases = cases_of(number, len(scene.videos), frames)
        examples += [example_of(scene, case) for case in cases if (case.group, case.mode) in QUICK_CASES]
    return examples


def make(model: Rerenderer, examples: list[Example]) -> list[np.ndarray]:
    def view(example: Example, clip: str) -> View:
        return View(*(example[f"{clip}_{name}"] for name in View._fields))

    return [model(one["source_video"], view(one, "source"), view(one, "target")) for one in examples]


def rounded(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Rounded without anything before."""
    none, width = jnp.zeros_like(v[:, :1]), q.shape[-1]
    scales = [fp8_attention.power_of_two(jnp.max(jnp.abs(x))) for x in (q, k, v)]
    q, k, v = ((x * scale).astype(fp8_attention.E4M3) for x, scale in zip((q, k, v), scales, strict=True))
    given = fp8_attention.Quantised(q, k, v, (scales[0], scales[1], scales[2]), none, width**-0.5)
    return fp8_attention.simulated(given).astype(jnp.float32) / scales[2]


def without_means(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Rounded after the means are subtracted."""
    mean = jnp.mean(v, 1, keepdims=True)
    return rounded(q, k - jnp.mean(k, 1, keepdims=True), v - mean) + mean


def wide_output(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    given = fp8_attention.quantise(q, k, v)
    return fp8_attention.simulated(given, jnp.float32) / given.scales[2] + given.mean


VARIANTS: dict[str, Callable[..., jax.Array]] = {
    "rounded alone": rounded,
    "means subtracted": without_means,
    "channels mixed, too: `fp8_attention`": functools.partial(fp8_attention.attention, mode=SIMULATED),
    "the same, output not rounded": wide_output,
}


def errors_by_block(weights: Path, example: Example, layers: int) -> dict[str, np.ndarray]:
    """Relative errors of each variant, `[layers]`, averaged over the steps of one exact video."""
    found: list[np.ndarray] = []

    def recorded(q: jax.Array, k: jax.Array, v: jax.Array, *, mode: str) -> jax.Array:
        exact = jax.nn.dot_product_attention(q, k, v)
        size = jnp.linalg.norm(exact.ravel())
        errors = [jnp.linalg.norm((f(q, k, v) - exact).ravel()) / size for f in VARIANTS.values()]
        jax.debug.callback(lambda *one: found.append(np.array(one)), *errors, ordered=True)
        return exact

    with mock.patch.object(fp8_attention, "attention", recorded):
        make(Rerenderer(weights, attention=SIMULATED, exact_blocks=0, dtype="float32"), [example])
        jax.effects_barrier()
    by_step = np.reshape(found, (-1, layers, len(VARIANTS)))
    return dict(zip(VARIANTS, by_step.mean(0).T, strict=True))


def show_errors(errors: dict[str, np.ndarray], layers: int) -> None:
    print("\n| error of attention, in % | " + " | ".join(map(str, range(1, layers + 1))) + " |")
    print("|---" * (layers + 1) + "|")
    for name, of_blocks in errors.items():
        print(f"| {name} | " + " | ".join(f"{100 * one:.1f}" for one in of_blocks) + " |", flush=True)


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python benchmarks/fp8_quality.py", description=__doc__)
    parser.add_argument("--weights", type=Path, default=native.BUNDLED, help="default: the bundled model")
    parser.add_argument("--scenes", type=count, default=4, help="of the test split; default 4")
    parser.add_argument(
        "--exact_blocks", type=int, nargs="+", default=[0, 1, 2], help="at each end; default: 0 1 2"
    )
    given = parser.parse_args(argv)
    exact = Rerenderer(given.weights, dtype="float32")
    layers = recognise(given.weights, "dit").config.layers
    examples = read_examples(given.scenes, exact.notes.frames)
    print(f"{exact.title}, {exact.steps} steps")
    show_errors(errors_by_block(given.weights, examples[0], layers), layers)
    compiled.cache_clear()  # with other attention
    videos = make(exact, examples)
    truth = [psnr(*pair) for pair in zip(videos, (one["target_video"] for one in examples), strict=True)]
    print(f"\n{len(examples)} videos\n")
    print("| attention | dB against exact: mean | least | dB against ground truth | mean difference of it |")
    print("|---|---|---|---|---|")
    print(f"| exact | | | {np.mean(truth):.3f} | |", flush=True)
    for blocks in given.exact_blocks:
        model = Rerenderer(given.weights, attention=SIMULATED, exact_blocks=blocks, dtype="float32")
        own = make(model, examples)
        against = [psnr(*pair) for pair in zip(own, videos, strict=True)]
        found = [psnr(video, one["target_video"]) for video, one in zip(own, examples, strict=True)]
        name = f"8 bits but in the first {blocks} and last {blocks}" if blocks else "8 bits in all blocks"
        cells = f"{np.mean(against):.2f} | {np.min(against):.2f} | {np.mean(found):.3f}"
        print(f"| {name} | {cells} | {np.mean(found) - np.mean(truth):+.3f} |", flush=True)


if __name__ == "__main__":
    main()
