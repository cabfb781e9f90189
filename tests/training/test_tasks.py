"""The real models through the real trainer, on scenes of 16 x 16 pixels: VAE, latent cache, DiT."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from safetensors.numpy import save_file

from input_pipeline.caption_embeddings import Part
from input_pipeline.latent_checksums import append_captions, captions_checksum
from input_pipeline.latents import LatentCache
from input_pipeline.pipeline import make_clips, make_dataset
from stp_jax.devices.sharding import make_mesh
from stp_jax.encode_dataset.command import encode_dataset
from stp_jax.errors import InputError
from stp_jax.media import read_video
from stp_jax.models.config import DiTConfig
from stp_jax.models.parameters import bind, flatten
from stp_jax.models.vae import VAEConfig, from_pixels
from stp_jax.training import loop
from stp_jax.training.dit_task import DiTTask
from stp_jax.training.held_out import Validation, read_batches
from stp_jax.training.loop import train
from stp_jax.training.run import make_task
from stp_jax.training.state import VALIDATION, init_state, random_key
from stp_jax.training.vae_task import VAETask
from stp_jax.training.workdir import check_workdir
from stp_jax.weights import kinds, native
from stp_jax.weights.layouts import dit
from stp_jax.weights.layouts.table import lazy_parameters
from tests.stored_tensors import WAN, random_tensors
from tests.training import real_models
from tests.training.real_models import FRAMES, SIZE, logged, mix, save, vae_config, write_data


@pytest.fixture(scope="module", autouse=True)
def trained_on_one_device():
    """That others give the same is tested beside the mesh; here they would only compile more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", functools.partial(make_mesh, devices=jax.devices()[:1]))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two scenes to train on and one held out."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def vae_run(data):
    config = vae_config(data)
    # Drawn kernel by kernel, of which few differ in shape; in the trainer they are one program of seconds.
    config.init_from = str(data / "first_vae")
    save(config.init_from, "vae", flatten(VAETask(config).init(nnx.Rngs(0))), config.model.to_dict())
    mix(config, grids=dict(path=str(data), weight=2.0), still=dict(path=str(data), rules="static"))
    train(config, data / "vae")
    return config, data / "vae"


@pytest.fixture(scope="module")
def vae(vae_run):
    folder = vae_run[1] / "weights"
    config = VAEConfig(**native.read_index(folder, "vae")["config"])
    return bind(kinds.abstract("vae", config)[0], native.read_weights(folder, "vae"))


@pytest.fixture(scope="module")
def dit_config(data, vae_run):
    return real_models.dit_config(data, vae_run[1] / "weights")


