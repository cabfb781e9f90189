"""Measures a model on the held-out scenes of a data set, beside baselines.

    python -m stp_jax.evaluate --config configs/demo.py
    python -m stp_jax.evaluate --config configs/demo.py --weights runs/demo/weights --out runs/demo/evaluation

Three groups of cases (stp_jax/evaluation/cases.py): time control, camera control, both. Two baselines:
the source video as it is, and for each frame the source frame nearest in animation time. The VAE ceiling is
the ground truth put through the VAE alone, which no model in its latents can be expected to beat. PSNR is of
each whole video, then averaged over scenes.

The folder --out gets table.txt, metrics.json, per_scene.csv, and contact sheets and videos of the first
scenes. The same command continues an interrupted evaluation.
"""

from __future__ import annotations

import hashlib
import signal
import sys
from pathlib import Path

from stp_jax.command_line import Parser, count, number, read_config
from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.weights import BUNDLED


def checksum(folder: str) -> str:
    """Tells the weights in a folder from any others."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stp_jax.evaluate", description=__doc__)
    parser.add_argument(
        "--config", required=True, help="file with get_config(); `pictures` names the held-out data"
    )
    parser.add_argument(
        "--weights", default=str(BUNDLED), help="folder that train.py wrote (default: the bundled model)"
    )
    parser.add_argument("--data", help="folder of a built data set (default: the config's)")
    parser.add_argument("--split", help="of the data set, such as a validation split (default: the config's)")
    parser.add_argument("--scenes", type=count, default=32, help="held-out scenes (default: %(default)s)")
    parser.add_argument("--steps", type=count, help="sampling steps (default: the weights')")
    parser.add_argument(
        "--seed", type=number(0, 2**31 - 1, int), default=0, help="of the noise that sampling starts from"
    )
    parser.add_argument("--batch_size", type=count, default=5, help="videos sampled at once; a scene has ten")
    parser.add_argument(
        "--sheets", type=number(0, 10**9, int), default=4, help="scenes to show as contact sheets and videos"
    )
    parser.add_argument(
        "--out", default="runs/evaluation", help="new folder for the results (default: %(default)s)"
    )
    args = parser.parse_args(argv)

    config = read_config(args.config)
    if "pictures" not in config or config.get("task") != "dit":
        raise InputError(f"--config {args.config} is not of a re-rendering model (config.task = 'dit').")
    data = config.pictures.data
    if args.data:
        data.path = args.data

    from stp_jax.evaluation.run import evaluate  # only now: --help need not wait for JAX
    from stp_jax.hardware import use_compilation_cache
    from stp_jax.rerender import Rerenderer

    use_compilation_cache()
    model = Rerenderer(args.weights, steps=args.steps)
    print(f"{args.weights} on {model.device}, {model.steps} steps")
    settings = {
        "weights": {"folder": args.weights, "checksum": checksum(args.weights)},
        "sampling": {"steps": model.steps, "shift": model.shift, "dtype": model.dtype},
    }
    try:
        table = evaluate(
            model,
            model.reconstruct,
            data=data,
            split=args.split or config.pictures.split,
            scenes=args.scenes,
            seed=args.seed,
            batch_size=args.batch_size,
            sheets=args.sheets,
            out=args.out,
            settings=settings,
        )
    except KeyboardInterrupt:
        print("Stopped. The same command goes on after the last whole scene.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    print(f"{table}\n\nResults: {args.out}")


if __name__ == "__main__":
    main()
