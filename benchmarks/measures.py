"""The own errors of the measures of fidelity: what they find in ground truth, as it is and disturbed.

    python benchmarks/measures.py --scenes 8 --every 4

Of each held-out scene two cases are taken, camera control and one with other animation times. Cameras are
estimated from every n-th frame of the ground truth, of the same at 19 dB (half of the error blur, half
noise), of paths 0.8 times as long, and of cameras turned by 3 degrees, also one frame late; times from all
frames at the commanded cameras, from every n-th at the estimated ones. Needs the extra `render`.
"""

from __future__ import annotations

import time
import zlib

from stp_jax.errors import exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np
    from scipy.spatial.transform import Rotation

    from configs.demo import ASSETS
    from input_pipeline.datasets.reading import open_records
    from input_pipeline.render.views import SceneViews, seed_of
    from input_pipeline.shots import Scene, SceneReader
    from stp_jax.command_line import Parser, count
    from stp_jax.evaluate import camera_fidelity, disentanglement, time_fidelity
    from stp_jax.evaluate.camera_estimation import CameraEstimator
    from stp_jax.evaluate.camera_fidelity import camera_scores, extent_of
    from stp_jax.evaluate.cases import CAMERA, TIME, Case, cases_of, example_of
    from stp_jax.evaluate.disturb import degrade
    from stp_jax.evaluate.intervals import slope

FRAMES = 17
CAMERA_FIGURES = (
    "rotation_absolute",
    "rotation_relative",
    "translation_absolute",
    "rotation_gain",
    "translation_gain",
    "rotation_gain_from_first",
    "translation_gain_from_first",
)
TIME_FIGURES = (
    "mean_absolute_error",
    "median_absolute_error",
    "mean_error",
    "spread",
    "slope",
    "absolute_drift",
)


def shortened(c2w: np.ndarray, factor: float) -> np.ndarray:
    """A path whose turn and way from its first pose are `factor` times as large."""
    own = np.linalg.inv(c2w[0]) @ c2w
    turn = Rotation.from_matrix(own[:, :3, :3]).as_rotvec()
    own[:, :3, :3] = Rotation.from_rotvec(factor * turn).as_matrix()
    own[:, :3, 3] *= factor
    return c2w[0] @ own


def turned(c2w: np.ndarray, degrees: float) -> np.ndarray:
    c2w = c2w.copy()
    c2w[:, :3, :3] = c2w[:, :3, :3] @ Rotation.from_rotvec([0, np.radians(degrees), 0]).as_matrix()
    return c2w


def noise_seed(scene: Scene, case: Case) -> int:
    return zlib.crc32(f"{scene.name} {case.group} {case.mode}".encode())


def camera_rows(
    scene: Scene,
    cases: list[Case],
    every: int,
    decibels: float,
    rows: dict[str, list],
    times: dict[str, list],
) -> float:
    """Adds camera scores to `rows`, those of time at the estimated cameras to `times`.

    Returns:
      CPU seconds for each frame's camera.
    """
    frames, spent = np.arange(0, FRAMES, every), []
    with SceneViews(seed_of(scene.name)) as views:
        estimator, extent = CameraEstimator(views), extent_of(views.c2w)
        for case in cases:
            cameras, lens = case.target_camera[frames], views.intrinsics[case.target_camera[frames]]
            c2w, source = views.c2w[cameras], views.c2w[case.source_camera[0]]
            grid_times = np.rint(2 * case.target_animation_time[frames]).astype(int)
            truth = example_of(scene, case)["target_video"][frames]
            short = views.pictures(grid_times, shortened(c2w, 0.8), lens)
            late = np.minimum(grid_times + 2, views.times - 1)
            seed = noise_seed(scene, case)
            videos = {
                "ground truth": truth,
                f"ground truth at {decibels:g} dB": degrade(truth, decibels, seed),
                "path x 0.8": short,
                f"path x 0.8 at {decibels:g} dB": degrade(short, decibels, seed),
                "turned by 3 degrees": views.pictures(grid_times, turned(c2w, 3.0), lens),
                "turned by 3 degrees, one frame late": views.pictures(late, turned(c2w, 3.0), lens),
            }
            for name, video in videos.items():
                start = time.process_time()
                found = estimator.estimate(video, lens)
                spent.append((time.process_time() - start) / len(frames))
                rows.setdefault(name, []).append(camera_scores(found.c2w, c2w, source, extent))
                commanded = case.target_animation_time[frames]
                kept = commanded <= FRAMES - 2 if name.endswith("late") else np.full(len(frames), True)
                if kept.any():
                    for label, path in (("estimated", found.c2w), ("commanded", c2w)):
                        references = views.all_times(path[kept], lens[kept])
                        scores = time_fidelity.time_scores(
                            video[kept], references, scene.animation_time, commanded[kept]
                        )
                        times.setdefault(f"{name}; {label} cameras", []).append(scores)
    return float(np.mean(spent))


