"""Encodes clips of a data set once, so that training reads latents instead of video.

    python -m stp_jax.encode_dataset --data data/cam_x_time --vae runs/demo_vae/weights --out data/latents

draws clips of every scene (camera paths x warps of animation time), encodes them with the VAE and writes a
latent cache, which `kind = "latents"` reads. Processes decode video while all devices encode. After an
interruption the same command continues. Several hosts share the work in one folder: the same command with
--shard 0/4 on the first of four, --shard 1/4 on the second and so on.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from tqdm import tqdm

from input_pipeline.config import CAMERA_EXTENT, FIT_FIELDS, default_config
from input_pipeline.datasets.reading import open_records
from input_pipeline.latent_files import alone
from input_pipeline.latents import LatentCache
from input_pipeline.pairs import RULES
from input_pipeline.pipeline import count_scenes, make_clips
from input_pipeline.remote import local_folder
from stp_jax.command_line import Parser, count, number, shard_of_work
from stp_jax.controls.view import view_of
from stp_jax.devices.hardware import use_compilation_cache
from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError, exit_on_input_error
from stp_jax.models.vae import VAEConfig, fitting_chunk
from stp_jax.weights import reading, recognition


def make_encoder(folder: str, batch_size: int, devices: Sequence[jax.Device] | None = None):
    """Returns the VAE's config and `encode(video uint8 [K, F, H, W, 3]) -> latents float16 [K, F', H', W',
    C]`, in parts.

    Encodes in bfloat16, `batch_size` clips at a time, on all devices of this process in turn (or on
    `devices`). `encode` returns at once; the devices may still be computing.
    """
    found = recognition.recognise(folder, "vae")
    config = dataclasses.replace(found.config, dtype="bfloat16")
    devices = jax.local_devices() if devices is None else devices
    graph, state = reading.load(
        dataclasses.replace(found, config=config), make_mesh(devices=devices[:1]), "bfloat16"
    )
    states: dict[jax.Device, nnx.State] = {}
    turns = itertools.cycle(devices)

    @jax.jit
    def encode_batch(state, video):
        chunk = fitting_chunk(*video.shape[1:4])
        return nnx.merge(graph, state).encode(video, chunk=chunk).astype(jnp.float16)

    def padded(part: np.ndarray) -> np.ndarray:
        """One size for all, so that one program is compiled; a copy only where it is needed."""
        if len(part) == batch_size:
            return part
        return np.pad(part, [(0, batch_size - len(part))] + [(0, 0)] * (part.ndim - 1))

    def encode(video: np.ndarray) -> list[jax.Array]:
        parts = []
        for start in range(0, len(video), batch_size):
            device = next(turns)
            if device not in states:
                states[device] = jax.device_put(state, device)
            part = video[start : start + batch_size]
            parts.append(encode_batch(states[device], jax.device_put(padded(part), device))[: len(part)])
        return parts

    return config, encode


def encode_dataset(
    data: str,
    vae: str,
    out: str,
    *,
    kind: str = "cam_x_time",
    split: str = "train",
    seed: int = 0,
    passes: int = 1,
    scenes: int | None = None,
    clips_per_scene: int = 64,
    clips_per_path: int = 4,
    windows: int = 1,
    frames: int = 17,
    size: Sequence[int] = (128, 128),
    flip: bool = False,
    permute_channels: bool = False,
    rules: str = "grid",
    fps: float = 0.0,
    camera_extent: float = CAMERA_EXTENT,
    static_reach: int = 0,
    skip_short: bool = False,
    depth: bool = False,
    workers: int = 0,
    batch_size: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> None:
    """Writes the latent cache `out/split`; for the arguments see the flags below. `size` is (width, height).

    Raises:
      InputError: the data set or the weights cannot be read, or `out/split` holds something else or is
        complete.
    """
    found = recognition.recognise(vae, "vae")
    recognition.print_remarks(found)
    check_clips(found.config, frames, size, clips_per_scene, clips_per_path, windows)
    if rules == "static" and clips_per_path > 1:
        raise InputError("--rules static: all clips of a scene show one time; give --clips_per_path 1.")
    config = default_config()
    config.update(kind=kind, path=data, frames=frames, width=size[0], height=size[1], rules=rules)
    config.update(flip=flip, permute_channels=permute_channels, depth=float(depth))
    config.update(fps=fps, camera_extent=camera_extent, static_reach=static_reach, skip_short=skip_short)
    of_scene: dict[str, Any] = dict(clips=clips_per_scene, clips_per_path=clips_per_path, windows=windows)
    draw = functools.partial(make_clips, config, split=split, seed=seed, **of_scene)
    first = next(iter(draw(rows=[0], read_threads=1)))  # data that does not fit is an error before a cache
    total = passes * count_scenes(config, split)
    cache = LatentCache.create(
        Path(out) / split,
        scenes=min(total, scenes or total),
        frames=frames,
        latent_shape=(*found.config.latent_size(frames, size[1], size[0]), found.config.z_dim),
        depth_size=first["depth"].shape[2:] if depth else None,
        meta=describe(found.config, seed, config) | scene_kind(config, split),
        shared=shard[1] > 1,
        **of_scene,
    )
    print(f"Encoding {cache.scenes} scenes: {clips_per_scene} clips of {frames} frames, {sides(size)}")
    with alone(cache.path, shard):
        clips = batch_size or max(1, 16 * 128**2 // (size[0] * size[1]))
        _encode_rest(cache, vae, functools.partial(draw, num_workers=workers), clips, shard)


def _encode_rest(
    cache: LatentCache, vae: str, draw: Callable, batch_size: int, shard: tuple[int, int]
) -> None:
    """Encodes what is missing of a part of a cache; `draw(rows=..)` makes its clips."""
    missing = cache.missing(shard)
    if not missing:
        print(f"Latents: {cache.path}: part {shard[0]}/{shard[1]} is complete")
        return
    clips = read_ahead(draw(rows=missing))
    _, encode = make_encoder(vae, batch_size)
    encode_missing(cache, clips, encode, shard)


def sides(size: Sequence[int]) -> str:
    """Both sides of a (width, height) by name."""
    return f"width {size[0]}, height {size[1]} pixels"


def describe(vae: VAEConfig, seed: int, config: ConfigDict) -> dict[str, Any]:
    """How the latents of a cache are made, for its meta.json; `config` is that of the drawn clips."""
    meta = {
        "vae": dataclasses.asdict(vae),
        "seed": seed,
        "flip": config.flip,
        "permute_channels": config.permute_channels,
    }
    defaults = {"rules": "grid", "skip_short": False} | FIT_FIELDS  # which are not noted
    return meta | {name: config[name] for name, default in defaults.items() if config[name] != default}


def scene_kind(config: ConfigDict, split: str) -> dict[str, Any]:
    """What a cache's meta.json says of the kind of its scenes: of those of one camera alone."""
    kind = bytes(open_records(config.path, config.kind, split)[0]["kind"]).decode()
    return {"scene_kind": kind} if kind == "single" else {}


def check_clips(
    vae: VAEConfig, frames: int, size: Sequence[int], clips_per_scene: int, clips_per_path: int, windows: int
) -> None:
    """Raises `InputError` where the flags ask for clips that the VAE cannot encode, or for parts of paths."""
    width, height = size
    vae.check_video_size(frames, height, width)
    if clips_per_scene % windows or clips_per_path % windows:
        raise InputError(
            f"--windows {windows}: --clips_per_scene {clips_per_scene} and --clips_per_path {clips_per_path} "
            "must be multiples of it."
        )


def read_ahead(clips: grain.IterDataset) -> grain.DatasetIterator:
    """Starts reading, in a thread of its own, and what worker processes it needs.

    To be called before the devices are first used: the workers then start while the VAE is loaded and
    compiled, and from a process that is still small. From one with a GPU's memory mapped each start took
    seconds.
    """
    iterator = iter(grain.experimental.ThreadPrefetchIterDataset(clips, prefetch_buffer_size=2))
    iterator.start_prefetch()
    return iterator


def encode_missing(
    cache: LatentCache, clips: grain.DatasetIterator, encode: Callable, shard: tuple[int, int] = (0, 1)
) -> None:
    """Encodes the clips of all rows that a part (I, N) of a cache lacks; `clips` gives them in order, see
    `make_clips`."""
    underway: collections.deque = collections.deque()
    total = len(range(shard[0], cache.scenes, shard[1]))
    bar = tqdm(total=total, initial=total - len(cache.missing(shard)), unit="scene")

    def write_oldest() -> None:
        clip, parts = underway.popleft()
        latents = np.concatenate([np.asarray(part) for part in parts])
        cache.write(clip["row"], latents, view_of(clip), clip["captions"], shard, depth=clip.get("depth"))
        bar.update()

    started, waited = time.monotonic(), 0.0
    while True:
        before = time.monotonic()
        clip = next(clips, None)
        waited += time.monotonic() - before
        if clip is None:
            break
        underway.append(
            ({key: value for key, value in clip.items() if key != "video"}, encode(clip["video"]))
        )
        if len(underway) > 2 * jax.local_device_count():
            write_oldest()
    while underway:
        write_oldest()
    bar.close()
    clips.close()
    seconds = time.monotonic() - started
    print(f"Latents: {cache.path}, in {seconds:.0f} s, of which {waited:.0f} s were spent waiting for clips")


def make_parser() -> Parser:
    """The parser of the command's flags."""
    parser = Parser(prog="python -m stp_jax.encode_dataset", description=__doc__)
    add = parser.add_argument
    add("--data", required=True, help="folder of the built data set")
    add("--vae", required=True, help="weights of the VAE, in any layout that can be read")
    add(
        "--out",
        type=local_folder,
        required=True,
        help="folder of the latent cache; the split becomes a folder in it",
    )
    add("--kind", default="cam_x_time", help="name of the data set, as of its builder (default: %(default)s)")
    add("--split", default="train")
    add("--seed", type=number(0, 2**31 - 1, int), default=0, help="of the clips that are drawn")
    add("--passes", type=count, default=1, help="times every scene is used, with other clips each time")
    add("--scenes", type=count, help="number of scenes, counted over all passes (default: all)")
    add("--clips_per_scene", type=count, default=64, help="clips drawn from a scene in a pass")
    add("--clips_per_path", type=count, default=4, help="of these, clips that share a camera path")
    add(
        "--windows",
        type=count,
        default=1,
        help="clips in a row that continue each other on one long camera path, for training with a memory; 2 "
        "windows of 17 frames need scenes of 33 source frames, 4 need 65 (render --times 129)",
    )
    add("--frames", type=count, default=17, help="frames per clip, 4n + 1")
    add(
        "--size",
        type=count,
        nargs=2,
        default=(128, 128),
        metavar=("WIDTH", "HEIGHT"),
        help="of the videos, pixels",
    )
    add("--flip", action="store_true", help="mirror half of the scenes")
    add("--permute_channels", action="store_true", help="shuffle the colour channels of each scene")
    add(
        "--rules",
        default="grid",
        choices=RULES,
        help="grid: camera and animation time drawn apart; synchronised: as videos of moving cameras, warped "
        "with their poses; static: one time of each scene and pass (default: %(default)s)",
    )
    _add_fit_flags(add)
    add("--depth", action="store_true", help="keep coarse depth, too (scenes: render --depth_stride 8)")
    add(
        "--workers", type=number(0, 1024, int), default=0, help="processes that decode video; 0: threads only"
    )
    add("--batch_size", type=count, help="clips encoded at a time; default: 16 of 128 x 128, fewer if larger")
    add(
        "--shard",
        type=shard_of_work,
        default=(0, 1),
        metavar="I/N",
        help="of N processes that write this cache at once, on any hosts, this is number I, from 0: it "
        "encodes the scenes I, I + N, I + 2 N ... (default: all)",
    )
    return parser


def _add_fit_flags(add: Callable) -> None:
    """The flags that say what scenes are brought to, see `config.FIT_FIELDS`."""
    add(
        "--fps",
        type=number(0, 1000),
        default=0.0,
        help="source frames in a second, at most: of a faster video every n-th frame, the others lie between "
        "(default: all, docs/mixtures.md)",
    )
    add(
        "--camera_extent",
        type=number(1e-6, 1e6),
        default=CAMERA_EXTENT,
        help="metres that the cameras of a scene without metres extend (default: %(default)s)",
    )
    add(
        "--static_reach",
        type=number(0, 10**6, int),
        default=0,
        help="frames of a static scene's video within which all of a scene's clips lie; 0: all",
    )
    add(
        "--skip_short",
        action="store_true",
        help="the next scene that is long enough takes the place of one that is too short; else an error",
    )


@exit_on_input_error
def main() -> None:
    arguments = vars(make_parser().parse_args())
    use_compilation_cache()
    encode_dataset(**arguments)
