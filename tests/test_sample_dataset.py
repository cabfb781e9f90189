"""A model's own output along the long paths of a latent cache."""

import dataclasses
import itertools

import fsspec
import jax
import numpy as np
import pytest
from flax import nnx

from input_pipeline.latents import LatentCache
from input_pipeline.memory_outputs import MemoryOutputs
from stp_jax import sample_dataset
from stp_jax.controls.view import view_of
from stp_jax.errors import InputError
from stp_jax.flow import sampling_sigmas
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.parameters import load_into
from stp_jax.weights import native
from tests import tiny_model
from tests.input_pipeline.long_cache import (
    CLIPS,
    LATENT_FRAMES,
    PER_PATH,
    SCENES,
    WINDOWS,
    K,
    write_long_cache,
)

STEPS = 2
CONFIG = dataclasses.replace(tiny_model.DIT_CONFIG, memory=K)


def make_dit() -> SpaceTimeDiT:
    return SpaceTimeDiT(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    parent = tmp_path_factory.mktemp("sample_dataset")
    write_long_cache(parent / "long" / "train")
    write_long_cache(parent / "short" / "train", windows=1)
    parameters = tiny_model.random_parameters(make_dit, 1, 0.15)
    native.save_weights(
        parent / "weights", "dit", parameters, dataclasses.asdict(CONFIG), notes=tiny_model.NOTES
    )
    tiny_model.write_tiny_model(parent / "plain")
    return parent


def run(folder, out, *, data="long", weights="weights", **options):
    options = {"steps": STEPS, "batch_size": 4} | options
    sample_dataset.sample_dataset(folder / data, str(folder / weights), out, **options)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_memory_is_what_was_made_before_and_all_windows_have_one_source(folder):
    cache = LatentCache.open(folder / "long" / "train")
    given = []

    def sample(batch, noise):
        given.append((batch, noise))
        return 1000.0 * len(given) + np.arange(len(noise))[:, None, None, None, None] + noise

    made, paths = sample_dataset.sample_scenes(cache, np.array([1]), sample, K, seed=5)
    assert made.shape == (1, CLIPS, *cache.latent_shape) and len(given) == WINDOWS
    long_paths = made.reshape(CLIPS // WINDOWS, WINDOWS, *cache.latent_shape)
    for window, (batch, noise) in enumerate(given):
        held = batch["target_latents"][:, 0, 0, 0, 2].astype(int)  # the target's clip
        np.testing.assert_array_equal(held, CLIPS + window + np.arange(0, CLIPS, WINDOWS))
        source = batch["source_latents"][:, 0, 0, 0, 2].astype(int) - CLIPS
        np.testing.assert_array_equal(source // PER_PATH, paths[0])
        values = 1000 * (window + 1) + np.arange(len(noise))[:, None, None, None, None] + noise
        np.testing.assert_array_equal(long_paths[:, window], values.astype(np.float16))
        if window:
            before = long_paths[:, :window, 1:].reshape(len(noise), -1, *cache.latent_shape[1:])
            np.testing.assert_array_equal(batch["memory_latents"], before[:, -K:])
            last = batch["memory_animation_time"][:, -1] - batch["target_animation_time"][:, 0]
            np.testing.assert_allclose(last, 0, atol=1e-4)  # where this window begins
        else:
            assert "memory_latents" not in batch
    assert abs(np.mean([noise.std() for _, noise in given]) - 1) < 0.1
    again = []
    sample_dataset.sample_scenes(cache, np.arange(SCENES), lambda b, n: again.append(n) or n, K, seed=5)
    for (_, noise), of_both in zip(given, again, strict=True):
        np.testing.assert_array_equal(of_both[-len(noise) :], noise)


def test_windows_are_sampled_as_by_plain_euler_steps(folder):
    """On eight devices, against the model itself."""
    cache = LatentCache.open(folder / "long" / "train")
    rows, noise = np.array([1, 4, 8]), np.random.default_rng(0).standard_normal((3, *cache.latent_shape))
    memory = np.stack([(row // WINDOWS * WINDOWS) * LATENT_FRAMES + np.array([1, 2]) for row in rows])
    batch = cache.pairs_at(rows, rows - rows % PER_PATH, memory)
    scaled = {name: 0.05 * array if name.endswith("latents") else array for name, array in batch.items()}
    sigmas = sampling_sigmas(STEPS, tiny_model.SHIFT)
    sample = sample_dataset.make_sample(
        sample_dataset.find_model(str(folder / "weights")), sigmas, "", "float32"
    )
    model = tiny_model.zeros(make_dit)
    load_into(model, native.read_weights(folder / "weights", "dit"), "dit")
    graph, state = nnx.split(model)
    predict = jax.jit(lambda state, *given: nnx.merge(graph, state)(*given))
    for names in (("target", "source", "memory"), ("target", "source")):
        one = {name: array for name, array in scaled.items() if name.split("_")[0] in names}
        views = [view_of(one, name) for name in names]
        conditioning = model.condition(*views, latent_size=cache.latent_shape[:3])
        latents = [one.get(f"{name}_latents") for name in ("source", "memory")]
        x = noise.astype(np.float32)
        for sigma, following in itertools.pairwise(sigmas):
            given = latents[0], np.full(3, 1000 * sigma), conditioning, latents[1]
            x = x + np.asarray(predict(state, x, *given)) * (following - sigma)
        np.testing.assert_allclose(sample(one, noise.astype(np.float32)), x, atol=2e-4)


def test_an_interrupted_command_goes_on_to_the_same_bytes(folder, tmp_path, monkeypatch):
    run(folder, tmp_path / "whole")
    write = MemoryOutputs.write

    def stop(self, scene, *given):
        if scene == 1:
            raise KeyboardInterrupt
        write(self, scene, *given)

    monkeypatch.setattr(MemoryOutputs, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "cut")
    monkeypatch.undo()
    cache = LatentCache.open(folder / "long" / "train")
    with pytest.raises(InputError, match="1 of 2 scenes are not written yet"):
        MemoryOutputs.open(tmp_path / "cut" / "train", cache)
    with pytest.raises(InputError, match="begun with another model, cache or settings"):
        run(folder, tmp_path / "cut", seed=1)
    run(folder, tmp_path / "cut")
    assert files(tmp_path / "cut" / "train") == files(tmp_path / "whole" / "train")
    with pytest.raises(InputError, match="already complete"):
        run(folder, tmp_path / "cut")
    monkeypatch.setenv("STP_JAX_DOWNLOADS", str(tmp_path / "downloads"))
    fsspec.filesystem("memory").put(str(folder / "long"), "/sampled/long", recursive=True)
    remote = ["--data", "memory://sampled/long", "--out", str(tmp_path / "remote")]
    flags = ["--weights", str(folder / "weights"), "--steps", str(STEPS), "--batch_size", "4"]
    sample_dataset.main([*remote, *flags])
    assert files(tmp_path / "remote" / "train") == files(tmp_path / "whole" / "train")
    rows = np.arange(SCENES * CLIPS * LATENT_FRAMES)[None]
    assert MemoryOutputs.open(tmp_path / "cut" / "train", cache).latents_at(rows).std() > 0.1


def test_mistakes_are_named_before_anything_is_written(folder, tmp_path):
    with pytest.raises(InputError, match="no long paths with room for a memory of 2"):
        run(folder, tmp_path / "out", data="short")
    with pytest.raises(InputError, match="takes no memory"):
        run(folder, tmp_path / "out", weights="plain")
    (tmp_path / "other" / "train").mkdir(parents=True)
    (tmp_path / "other" / "train" / "film.mp4").write_text("")
    with pytest.raises(InputError, match="not empty"):
        run(folder, tmp_path / "other")
    assert not (tmp_path / "out").exists()
