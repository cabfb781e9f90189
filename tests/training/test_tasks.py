"""The real models through the real trainer, on scenes of 16 x 16 pixels: VAE, latent cache, DiT."""

import copy
import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from configs import demo, demo_vae
from input_pipeline.caption_embeddings import CaptionEmbeddings, Part
from input_pipeline.datasets import cam_x_time
from input_pipeline.latent_checksums import append_captions, captions_checksum
from input_pipeline.latents import LatentCache
from input_pipeline.pipeline import make_clips, make_dataset
from stp_jax.controls.view import view_of
from stp_jax.devices.sharding import make_mesh
from stp_jax.encode_dataset.command import encode_dataset
from stp_jax.errors import InputError
from stp_jax.media import read_video
from stp_jax.models.config import DiTConfig
from stp_jax.models.parameters import bind, flatten
from stp_jax.models.vae import VAEConfig, from_pixels
from stp_jax.training import loop
from stp_jax.training.config import DiTTraining, make_config
from stp_jax.training.dit_task import DiTTask
from stp_jax.training.held_out import Validation, read_batches
from stp_jax.training.loop import train
from stp_jax.training.run import make_task
from stp_jax.training.state import VALIDATION, graph_of, random_key
from stp_jax.training.vae_task import VAETask, random_crop
from stp_jax.training.videos import psnr
from stp_jax.training.workdir import check_workdir
from stp_jax.weights import kinds, native
from stp_jax.weights.layouts import dit
from stp_jax.weights.layouts.table import lazy_parameters
from tests.input_pipeline import synthetic
from tests.stored_tensors import WAN, random_tensors

FRAMES, SIZE = 5, 16


def shrink(config: ConfigDict, data: Path) -> ConfigDict:
    for part in (config.data, config.pictures.data):
        part.update(path=str(data), frames=FRAMES, height=SIZE, width=SIZE)
    config.train.update(steps=2, batch_size=8, log_every=1, pictures_every=0, checkpoint_every=0)
    config.train.export_dtype = "float32"
    config.pictures.count = 1
    return config


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


