r"""What a step of training costs, by running `train.py` itself for some steps; and how fast the data comes.

    python benchmarks/training.py --work /tmp/benchmark                  # one GPU, about 10 minutes
    python benchmarks/training.py --work /tmp/benchmark --runs feed      # the data alone, no GPU
    python benchmarks/training.py --work /tmp/benchmark --small          # a tiny model, to try it on a CPU
    python benchmarks/training.py --work /tmp/benchmark -- --config.mesh.fsdp=2 --config.train.batch_size=2
    python benchmarks/training.py --work /tmp/benchmark --config configs/wan_14b_plucker.py --runs latents \
        -- --config.mesh.fsdp=1 --config.mesh.sequence=8

Takes configs/wan_1_3b_plucker.py, or another config like it, with random weights, on videos of moving noise,
81 frames of 832 x 480, stored as H.264 in the records of a data set. Whatever follows `--` goes to train.py.
Runs:

    latents   source and target from a latent cache; the compilation cache is empty
    again     the same once more, with what the first run compiled
    targets   source from the latent cache; the target is decoded, warped, and encoded inside the step
    videos    both are decoded, warped and encoded
    feed      examples of `targets` and of `videos` a second, without training

A run is killed after its steps, before it would write a checkpoint. Prints a markdown table: seconds from
the start of training to the end of the first step; the median step; MFU; the share of time spent waiting for
data; and the device's memory in use at most, GiB.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np
    from tqdm import tqdm

    from input_pipeline.config import default_config
    from input_pipeline.datasets import cam_x_time
    from input_pipeline.latents import LatentCache
    from input_pipeline.pipeline import count_scenes, make_clips, make_dataset
    from stp_jax.benchmark.settings import SMALL
    from stp_jax.benchmark.start import write_random_model
    from stp_jax.command_line import Parser, count, read_config
    from stp_jax.controls.view import view_of
    from stp_jax.files import read_json_lines
    from stp_jax.media.writing import write_video
    from stp_jax.models.config import TEXT_TOKENS
    from stp_jax.models.vae import VAEConfig

ROOT = Path(__file__).resolve().parent.parent
CAMERAS, CLIPS, CLIPS_PER_PATH = 4, 4, 2
RUNS = ("feed", "latents", "again", "targets", "videos")
TINY = dict(dim=64, ffn_dim=128, layers=2, heads=2, channels=4, text_dim=16, freq_dim=32, dtype="float32")


def write_scene(folder: Path, seed: int, frames: int, height: int, width: int) -> None:
    """A scene folder of moving noise: detail enough that decoding is no easier than that of real video."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 16, width // 16, 3)).repeat(16, 0).repeat(16, 1)
    picture = (0.7 * coarse + 0.3 * rng.integers(0, 255, (height, width, 3))).astype(np.uint8)
    for camera in range(CAMERAS):
        clip = [np.roll(picture, (t, 2 * t + 16 * camera), (0, 1)) for t in range(frames)]
        path = folder / "videos" / f"camera_{camera:03d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, np.stack(clip), 15, crf=23)
    names = [f"camera_{camera:03d}" for camera in range(CAMERAS)]
    w2c = [np.eye(4) for _ in names]
    for camera, matrix in enumerate(w2c):
        matrix[0, 3] = -camera
    cameras = {
        "extrinsic": {name: matrix.tolist() for name, matrix in zip(names, w2c, strict=True)},
        "intrinsic": {name: [0.8, 1.4, 0.5, 0.5] for name in names},
    }
    described = {"fps": 15, "animation_time": list(range(frames)), "cameras": cameras}
    (folder / "camera_data.json").write_text(json.dumps(described))


def prepare(prepared: Path, config, vae: VAEConfig, scenes: int) -> None:
    """Writes data set, latent caches, VAE and the embedding of a prompt, unless the folder is there."""
    if prepared.exists():
        return
    work = prepared.with_name("preparing")
    shutil.rmtree(work, ignore_errors=True)  # was interrupted
    data = config.data
    size = data.frames, data.height, data.width
    seeds = [*range(scenes), 1_000_000]  # the last is of the test split
    with ProcessPoolExecutor() as processes:
        folders = [work / "scenes" / f"scene_{seed:07d}" for seed in seeds]
        jobs = [processes.submit(write_scene, f, s, *size) for f, s in zip(folders, seeds, strict=True)]
        for job in tqdm(jobs, desc="videos", unit="scene"):
            job.result()
    cam_x_time.main(["--scenes", str(work / "scenes"), "--out", str(work / "data")])
    videos = default_config()
    videos.update(kind="cam_x_time", path=str(work / "data"), frames=size[0], height=size[1], width=size[2])
    shape = (*vae.latent_size(*size), vae.z_dim)
    noise = np.random.default_rng(0).standard_normal((CLIPS, *shape), np.float32)
    for split in ("train", "test"):
        cache = LatentCache.create(
            work / "latents" / split,
            scenes=count_scenes(videos, split),
            frames=size[0],
            latent_shape=shape,
            meta={"vae": {"temporal_downsample": vae.temporal_downsample}, "seed": 0}
            | dict(flip=False, permute_channels=False),
            clips=CLIPS,
            clips_per_path=CLIPS_PER_PATH,
        )
        for clips in make_clips(videos, split=split, seed=0, clips=CLIPS, clips_per_path=CLIPS_PER_PATH):
            cache.write(clips["row"], noise, view_of(clips))
    write_random_model(work / "vae", "vae", vae)
    np.savez(work / "text.npz", embeddings=np.zeros((1, TEXT_TOKENS, config.model.text_dim), np.float32))
    work.rename(prepared)


