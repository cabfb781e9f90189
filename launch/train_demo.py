r"""One training run of the demo model on all GPUs of a machine, from new scenes to weights, in a given time.

    python launch/train_demo.py --seconds 1500 --seeds 100000:103200 --from runs/demo/weights --out runs/demo2
    python launch/train_demo.py --small --seconds 300 --out /tmp/demo    # the whole chain, tiny, on a CPU
    python launch/train_demo.py --table                                  # the runs so far, for the document

It renders the scenes of the seeds on all GPUs and encodes them with the VAE, one part of them while the next
is rendered; trains from the weights of an earlier run (or from random ones), with the learning rate decayed
to the end of the time; and writes

    <out>/weights         the averaged weights, in parts of at most 15 MB, for sample.py and the next --from
    <out>/best            those of the lowest loss on held-out scenes so far
    <out>/metrics.jsonl, <out>/pictures, <out>/logs, <out>/run.json
    <log>                 one more line: seeds, scenes, steps, pairs, losses, seconds, GPUs, commit

Scenes, latents and checkpoints are in --work. Ctrl-C and SIGTERM save and stop, with status 130 and 143; the
same command then continues, and --seconds counts all its calls together. Scenes that would take more than
their share of the time are left out. Whatever follows `--` goes to train.py.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stp_jax.errors import InputError, exit_on_input_error, starting  # noqa: E402

with starting():
    from launch.demo import results
    from launch.demo.arguments import open_folders, parse
    from launch.demo.data import Data
    from launch.demo.processes import Clock, Processes, Stopped

LEAST_TRAINING = 10  # seconds below which a run is not worth its start


def train_command(args: Any, data: Data, seconds: int) -> list[str]:
    """Arguments for Python: train.py on these latents for a number of seconds."""
    latent_data = {"kind": "latents", "frames": args.config.data.frames}
    latent_data |= {"width": args.config.data.width, "height": args.config.data.height}
    fields = {
        f"{where}.{name}": value for where in ("data", "pictures.data") for name, value in latent_data.items()
    }
    fields |= {
        "init_from": args.from_ or "",
        "vae": args.vae,
        "data.path": data.latents,
        "pictures.data.path": data.latents,
        "pictures.split": "validation",
        "train.steps": 10**8,  # the time decides
        "train.seconds": seconds,
        "train.batch_size": args.batch_size,
        "train.validate_every": args.validate_every,
        "train.pictures_every": 2 * args.validate_every,  # compiled early: not in the reserve at the end
        "train.checkpoint_every": 2 * args.validate_every,
        "optimizer.warmup_steps": args.warmup_steps,
        "mesh.data": -1,
    }
    if args.long_scenes:
        latent_frames = (args.config.data.frames - 1) // 4 + 1
        fields |= {"memory": min(4, latent_frames - 1), "data.memory_path": data.long_latents}
    if args.own_output:
        fields |= {"data.memory_outputs": data.outputs, "data.memory_output_share": args.own_output}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    command = ["train.py", "--config", args.config_name, "--workdir", str(args.work / "run")]
    return [*command, *flags, *args.train_flags]


def train(args: Any, data: Data, processes: Processes, clock: Clock) -> None:
    """Trains until the time is nearly up, or goes on with it."""
    run = args.work / "run"
    # What earlier calls have trained counts in train.seconds; what they took to start and to end does not.
    seconds = int(results.trained_seconds(run) + clock.left() - args.reserve)
    if seconds < LEAST_TRAINING:
        raise InputError(
            f"{max(0, seconds)} s would be left for training: more --seconds or fewer --seeds are needed."
        )
    clock.log(f"training for {seconds} s, {args.batch_size} pairs a step, on {args.device_kind}")
    seen = len(results.read_metrics(run / "metrics.jsonl"))

    def report() -> None:
        nonlocal seen
        lines = results.read_metrics(run / "metrics.jsonl")
        for line in lines[seen:]:
            if "validation/loss" in line:
                clock.log(f"step {line['step']}: loss on held-out scenes {line['validation/loss']:.4f}")
        seen = len(lines)

    command = train_command(args, data, seconds)
    processes.run([command], "train", ends_by=signal.SIGTERM, while_waiting=report)


def run(args: Any) -> None:
    """Does what is not done yet of a run."""
    open_folders(args)
    clock = Clock(args.out / "state.json", args.seconds)
    processes = Processes(args.out / "logs", args.devices, clock)
    data = Data(args, processes, clock)
    clock.log(
        f"seeds {args.seeds.start}:{args.seeds.stop} ({args.long_scenes} long), from "
        f"{args.from_name or 'random weights'}, {args.device_kind}; outputs in {args.out / 'logs'}"
    )
    try:
        if "scenes" not in clock.notes:
            clock.save(**data.make())
        train(args, data, processes, clock)
    finally:
        clock.save()
        results.copy(args.work / "run", args.out)
    line = results.line(args, clock.notes, clock.elapsed())
    results.write(line, args.out, args.log)
    clock.log(f"done: {json.dumps(line)}")


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    args = parse(argv, __doc__)
    if args.table:
        print(results.table(results.read_log(args.log)))
        return
    try:
        run(args)
    except Stopped as stopped:
        print(f"Stopped by {stopped}; what is done is saved. The same command goes on.", flush=True)
        sys.exit(128 + stopped.number)


if __name__ == "__main__":
    main()