def time_rows(scene: Scene, cases: list[Case], decibels: float, rows: dict[str, list]) -> None:
    for case in cases:
        video, references = example_of(scene, case)["target_video"], scene.videos[case.target_camera]
        late = np.minimum(np.rint(2 * case.target_animation_time).astype(int) + 2, references.shape[1] - 1)
        inside = case.target_animation_time <= FRAMES - 2
        worse = degrade(video, decibels, noise_seed(scene, case))
        videos = {"": video, f" at {decibels:g} dB": worse}
        commanded = case.target_animation_time
        for name, shown in videos.items():
            scores = time_fidelity.time_scores(shown, references, scene.animation_time, commanded)
            rows.setdefault(case.mode + name, []).append(scores)
        shown, own = scene.videos[case.target_camera, late][inside], references[inside]
        scores = time_fidelity.time_scores(shown, own, scene.animation_time, commanded[inside])
        rows.setdefault(f"{case.mode}, one frame late", []).append(scores)


def show(rows: dict[str, list], summary, names: tuple[str, ...]) -> None:
    print("| | " + " | ".join(name.replace("_", " ") for name in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for label, scores in rows.items():
        figures = summary(scores)
        print(f"| {label} | " + " | ".join(f"{figures[name]:.3f}" for name in names) + " |")
    print(flush=True)


def show_intervals(rows: dict[str, list], scenes: int) -> None:
    """The gains from the first frame with their 95 % intervals, by bootstrap over scenes."""
    for label, scores in rows.items():
        of_scenes = np.array_split(np.arange(len(scores)), scenes)  # each scene has as many videos
        for kind in ("angle", "distance"):
            pairs = [
                (
                    getattr(score.from_first, f"commanded_{kind}"),
                    getattr(score.from_first, f"achieved_{kind}"),
                )
                for score in scores
            ]
            products = np.array([sum((pairs[i][0] * pairs[i][1]).sum() for i in own) for own in of_scenes])
            squares = np.array([sum((pairs[i][0] ** 2).sum() for i in own) for own in of_scenes])
            found = slope(products, squares)
            print(f"{label}: gain of {kind} {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]")
    print(flush=True)


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = Parser("python benchmarks/measures.py", description=__doc__)
    parser.add_argument("--scenes", type=count, default=8, help="held-out scenes (default: %(default)s)")
    parser.add_argument("--every", type=count, default=4, help="n: cameras of every n-th frame (default: 4)")
    parser.add_argument(
        "--psnr", type=float, default=19.0, help="of the degraded ones (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    reader = SceneReader(open_records(ASSETS / "cam_x_time_mini", "cam_x_time", "test"), cached_scenes=1)
    camera: dict[str, list] = {}
    times: dict[str, list] = {}
    estimated: dict[str, list] = {}
    spent, background = [], []
    for number in range(args.scenes):
        scene = reader[number]
        cases = cases_of(number, len(scene.videos), FRAMES)
        moving_camera = [case for case in cases if case.group != TIME]
        chosen = [moving_camera[0], moving_camera[1 + number % 4]]
        assert chosen[0].group == CAMERA
        spent.append(camera_rows(scene, chosen, args.every, args.psnr, camera, estimated))
        time_rows(scene, moving_camera, args.psnr, times)
        moving = disentanglement.moving_mask(scene.videos[chosen[0].target_camera])
        warps = [example_of(scene, case)["target_video"] for case in moving_camera]
        background.append((disentanglement.background_psnr(warps, moving), moving.mean()))
        print(f"{scene.name}: {spent[-1]:.2f} CPU seconds for each frame's camera", flush=True)
    show(camera, camera_fidelity.summary, CAMERA_FIGURES)
    show_intervals(camera, args.scenes)
    show(estimated, time_fidelity.summary, TIME_FIGURES)
    show(times, time_fidelity.summary, TIME_FIGURES)
    decibels, part = np.mean(background, 0)
    print(f"background of ground truth under 5 warps: {decibels:.1f} dB; {part:.0%} of the pixels left out")


if __name__ == "__main__":
    main()
