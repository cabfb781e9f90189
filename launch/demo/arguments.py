"""The command line of a demo run, and its checks before any long work."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from input_pipeline.datasets.cam_x_time import TEST_SEEDS_FROM, VALIDATION_SEEDS_FROM
from input_pipeline.render.grid import parse_seeds
from launch.demo.processes import ROOT, find_gpus
from launch.demo.results import read_log
from stp_jax.command_line import Parser, count, number, read_config
from stp_jax.errors import InputError
from stp_jax.files import read_json, replace_file
from stp_jax.weights import native

# A model and scenes that take part in everything on a CPU; of the config, and of the flags.
SMALL = (
    *("model.dim=64", "model.ffn_dim=64", "model.layers=2", "model.heads=2", "model.freq_dim=16"),
    *("model.conditioning_dim=16", "model.dtype=float32", "model.remat=full"),
    *("data.frames=5", "data.width=32", "data.height=32"),
    *("train.log_every=1", "sampling.steps=2", "optimizer.ema_decay=0.5", "pictures.count=1"),
)
SMALL_FLAGS = dict(
    seeds="0:3",
    validation_seeds=f"{VALIDATION_SEEDS_FROM}:{VALIDATION_SEEDS_FROM + 1}",
    part_scenes=2,
    cameras=5,
    clips_per_scene=4,
    clips_per_path=2,
    encode_batch=4,
    encode_workers=0,
    render_workers=2,
    config_name="configs/demo.py",
    validate_every=5,
    warmup_steps=2,
    reserve=5,
)
# What must not change between the calls of a run.
FIXED = (
    *("seeds", "validation_seeds", "long_scenes", "from_name", "vae_name", "config_name", "part_scenes"),
    *("cameras", "clips_per_scene", "clips_per_path", "flip", "permute_channels", "small"),
    "own_output",
)
# The shape of the model: --from must be what the config describes.
SHAPE = (
    *("dim", "ffn_dim", "layers", "heads", "channels", "patch", "freq_dim", "conditioning_dim"),
    *("camera", "rope_frames"),
)


def make_parser(description: str | None) -> Parser:
    parser = Parser(prog="python launch/train_demo.py", description=description)
    add = parser.add_argument
    add("--seconds", type=count, default=1500, help="of the whole run, all calls together (default: 1500)")
    add("--seeds", default="100000:103200", help="of the scenes to render, first:end (default: %(default)s)")
    add(
        "--from",
        dest="from_name",
        default="",
        help="weights to go on from (default: the config's, or random ones)",
    )
    add("--out", type=Path, help="folder of the results, new or to be continued")
    add("--work", type=Path, help="folder of scenes, latents and checkpoints (default: <out>/work)")
    add("--vae", dest="vae_name", default="", help="weights of the VAE (default: those beside --from's)")
    add("--gpus", type=count, help="to use (default: all)")
    add("--config", dest="config_name", default="configs/demo.py:gpu", help="default: %(default)s")
    add("--log", type=Path, help="of all runs, JSON lines (default: docs/demo_runs.jsonl; --small: in --out)")
    add("--table", action="store_true", help="run nothing: the log as a markdown table")
    add("--small", action="store_true", help="a tiny model and a few tiny scenes, on a CPU")
    data = parser.add_argument_group("data")
    add = data.add_argument
    add(
        "--long_scenes",
        type=number(0, 10**6, int),
        default=0,
        help="of the scenes, for a model with a memory",
    )
    add(
        "--own_output",
        type=number(0, 1),
        default=0.0,
        metavar="SHARE",
        help="of the memories that are --from's own output on the long scenes, not true latents; 0.5 so that "
        "the model does not take its errors for truth (default: %(default)s)",
    )
    add("--validation_seeds", default=f"{VALIDATION_SEEDS_FROM}:{VALIDATION_SEEDS_FROM + 64}")
    add("--clips_per_scene", type=count, default=16, help="default: %(default)s")
    add("--clips_per_path", type=count, default=4, help="of them on one camera path (default: %(default)s)")
    add("--no_flip", dest="flip", action="store_false", help="do not mirror half of the scenes")
    add("--no_permute_channels", dest="permute_channels", action="store_false", help="keep colours")
    add("--cameras", type=count, default=17, help="of a scene (default: %(default)s)")
    add("--part_scenes", type=count, help="rendered, then encoded, together (default: 200 a GPU)")
    add("--render_workers", type=count, help="processes on each GPU (default: the cores, shared out)")
    add("--encode_workers", type=number(0, 1024, int), help="processes (default: a quarter of the cores)")
    add("--encode_batch", type=count, default=32, help="clips encoded at a time (default: %(default)s)")
    add(
        "--data_share",
        type=number(0.05, 0.9),
        default=0.5,
        help="of the time, at most (default: %(default)s)",
    )
    training = parser.add_argument_group("training")
    add = training.add_argument
    add("--batch_size", type=count, help="pairs in a step (default: the config's on each GPU)")
    add("--warmup_steps", type=count, default=100, help="default: %(default)s")
    add("--validate_every", type=count, default=1000, help="steps (default: %(default)s)")
    add("--reserve", type=count, default=75, help="seconds to start and to end in (default: %(default)s)")
    return parser


def parse(argv: list[str] | None, description: str | None) -> Any:
    """The flags, with what follows from them and from this machine: config (as train.py will have it),
    devices, gpus, device_kind, from_, vae.

    Raises:
      InputError: a mistake in them.
    """
    argv = sys.argv[1:] if argv is None else argv
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = make_parser(description)
    if "--small" in argv[:cut]:
        parser.set_defaults(**SMALL_FLAGS)
    args = parser.parse_args(argv[:cut])
    if args.log is None:
        args.log = args.out / "runs.jsonl" if args.small and args.out else ROOT / "docs" / "demo_runs.jsonl"
    if args.table:
        return args
    if args.out is None:
        raise InputError("--out is missing: give the folder of the results, new or to continue.")
    args.out, args.log = args.out.resolve(), args.log.resolve()
    args.work = (args.work or args.out / "work").resolve()
    args.train_flags = [*(f"--config.{field}" for field in SMALL if args.small), *argv[cut + 1 :]]
    args.config = read_config(
        str(ROOT / args.config_name), args.train_flags
    )  # as train.py, which starts there
    _find_devices(args)
    _find_weights(args)
    _check_seeds(args)
    return args


def _find_devices(args: Any) -> None:
    found = find_gpus()
    if args.small:
        found = found[: args.gpus or 0]
    elif not found:
        raise InputError("no NVIDIA GPU found (nvidia-smi lists none); --small tries the chain on a CPU.")
    if args.gpus and args.gpus > len(found):
        raise InputError(f"--gpus {args.gpus}: there are {len(found)}.")
    found = found[: args.gpus or len(found)]
    args.gpus, args.devices = len(found), [name for name, _ in found]
    args.device_kind = f"{len(found)} x {found[0][1]}" if found else "CPU"
    cores = os.cpu_count() or 1
    args.render_workers = args.render_workers or max(1, cores // max(1, args.gpus))
    args.encode_workers = cores // 4 if args.encode_workers is None else args.encode_workers
    args.part_scenes = args.part_scenes or 200 * max(1, args.gpus)
    args.batch_size = args.batch_size or args.config.train.batch_size * max(1, args.gpus)


def _find_weights(args: Any) -> None:
    """Sets from_ and vae, and sees that the model of --from is the config's."""
    args.from_name = args.from_name or args.config.init_from
    args.from_ = Path(args.from_name).resolve() if args.from_name else None
    beside = args.from_ is not None and (args.from_ / "vae.json").exists()
    args.vae = Path(args.vae_name).resolve() if args.vae_name else args.from_ if beside else native.BUNDLED
    if not args.vae.exists():
        raise InputError(f"--vae {args.vae_name}: there is no such folder.")
    if args.from_ is None:
        return
    model = native.read_index(args.from_, "dit")["config"]
    for field in SHAPE:
        if field in model and field in args.config.model and model[field] != args.config.model[field]:
            raise InputError(
                f"--from {args.from_name} has {field} {model[field]}, but {args.config_name} has "
                f"{args.config.model[field]}: give the --config that it was trained with."
            )
    if model.get("flow_map") and not args.config.model.flow_map:
        raise InputError(
            f"--from {args.from_name} is a flow map, for few steps: give --config "
            "configs/demo_few_step.py:gpu."
        )
    if args.own_output and not model.get("memory"):
        raise InputError(
            f"--own_output: --from {args.from_name} takes no memory. Train it with --long_scenes alone at "
            "first."
        )
    if model.get("memory") and not args.long_scenes:
        raise InputError(
            f"--from {args.from_name} is a model with a memory: give --long_scenes, such as 400."
        )


