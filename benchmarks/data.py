"""How fast batches come from videos, beside a PyTorch DataLoader with the same decoder on the same files.

    python benchmarks/data.py --work /tmp/data_benchmark                     # all forms, minutes on two cores
    python benchmarks/data.py --work /tmp/data_benchmark --forms grid --workers 0 1 2 4 --seconds 20
    python benchmarks/data.py --work /tmp/data_benchmark --small             # tiny videos, to try it

Writes videos of moving noise once, as H.264, and builds data sets of them:

    grid       17 cameras x 33 times at 128 px, clips of 17 frames: what the demo trains on
    multicam   4 moving cameras, 81 frames of 832 x 480, clips of 81 frames
    resized    4 moving cameras, 33 frames of 640 x 640, clips of 33 frames of 416 x 240
    long       4 moving cameras, 500 frames of 416 x 240 with a key frame every 250, clips of 17 frames
    short      the same with a key frame every 8 frames, as `--transcode --gop 8` writes it

For each form and number of pairs that are drawn from a scene in its turn (1: nothing is decoded for several
pairs) and of worker processes (0: in this process) it reads examples for some seconds. All decode with one
thread in each process. The DataLoader reads the same files with the same decoder (PyAV) and draws pairs
by the same function (`pairs.random_pair`). Its item is a scene: its videos are opened, decoded as far as they
are needed, converted to RGB, resized by torch, and the pairs are cut out. The two take turns, several times;
figures are medians. `frames/s for a core` are pictures of source and target clips for a second of CPU time of
all processes, which other work on the machine disturbs less than wall time. Memory is that of a worker:
resident (RSS), and without what is shared with others (PSS).
"""

from __future__ import annotations

import io
import shutil
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from stp_jax.errors import exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import av
    import numpy as np
    import psutil
    from ml_collections import ConfigDict

    from input_pipeline.config import default_config
    from input_pipeline.datasets import records
    from input_pipeline.datasets.reading import open_records
    from input_pipeline.pairs import MODES, random_pair
    from input_pipeline.pipeline import make_dataset
    from input_pipeline.shots import Scene
    from stp_jax.command_line import Parser, count

MIB = 2**20
_POLL = 0.3  # seconds


class Form(NamedTuple):
    """Videos of a data set, and the clips that are cut from them.

    Attributes:
      size, clip_size: height, width.
      gop: frames from one key frame to the next.
    """

    kind: str
    cameras: int
    times: int
    size: tuple[int, int]
    gop: int
    frames: int
    clip_size: tuple[int, int]
    scenes: int = 4


FORMS = {
    "grid": Form("grid", 17, 33, (128, 128), 250, 17, (128, 128), 16),
    "multicam": Form("synchronised", 4, 81, (480, 832), 250, 81, (480, 832)),
    "resized": Form("synchronised", 4, 33, (640, 640), 250, 33, (240, 416)),
    "long": Form("synchronised", 4, 500, (240, 416), 250, 17, (240, 416)),
    "short": Form("synchronised", 4, 500, (240, 416), 8, 17, (240, 416)),
}


class Noise(records.SceneBuilder):
    """Builder of scenes of moving noise; a scene is a file with its seed."""

    name = "noise"

    def __init__(self, *, form: Form, **kwargs: Any):
        self._form = form
        super().__init__(**kwargs)

    def read_scene(self, folder: Path) -> dict[str, Any]:
        form, seed = self._form, int(folder.name)
        moments = 1 if form.kind == "grid" else form.times
        c2w = np.tile(np.eye(4, dtype=np.float32), (form.cameras, moments, 1, 1))
        c2w[..., 0, 3] = np.arange(form.cameras)[:, None]
        return {
            "kind": form.kind,
            "fps": 15.0,
            "videos": [encode(form, seed * form.cameras + camera) for camera in range(form.cameras)],
            "c2w": c2w,
            "intrinsics": np.tile(np.array([0.8, 1.4, 0.5, 0.5], np.float32), (form.cameras, 1, 1)),
            "animation_time": np.arange(form.times, dtype=np.float32) * (0.5 if form.kind == "grid" else 1),
            "captions": [],
            "metric": True,
        }


