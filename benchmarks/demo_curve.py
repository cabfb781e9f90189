r"""Quality of the demo model against the pairs it was trained on, over all runs, with a fitted curve.

    python benchmarks/demo_curve.py --out docs/images/quality_against_pairs.png

Reads the runs of docs/demo_runs.jsonl that have a `validation_psnr` (dB, of each group of cases on four
validation scenes, by `stp_jax.evaluate --quick`) and `trained_pairs`, those of the runs before included. All
were judged after their learning rate had decayed. Fits `p - k N^-a`, a power law with a ceiling, to each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np
    from matplotlib.figure import Figure
    from scipy.optimize import curve_fit

    from stp_jax.command_line import Parser
    from stp_jax.files import new_file, read_json_lines

ROOT = Path(__file__).resolve().parents[1]
MILLION = 1e6


def quality(pairs: np.ndarray, ceiling: float, lost: float, power: float) -> np.ndarray:
    """PSNR in dB after `pairs`, in millions; `lost` is what is below the ceiling after the first million."""
    return ceiling - lost * pairs**-power


def fit(pairs: np.ndarray, psnr: np.ndarray) -> np.ndarray:
    """`ceiling`, `lost` and `power` of `quality`, by least squares."""
    bounds = (0, 0, 0.05), (60, 30, 3)
    return curve_fit(quality, pairs, psnr, p0=(psnr.max(), 1, 0.5), bounds=bounds)[0]


def read_runs(log: Path) -> list[dict[str, Any]]:
    """The runs of a log that were measured. Raises `InputError` for too few of them."""
    runs = [one for one in read_json_lines(log) if "validation_psnr" in one]
    if len(runs) < 4:
        raise InputError(f"{log}: {len(runs)} runs with a `validation_psnr`; a fit of 3 numbers needs 4.")
    return runs


def draw(runs: list[dict[str, Any]], out: Path) -> None:
    """Draws the curves, and prints what each says of twice the pairs."""
    pairs = np.array([one["trained_pairs"] for one in runs]) / MILLION
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    along = np.geomspace(pairs.min(), 4 * pairs.max(), 200)
    for group in runs[0]["validation_psnr"]:
        psnr = np.array([one["validation_psnr"][group] for one in runs])
        numbers = fit(pairs, psnr)
        (points,) = axes.plot(pairs, psnr, "o", label=group)
        axes.plot(along, quality(along, *numbers), color=points.get_color(), linewidth=1)
        gain = quality(2 * pairs.max(), *numbers) - quality(pairs.max(), *numbers)
        rms = np.sqrt(np.mean((quality(pairs, *numbers) - psnr) ** 2))
        print(
            f"{group}: {numbers[0]:.2f} - {numbers[1]:.2f} N^-{numbers[2]:.2f} dB (N in millions), off by "
            f"{rms:.2f} dB; from {pairs.max():.1f} to twice as many pairs {gain:+.2f} dB"
        )
    for one, x in zip(runs, pairs, strict=True):
        axes.axvline(x, color="0.9", linewidth=0.8, zorder=0)
        axes.annotate(
            one["out"], (x, axes.get_ylim()[0]), rotation=90, va="bottom", ha="right", fontsize=7, color="0.4"
        )
    axes.set(xscale="log", xlabel="pairs, millions", ylabel="PSNR on validation scenes, dB")
    axes.legend(loc="center right", frameon=False)
    with new_file(out) as partial:
        figure.savefig(partial, format="png", dpi=130)


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python benchmarks/demo_curve.py", description=__doc__)
    parser.add_argument("--log", type=Path, default=ROOT / "docs" / "demo_runs.jsonl", help="of all runs")
    parser.add_argument("--out", type=Path, required=True, help="the picture, a new PNG")
    args = parser.parse_args(argv)
    draw(read_runs(args.log), args.out)


if __name__ == "__main__":
    main()
