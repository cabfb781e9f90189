"""A re-rendered video is what models and sampling formula give, whatever the world frame, batch or mesh."""

import collections
import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import nnx

from stp_jax.controls import cameras
from stp_jax.controls.view import View
from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.models.config import RETIRED
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.rerender import models_on_device, sampler
from stp_jax.rerender.rerenderer import Rerenderer
from stp_jax.rerender.speed import Speed
from stp_jax.weights import native, reading
from stp_jax.weights.layouts import table
from tests.tiny_model import (
    DIT_CONFIG,
    FRAMES,
    NOTES,
    SHIFT,
    SIZE,
    STEPS,
    VAE_CONFIG,
    edit_index,
    random_parameters,
    read_tiny_model,
    write_tiny_model,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def model(folder):
    return Rerenderer(folder)


def inputs(batch: int = 1):
    rng = np.random.default_rng(3)
    video = rng.integers(0, 256, (batch, FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    moves = ["static", "orbit_left:30:5", "dolly_in", "crane_up", "zoom_in"]
    paths = [cameras.preset(moves[i % len(moves)], FRAMES) for i in range(batch + 1)]
    time = np.arange(FRAMES, dtype=np.float32)
    source = jax.tree.map(lambda *clips: np.stack(clips), *(View(*path, time) for path in paths[:-1]))
    target = jax.tree.map(
        lambda *clips: np.stack(clips), *(View(*path, time[::-1] / 2) for path in paths[1:])
    )
    return video, source, target


def one(batch, i):
    return jax.tree.map(lambda array: array[i], batch)


def same(a, b):
    """Equal but for pixels on the edge of rounding."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    assert np.abs(a.astype(int) - b).max() <= 1


@pytest.fixture(scope="module")
def reference(folder):
    """The VAE's encoding of pixels and its decoding to pixels, and the DiT, without the code under test."""
    vae, dit = read_tiny_model(folder)
    encode, decode = jax.jit(vae.encode), jax.jit(vae.decode)
    return (
        lambda video: encode((video / 127.5 - 1).astype(np.float32)),
        lambda latents: np.round((np.asarray(decode(latents)) + 1) * 127.5).astype(np.uint8),
        dit,
    )


def test_result_is_euler_integration_of_the_velocity(reference, model):
    video, source, target = inputs()
    encode, decode, dit = reference
    latents = encode(video)
    conditioning = jax.jit(functools.partial(dit.condition, latent_size=latents.shape[1:4]))(target, source)
    key = jax.random.fold_in(jax.random.key(7), 0)
    x = np.asarray(jax.random.normal(key, latents.shape[1:]))[None].astype(np.float64)
    u = 1 - np.arange(STEPS + 1) / STEPS
    sigmas = SHIFT * u / (1 + (SHIFT - 1) * u)
    velocity = jax.jit(lambda x, t: dit(x, latents, t, conditioning))
    for now, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        v = velocity(x.astype(np.float32), np.full(1, 1000 * now, np.float32))
        x = x + (following - now) * np.asarray(v)
    expected = decode(x.astype(np.float32))
    result = model(*one(inputs(), 0), seed=7)
    same(result, expected[0])
    assert expected.std() > 10  # the model does not saturate


def test_every_input_and_the_seed_change_the_result(model):
    video, source, target = one(inputs(), 0)
    result = model(video, source, target, seed=1)
    assert np.array_equal(result, model(video, source, target, seed=1))
    others = [
        model(video, source, target, seed=2),
        model(video[::-1], source, target, seed=1),
        model(video, target._replace(animation_time=source.animation_time), target, seed=1),
        model(video, source._replace(animation_time=source.animation_time / 2), target, seed=1),
        model(video, source, source._replace(animation_time=target.animation_time), seed=1),
        model(video, source, target._replace(intrinsics=2 * target.intrinsics), seed=1),
        model(video, source, target._replace(animation_time=source.animation_time), seed=1),
    ]
    assert all(np.mean(other != result) > 0.01 for other in others)


def test_a_target_without_cameras_has_the_sources(model):
    video, source, target = one(inputs(2), 1)
    expected = model(video, source, source._replace(animation_time=target.animation_time))
    assert np.array_equal(model(video, source, View(animation_time=target.animation_time)), expected)


def test_the_world_frame_does_not_matter(model):
    video, source, target = one(inputs(2), 1)
    world = cameras.preset("orbit_up:70", 2).c2w[1]
    world[:3, 3] += [3, -2, 1]
    moved = (view._replace(c2w=world @ view.c2w) for view in (source, target))
    same(model(video, *moved), model(video, source, target))


def test_batches_and_meshes_do_not_change_a_video(folder, model):
    batch = inputs(3)
    result = model(*batch, seed=4)
    same(model(*one(batch, 0), seed=4), result[0])
    spread = Rerenderer(folder, mesh=make_mesh(data=2, fsdp=2, devices=jax.devices()[:4]))
    same(spread(*batch, seed=4), result)  # 3 videos on 4 devices
    same(spread.reconstruct(batch[0]), model.reconstruct(batch[0]))


def test_presets_and_knobs_of_speed(folder, model):
    draft = Rerenderer(folder, speed="draft")
    assert any("Attention is exact, not in 8 bits" in remark for remark in draft.remarks)
    assert draft.speed == Speed("exact", (0.0, 1.0), 0.1)  # as there are no 8 bits, and no guidance
    batch = inputs(3)
    result, exact = draft(*batch, seed=4), model(*batch, seed=4)
    assert (model.forwards, draft.forwards) == (STEPS, STEPS - 1)
    assert 0 < np.mean(result != exact)
    same(draft(*one(batch, 0), seed=4), result[0])  # reuse of a video does not depend on its batch
    mesh = make_mesh(data=2, fsdp=2, devices=jax.devices()[:4])
    same(Rerenderer(folder, speed="draft", mesh=mesh)(*batch, seed=4), result)
    knob = Rerenderer(folder, speed="draft", cache_threshold=0.0, attention="exact")
    assert np.array_equal(knob(*batch, seed=4), exact) and knob.remarks == model.remarks
    with pytest.raises(InputError, match="--speed quick: choose one of exact, fast, draft"):
        Rerenderer(folder, speed="quick")
    with pytest.raises(InputError, match="--guidance_interval has no effect"):
        Rerenderer(folder, guidance_interval=(0.2, 0.9))


def test_flow_maps_reuse_nothing(tmp_path):
    write_tiny_model(tmp_path)
    save_dit(tmp_path, dataclasses.replace(DIT_CONFIG, flow_map=True))
    draft = Rerenderer(tmp_path, speed="draft")
    assert draft.speed.cache_threshold == 0 and any("is a flow map" in remark for remark in draft.remarks)
    with pytest.raises(InputError, match="--cache_threshold: the velocity of a flow map"):
        Rerenderer(tmp_path, cache_threshold=0.1)


def test_reconstruct_is_the_vae_there_and_back(reference, model):
    video = inputs()[0]
    encode, decode, _ = reference
    same(model.reconstruct(video), decode(encode(video)))


def test_steps_and_shift_are_those_of_the_weights_unless_given(folder, model):
    assert (model.steps, model.shift) == (STEPS, SHIFT)
    other = Rerenderer(folder, steps=5, shift=1.0)
    assert (other.steps, other.shift) == (5, 1.0)


def test_progress_grows_from_nothing_to_all(model):
    calls = []
    model(*one(inputs(), 0), progress=lambda what, done: calls.append((what, done)))
    shares = [done for _, done in calls]
    assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)
    assert sum(what.startswith("step") for what, _ in calls) == STEPS


def shaped(clip, name, change):
    """Inputs with another shape of one array of a view."""

    def apply(video, source, target):
        views = {"source": source, "target": target}
        views[clip] = views[clip]._replace(**{name: change(getattr(views[clip], name))})
        return video, views["source"], views["target"]

    return apply


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda video, *views: (video[:, :4], *views), ["source video", "[5, 32, 32, 3]"]),
        (lambda video, *views: (video[:, :, :16], *views), ["source video", "32"]),
        (lambda video, *views: (video / 255.0, *views), ["source video", "uint8"]),
        (shaped("source", "animation_time", lambda x: x[:, 1:]), ["source animation time"]),
        (shaped("target", "animation_time", lambda x: x[:, :, None]), ["target animation time"]),
        (shaped("target", "animation_time", lambda x: None), ["target animation time"]),
        (shaped("target", "c2w", lambda x: x[:, 1:]), ["target c2w"]),
        (shaped("source", "intrinsics", lambda x: x[..., :3]), ["source intrinsics"]),
    ],
)
def test_wrong_shapes_are_named(model, change, words):
    with pytest.raises(InputError) as error:
        model(*change(*inputs()))
    assert all(word in str(error.value) for word in words)