def encode(form: Form, seed: int) -> bytes:
    """A video of noise that moves: detail enough that decoding is no easier than that of real video."""
    rng, (height, width) = np.random.default_rng(seed), form.size
    coarse = rng.integers(0, 255, (-(-height // 16), -(-width // 16), 3)).repeat(16, 0).repeat(16, 1)
    picture = 0.7 * coarse[:height, :width] + 0.3 * rng.integers(0, 255, (height, width, 3))
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"crf": "23", "g": str(form.gop), "threads": "1", "preset": "fast"}
        stream = container.add_stream("libx264", rate=15, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for t in range(form.times):
            moved = np.roll(picture.astype(np.uint8), (t, 2 * t), (0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def prepare(work: Path, name: str, form: Form) -> Path:
    """Builds the form's data set, unless it is there, and writes each video as a file, too."""
    folder = work / name
    if (folder / "ready").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "seeds").mkdir(parents=True)
    seeds = [folder / "seeds" / f"{seed}" for seed in range(form.scenes)]
    for seed in seeds:
        seed.touch()
    records.build(Noise, folder, {"train": seeds}, form=form)
    for number, record in enumerate(open_records(folder, "noise", "train")):
        for camera, data in enumerate(record["videos"]):
            file = folder / "videos" / str(number) / f"{camera}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    (folder / "ready").touch()
    return folder


def config_of(folder: Path, form: Form, pairs: int, workers: int) -> ConfigDict:
    config = default_config()
    height, width = form.clip_size
    config.update(kind="noise", path=str(folder), frames=form.frames, height=height, width=width)
    # No scene is kept until its next turn: data sets of a benchmark are small.
    config.update(pairs_per_scene=pairs, scenes_at_once=2, cached_scenes=max(1, 2 // max(1, workers)))
    return config


# The two -------------------------------------------------------------------------------------------------


def ours(folder: Path, form: Form, pairs: int, workers: int) -> Iterator[Any]:
    config = config_of(folder, form, pairs, workers)
    data = make_dataset(
        config, split="train", seed=0, batch_size=1, num_workers=workers, read_threads=1, epochs=None
    )
    examples = iter(data)
    try:
        yield from examples
    finally:
        examples.close()


class TorchScenes:
    """A map-style data set for a DataLoader: item i are the pairs of a scene, as tensors."""

    def __init__(self, folder: Path, form: Form, pairs: int):
        self._folder, self._form, self._pairs = folder, form, pairs
        self._poses = [
            {key: record[key] for key in ("c2w", "intrinsics", "animation_time")}
            for record in open_records(folder, "noise", "train")
        ]

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        import torch

        rng, number = np.random.default_rng(index), index % len(self._poses)
        drawn = [self._draw(rng, number) for _ in range(self._pairs)]
        cells = sorted({cell for pair in drawn for clip in pair for cell in map(tuple, clip["video"])})
        pictures = self._decode(number, cells)
        return [
            {
                f"{role}_{key}": torch.stack([pictures[tuple(cell)] for cell in value])
                if key == "video"
                else torch.from_numpy(np.ascontiguousarray(value))
                for role, clip in zip(("source", "target"), pair, strict=True)
                for key, value in clip.items()
            }
            for pair in drawn
        ]

    def _draw(self, rng: np.random.Generator, number: int) -> tuple[dict, dict]:
        """A pair of clips whose videos are the cells (camera, time) that they show, int [F, 2]."""
        form, poses = self._form, self._poses[number]
        cells = np.stack(np.meshgrid(range(form.cameras), range(form.times), indexing="ij"), -1)
        shape = (form.cameras, form.times)
        scene = Scene(
            name=str(number),
            videos=cells,
            c2w=np.broadcast_to(poses["c2w"], (*shape, 4, 4)),
            intrinsics=np.broadcast_to(poses["intrinsics"], (*shape, 4)),
            animation_time=poses["animation_time"],
            kind=form.kind,
        )
        config = default_config()
        modes = [config.modes[mode] for mode in MODES]
        return random_pair(scene, rng, form.frames, modes, config.source_warp)

    def _decode(self, number: int, cells: list[tuple[int, int]]) -> dict[tuple[int, int], Any]:
        import torch

        found = {}
        for camera in sorted({camera for camera, _ in cells}):
            wanted = {time for one, time in cells if one == camera}
            with av.open(str(self._folder / "videos" / str(number) / f"{camera}.mp4")) as container:
                container.streams.video[0].thread_type = "NONE"
                for time_, frame in enumerate(container.decode(video=0)):
                    if time_ in wanted:
                        picture = torch.from_numpy(frame.to_ndarray(format="rgb24", threads=1))
                        found[camera, time_] = self._resized(picture)
                    if time_ >= max(wanted):
                        break
        return found

    def _resized(self, picture: Any) -> Any:
        """Covers the size and is cropped at its centre, by bicubic interpolation with antialiasing."""
        import torch

        (height, width), (h, w) = self._form.clip_size, picture.shape[:2]
        if (height, width) == (h, w):
            return picture
        scale = min(h / height, w / width)
        inside = round(height * scale), round(width * scale)
        top, left = (h - inside[0]) // 2, (w - inside[1]) // 2
        part = picture[top : top + inside[0], left : left + inside[1]].permute(2, 0, 1)[None]
        resized = torch.nn.functional.interpolate(part, (height, width), mode="bicubic", antialias=True)
        return resized[0].permute(1, 2, 0).contiguous()


def torchs(folder: Path, form: Form, pairs: int, workers: int) -> Iterator[Any]:
    import torch

    torch.set_num_threads(1)
    scenes: Any = TorchScenes(folder, form, pairs)
    loader: Any = torch.utils.data.DataLoader(
        scenes,
        batch_size=None,
        num_workers=workers,
        # Grain starts its workers so, too: a fork of a process with threads may hang.
        multiprocessing_context="spawn" if workers else None,
    )
    for examples in loader:
        yield from examples


# Measuring -----------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    frames: float  # of all processes for a second of wall time
    frames_of_core: float  # for a second of CPU time
    rss: float  # of a worker, MiB
    pss: float


class Running:
    """A loader at work, with its processes.

    Args:
      examples: an endless generator of them.
      frames: of a clip.
      warm_up: examples that are read before the first reading.
    """

    def __init__(self, examples: Any, frames: int, warm_up: int):
        self._examples, self._frames = examples, frames
        before = set(children())
        for _ in range(warm_up):
            next(examples)
        self._workers = [process for process in children() if process not in before]

    def read(self, seconds: float) -> Reading:
        """From full buffers to full buffers: what was prepared before or after would cost nothing."""
        self._settle()
        cpu, begun, done = self._cpu_seconds(), time.perf_counter(), 0
        while time.perf_counter() - begun < seconds or not done:
            next(self._examples)
            done += 1
        wall, cpu = self._settle() - begun, self._cpu_seconds() - cpu
        pictures = 2 * self._frames * done
        used = [process.memory_full_info() for process in self._workers or [psutil.Process()]]
        rss, pss = (statistics.median(getattr(one, name) for one in used) / MIB for name in ("rss", "pss"))
        return Reading(pictures / wall, pictures / cpu, rss, pss)

    def _settle(self) -> float:
        """Waits until all processes are idle, and returns since when they are."""
        idle = 0
        while idle < 2:  # one may wait for its turn on a machine at load
            since, before = time.perf_counter(), self._cpu_seconds()
            time.sleep(_POLL)
            idle = idle + 1 if self._cpu_seconds() - before < 0.1 * _POLL else 0
        return since - _POLL

    def _cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in [psutil.Process(), *self._workers])

    def close(self) -> None:
        self._examples.close()


def children() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [process for process in found if not {"resource_tracker", "semaphore_tracker"} & words(process)]


def words(process: psutil.Process) -> set[str]:
    return set(" ".join(process.cmdline()).replace(".", " ").split())


def measure(loaders: dict[str, Any], form: Form, folder: Path, pairs: int, workers: int, given) -> list[str]:
    """A row of the table for each loader; they take turns."""
    warm_up = 2 * pairs * max(1, workers)
    running = {
        name: Running(loader(folder, form, pairs, workers), form.frames, warm_up)
        for name, loader in loaders.items()
    }
    turns = [{name: one.read(given.seconds) for name, one in running.items()} for _ in range(given.repeats)]
    rows = []
    for name, one in running.items():
        one.close()
        middle = Reading(*(statistics.median(v) for v in zip(*(turn[name] for turn in turns), strict=True)))
        rows.append(
            f"| {folder.name} | {pairs} | {workers} | {name} | {middle.frames:,.0f} | "
            f"{middle.frames_of_core:,.0f} | {middle.rss:,.0f} | {middle.pss:,.0f} |"
        )
    return rows


def small(form: Form) -> Form:
    return form._replace(cameras=2, times=17, size=(64, 64), frames=5, clip_size=(32, 32), scenes=2)


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python benchmarks/data.py", description=__doc__)
    parser.add_argument("--work", required=True, type=Path, help="folder for the videos, 200 MB")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="default: all")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--pairs", nargs="+", type=count, default=[1, 8], help="of a scene; default: 1 8")
    parser.add_argument("--seconds", type=float, default=4, help="of a reading; default 4")
    parser.add_argument("--repeats", type=count, default=3, help="readings; default 3")
    parser.add_argument("--small", action="store_true", help="tiny videos")
    given = parser.parse_args(argv)
    forms = {name: small(FORMS[name]) if given.small else FORMS[name] for name in given.forms}
    with ProcessPoolExecutor(1) as apart:  # so that what is used to write them is in no figure
        jobs = [apart.submit(prepare, given.work, name, form) for name, form in forms.items()]
        folders = [job.result() for job in jobs]
    loaders: dict[str, Any] = {"ours": ours}
    try:
        import torch.utils.data  # noqa: F401

        loaders["torch"] = torchs
    except ImportError:
        print("PyTorch is not installed: without its DataLoader")
    print("| videos | pairs of a scene | workers | | frames/s | frames/s for a core | RSS, MiB | PSS, MiB |")
    print("|---|---:|---:|---|---:|---:|---:|---:|")
    for form, folder in zip(forms.values(), folders, strict=True):
        for pairs in given.pairs:
            for workers in given.workers:
                print("\n".join(measure(loaders, form, folder, pairs, workers, given)), flush=True)


if __name__ == "__main__":
    main()
