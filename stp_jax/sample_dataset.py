"""Samples a model along the long paths of a latent cache, so that training can show it its own output.

    python -m stp_jax.sample_dataset --data data/long_latents --weights runs/demo/weights --out data/outputs

makes every window of every long path as `sample.py --frames N` would: from a source of its scene, and with
the latent frames before it as memory, which are the model's own. `config.data.memory_outputs` reads what it
writes: a memory then has the errors that it has in use. After an interruption the same command continues.
The window's first frame, which `sample.py` puts in place, is made as the others are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import jax
    import numpy as np
    from tqdm import tqdm

    from input_pipeline.config import ModesConfig
    from input_pipeline.latent_batches import same_path
    from input_pipeline.latent_choice import choose_source_path, choose_window, memory_rows
    from input_pipeline.latents import LatentCache
    from input_pipeline.memory_outputs import MemoryOutputs
    from input_pipeline.remote import local_folder, within
    from stp_jax import flow
    from stp_jax.command_line import Parser, count, number
    from stp_jax.controls.view import view_of
    from stp_jax.devices.hardware import use_compilation_cache
    from stp_jax.devices.sharding import make_mesh
    from stp_jax.rerender.models_on_device import put
    from stp_jax.rerender.sampler import Sampler
    from stp_jax.text import read_embeddings
    from stp_jax.weights import reading, recognition

Batch = dict[str, np.ndarray]
Sample = Callable[[Batch, np.ndarray], np.ndarray]  # an example's arrays and noise -> latents


def find_model(weights: str) -> recognition.Pretrained:
    """The DiT in a folder; raises `InputError` unless it takes a memory."""
    found = recognition.recognise(weights, "dit")
    if not found.config.memory:
        raise InputError(
            f"--weights {weights}: this model takes no memory. Train one with config.memory = 4 and true "
            "latents as memory at first."
        )
    return found


def make_sample(found: recognition.Pretrained, sigmas: np.ndarray, text: str, dtype: str) -> Sample:
    """Returns `sample(batch, noise [B, F', H', W', C])`, the latents of the targets on all devices.

    Args:
      sigmas: noise levels, see `flow.sampling_sigmas`.
      text: a file of embeddings, of which the first is given to all; for models that take text.
    """
    found = dataclasses.replace(found, config=dataclasses.replace(found.config, dtype=dtype))
    mesh = make_mesh()
    prompts = read_embeddings(text, found.config.text_dim)[:1] if found.config.text_dim else None
    graph, state = reading.load(found, mesh, dtype)
    sampler = Sampler(graph)

    def sample(batch: Batch, noise: np.ndarray) -> np.ndarray:
        with jax.set_mesh(mesh):
            names = ("target", "source", "memory") if "memory_latents" in batch else ("target", "source")
            given = {name: put(array, mesh) for name, array in batch.items() if name != "target_latents"}
            latents = {name: given[f"{name}_latents"].astype("float32") for name in names[1:]}
            conditioning = sampler.condition(
                state,
                tuple(view_of(given, name) for name in names),
                None if prompts is None else put(np.repeat(prompts, len(noise), 0), mesh),
                latent_size=noise.shape[1:4],
            )
            made = sampler.sample(
                state, put(noise, mesh), latents["source"], conditioning, sigmas, memory=latents.get("memory")
            )
            return np.asarray(made)[: len(noise)]

    return sample


def sample_scenes(
    cache: LatentCache, scenes: np.ndarray, sample: Sample, memory: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Samples all windows of the long paths of some scenes, one window of all paths at a time.

    Args:
      scenes: numbers [S].
      memory: latent frames K of the model's memory: the most recent ones.
      seed: of sources and noise, which are those of a scene however many are sampled at once.

    Returns:
      Latents [S, clips, F', H', W', C] float16, and the camera paths of the sources [S, P].
    """
    per_scene = cache.clips // cache.windows
    first = (scenes[:, None] * cache.clips + cache.windows * np.arange(per_scene)).ravel()
    rngs = [np.random.default_rng([seed, row]) for row in first]
    share = same_path(ModesConfig())
    paths = [
        choose_source_path(cache, row, rng, same_path=share) for row, rng in zip(first, rngs, strict=True)
    ]
    made = np.zeros((len(first), cache.windows, *cache.latent_shape), np.float16)
    for window in range(cache.windows):
        targets = first + window
        given = zip(targets, paths, rngs, strict=True)
        sources = np.array([choose_window(cache, row, path, rng) for row, path, rng in given])
        recent = None
        if window:
            recent = np.stack([memory_rows(cache, row, window)[-memory:] for row in first])
        batch = cache.pairs_at(targets, sources, recent)
        if recent is not None:
            before = made[:, :window, 1:].reshape(len(first), -1, *cache.latent_shape[1:])
            batch["memory_latents"] = before[:, -memory:]
        noise = np.stack([rng.standard_normal(cache.latent_shape, np.float32) for rng in rngs])
        made[:, window] = sample(batch, noise)
    of_scene = made.reshape(len(scenes), cache.clips, *cache.latent_shape)
    return of_scene, np.reshape(paths, (len(scenes), per_scene))


