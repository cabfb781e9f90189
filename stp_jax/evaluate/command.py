"""Measures models on the held-out scenes of a data set, beside baselines and beside each other.

    python -m stp_jax.evaluate --config configs/demo.py
    python -m stp_jax.evaluate --config configs/demo.py --weights runs/a/weights runs/b/weights
    python -m stp_jax.evaluate --cam_x_time data/CamxTime_eval --weights models
    python -m stp_jax.evaluate --cam_x_time data/CamxTime_eval --videos outputs/others outputs/ours

There are three groups of cases (stp_jax/evaluate/cases.py): time control, camera control, both. The baselines
are the source video as it is, and for each frame the source frame nearest in animation time. The VAE ceiling
is the ground truth put through the VAE alone; no model in its latent space can be expected to beat it. Every
mean over scenes has a 95 % interval, and so has every difference of two models.

The folder --out gets table.txt, metrics.json, CSV files, plots, and contact sheets and videos of the first
scenes; docs/evaluation.md explains them. The same command continues an interrupted evaluation.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stp_jax.command_line import Parser, count, number, read_config
from stp_jax.errors import INTERRUPTED, InputError, exit_on_input_error, starting
from stp_jax.evaluate.cases import QUICK_CASES, QUICK_SCENES
from stp_jax.evaluate.rows import BASELINES, CEILING, DEGRADED, TRUTH
from stp_jax.rerender.speed import PRESETS
from stp_jax.weights.adapters import Lora, parse_lora
from stp_jax.weights.native import BUNDLED

_RESERVED = (*BASELINES, CEILING, TRUTH, DEGRADED)  # names of methods, which no model may have


def checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """A SHA-256 prefix over names and values, which identifies the tensors of a model."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def labels_of(folders: Sequence[str], taken: Sequence[str], flag: str = "--weights") -> list[str]:
    """A short name for each folder: as many last parts of its path as tell it from the others.

    A last part `weights` does not count: train.py names every run's folder so.

    Args:
      taken: names that are not available.
      flag: the flag that the folders were given with, for the error.

    Raises:
      InputError: two folders are the same.
    """
    paths = [Path(folder).resolve() for folder in folders]
    for folder, path in zip(folders, paths, strict=True):
        if paths.count(path) > 1:
            raise InputError(f"{flag}: {folder} is given twice.")
    parts = [(path.parent if path.name == "weights" else path).parts for path in paths]
    lengths = [1] * len(parts)

    def label(i: int) -> str:
        # The whole path once no part is left to add: then only a last `weights` can differ.
        return "/".join(parts[i][-lengths[i] :]) if lengths[i] <= len(parts[i]) else str(paths[i])

    while True:
        labels = [label(i) for i in range(len(parts))]
        found = Counter([*labels, *taken])
        shared = [i for i, one in enumerate(labels) if found[one] > 1 and lengths[i] <= len(parts[i])]
        if not shared:
            return labels
        for i in shared:
            lengths[i] += 1


def _add_sampling(parser: Parser) -> None:
    parser.add_argument(
        "--lora",
        nargs="+",
        action="extend",
        metavar="FILE[:STRENGTH]",
        help="LoRAs that are merged into each model of --weights, as by sample.py. Beside the model without "
        "them: write the merged one with stp_jax.export, and give both to --weights",
    )
    parser.add_argument("--steps", type=count, help="sampling steps (default: the weights')")
    parser.add_argument("--guidance", type=number(0, 100), help="by text; 1: none (default: the weights')")
    parser.add_argument(
        "--speed",
        nargs="+",
        choices=tuple(PRESETS),
        help="presets of sample.py, docs/speed.md; several: each model is measured by each (exact)",
    )


