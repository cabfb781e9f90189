"""Measures videos of several windows against ground truth.

    python benchmarks/long_videos.py --weights runs/demo/weights --out long_videos --seeds 2000000:2000002

Scenes of 65 source frames are rendered from their seeds (extra `render`), with smooth camera paths along
their rigs, and made anew in four ways: `closer` and `away`, as filmed, from far away towards the source's
camera and away from it; `slow`, at half speed in twice as many frames; `bullet`, frozen in the middle, while
the camera goes out and back again. Each is made by several methods: `trained`, a memory by overlap of views
and nearness in time; `recent`, the last frames as memory; `none`, no memory; a number after + is the overlap
of windows in frames, `+1` by default, and `+0` puts nothing in place. Written to OUT/results.jsonl, one line
a video; lines that are there are not measured again.

psnr: of each window's new frames, dB. lpips: the same, over all. seams: the change from a window's frames in
common to its first new frame, over the change between other neighbours, both divided by the ground truth's
own. latent_steps: the same for the change from one latent frame to the next inside windows: what a seam would
be if windows fitted as well as the latent frames of one.
out_and_back: PSNR between the first and the last frame (`bullet`). time_errors: how far the animation time
that each window shows is from the frozen one (`bullet`), mean over every fourth frame, in source frames.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from input_pipeline.render.grid import GridSettings, parse_seeds
    from input_pipeline.render.views import SceneViews
    from stp_jax.command_line import Parser, count, number
    from stp_jax.controls import cameras
    from stp_jax.controls.cameras import Cameras
    from stp_jax.controls.view import View
    from stp_jax.evaluate import lpips
    from stp_jax.evaluate.time_fidelity import time_scores
    from stp_jax.files import read_json_lines
    from stp_jax.media.metrics import psnr
    from stp_jax.rerender import long, windows
    from stp_jax.rerender.rerenderer import Rerenderer
    from stp_jax.rerender.windows import Windows

SOURCE = 65  # frames
TIMED = 4  # every fourth frame is compared with the scene at all times
CHOICES: dict[str, long.Choice] = {"trained": "overlap", "recent": "recent", "none": "none"}
# By name: places of source and target along the rig, from 0 to 1; frames of the new video; its clock.
CASES: dict[str, Any] = {
    "closer": ((0.0, 0.4), (1.0, 0.6), 65, lambda i: i),
    "away": ((0.0, 0.4), (0.4, 1.0), 65, lambda i: i),
    "slow": ((0.2, 0.2), (0.2, 0.8), 129, lambda i: i / 2),
    "bullet": ((0.3, 0.3), (0.3, 0.9, 0.3), 65, lambda i: 32 + 0 * i),
}


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    flags = _flags(argv)
    model, distance = Rerenderer(flags.weights, steps=flags.steps), lpips.load()
    flags.out.mkdir(parents=True, exist_ok=True)
    results = flags.out / "results.jsonl"
    known = read_json_lines(results) if results.exists() else []
    done = {(one["weights"], one["seed"], one["case"], one["method"]) for one in known}
    for seed in flags.seeds:
        for case in flags.cases:
            scene = _scene(flags.out, seed, case)
            for method in flags.methods:
                if (flags.weights, seed, case, method) in done:
                    continue
                line = measure(model, scene, method, distance, flags)
                line = {"weights": flags.weights, "seed": seed, "case": case, "method": method} | line
                with results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)


def _flags(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python benchmarks/long_videos.py", description=__doc__)
    add = parser.add_argument
    add("--weights", required=True)
    add("--out", type=Path, required=True)
    add("--seeds", default="2000000:2000002", help="of scenes, FROM:TO")
    add("--cases", nargs="+", default=list(CASES), choices=CASES)
    add("--methods", nargs="+", default=["trained", "recent", "none"])
    add("--steps", type=count)
    add("--sigma", type=number(0, 1), default=long.MEMORY_SIGMA, help="noise level of the memory")
    flags = parser.parse_args(argv)
    flags.seeds = parse_seeds(flags.seeds)
    for method in flags.methods:
        if not re.fullmatch(rf"({'|'.join(CHOICES)})(\+\d{{1,3}})?", method):
            raise InputError(
                f"--methods {method}: give {', '.join(CHOICES)}, or one of them and an overlap, none+5"
            )
    return flags


def _scene(out: Path, seed: int, case: str) -> dict[str, np.ndarray]:
    """Videos and cameras of source and target, rendered once."""
    path = out / f"{seed}_{case}.npz"
    if not path.exists():
        source_path, target_path, length, clock = CASES[case]
        times = clock(np.arange(length))
        settings = GridSettings(cameras=17, times=2 * SOURCE - 1, size=128)
        scene: dict[str, np.ndarray] = {"clock": times.astype(np.float32)}
        with SceneViews(seed, settings) as views:
            rig = Cameras(views.c2w, views.intrinsics)
            for name, turns, moments in (
                ("source", source_path, np.arange(SOURCE)),
                ("target", target_path, times),
            ):
                at = np.interp(np.linspace(0, 1, len(moments)), np.linspace(0, 1, len(turns)), turns)
                c2w, lens = cameras.at(rig, at * (len(views.c2w) - 1))
                frames = views.pictures(np.rint(2 * moments).astype(int), c2w, lens)
                scene |= {name: frames, f"{name}_c2w": c2w, f"{name}_lens": lens}
            if not np.ptp(times):
                scene["at_all_times"] = _at_all_times(views, c2w[::TIMED], lens[::TIMED])
        np.savez_compressed(path, allow_pickle=False, **scene)
    with np.load(path) as arrays:
        return dict(arrays)


def _at_all_times(views: SceneViews, c2w: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """What cameras [N] see at each of the source's times, uint8 [N, T, H, W, 3]."""
    at = np.tile(2 * np.arange(SOURCE), len(c2w))
    frames = views.pictures(at, np.repeat(c2w, SOURCE, axis=0), np.repeat(lens, SOURCE, axis=0))
    return frames.reshape(len(c2w), SOURCE, *frames.shape[1:])


