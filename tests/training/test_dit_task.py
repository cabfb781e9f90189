"""The task of the DiT, and what a config may say of it, with a random VAE and without any training."""

import copy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from input_pipeline.caption_embeddings import CaptionEmbeddings, Part
from input_pipeline.pipeline import make_dataset
from stp_jax.controls.view import view_of
from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.models.parameters import bind, flatten
from stp_jax.models.vae import from_pixels
from stp_jax.training.dit_task import OWN_OUTPUT_OVERLAP, DiTTask
from stp_jax.training.run import make_task
from stp_jax.training.state import graph_of
from tests.tiny_model import read_tiny_model, write_tiny_model
from tests.training import real_models
from tests.training.real_models import SIZE, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two scenes to train on and one held out."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def dit_config(data, models):
    return real_models.dit_config(data, models)


@pytest.fixture(scope="module")
def vae(models):
    """Its two directions, compiled once for all tests."""
    vae, _ = read_tiny_model(models)
    encode = jax.jit(lambda video: vae.encode(from_pixels(video)))
    return SimpleNamespace(encode=encode, decode=jax.jit(lambda latents: vae.decode(latents)))


@pytest.fixture(scope="module")
def batch(dit_config):
    return next(iter(make_dataset(dit_config.data, split="train", seed=3, batch_size=2)))


def test_weights_that_saw_their_own_output_note_how_windows_overlap(dit_config):
    config = dit_config.copy_and_resolve_references()
    config.model.memory = 1
    assert make_task(config).notes()["sampling_overlap"] == 0
    config.data.memory_outputs = "outputs"
    assert make_task(config).notes()["sampling_overlap"] == OWN_OUTPUT_OVERLAP


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


@pytest.mark.parametrize(
    "field, value",
    [("text", "dog.npz"), ("sampling.guidance", 5.0), ("data.captions", "c"), ("data.caption_dropout", 0.1)],
)
def test_what_has_no_effect_without_text_is_refused(dit_config, field, value):
    config = copy.deepcopy(dit_config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=f"config.{field} is {value}, but the model takes no text"):
        DiTTask(config)


def test_videos_and_their_latents_give_the_same_loss(dit_config, batch, vae):
    task = make_task(dit_config)
    model = task.init(nnx.Rngs(0))
    latents = {f"{name}_latents": vae.encode(batch[f"{name}_video"]) for name in ("source", "target")}
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
    target = vae.encode(batch["target_video"])
    monkeypatch.setattr(task, "init", lambda rngs: KnowsTheTarget(target))
    videos = task.generator(on_one_device())({"target": target}, task.frozen, batch, jax.random.key(0))
    np.testing.assert_allclose(videos["sample"], vae.decode(target), atol=2e-3)
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
    source = vae.encode(batch["source_video"])
    views = [view_of(batch, name) for name in ("target", "source")]

    @jax.jit
    def velocity(x, timestep, text):
        return model(x, source, timestep, model.condition(*views, text=text, latent_size=x.shape[1:4]))

    u = np.linspace(1, 0, 4)
    sigmas = config.sampling.shift * u / (1 + (config.sampling.shift - 1) * u)
    x = np.asarray(jax.random.normal(jax.random.key(3), source.shape), np.float64)
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        at = np.float32(x), np.full(2, 1000 * sigma, np.float32)
        positive, negative = (
            np.asarray(velocity(*at, np.broadcast_to(text, (2, 512, 12))), np.float64)
            for text in (positive_text, texts[-1:])
        )
        x += (following - sigma) * (negative + 4.0 * (positive - negative))
    expected = np.asarray(vae.decode(np.float32(x)))
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


def test_parameters_survive_the_way_into_a_dict_and_back(dit_config):
    task = DiTTask(dit_config)
    params = flatten(task.init(nnx.Rngs(0)))
    again = flatten(bind(graph_of(task), params))
    assert list(again) == list(params)
    assert all(np.array_equal(again[name], params[name]) for name in params)


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