def _parser() -> Parser:
    parser = Parser(prog="python -m stp_jax.evaluate", description=__doc__)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--config", help="file with get_config(); `pictures` names the held-out data")
    data.add_argument(
        "--cam_x_time", metavar="FOLDER", help="the published Cam x Time evaluation set, instead of a config"
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="FOLDER",
        help="folders that train.py wrote, or of official weights (default: the bundled model)",
    )
    parser.add_argument(
        "--videos",
        nargs="+",
        metavar="FOLDER",
        help="with --cam_x_time: folders of videos that were made elsewhere, {scene}/moving_zigzag.mp4 and "
        "so on as in eval_gt; instead of --weights, or beside them",
    )
    parser.add_argument("--data", help="folder of a built data set (default: the config's)")
    parser.add_argument("--split", help="of the data set, such as a validation split (default: the config's)")
    parser.add_argument(
        "--scenes", type=count, help="held-out scenes (default: 32, of the Cam x Time set all)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="four scenes, one of each camera path, and five cases of each, without the VAE ceiling: "
        "minutes on a CPU. Only measures that --measures names; compare its figures with those of its kind",
    )
    _add_sampling(parser)
    parser.add_argument(
        "--seed", type=number(0, 2**31 - 1, int), default=0, help="of the noise that sampling starts from"
    )
    parser.add_argument("--batch_size", type=count, default=5, help="videos sampled at once; a scene has ten")
    parser.add_argument(
        "--sheets", type=number(0, 10**9, int), default=4, help="scenes to show as contact sheets and videos"
    )
    parser.add_argument(
        "--measures",
        nargs="*",
        metavar="NAME",
        help="what to measure beside PSNR, SSIM and LPIPS, see docs/evaluation.md (default: all that can be)",
    )
    parser.add_argument(
        "--workers",
        type=number(0, 1024, int),
        help="processes that measure finished scenes, 0.7 GB each (default: half of the cores, at most 16, "
        "where the models run on an accelerator, otherwise none)",
    )
    parser.add_argument(
        "--fov",
        type=number(1, 170),
        help="of the Cam x Time set's cameras, which are not stated: degrees across the height (default: 50)",
    )
    parser.add_argument(
        "--out", default="runs/evaluation", help="new folder for the results (default: %(default)s)"
    )
    return parser


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    try:
        table = _on_cam_x_time(args) if args.cam_x_time else _on_held_out_scenes(args)
    except KeyboardInterrupt:
        print("Stopped. The same command continues after the last finished scene.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    print(f"{table}\n\nResults: {args.out}")


def _on_held_out_scenes(args: argparse.Namespace) -> str:
    if args.quick and args.scenes:
        raise InputError("--quick takes four scenes: leave out --scenes.")
    for flag in ("fov", "videos"):
        if getattr(args, flag) is not None:
            raise InputError(f"--{flag} is only for --cam_x_time: leave it out.")
    with starting():
        config = read_config(args.config)
        if "pictures" not in config or config.get("task") != "dit":
            raise InputError(f"--config {args.config} is not of a re-rendering model (config.task = 'dit').")
        data = config.pictures.data
        if args.data:
            data.path = args.data

        from stp_jax.devices.hardware import use_compilation_cache
        from stp_jax.evaluate.measures import known_measures, select
        from stp_jax.evaluate.run import evaluate

        use_compilation_cache()
        measures = (
            known_measures() if args.measures is None and not args.quick else select(args.measures or [])
        )
        models, settings = read_models(args.weights or [str(BUNDLED)], **_of_models(args))
        if args.quick:  # the ceiling would take as long again as the videos
            models = [model._replace(reconstruct=None) for model in models]
    return evaluate(
        models,
        data=data,
        split=args.split or config.pictures.split,
        scenes=QUICK_SCENES if args.quick else args.scenes or 32,
        chosen=QUICK_CASES if args.quick else None,
        seed=args.seed,
        batch_size=args.batch_size,
        sheets=args.sheets,
        out=args.out,
        settings={"weights": settings},
        measures=measures,
        need_measures=args.measures is not None,
        workers=args.workers,
    )


def _on_cam_x_time(args: argparse.Namespace) -> str:
    for flag in ("data", "split", "quick"):
        if getattr(args, flag):
            raise InputError(f"--{flag} is not for --cam_x_time: leave it out.")
    with starting():
        fov = 50.0 if args.fov is None else args.fov

        from stp_jax.devices.hardware import use_compilation_cache
        from stp_jax.evaluate.cam_x_time_run import evaluate_cam_x_time
        from stp_jax.evaluate.measures import known_measures, select

        use_compilation_cache()
        measures = known_measures() if args.measures is None else select(args.measures)
        for measure in measures:
            if args.measures is not None and measure.needs_grid:
                usable = ", ".join(m.name for m in known_measures() if not m.needs_grid)
                raise InputError(
                    f"--measures {measure.name} needs a grid of cameras and times; --cam_x_time has {usable}."
                )
        weights = args.weights or ([] if args.videos else [str(BUNDLED)])
        for flag in ("lora", "speed"):
            if getattr(args, flag) and not weights:
                raise InputError(f"--{flag}: needs --weights, whose models it changes: leave it out.")
        models, settings = read_models(weights, official=True, **_of_models(args))
    folders = args.videos or []
    labels = labels_of(folders, [*_RESERVED, *settings], flag="--videos")
    return evaluate_cam_x_time(
        models,
        args.cam_x_time,
        videos=dict(zip(labels, folders, strict=True)),
        scenes=args.scenes,
        sheets=args.sheets,
        out=args.out,
        settings={"weights": settings},
        seed=args.seed,
        fov=fov,
        measures=[measure for measure in measures if not measure.needs_grid],
        need_measures=args.measures is not None,
        workers=args.workers,
    )


def _of_models(args: argparse.Namespace) -> dict[str, Any]:
    speeds = list(dict.fromkeys(args.speed or ["exact"]))
    return {"loras": args.lora or (), "steps": args.steps, "guidance": args.guidance, "speeds": speeds}


def _about_lora(lora: Lora) -> dict[str, Any]:
    from stp_jax.weights.files import open_tensors

    tensors = open_tensors(lora.path)
    return {"file": str(lora.path), "strength": lora.strength, "checksum": checksum(tensors)}


def read_models(
    folders: Sequence[str],
    *,
    loras: Sequence[str] = (),
    steps: int | None = None,
    guidance: float | None = None,
    speeds: Sequence[str] = ("exact",),
    official: bool = False,
) -> tuple[list[Any], dict[str, Any]]:
    """The models in folders of weights, and by label the settings their figures depend on, as JSON values.

    A model goes to the device when it is first used and stays there, so all are there together in the end.

    Args:
      loras: merged into each of them, see `stp_jax.weights.adapters.parse_lora`.
      steps, guidance: of sampling. None: as each model's notes say.
      speeds: presets; each model is there once for each of them, `LABEL+PRESET` where it is not `exact`.
      official: whether official models are sampled as in their evaluation.

    Raises:
      InputError: a folder is given twice; a folder holds no model that `Rerenderer` takes; a LoRA fits none
        of its layers; the models' videos differ in size.
    """
    from stp_jax.evaluate.cam_x_time_folder import OFFICIAL_SAMPLING
    from stp_jax.evaluate.scores import Model, size_text
    from stp_jax.rerender.rerenderer import Rerenderer
    from stp_jax.weights.recognition import recognise

    adapters = [parse_lora(lora) for lora in loras]
    chosen = {name: value for name, value in (("steps", steps), ("guidance", guidance)) if value is not None}
    models: list[Model] = []
    settings: dict[str, Any] = {}
    named = zip(folders, labels_of(folders, _RESERVED), strict=True)
    for (folder, name), speed in itertools.product(named, speeds):
        added = [adapter.path.stem for adapter in adapters] + [speed] * (speed != "exact")
        label = "+".join([name, *added])
        if label in settings:
            raise InputError(f"--weights {folder}: two models would be named {label}: rename its folder.")
        options: dict[str, Any] = {}
        if official and recognise(folder, "dit").config.camera.startswith("pose12"):
            options = dict(OFFICIAL_SAMPLING)
        model = Rerenderer(folder, loras=adapters, speed=speed, **(options | chosen))
        vae = checksum(recognise(folder, "vae").tensors)
        size = (model.notes.frames, model.notes.height, model.notes.width)
        if models and models[0].size and size != models[0].size:
            raise InputError(
                f"--weights {folder}: its videos are {size_text(size)}, those of {folders[0]} "
                f"{size_text(models[0].size)}."
            )
        models.append(Model(label, model, model.reconstruct, vae, size))
        settings[label] = {
            "folder": folder,
            "checksums": {"dit": checksum(recognise(folder, "dit").tensors), "vae": vae},
            "sampling": _about_sampling(model, tiled=bool(options.get("tiled"))),
        }
        if adapters:
            settings[label]["loras"] = [_about_lora(one) for one in adapters]
        said = [f"{label}: {folder} on {model.device}, {model.steps} steps"]
        print("\n".join([*said, *(f"Note: {remark}" for remark in model.remarks)]))
    return models, settings


def _about_sampling(model: Any, *, tiled: bool) -> dict[str, Any]:
    """How a `Rerenderer` samples; its knobs of speed where any leaves something out."""
    about = {name: getattr(model, name) for name in ("steps", "shift", "guidance", "dtype")}
    speed = {} if model.speed == PRESETS["exact"] else {"speed": model.speed._asdict()}
    return about | {"tiled": tiled} | speed