def truncate(folder):
    path = next(folder.glob("dit-*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])


def save_dit(folder, config):
    parameters = random_parameters(lambda: SpaceTimeDiT(config, rngs=nnx.Rngs(0)), 0, 0.1)
    native.save_weights(folder, "dit", parameters, dataclasses.asdict(config), notes=NOTES)


DAMAGES = {
    "no weights at all": (lambda f: [path.unlink() for path in f.iterdir()], "no weights of a DiT"),
    "no vae": (lambda f: (f / "vae.json").unlink(), "no weights of a VAE"),
    "no part": (lambda f: next(f.glob("vae-*")).unlink(), "is missing"),
    "truncated": (truncate, "is truncated or damaged: .* bytes are not what its header says"),
    "broken index": (
        lambda f: (f / "dit.json").write_text('{"config": '),
        "dit.json is damaged",
    ),
    "no notes": (lambda f: edit_index(f, "dit", notes=None), "frames"),
    "other width": (
        lambda f: edit_index(f, "dit", config={"dim": 64}),
        "not those of the model",
    ),
    "other kind": (
        lambda f: edit_index(f, "dit", config={"width": 8}),
        "none of this version: .*width",
    ),
    "retired field in use": (
        lambda f: edit_index(f, "dit", config=RETIRED | {"value_residual": True}),
        "none of this version: .*value_residual",
    ),
    "impossible": (lambda f: edit_index(f, "dit", config={"heads": 5}), "heads"),
    "other vae": (
        lambda f: save_dit(f, dataclasses.replace(DIT_CONFIG, channels=VAE_CONFIG.z_dim * 2)),
        "trained together",
    ),
}


def test_weights_of_an_earlier_version_with_fields_that_are_gone_are_read(tmp_path):
    folder = write_tiny_model(tmp_path / "weights")
    edit_index(folder, "dit", config=RETIRED)
    assert Rerenderer(folder).notes.frames == Rerenderer(write_tiny_model(tmp_path / "new")).notes.frames


@pytest.mark.parametrize("damage", DAMAGES)
def test_unfit_weights_are_refused(tmp_path, damage):
    folder = write_tiny_model(tmp_path / "weights")
    break_it, words = DAMAGES[damage]
    break_it(folder)
    with pytest.raises(InputError, match=words):
        Rerenderer(folder)


@pytest.mark.parametrize(
    ("part", "layer", "message"),
    [
        ("_dit", "head", "the latents of step 1 of 3 are not finite"),
        ("_vae", "encoder", "the source's latents are not finite"),
        ("_vae", "decoder", "the pixels of the decoded video are not finite"),
    ],
)
def test_numbers_that_are_not_finite_are_an_error_that_says_where(model, monkeypatch, part, layer, message):
    def spoil(path, leaf):
        broken = layer in jax.tree_util.keystr(path)
        return jax.device_put(np.full(leaf.shape, np.nan, leaf.dtype), leaf.sharding) if broken else leaf

    spoilt = jax.tree_util.tree_map_with_path(spoil, getattr(model, part).state())
    monkeypatch.setattr(getattr(model, part), "_state", spoilt)
    with pytest.raises(InputError, match=message):
        model(*one(inputs(), 0))


@pytest.mark.parametrize(
    "options",
    [{}, {"mesh": 4}, {"low_memory": True}, {"cache_threshold": 0.1}],
    ids=["plain", "mesh", "low_memory", "reuse"],
)
def test_what_is_compiled_while_weights_are_read_is_what_is_called(folder, model, options):
    if "mesh" in options:
        options = {"mesh": make_mesh(data=2, sequence=2, devices=jax.devices()[:4])}
    sampler._compiled.cache_clear()
    models_on_device.vae_functions.cache_clear()
    compiled = collections.Counter()

    def note(event, _seconds, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled[details["fun_name"]] += 1

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        made = Rerenderer(folder, **options)(*one(inputs(), 0))
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    names = ["encode", "condition", "velocity" if "cache_threshold" in options else "step", "decode"]
    assert [compiled[f"jit({name})"] for name in names] == [1] * 4
    if not options:  # bit for bit what it is where everything is on the devices already
        assert np.array_equal(made, model(*one(inputs(), 0)))


@pytest.mark.parametrize("kind", ["vae", "dit"])
@pytest.mark.parametrize("low_memory", [False, True])
def test_damaged_weights_are_an_error_though_they_are_read_in_the_background(tmp_path, kind, low_memory):
    folder = write_tiny_model(tmp_path / "weights")
    damaged = Rerenderer(folder, low_memory=low_memory)
    part = next(folder.glob(f"{kind}-*.safetensors"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-4] + b"\0\0\0\1")
    for _ in range(2):  # what is damaged is read again
        with pytest.raises(InputError, match=f"{part.name} is damaged: its SHA-256"):
            damaged(*one(inputs(), 0))
    part.write_bytes(whole)
    assert damaged(*one(inputs(), 0)).shape == (FRAMES, SIZE, SIZE, 3)


def test_with_low_memory_the_two_models_are_never_on_the_devices_together(folder, monkeypatch):
    model = Rerenderer(folder, low_memory=True)
    loaded = {"vae": False, "dit": False}
    load, offload = reading.load, models_on_device.ModelOnDevice.offload

    def noting_load(found, *options, **more):
        loaded[found.kind] = True
        assert sum(loaded.values()) == 1
        return load(found, *options, **more)

    def noting_offload(self, *wait_for):
        loaded["vae" if self is model._vae else "dit"] = False
        offload(self, *wait_for)

    monkeypatch.setattr(reading, "load", noting_load)
    monkeypatch.setattr(models_on_device.ModelOnDevice, "offload", noting_offload)
    model(*one(inputs(), 0))
    assert loaded == {"vae": True, "dit": False}


def test_weights_that_are_read_again_show_no_bar_again(folder, monkeypatch, capsys):
    monkeypatch.setattr(table, "BAR_AFTER", 0)
    model = Rerenderer(folder, low_memory=True)
    model(*one(inputs(), 0))
    assert "weights" in capsys.readouterr().err
    model(*one(inputs(), 0))  # as the next window of a long video
    assert "weights" not in capsys.readouterr().err