def sample_dataset(
    data: str | Path,
    weights: str,
    out: Path,
    *,
    split: str = "train",
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    text: str = "",
    dtype: str | None = None,
) -> None:
    """Writes the outputs `out/split`; for the arguments see the flags below.

    Raises:
      InputError: the cache, the weights or the text cannot be used; `out/split` holds something else or is
        complete; the model's numbers are not finite.
    """
    found, cache = find_model(weights), LatentCache.open(within(data, split))
    memory = found.config.memory
    if cache.windows == 1 or memory > cache.latent_shape[0] - 1:
        raise InputError(
            f"latent cache {cache.path}: no long paths with room for a memory of {memory} latent frames; "
            "encode scenes of more frames with python -m stp_jax.encode_dataset --windows 2"
        )
    if found.config.text_dim and not text:
        raise InputError("--text is missing: this model takes text, which `python -m stp_jax.text` embeds.")
    notes = reading.sampling_notes(found)
    sigmas = flow.sampling_sigmas(steps or notes.sampling_steps, notes.sampling_shift)
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    made_by: dict[str, Any] = {"title": found.title, "files": sorted(found.sums.values())}
    made_by |= {"seed": seed, "dtype": dtype, "sigmas": sigmas.tolist()}
    outputs = MemoryOutputs.create(out / split, cache, made_by)
    sample = make_sample(found, sigmas, text, dtype)
    missing = outputs.missing()
    batch_scenes = max(1, batch_size // (cache.clips // cache.windows))
    bar = tqdm(total=cache.scenes, initial=cache.scenes - len(missing), unit="scene")
    for start in range(0, len(missing), batch_scenes):
        scenes = missing[start : start + batch_scenes]
        for scene, latents, paths in zip(
            scenes, *sample_scenes(cache, scenes, sample, memory, seed), strict=True
        ):
            if not np.isfinite(latents).all():
                raise InputError(f"--weights {weights}: latents of scene {scene} are not finite.")
            outputs.write(scene, latents, paths)
            bar.update()
    bar.close()
    print(
        f"Outputs: {outputs.path}: {cache.scenes} scenes x {cache.clips} clips, {len(sigmas) - 1} steps each"
    )


def make_parser() -> Parser:
    """The parser of the command's flags."""
    parser = Parser(prog="python -m stp_jax.sample_dataset", description=__doc__)
    add = parser.add_argument
    add(
        "--data",
        required=True,
        help="folder of the latent cache of long paths (encode_dataset --windows); may be gs:// or s3://",
    )
    add("--weights", required=True, help="a DiT that takes a memory, in any layout that can be read")
    add(
        "--out",
        type=local_folder,
        required=True,
        help="folder of the outputs; the split becomes a folder in it",
    )
    add("--split", default="train")
    add("--steps", type=count, help="of sampling (default: as the weights say)")
    add("--seed", type=number(0, 2**31 - 1, int), default=0, help="of the sources and of the noise")
    add(
        "--batch_size",
        type=count,
        default=64,
        help="clips made at once on all devices (default: %(default)s)",
    )
    add("--text", default="", help="for a model that takes text: embeddings of `python -m stp_jax.text`")
    add("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16, on a CPU float32")
    return parser


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    flags = vars(make_parser().parse_args(arguments))
    use_compilation_cache()
    sample_dataset(flags.pop("data"), flags.pop("weights"), flags.pop("out"), **flags)


if __name__ == "__main__":
    main()