def data_flags(prepared: Path, run: str) -> dict[str, object]:
    """What a run reads, as fields of `config.data`."""
    if run in ("latents", "again"):
        return dict(kind="latents", path=prepared / "latents")
    flags = dict(kind="cam_x_time", path=prepared / "data", scenes_at_once=2, cached_scenes=2)
    return flags | (dict(source_latents=prepared / "latents") if run == "targets" else {})


def train(work: Path, run: str, steps: int, config: str, flags: list[str]) -> list[dict]:
    """The lines of metrics of a run of `train.py`, killed after `steps` steps."""
    workdir = work / "runs" / f"{run}_{time.strftime('%H%M%S')}"
    fields = {f"data.{name}": value for name, value in data_flags(work / "prepared", run).items()}
    fields |= {f"pictures.{name}": value for name, value in fields.items()}
    fields |= {"init_from": "", "vae": work / "prepared/vae", "text": work / "prepared/text.npz"}
    quiet = ("log_every=1", "pictures_every=0", "validate_every=0", "checkpoint_every=0", "batch_size=1")
    command = [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    command += [f"--config.train.{flag}" for flag in quiet] + flags
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(work / "compiled")}
    log = workdir.with_suffix(".log")
    log.parent.mkdir(exist_ok=True)
    lines: list[dict] = []
    with open(log, "w") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True
        )
        while process.poll() is None and len(lines) < steps + 3:
            time.sleep(0.2)
            if (workdir / "metrics.jsonl").exists():
                lines = read_json_lines(workdir / "metrics.jsonl")
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if len(lines) < steps + 3:
        raise InputError(f"the run {run} ended early; the end of {log}:\n{log.read_text()[-2000:]}")
    return lines


def row(run: str, lines: list[dict]) -> str:
    start = next(line["start_seconds"] for line in lines if "start_seconds" in line)
    timed = [line for line in lines if "step_seconds" in line][2:]
    step, wait = (
        statistics.median(line[name] for line in timed) for name in ("step_seconds", "data_wait_share")
    )
    cells = [run, f"{start:.0f}", f"{step:.3f}"]
    cells.append(f"{statistics.median(line['mfu'] for line in timed):.1%}" if "mfu" in timed[0] else "")
    cells.append(f"{wait:.2%}")
    cells.append(f"{timed[-1]['device_memory_gib']:.1f}" if "device_memory_gib" in timed[0] else "")
    return f"| {' | '.join(cells)} |"


def feed(prepared: Path, run: str, config, seconds: float) -> str:
    data = config.data.copy_and_resolve_references()
    data.update({name: str(v) if isinstance(v, Path) else v for name, v in data_flags(prepared, run).items()})
    examples = iter(make_dataset(data, split="train", seed=0, batch_size=1))
    next(examples)
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds or not done:
        next(examples)
        done += 1
    rate = done / (time.perf_counter() - begun)
    examples.close()
    return f"data of `{run}`: {rate:.2f} examples/s on {len(os.sched_getaffinity(0))} cores ({done} examples)"


@exit_on_input_error
def main() -> None:
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    flags = arguments[split + 1 :]
    parser = Parser(prog="python benchmarks/training.py", description=__doc__)
    parser.add_argument("--work", required=True, type=Path, help="folder for data and runs, some GiB")
    parser.add_argument(
        "--config", default=str(ROOT / "configs/wan_1_3b_plucker.py"), help="default: 1.3B size"
    )
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS, help="default: all")
    parser.add_argument("--steps", type=count, default=8, help="timed in each run; default 8")
    parser.add_argument("--scenes", type=count, default=8, help="of the data set; default 8")
    parser.add_argument("--feed_seconds", type=count, default=30)
    parser.add_argument("--small", action="store_true", help="a tiny model and video")
    given = parser.parse_args(arguments[:split])
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)

    config, vae = read_config(given.config), VAEConfig()
    if given.small:
        small = dict(frames=SMALL.frames, height=SMALL.height, width=SMALL.width)
        config.data.update(small)
        config.model.update(TINY)
        vae = SMALL.vae
        fields = {f"model.{name}": value for name, value in TINY.items()}
        for part in ("data", "pictures.data"):
            fields |= {f"{part}.{name}": value for name, value in small.items()}
        flags = [f"--config.{name}={value}" for name, value in fields.items()] + flags
    prepare(work / "prepared", config, vae, given.scenes)
    rows = []
    for run in given.runs:
        if run == "feed":
            for kind in ("targets", "videos"):
                print(feed(work / "prepared", kind, config, given.feed_seconds), flush=True)
        else:
            rows.append(row(run, train(work, run, given.steps, str(Path(given.config).resolve()), flags)))
            print(rows[-1], flush=True)
    if rows:
        print("\n| run | first step, s | step, s | MFU | waiting for data | memory, GiB |")
        print("\n".join(["|---|---|---|---|---|---|", *rows]))


if __name__ == "__main__":
    main()