def _check_seeds(args: Any) -> None:
    args.seeds, args.validation_seeds = (parse_seeds(text) for text in (args.seeds, args.validation_seeds))
    if args.seeds.stop > TEST_SEEDS_FROM:
        raise InputError(f"--seeds: those from {TEST_SEEDS_FROM} on are held out; give smaller ones.")
    if args.validation_seeds.start < VALIDATION_SEEDS_FROM:
        raise InputError(f"--validation_seeds: give such from {VALIDATION_SEEDS_FROM} on.")
    if args.own_output and not (args.long_scenes and args.from_name):
        raise InputError(
            "--own_output needs --from, a model with a memory whose output it is, and --long_scenes."
        )
    if args.long_scenes >= len(args.seeds):
        raise InputError(f"--long_scenes {args.long_scenes}: --seeds has {len(args.seeds)} scenes in all.")
    if args.clips_per_scene <= args.clips_per_path:
        raise InputError("--clips_per_scene must be above --clips_per_path, for a second camera path.")


def open_folders(args: Any) -> None:
    """Makes --out and --work, or sees that the run in them is this one.

    Raises:
      InputError: the run is complete, or was begun with other flags; the folders cannot be written.
    """
    if (args.out / "run.json").exists():
        raise InputError(f"--out {args.out}: its run is complete; choose another folder.")
    wanted = {name: str(getattr(args, name)) for name in FIXED} | {"train_flags": " ".join(args.train_flags)}
    path = args.out / "settings.json"
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        args.work.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with replace_file(path) as partial:
                partial.write_text(json.dumps(wanted, indent=1) + "\n")
        found = read_json(path, dict)
    except (OSError, InputError) as error:
        raise InputError(f"--out {args.out}: {error}; choose another folder.") from None
    differing = [f"{name} was {found.get(name)}" for name in wanted if found.get(name) != wanted[name]]
    if differing:
        raise InputError(f"--out {args.out} holds a run of other flags ({', '.join(differing)}).")
    for one in read_log(args.log):
        first, end = (int(seed) for seed in one["seeds"].split(":"))
        if first < args.seeds.stop and args.seeds.start < end:
            print(f"Note: seeds {one['seeds']} were used by the run {one['out']} already.")