def test_trained_vae_carries_the_statistics_of_its_latents(vae_run, vae):
    config, _ = vae_run
    iterator = iter(make_dataset(config.data, split="train", seed=config.seed + 1, batch_size=8))
    videos = [next(iterator) for _ in range(2)]
    videos = np.concatenate([b[key] for b in videos for key in ("source_video", "target_video")])
    mean = np.asarray(jax.jit(lambda v: vae.moments(from_pixels(v))[0])(videos), np.float64).reshape(-1, 4)
    np.testing.assert_allclose(vae.config.latent_mean, mean.mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(vae.config.latent_std, mean.std(0), rtol=1e-3)


def test_a_decoder_trained_alone_keeps_the_latents(vae_run, vae):
    config = vae_run[0].copy_and_resolve_references()
    config.init_from, config.train.trainable = str(vae_run[1] / "weights"), r"decoder\..*|conv2\..*"
    kept = VAETask(config).final_config(vae, dataset=None)
    assert (kept["latent_mean"], kept["latent_std"]) == (vae.config.latent_mean, vae.config.latent_std)


def encoding(vae_run, out: Path, **options) -> dict:
    return dict(vae=str(vae_run[1] / "weights"), out=str(out), frames=FRAMES, size=(SIZE, SIZE), **options)


@pytest.fixture(scope="module")
def latents(data, vae_run):
    """The latent cache of the data, interrupted after one scene and continued."""
    options = encoding(vae_run, data / "latents", batch_size=3, clips_per_scene=4, clips_per_path=2)
    write, written = LatentCache.write, []

    def interrupt(self, scene, *args, **kwargs):
        if written:
            raise KeyboardInterrupt
        written.append(scene)
        write(self, scene, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LatentCache, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            encode_dataset(str(data), **options)
    encode_dataset(str(data), **options)  # goes on with the other scene
    with pytest.raises(InputError, match="complete"):
        encode_dataset(str(data), **options)
    return data / "latents"


def test_encoded_clips_are_the_latents_of_the_clips_drawn(latents, vae, dit_config):
    cache = LatentCache.open(latents / "train")
    encode = jax.jit(lambda v: vae.encode(from_pixels(v)))
    for clip in make_clips(dit_config.data, split="train", seed=0, clips=4, clips_per_path=2):
        stored = cache.clips_at(clip["row"] * 4 + np.arange(4))
        expected = np.asarray(encode(clip["video"]))
        # Their spread is 1; they were computed in bfloat16.
        assert np.abs(stored["latents"] - expected).mean() < 0.05
        np.testing.assert_array_equal(stored["c2w"], clip["c2w"])
        np.testing.assert_array_equal(stored["animation_time"], clip["animation_time"])


def test_dit_trains_on_mixed_latents_and_is_saved_with_its_vae(data, latents, dit_config):
    """Pictures are of one held-out set, of videos; caches may be moved, their weights are the run's."""
    config = dit_config.copy_and_resolve_references()
    config.data.kind = "latents"
    mix(config, all=dict(path=str(latents), weight=3.0), forward=dict(path=str(latents), warp=False))
    config.optimizer.name, config.model.layers, config.train.pictures_every = "muon", 2, 2
    config.model.remat = "full"
    train(config, data / "dit")
    assert np.isfinite(logged(data / "dit")[-1]["preview/psnr"])
    assert (data / "dit/pictures/00000002.png").exists()
    video, _ = read_video(data / "dit/pictures/00000002.mp4")
    assert video.shape == (FRAMES, 20 + SIZE, 3 * SIZE + 2 * 4, 3)  # source, target, sample under labels
    assert native.read_index(data / "dit/weights", "dit")["config"]["dim"] == 48
    beside = data / "dit/weights"
    saved, original = (native.read_weights(folder, "vae") for folder in (beside, config.vae))
    assert all(np.array_equal(saved[name], original[name]) for name in original)
    assert native.read_index(beside, "vae")["config"] == native.read_index(config.vae, "vae")["config"]
    moved = config.copy_and_resolve_references()
    moved.data.mixture.all.path = str(data / "moved")
    assert "moved" in check_workdir(data / "dit", moved)[0]
    moved.data.mixture.all.weight = 1.0
    with pytest.raises(InputError, match="data.mixture.all.weight was 3.0, is 1.0"):
        check_workdir(data / "dit", moved)


@pytest.fixture(scope="module")
def long_latents(tmp_path_factory, vae_run):
    """Of two windows of 5 source frames, scenes to train on and one held out."""
    folder = tmp_path_factory.mktemp("long")
    long = write_data(folder / "data", times=9, step=1.0)
    options = encoding(
        vae_run, folder / "latents", batch_size=8, clips_per_scene=8, clips_per_path=4, windows=2
    )
    for split in ("train", "test"):
        encode_dataset(str(long), split=split, **options)
    return folder / "latents"


def test_dit_trains_with_a_memory_in_some_batches(tmp_path, long_latents, dit_config, capsys):
    """From weights without one, to weights that a sampler can give one."""
    config = dit_config.copy_and_resolve_references()
    model, rng = DiTTask(config).init(nnx.Rngs(5)), np.random.default_rng(0)
    first = {  # the zeros of a new model would hide the gradient of the role
        name: np.asarray(array) + 0.05 * rng.standard_normal(array.shape).astype(np.float32)
        for name, array in flatten(model).items()
    }
    save(tmp_path / "first", "dit", first, config.model.to_dict())
    config.init_from = str(tmp_path / "first")
    config.data.update(kind="latents", path=str(long_latents), memory_frames=1)
    config.model.memory = 1

    def kinds(seed: int) -> set[bool]:
        batches = iter(make_dataset(config.data, split="train", seed=seed, batch_size=8))
        found = {"memory_latents" in next(batches) for _ in range(config.train.steps)}
        batches.close()
        return found

    config.seed = next(seed for seed in range(20) if kinds(seed) == {True, False})
    train(config, tmp_path / "run")
    losses = [line["loss"] for line in logged(tmp_path / "run") if "loss" in line]
    assert losses and np.isfinite(losses).all()
    saved = native.read_index(tmp_path / "run/weights", "dit")
    assert saved["config"]["memory"] == 1
    assert "it lacks and training begins with: camera_encoder" in capsys.readouterr().out
    role = native.read_weights(tmp_path / "run/weights", "dit")["camera_encoder.memory_role"]
    assert np.abs(role).max() > 0

    config.data.memory_frames = 2
    with pytest.raises(InputError, match="memory_frames is 2, but config.model.memory 1"):
        make_task(config)


def test_the_loss_with_a_memory_is_taken_on_long_held_out_scenes(long_latents, data, dit_config):
    """`config.pictures` names their cache; the same loss whatever the seed and batch size of the run."""
    config = dit_config.copy_and_resolve_references()
    config.model.memory = 1
    config.train.update(validate_every=1, validation_batches=2, batch_size=8)
    with config.unlocked():
        config.train.validation = dict(batch_size=4, seed=3, flow=config.flow)
    latents = dict(kind="latents", path=str(long_latents), memory_frames=1, memory_share=1.0)
    config.pictures.data.update(latents)
    mesh, task = make_mesh(data=1, devices=jax.devices()[:1]), make_task(config)
    model = task.init(nnx.Rngs(5))
    params = {name: jnp.asarray(array) for name, array in flatten(model).items()}
    found = Validation(task, config, {}, mesh).losses(params)["loss"]

    cache = LatentCache.open(long_latents / "test")
    assert (cache.scenes, cache.windows) == (1, 2)
    losses = []
    loss = jax.jit(lambda batch, key: task.loss(model, {}, batch, key)[0])
    for i, batch in enumerate(read_batches(config, 2, 4, seed=3)):
        assert batch["memory_latents"].shape == (4, 1, *cache.latent_shape[1:])
        key = random_key(3, i, VALIDATION)
        losses.append(float(loss(batch, key)))
    assert losses[0] != losses[1] and found == pytest.approx(np.mean(losses), rel=1e-4)

    config.seed, config.train.batch_size = 17, 2
    parts = {
        "all": dict(path=str(long_latents), weight=3.0),
        "source": dict(path=str(long_latents), modes=dict(both=0.0)),
    }
    mixed = config.copy_and_resolve_references()
    with mixed.unlocked():
        mixed.pictures.data.update(path="", memory_path=str(long_latents), mixture=parts)
    of_parts = Validation(task, mixed, {}, mesh).losses(params)
    assert of_parts["all/loss"] == pytest.approx(found, rel=1e-6) and of_parts["source/loss"] > 0
    mean = (3 * of_parts["all/loss"] + of_parts["source/loss"]) / 4
    assert list(of_parts) == ["loss", "all/loss", "source/loss"] and of_parts["loss"] == pytest.approx(mean)
    config.pictures.data.memory_frames = 2
    with pytest.raises(InputError, match="pictures.data.memory_frames is 2, but config.model.memory 1"):
        make_task(config)


def started_from(config, latents, folder, init_from) -> dict[str, np.ndarray]:
    """What one step with a learning rate of 0 leaves of the weights that training starts from."""
    config.init_from = str(init_from)
    config.data.update(kind="latents", path=str(latents))
    config.optimizer.update(learning_rate=0.0, weight_decay=0.0, warmup_steps=0)
    config.optimizer.adam_learning_rate = 0.0
    config.train.steps = 1
    train(config, folder)
    return native.read_weights(folder / "weights", "dit")


def test_training_starts_from_weights_of_ours(tmp_path, latents, dit_config):
    config = dit_config.copy_and_resolve_references()
    model = DiTTask(config).init(nnx.Rngs(5))
    first = flatten(model)
    save(tmp_path / "first", "dit", first, config.model.to_dict())
    found = started_from(config, latents, tmp_path / "run", tmp_path / "first")
    for name, array in first.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6)  # their average is rounded


def test_training_without_a_memory_starts_from_weights_with_one(tmp_path, dit_config, capsys):
    """As the bundled ones are."""
    config = dit_config.copy_and_resolve_references()
    config.model.memory = 1
    first = flatten(DiTTask(config).init(nnx.Rngs(5)))
    save(tmp_path, "dit", first, config.model.to_dict())
    config.model.memory = 0
    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    params = init_state(DiTTask(config), optax.sgd(0.0), 0, mesh, str(tmp_path)).params
    assert first.keys() - params.keys() == {"camera_encoder.memory_role"}
    for name, array in params.items():
        np.testing.assert_array_equal(array, first[name])
    said = capsys.readouterr()
    assert "without what this model has no use for: camera_encoder.memory_role" in said.out + said.err


def test_weights_of_a_model_with_other_heads_are_no_start(tmp_path, dit_config, capsys):
    """Their shapes are the same."""
    config = dit_config.copy_and_resolve_references()
    first = flatten(DiTTask(config).init(nnx.Rngs(5)))
    other = config.model.to_dict() | dict(heads=2 * config.model.heads, rope_frames="shared")
    save(tmp_path, "dit", first, other)
    config.init_from = str(tmp_path)
    with pytest.raises(InputError, match=rf"with heads = {other['heads']}; config.model.heads is"):
        train(config, tmp_path / "run")
    task = DiTTask(config)
    task.check_start(dataclasses.replace(DiTConfig(**other), heads=config.model.heads))
    said = capsys.readouterr()
    assert f"rope_frames = 'shared', not '{config.model.rope_frames}'" in said.out + said.err


def test_training_starts_from_wan_and_adds_what_it_lacks(tmp_path, latents, dit_config, capsys):
    config = dit_config.copy_and_resolve_references()
    config.model.update(text_dim=12, rope_frames="stream")
    config.text = str(tmp_path / "words.npz")
    np.savez(config.text, embeddings=np.random.default_rng(0).standard_normal((1, 512, 12), np.float32))
    Part(tmp_path / "captions", (0, 1), {"dim": 12, "tokens": 512}).add("a dog", np.ones((1, 12)))
    config.data.update(captions=str(tmp_path / "captions"), caption_dropout=0.1)
    wan = dataclasses.replace(DiTConfig(**config.model), **WAN | {"text_dim": 12})
    stored = random_tensors("dit", wan, "official")
    save_file(stored, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"dim": wan.dim, "num_heads": wan.heads}))
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    with pytest.raises(InputError, match="no scene of .*latents has a caption"):
        started_from(config, latents, tmp_path / "none", weights)
    latents = shutil.copytree(latents, tmp_path / "latents")
    sums = np.load(latents / "train" / "checksums.npy", mmap_mode="r+")
    sums[0, -1] = captions_checksum(["a dog"])
    append_captions(latents / "train", (0, 1), 0, ["a dog"])
    found = started_from(config, latents, tmp_path / "run", weights)
    expected = lazy_parameters(dit.rules(wan, "official"), stored)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], np.asarray(array), rtol=1e-6)
    added = found.keys() - expected.keys()
    assert {name.split(".")[0] for name in added} == {"blocks", "camera_encoder", "animation_time_encoder"}
    assert not found["blocks.camera.kernel"].any() and found["camera_encoder.embed.layer_out.kernel"].any()
    said = capsys.readouterr()
    assert "it lacks and training begins with: animation_time_encoder" in said.out + said.err
    loss = [line["loss"] for line in logged(tmp_path / "run") if "loss" in line]
    assert np.isfinite(loss).all()

    config.init_from = str(config.vae)
    with pytest.raises(InputError, match="no weights of a DiT"):
        train(config, tmp_path / "other")