def measure(
    model: Rerenderer, scene: dict[str, np.ndarray], method: str, distance: Any, flags: argparse.Namespace
) -> dict[str, Any]:
    """The numbers of one video."""
    choice, _, overlap = method.partition("+")
    in_place = overlap != "0"
    frames = model.notes.frames
    plan = windows.plan(scene["clock"], frames, max(int(overlap or 1), 1), len(scene["source"]))
    times = np.arange(len(scene["source"]), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        pieces = long.Pieces(Path(folder))
        video = long.LongVideo(
            model,
            plan,
            lambda numbers: scene["source"][numbers],
            View(scene["source_c2w"], scene["source_lens"], times),
            View(scene["target_c2w"], scene["target_lens"], scene["clock"]),
            pieces,
            choice=CHOICES[choice],
            memory_sigma=flags.sigma,
            in_place=in_place,
        )
        seconds, last = [], time.monotonic()
        for _ in video.make():
            seconds.append(round(time.monotonic() - last, 2))
            last = time.monotonic()
        made = np.concatenate([pieces.read(i, "frames") for i in range(len(plan.starts))])
    truth = scene["target"]
    parts = np.split(np.arange(len(made)), range(frames, len(made), frames - 1))
    line = {
        "psnr": [round(psnr(made[part], truth[part]), 3) for part in parts],
        "lpips": None if distance is None else round(distance(made, truth), 4),
        **{name: round(value, 4) for name, value in seams(made, truth, plan).items()},
        "seconds": seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    if not np.ptp(scene["clock"]):
        line["out_and_back"] = round(psnr(made[:1], made[-1:]), 3)
        timed = np.arange(0, len(made), TIMED)
        scores = time_scores(made[timed], scene["at_all_times"], times, scene["clock"][timed])
        errors = np.abs(scores.error)
        line["time_errors"] = [round(float(np.nanmean(errors[np.isin(timed, part)])), 3) for part in parts]
    return line


def seams(made: np.ndarray, truth: np.ndarray, plan: Windows) -> dict[str, float]:
    """Mean change across seams, and from latent frame to latent frame, over that between other frames."""
    ahead = np.arange(len(made) - 1)  # of changes, by the frame before each
    windows_after_the_first = range(1, len(plan.starts))
    across = np.isin(ahead, [plan.starts[i] + plan.overlap(i) - 1 for i in windows_after_the_first])
    between_latents = (ahead % 4 == 0) & ~across  # a latent frame ends with each fourth frame

    def ratio(video: np.ndarray, chosen: np.ndarray) -> float:
        change = np.abs(np.diff(video.astype(np.float32), axis=0)).mean((1, 2, 3))
        return float(change[chosen].mean() / change[~across].mean())

    chosen = {"seams": across, "latent_steps": between_latents}
    return {name: ratio(made, where) / ratio(truth, where) for name, where in chosen.items()}


if __name__ == "__main__":
    main()