def write_data(folder: Path, **changes) -> Path:
    for index, seed in enumerate((0, 1, 1_000_000)):
        name = f"scene_{seed:06d}"
        scene = synthetic.write_scene(folder / "scenes", name, index, cameras=3, **changes)
        for path in (scene / "videos").iterdir():
            rng = np.random.default_rng([index, int(path.stem[-1])])
            low = rng.integers(0, 255, (9, 2, 2, 3), dtype=np.uint8)
            path.unlink()
            synthetic.write_video(path, low.repeat(SIZE // 2, 1).repeat(SIZE // 2, 2))
    cam_x_time.main(["--scenes", str(folder / "scenes"), "--out", str(folder)])
    return folder


def mix(config: ConfigDict, **parts) -> None:
    """Trains on a mixture, in place of one data set."""
    config.data.path, config.data.mixture = "", parts


def save(folder: Path | str, name: str, params: dict[str, jax.Array], config: dict) -> None:
    native.save_weights(folder, name, {n: np.asarray(a) for n, a in params.items()}, config)


@pytest.fixture(scope="module")
def vae_run(data):
    config = shrink(demo_vae.get_config(), data)
    config.model.update(dim=4, z_dim=4, dim_mult=(1, 1, 1), temporal_downsample=(True, True))
    config.model.update(latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4)
    config.optimizer.muon_parameters = r".*\.middle\..*kernel"  # a few: all take seconds more to compile
    config.statistics_batches = 2
    config.crop = 8
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
    config = shrink(demo.get_config(), data)
    config.vae = str(vae_run[1] / "weights")
    config.model.update(dim=48, ffn_dim=64, layers=1, heads=2, channels=4, freq_dim=16, conditioning_dim=16)
    config.model.remat = "none"
    config.optimizer.name = "adamw"  # simpler than the demo's own, which the first run below has
    config.sampling.steps = 2
    return config


@pytest.fixture(scope="module")
def batch(dit_config):
    return next(iter(make_dataset(dit_config.data, split="train", seed=3, batch_size=2)))


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


def logged(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


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


def test_a_memory_is_made_lightly_noisy(dit_config):
    config = dit_config.copy_and_resolve_references()
    config.model.memory, config.flow.memory_sigma = 1, 0.5
    clean = jnp.full((400, 1, 4, 4, 4), 100.0)
    noisy = make_task(config)._noisy_memory({"memory_latents": clean}, jax.random.key(0))
    levels = 1 - np.asarray(noisy).mean((1, 2, 3, 4)) / 100
    assert levels.min() > -0.02 and 0.45 < levels.max() < 0.52
    assert abs(levels.mean() - 0.25) < 0.03
    noise = np.asarray(noisy) - 100 * (1 - levels[:, None, None, None, None])
    np.testing.assert_allclose(noise.std((1, 2, 3, 4)), levels, atol=0.15)


def started_from(config, latents, folder, init_from) -> dict[str, np.ndarray]:
    """What one step with a learning rate of 0 leaves of the weights that training starts from."""
    config.init_from = str(init_from)
    config.data.update(kind="latents", path=str(latents))
    config.optimizer.update(learning_rate=0.0, weight_decay=0.0, warmup_steps=0)
    config.optimizer.adam_learning_rate = 0.0
    config.train.steps = 1
    train(config, folder)
    return native.read_weights(folder / "weights", "dit")


@pytest.mark.parametrize(
    "field, value",
    [("text", "dog.npz"), ("sampling.guidance", 5.0), ("data.captions", "c"), ("data.caption_dropout", 0.1)],
)
def test_what_has_no_effect_without_text_is_refused(dit_config, field, value):
    config = copy.deepcopy(dit_config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=f"config.{field} is {value}, but the model takes no text"):
        DiTTask(config)


def test_training_starts_from_weights_of_ours(tmp_path, latents, dit_config):
    config = dit_config.copy_and_resolve_references()
    model = DiTTask(config).init(nnx.Rngs(5))
    first = flatten(model)
    save(tmp_path / "first", "dit", first, config.model.to_dict())
    found = started_from(config, latents, tmp_path / "run", tmp_path / "first")
    for name, array in first.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6)  # their average is rounded


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


def test_videos_and_their_latents_give_the_same_loss(dit_config, batch, vae):
    task = make_task(dit_config)
    model = task.init(nnx.Rngs(0))
    encode = jax.jit(lambda v: vae.encode(from_pixels(v)))
    latents = {f"{name}_latents": encode(batch[f"{name}_video"]) for name in ("source", "target")}
    rest = {name: array for name, array in batch.items() if "video" not in name}
    loss = jax.jit(lambda b: task.loss(model, task.frozen, b, jax.random.key(0))[0])
    of_videos = loss(batch)
    np.testing.assert_allclose(of_videos, loss(rest | latents), rtol=1e-4)
    mixed = {"source_latents": latents["source_latents"], "target_video": batch["target_video"]}
    np.testing.assert_allclose(of_videos, loss(rest | mixed), rtol=1e-4)
    # A new model predicts 0, so its loss is the mean square of the velocity: that of unit noise and that of
    # the latents.
    expected = 1 + float(jnp.mean(jnp.square(latents["target_latents"])))
    np.testing.assert_allclose(of_videos, expected, rtol=0.2)


class KnowsTheTarget(nnx.Module):
    """Predicts the exact velocity from the noisy latents: (x - x0) / sigma."""

    def __init__(self, target):
        self.target = nnx.Param(target)

    def condition(self, *views, text=None, latent_size):
        assert latent_size == (2, SIZE // 4, SIZE // 4)

    def __call__(self, noisy, source, timestep, conditioning, memory, *, target_timestep, differentiable):
        return (noisy - self.target[...]) / (timestep / 1000).reshape(-1, 1, 1, 1, 1)


def on_one_device():
    return NamedSharding(make_mesh(devices=jax.devices()[:1]), P())


def test_preview_samples_what_a_perfect_model_knows(dit_config, batch, vae, monkeypatch):
    task = make_task(dit_config)
    target = jax.jit(lambda v: vae.encode(from_pixels(v)))(batch["target_video"])
    monkeypatch.setattr(task, "init", lambda rngs: KnowsTheTarget(target))
    videos = task.generator(on_one_device())({"target": target}, task.frozen, batch, jax.random.key(0))
    np.testing.assert_allclose(videos["sample"], jax.jit(vae.decode)(target), atol=2e-3)
    rows, _ = task.show(jax.device_get(videos))
    np.testing.assert_array_equal(rows["source 1"], batch["source_video"][1])
    np.testing.assert_array_equal(rows["target 0"], batch["target_video"][0])


@pytest.mark.parametrize("prompts", [1, 2])
def test_preview_is_guided_away_from_the_second_prompt(dit_config, batch, vae, tmp_path, capsys, prompts):
    """Against steps taken here with the velocity `v_negative + g (v_text - v_negative)`.

    With two prompts the first video has a caption of its own.
    """
    config = dit_config.copy_and_resolve_references()
    config.model.text_dim, config.text = 12, str(tmp_path / "prompts.npz")
    config.sampling.update(steps=3, guidance=4.0)
    rng = np.random.default_rng(0)
    texts = rng.standard_normal((prompts, 512, 12), np.float32)
    np.savez(config.text, embeddings=texts)
    positive_text = texts[:1]
    if prompts == 2:
        captions = rng.standard_normal((2, 512, 12)).astype(np.float16)
        positive_text = np.stack([captions[0].astype(np.float32), texts[0]])
        batch = batch | {"text": captions, "has_caption": np.array([True, False])}
    task = make_task(config)
    params = {  # of a new model nothing depends on the text
        name: np.asarray(array) + 0.1 * rng.standard_normal(array.shape).astype(np.float32)
        for name, array in flatten(task.init(nnx.Rngs(0))).items()
    }
    videos = task.generator(on_one_device())(params, task.frozen, batch, jax.random.key(3))
    assert ("without guidance" in capsys.readouterr().out) == (prompts == 1)

    model = bind(graph_of(task), params)
    source = jax.jit(lambda v: vae.encode(from_pixels(v)))(batch["source_video"])
    views = [view_of(batch, name) for name in ("target", "source")]

    @jax.jit
    def velocity(x, timestep, text):
        text = jnp.broadcast_to(text, (2, 512, 12))
        return model(x, source, timestep, model.condition(*views, text=text, latent_size=x.shape[1:4]))

    u = np.linspace(1, 0, 4)
    sigmas = config.sampling.shift * u / (1 + (config.sampling.shift - 1) * u)
    x = np.asarray(jax.random.normal(jax.random.key(3), source.shape), np.float64)
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        at = np.float32(x), np.full(2, 1000 * sigma, np.float32)
        positive, negative = (
            np.asarray(velocity(*at, text), np.float64) for text in (positive_text, texts[-1:])
        )
        x += (following - sigma) * (negative + 4.0 * (positive - negative))
    expected = np.asarray(jax.jit(vae.decode)(np.float32(x)))
    np.testing.assert_allclose(videos["sample"], expected, atol=1e-2 * np.abs(expected).max())


def test_training_is_given_captions_and_the_prompt_where_there_are_none(dit_config, batch, tmp_path):
    config = dit_config.copy_and_resolve_references()
    config.model.text_dim, config.text = 12, str(tmp_path / "prompts.npz")
    rng = np.random.default_rng(0)
    prompt = rng.standard_normal((1, 512, 12), np.float32)
    np.savez(config.text, embeddings=prompt)
    part = Part(tmp_path / "captions", (0, 1), {"dim": 12, "tokens": 512})
    part.add("a dog", rng.standard_normal((3, 12)))
    config.data.captions = str(tmp_path / "captions")
    task = make_task(config)
    stored = CaptionEmbeddings.open(tmp_path / "captions").batch(np.array([0, -1]))
    shapes = task.example_shapes()
    for name in ("text", "has_caption"):
        assert shapes[name] == (stored[name].shape[1:], stored[name].dtype)
    model, size = task.init(nnx.Rngs(0)), (2, SIZE // 4, SIZE // 4)
    views = [view_of(batch, name) for name in ("target", "source")]
    text = np.stack([stored["text"][0].astype(np.float32), prompt[0]])
    expected = model.condition(*views, text=text, latent_size=size)
    found = task.condition(model, task.frozen, batch | stored, size)
    jax.tree.map(np.testing.assert_array_equal, found, expected)

    Part(tmp_path / "other", (0, 1), {"dim": 8, "tokens": 512}).add("a dog", np.ones((3, 8)))
    config.data.captions = str(tmp_path / "other")
    with pytest.raises(InputError, match="data.captions = .*512 x 8; those of config.text have 512 x 12"):
        make_task(config)


def test_pictures_have_captions_where_training_has_them(vae_run):
    config = make_config(DiTTraining, data=dict(captions="a"))
    assert config.pictures.data.captions == "a"
    config.data.captions = "b"
    assert config.pictures.data.captions == "b"
    own = make_config(DiTTraining, data=dict(captions="a"), pictures=dict(data=dict(captions="own")))
    assert own.pictures.data.captions == "own"
    config = vae_run[0].copy_and_resolve_references()
    config.data.captions = "a"
    with pytest.raises(InputError, match="config.data.captions is a, but a VAE takes no text"):
        VAETask(config)


def test_parameters_survive_the_way_into_a_dict_and_back(dit_config):
    task = DiTTask(dit_config)
    params = flatten(task.init(nnx.Rngs(0)))
    again = flatten(bind(graph_of(task), params))
    assert list(again) == list(params)
    assert all(np.array_equal(again[name], params[name]) for name in params)


def test_psnr_is_of_each_whole_video_then_averaged():
    reference = np.zeros((2, 3, 4, 4, 3), np.float32)
    video = reference.copy()
    video[0] += 0.2  # mean squared error 0.01 of the range [0, 1]
    video[1, 0] += 0.6  # 0.03 on average over three frames
    np.testing.assert_allclose(psnr(video, reference), (20 + 10 * np.log10(1 / 0.03)) / 2, rtol=1e-5)


def test_crops_are_windows_of_their_own_clips_and_reach_every_corner():
    pixels = np.arange(64 * 2 * 6 * 5).reshape(64, 2, 6, 5, 1).repeat(3, -1)
    crops = np.asarray(random_crop(jnp.asarray(pixels), 4, jax.random.key(0)))
    corners = set()
    for clip, crop in zip(pixels, crops, strict=True):
        places = [(y, x) for y in range(3) for x in range(2) if crop[0, 0, 0, 0] == clip[0, y, x, 0]]
        ((y, x),) = places
        np.testing.assert_array_equal(crop, clip[:, y : y + 4, x : x + 4])
        corners.add((y, x))
    assert corners == {(y, x) for y in range(3) for x in range(2)}
    assert random_crop(pixels, 0, jax.random.key(0)) is pixels


@pytest.mark.parametrize("crop", [SIZE + 1, -8])
def test_crop_that_does_not_fit_is_refused(vae_run, crop):
    config = vae_run[0].copy_and_resolve_references()
    config.crop = crop
    with pytest.raises(InputError, match="config.crop.*1 to 16"):
        make_task(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(task="gan"), "choose one of dit, vae"),
        (dict(vae="/nowhere"), "/nowhere"),
        (dict(model=dict(depth=3)), "no field 'depth'"),
        (dict(model=dict(heads=5)), "not divisible"),
        (dict(model=dict(rope_frames="unknown")), "choose one of"),
    ],
)
def test_config_mistakes_are_named(dit_config, change, message):
    config = dit_config.copy_and_resolve_references()
    for name, value in change.items():
        if isinstance(value, dict):
            with config[name].unlocked():
                config[name].update(value)
        else:
            config[name] = value
    with pytest.raises(InputError, match=message):
        make_task(config)
