"""The data of a demo run: new scenes, and the latents of their clips."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.config import DEPTH_STRIDE
from input_pipeline.latents import LatentCache
from input_pipeline.memory_outputs import MemoryOutputs
from launch.demo.processes import Clock, Processes
from stp_jax.errors import InputError

LONG_WINDOWS = 4  # clips in a row on the long paths that a memory is trained on


class Part(NamedTuple):
    """Scenes that are rendered, and then encoded, together."""

    kind: str  # "validation", "long" or "scenes"
    seeds: range

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.seeds.start:06d}"

    @property
    def split(self) -> str:
        return "validation" if self.kind == "validation" else "train"


def plan(seeds: range, validation: range, long_scenes: int, scenes_of_part: int) -> list[Part]:
    """Held-out scenes first, then long ones (of the last seeds), then the others, part by part."""
    end = seeds.stop - long_scenes
    parts = [Part("validation", validation)]
    if long_scenes:
        parts.append(Part("long", range(end, seeds.stop)))
    for start in range(seeds.start, end, scenes_of_part):
        parts.append(Part("scenes", range(start, min(end, start + scenes_of_part))))
    return parts


class Data:
    """Renders and encodes; `args` is of `arguments.parse`."""

    def __init__(self, args: Any, processes: Processes, clock: Clock):
        self._args, self._processes, self._clock = args, processes, clock
        self.latents, self.long_latents = args.work / "latents", args.work / "long_latents"
        self.outputs = args.work / "long_outputs"  # of the model that the run begins with

    def make(self) -> dict[str, int]:
        """Makes the latent caches, as far as there is time; returns what was made, for the log."""
        args, longest = self._args, 0.0
        parts = plan(args.seeds, args.validation_seeds, args.long_scenes, args.part_scenes)
        done: list[Part] = []
        encoding: list[Future] = []
        with ThreadPoolExecutor(1) as encoder:
            try:
                for part in parts:
                    if done and done[-1].kind == "scenes" and self._too_late(part, longest):
                        break
                    before = self._clock.elapsed()
                    self._render(part)
                    longest = max(longest, self._clock.elapsed() - before)
                    encoding.append(encoder.submit(self._encode, part))  # while the next part is rendered
                    done.append(part)
                    for future in encoding:
                        if future.done():
                            future.result()  # of a failure we want to know before the next part
                for future in encoding:
                    future.result()
            except BaseException:
                encoder.shutdown(wait=False, cancel_futures=True)
                raise
        self._collect(done)
        if args.own_output:
            self._sample()
        scenes = sum(len(part.seeds) for part in done if part.kind == "scenes")
        return {"scenes": scenes, "data_seconds": round(self._clock.elapsed())}

    def _too_late(self, part: Part, seconds: float) -> bool:
        """Whether another part of this time would take more than the data's share of the run."""
        if (
            self._encoded(part)
            or self._clock.elapsed() + seconds <= self._args.data_share * self._args.seconds
        ):
            return False
        self._clock.log(f"no time to render the scenes from seed {part.seeds.start} on: the run does without")
        return True

    def _folder(self, part: Part) -> Path:
        return self._args.work / "parts" / part.name

    def _encoded(self, part: Part) -> bool:
        try:
            LatentCache.open(self._folder(part) / "latents" / part.split)
        except InputError:
            return False
        return True

    def _render(self, part: Part) -> None:
        """Renders a part on all GPUs, which the renderer finds in CUDA_VISIBLE_DEVICES."""
        args, folder = self._args, self._folder(part)
        if (folder / "built" / "cam_x_time").is_dir() or self._encoded(part):
            return
        before = self._clock.elapsed()
        windows = LONG_WINDOWS if part.kind == "long" else 1
        times = 2 * windows * (args.config.data.frames - 1) + 1
        command = ["-m", "input_pipeline.render", "--out", str(folder / "scenes"), "--times", str(times)]
        command += ["--size", str(args.config.data.width), "--cameras", str(args.cameras)]
        command += ["--workers", str(args.render_workers * max(1, args.gpus))]
        command += ["--seeds", f"{part.seeds.start}:{part.seeds.stop}"]
        command += ["--depth_stride", str(DEPTH_STRIDE)] if args.config.loss.depth else []
        self._processes.run([command], f"render_{part.name}")
        seconds = self._clock.elapsed() - before
        self._clock.log(f"{part.name}: {len(part.seeds)} scenes rendered in {seconds:.0f} s")

    def _encode(self, part: Part) -> None:
        """Builds the data set of a part, and encodes clips of it on all GPUs."""
        args, folder, data = self._args, self._folder(part), self._args.config.data
        if self._encoded(part):
            return
        start = self._clock.elapsed()
        if not (folder / "built" / "cam_x_time").is_dir():
            command = ["-m", "input_pipeline.datasets.cam_x_time", "--scenes", str(folder / "scenes")]
            self._processes.run([[*command, "--out", str(folder / "built")]], f"build_{part.name}")
        before = self._clock.elapsed()
        clips, of_path = args.clips_per_scene, args.clips_per_path
        command = ["-m", "stp_jax.encode_dataset", "--data", str(folder / "built"), "--vae", str(args.vae)]
        command += ["--out", str(folder / "latents"), "--split", part.split, "--seed", str(part.seeds.start)]
        if part.kind == "long":
            command += ["--windows", str(LONG_WINDOWS)]
            clips, of_path = LONG_WINDOWS * clips, LONG_WINDOWS * of_path
        command += ["--clips_per_scene", str(clips), "--clips_per_path", str(of_path)]
        command += ["--frames", str(data.frames), "--size", str(data.width), str(data.height)]
        command += ["--workers", str(args.encode_workers), "--batch_size", str(args.encode_batch)]
        command += ["--depth"] if args.config.loss.depth else []
        if part.split == "train":
            command += ["--flip"] * args.flip + ["--permute_channels"] * args.permute_channels
        # The renderer needs some of the GPUs' memory meanwhile.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self._processes.run([command], f"encode_{part.name}", environments=[environment])
        seconds = self._clock.elapsed() - before
        self._clock.log(
            f"{part.name}: data set built in {before - start:.0f} s, "
            f"{len(part.seeds)} scenes x {clips} clips encoded in {seconds:.0f} s"
        )

    def _sample(self) -> None:
        """Samples the model that the run begins with along the long paths, on all GPUs."""
        args, before = self._args, self._clock.elapsed()
        try:
            MemoryOutputs.open(self.outputs / "train", LatentCache.open(self.long_latents / "train"))
        except InputError:
            command = ["-m", "stp_jax.sample_dataset", "--data", str(self.long_latents)]
            command += ["--weights", str(args.from_), "--out", str(self.outputs)]
            command += ["--batch_size", str(4 * args.batch_size)]
            self._processes.run([command], "sample")
        self._clock.log(f"own output of long scenes sampled in {self._clock.elapsed() - before:.0f} s")

    def _collect(self, parts: list[Part]) -> None:
        """Puts the caches of the parts where training reads them."""
        before = self._clock.elapsed()
        for kind, folder in (
            ("validation", self.latents / "validation"),
            ("long", self.long_latents / "train"),
            ("scenes", self.latents / "train"),
        ):
            caches = [
                LatentCache.open(self._folder(part) / "latents" / part.split)
                for part in parts
                if part.kind == kind
            ]
            if not caches or (folder / "meta.json").exists():
                continue
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            LatentCache.join(partial, caches)
            os.replace(partial, folder)
        self._clock.log(f"latents of {len(parts)} parts joined in {self._clock.elapsed() - before:.0f} s")
