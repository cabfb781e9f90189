r"""The ablations of configs/ablations: trains each row for equal time and makes one table of them.

    python benchmarks/ablations.py --rows base rope_stream --seconds 480 --gpus 4 --data data/built \
        --latents data/latents --vae runs/demo_vae/weights --out runs/ablations
    python benchmarks/ablations.py --small --rows base shift_1 --seconds 20 --out /tmp/ablations    # on a CPU
    python benchmarks/ablations.py --rows all --table --out runs/ablations     # the table of what is there

A row is trained by `train.py` and then measured by `stp_jax.evaluate`, on one GPU; as many rows at a time as
there are GPUs. Whatever follows `--` goes to train.py of every row. The same command continues where it was
interrupted, and skips what is done. Rows by the rules `synchronised` and `static`, or with data sets of these
names, read their latents from <latents>_synchronised and <latents>_static.

--out gets a folder for each row and seed, ablations.json with all numbers, and ablations.md, the table:
validation loss at equal steps and at equal time, PSNR of the three groups of cases on scenes of the
validation split, steps, time of a step, parameters and memory.
"""

from __future__ import annotations

import csv
import json
import math
import os
import queue
import re
import shlex
import signal
import statistics
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from stp_jax.errors import InputError, exit_on_input_error, starting  # noqa: E402

with starting(__name__ == "__main__"):
    from stp_jax.command_line import Parser, count, number, read_config
    from stp_jax.files import read_json_lines

CONFIGS = ROOT / "configs" / "ablations"
GROUPS = ("time control", "camera control", "both")
NO_MODELS = ("nearest source frame", "source as it is", "VAE ceiling", "ground truth")
COPY = ("time control", "forward")  # the target is the source itself: not in the group's mean
MINI = ROOT / "stp_jax" / "assets" / "cam_x_time_mini"
# A model that takes part in everything and needs no GPU.
SMALL = (
    *("model.dim=64", "model.ffn_dim=64", "model.layers=2", "model.heads=2", "model.freq_dim=16"),
    *("model.conditioning_dim=16", "model.dtype=float32", "model.remat=full"),
    *("train.batch_size=2", "train.log_every=1"),
    *("train.validate_every=2", "train.validation_batches=1", "train.validation.batch_size=2"),
    *("train.checkpoint_every=4", "optimizer.warmup_steps=2", "optimizer.ema_decay=0.5"),
)


# --- what was measured --------------------------------------------------------------------------


def summarise(lines: list[dict[str, Any]], steps: list[int], times: list[float]) -> dict[str, Any]:
    """What a run's metrics.jsonl holds.

    Args:
      lines: its lines, in order; a step that was run again counts as it was the last time.
      steps: at which to give the validation loss, where it was taken.
      times: seconds, at which to give the latest validation loss taken before.
    """
    validation = {line["step"]: line["validation/loss"] for line in lines if "validation/loss" in line}
    of_sets: dict[str, dict[int, float]] = {}
    for line in lines:
        for key in line:
            if match := re.fullmatch("validation/(.+)/loss", key):
                of_sets.setdefault(match[1], {})[line["step"]] = line[key]
    elapsed = {line["step"]: line["elapsed_seconds"] for line in lines if "elapsed_seconds" in line}

    def seconds(step: int) -> float:
        """When the step was done: from its own line, or the next one's."""
        later = [at for at in sorted(elapsed) if at >= step]
        return elapsed[later[0]] if later else math.inf

    def at_time(limit: float) -> float | None:
        taken = [step for step in sorted(validation) if seconds(step) <= limit]
        return validation[taken[-1]] if taken else None

    of_step = [line["step_seconds"] for line in lines if "step_seconds" in line]
    return {
        "steps": max([line["step"] for line in lines], default=0),
        "seconds": max(elapsed.values(), default=0.0),
        "step_ms": 1000 * statistics.median(of_step) if of_step else None,
        "memory_gib": max(
            [line["device_memory_gib"] for line in lines if "device_memory_gib" in line], default=None
        ),
        "start_seconds": next((line["start_seconds"] for line in lines if "start_seconds" in line), None),
        "validation": {str(step): validation[step] for step in sorted(validation)},
        "at_steps": {str(step): validation.get(step) for step in steps},
        "at_times": {f"{limit:g}": at_time(limit) for limit in times},
        "last": validation[max(validation)] if validation else None,
        # Of each held-out data set, where there are several.
        "validation_sets": {
            name: {str(step): losses[step] for step in sorted(losses)} for name, losses in of_sets.items()
        },
    }


def read_psnr(path: Path) -> dict[str, float]:
    """The model's mean PSNR by group, from per_scene.csv; without the copies in time control."""
    found: dict[str, list[float]] = {group: [] for group in GROUPS}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            own = row["method"] not in NO_MODELS and (row["group"], row["mode"]) != COPY
            if own and row["group"] in found and row.get("psnr"):
                found[row["group"]].append(float(row["psnr"]))
    return {group: statistics.fmean(values) for group, values in found.items() if values}


def table(results: list[dict[str, Any]], steps: list[int], times: list[float]) -> str:
    """A markdown table, a line for each result, in their order."""

    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    head = [
        *("row", "seed", "parameters, M", "step, ms", "memory, GiB", "steps"),
        *(f"loss at {step:,} steps" for step in steps),
        *(f"at {limit:g} s" for limit in times),
        "at the end",
        *(f"PSNR {group}" for group in GROUPS),
    ]
    lines = [head, ["---"] * len(head)]
    for one in results:
        lines.append(
            [
                *(one["row"], str(one["seed"])),
                *(cell(one.get("parameters_m"), ".1f"), cell(one["step_ms"], ".1f")),
                *(cell(one["memory_gib"], ".1f"), f"{one['steps']:,}"),
                *(cell(one["at_steps"].get(str(step)), ".4f") for step in steps),
                *(cell(one["at_times"].get(f"{limit:g}"), ".4f") for limit in times),
                cell(one["last"], ".4f"),
                *(cell(one.get("psnr", {}).get(group), ".2f") for group in GROUPS),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- running the rows ---------------------------------------------------------------------------


class Rows:
    """Trains and measures rows, as `args` of `parse` ask."""

    def __init__(self, args: Any):
        self._args = args
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self.stopping = False
        self.failed: list[str] = []

    def folder(self, row: str, seed: int) -> Path:
        return self._args.out / (row if seed == 0 else f"{row}_seed{seed}")

    def latents(self, row: str) -> dict[str, Path]:
        """The latent caches of a row, by the fields of its config that name them."""
        config = read_config(str(CONFIGS / f"{row}.py"))

        def paths(name: str, data: Any) -> dict[str, Path]:
            kinds = list(data.mixture)
            if kinds:
                return {f"{name}.mixture.{kind}.path": self._cache(kind) for kind in kinds}
            return {f"{name}.path": self._cache(data.rules)}

        return paths("data", config.data) | paths("pictures.data", config.pictures.data)

    def caches(self, row: str) -> set[Path]:
        """The folders that a row reads."""
        return {
            path / (self._args.split if field.startswith("pictures") else "train")
            for field, path in self.latents(row).items()
        }

    def _cache(self, kind: str) -> Path:
        """Of a data set of the rules or the kind; scenes of grids lie in --latents itself."""
        return self._args.latents if kind in ("grid", "grids") else Path(f"{self._args.latents}_{kind}")

    def train_command(self, row: str, seed: int) -> list[str]:
        args, config = self._args, "--config"
        command = [sys.executable, "train.py", config, f"configs/ablations/{row}.py"]
        fields = {
            "seed": seed,
            "vae": args.vae,
            "pictures.split": args.split,
            "pictures.data.kind": "latents",
            "train.seconds": args.seconds,
        } | self.latents(row)
        flags = [f"{name}={value}" for name, value in fields.items()] + list(SMALL if args.small else ())
        folder = self.folder(row, seed) / "run"
        command += ["--workdir", str(folder), *(f"--config.{flag}" for flag in flags)]
        return [*command, *args.train_flags]

    def evaluate_command(self, row: str, seed: int) -> list[str]:
        args, folder = self._args, self.folder(row, seed)
        command = [sys.executable, "-m", "stp_jax.evaluate", "--config", f"configs/ablations/{row}.py"]
        command += ["--weights", str(folder / "run" / "weights"), "--data", str(args.data)]
        command += ["--split", args.split, "--scenes", str(args.scenes), "--sheets", "2"]
        return [*command, "--out", str(folder / "evaluation"), *shlex.split(args.evaluate_flags)]

    def call(self, command: list[str], log: Path, gpu: int) -> bool:
        """Runs a command with its output in a file; whether it ended well."""
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": str(gpu), "PYTHONPATH": paths}
        with self._lock:
            if self.stopping:
                return False
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "a") as file:
                process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
            self._running.add(process)
        status = process.wait()
        with self._lock:
            self._running.discard(process)
        return status == 0 and not self.stopping

    def run(self, row: str, seed: int, gpu: int) -> None:
        """Trains and measures one row, as far as that is not done yet."""
        folder, args = self.folder(row, seed), self._args
        name = folder.name
        if not (folder / "trained").exists():
            print(f"{name}: training on GPU {gpu}", flush=True)
            if not self.call(self.train_command(row, seed), folder / "train.log", gpu):
                self.fail(name, folder / "train.log")
                return
            (folder / "trained").touch()
        if args.scenes and not (folder / "evaluation" / "metrics.json").exists():
            print(f"{name}: evaluating on GPU {gpu}", flush=True)
            if not self.call(self.evaluate_command(row, seed), folder / "evaluate.log", gpu):
                self.fail(name, folder / "evaluate.log")
                return
        print(f"{name}: done", flush=True)

    def fail(self, name: str, log: Path) -> None:
        if self.stopping:
            return
        with self._lock:
            self.failed.append(name)
        last = log.read_text().strip().splitlines()[-1:] or ["no output"]
        print(f"{name}: FAILED, see {log}: {last[0]}", flush=True)

    def stop(self) -> None:
        """Asks all that runs to save and end."""
        with self._lock:
            self.stopping = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)

    def run_all(self) -> None:
        """All rows and seeds, one at a time on each GPU."""
        waiting: queue.SimpleQueue = queue.SimpleQueue()
        for seed in self._args.seeds:
            for row in self._args.rows:
                waiting.put((row, seed))

        def work(gpu: int) -> None:
            while not self.stopping:
                try:
                    row, seed = waiting.get_nowait()
                except queue.Empty:
                    return
                self.run(row, seed, gpu)

        threads = [threading.Thread(target=work, args=(gpu,)) for gpu in range(self._args.gpus)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            print("Stopping; the same command continues.", flush=True)
            self.stop()
            for thread in threads:
                thread.join()

    def results(self) -> list[dict[str, Any]]:
        """Of every row and seed that has been trained to its end."""
        found = []
        for row in self._args.rows:
            for seed in self._args.seeds:
                folder = self.folder(row, seed)
                if not (folder / "trained").exists():
                    continue
                lines = read_json_lines(folder / "run" / "metrics.jsonl")
                one = {"row": row, "seed": seed} | summarise(lines, self._args.at_steps, self._args.at_times)
                size = re.search(r"dit: ([\d.]+) M parameters", (folder / "train.log").read_text())
                one["parameters_m"] = float(size[1]) if size else None
                scores = folder / "evaluation" / "per_scene.csv"
                if (folder / "evaluation" / "metrics.json").exists():
                    one["psnr"] = read_psnr(scores)
                found.append(one)
        return found


def small_data(args: Any) -> None:
    """Sets the paths of `--small`: latents of a few scenes, in `--out`; the test split validates.

    They are of the mini data set. It has no depth: where a row needs that, two scenes a split are rendered.
    """
    depth = any(read_config(str(CONFIGS / f"{row}.py")).loss.depth for row in args.rows)
    args.data, args.latents, args.split, args.scenes = MINI, args.out / "latents", "test", min(args.scenes, 1)
    if depth:
        args.data, args.latents = args.out / "built", args.out / "latents_with_depth"
        scenes = ["--out", str(args.out / "scenes"), "--depth_stride", "8", "--seeds"]
        for seeds in ("0:2", "1000000:1000002"):
            _python("-m", "input_pipeline.render", *scenes, seeds)
        if not args.data.exists():
            folders = ["--scenes", str(args.out / "scenes"), "--out", str(args.data)]
            _python("-m", "input_pipeline.datasets.cam_x_time", *folders)
    for split in ("train", "test"):
        done = args.out / f"{split} of {args.latents.name} is encoded"
        if done.exists():
            continue
        flags = ["--data", str(args.data), "--vae", args.vae, "--out", str(args.latents), "--split", split]
        flags += ["--scenes", "2", "--clips_per_scene", "2", "--clips_per_path", "1"]
        _python("-m", "stp_jax.encode_dataset", *flags, *["--depth"] * depth)
        done.touch()


def _python(*arguments: str) -> None:
    """Runs Python in the repository. Raises `InputError` where that fails."""
    if subprocess.run([sys.executable, *arguments], cwd=ROOT).returncode:
        raise InputError(f"{' '.join(arguments[:2])} failed for the data of --small; see above.")


def parse(argv: list[str] | None) -> Any:
    known = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "__init__")
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--rows", nargs="+", required=True, metavar="ROW", help=f"all, or some of {', '.join(known)}")
    add("--seconds", type=count, default=480, help="of training, for each row (default: %(default)s)")
    add("--seeds", type=number(0, 2**31 - 1, int), nargs="+", default=[0], help="of the training runs")
    add("--gpus", type=count, default=1, help="GPUs, and so rows at a time (default: %(default)s)")
    add("--data", type=Path, default=Path("data/built"), help="built data set, to evaluate on")
    add(
        "--latents",
        type=Path,
        default=Path("data/latents"),
        help="latent caches: train and the validation split",
    )
    add("--vae", default=str(ROOT / "stp_jax" / "assets" / "demo"), help="weights of the VAE of the latents")
    add("--split", default="validation", help="to validate and evaluate on (default: %(default)s)")
    add("--scenes", type=number(0, 10**6, int), default=16, help="to evaluate PSNR on; 0: not at all")
    add(
        "--evaluate_flags",
        default="--measures",
        help="more flags for stp_jax.evaluate, in one string (default: no measures beside PSNR, SSIM, LPIPS)",
    )
    add("--at_steps", type=count, nargs="*", default=[2000, 5000], help="steps at which losses are compared")
    add("--at_times", type=number(0, 10**6), nargs="*", help="seconds, likewise (default: half of --seconds)")
    add("--out", type=Path, default=Path("runs/ablations"), help="of the results (default: %(default)s)")
    add("--small", action="store_true", help="tiny models on the mini data set, to try it on a CPU")
    add("--table", action="store_true", help="train nothing: the table of what is done")
    argv = sys.argv[1:] if argv is None else argv
    cut = argv.index("--") if "--" in argv else len(argv)
    args = parser.parse_args(argv[:cut])
    args.train_flags = argv[cut + 1 :]
    args.rows = known if args.rows == ["all"] else args.rows
    for row in args.rows:
        if row not in known:
            raise InputError(f"--rows {row}: there is no configs/ablations/{row}.py; {', '.join(known)} are.")
    args.at_times = [args.seconds / 2] if args.at_times is None else args.at_times
    for name in ("data", "latents", "out"):
        setattr(args, name, getattr(args, name).resolve())
    args.vae = str(Path(args.vae).resolve())
    return args


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(args)
    if not args.table:
        if args.small:
            small_data(args)
        for path in sorted(set().union(*(rows.caches(row) for row in args.rows))):
            if not (path / "meta.json").exists():
                raise InputError(f"latent cache {path}: not found; write it with stp_jax.encode_dataset.")
        rows.run_all()
    results = rows.results()
    text = table(results, args.at_steps, args.at_times)
    (args.out / "ablations.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.out / "ablations.md").write_text(text + "\n")
    print(text)
    if rows.failed:
        raise InputError(f"{', '.join(rows.failed)} failed; the same command tries again.")


if __name__ == "__main__":
    main()
