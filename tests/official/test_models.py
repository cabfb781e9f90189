"""Official files go in, a video comes out: sample.py and Rerenderer on tiny models of published layout."""

import dataclasses
import functools
import json
import math
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import sample
from stp_jax import flow, media, text
from stp_jax.controls import cameras
from stp_jax.controls.view import View
from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.export import command as export
from stp_jax.models.config import DiTConfig
from stp_jax.models.vae import VAEConfig
from stp_jax.official.noise import official_noise
from stp_jax.official.poses import official_poses
from stp_jax.rerender.rerenderer import Rerenderer
from stp_jax.weights import native
from tests.stored_tensors import RECAMMASTER, SPACETIMEPILOT, TINY_DIT, WAN, build, random_tensors
from tests.test_text import CONFIG, write_text_encoder, write_tokenizer

FRAMES, HEIGHT, WIDTH = 9, 32, 48
SIZE = {"frames": FRAMES, "height": HEIGHT, "width": WIDTH}
VAE = VAEConfig(dim=8, res_blocks=1)
MODELS = {"spacetimepilot": SPACETIMEPILOT, "recammaster": RECAMMASTER, "wan": WAN}


def dit_config(model: str) -> DiTConfig:
    return DiTConfig(**MODELS[model] | TINY_DIT | {"channels": 16}, dtype="float32")


def write_models(folder, model: str):
    """As a user has them after downloading."""
    folder.mkdir(parents=True)
    save_file(random_tensors("dit", dit_config(model), "official"), folder / "SpacetimePilot_1.3B_v1.ckpt")
    save_file(random_tensors("vae", VAE, "official"), folder / "Wan2.1_VAE.pth")
    write_text_encoder(folder)
    (folder / "config.json").write_text(json.dumps({"dim": TINY_DIT["dim"], "num_heads": TINY_DIT["heads"]}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("official")
    return {model: write_models(base / model, model) for model in MODELS}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def inputs():
    lens = cameras.default_intrinsics(50, aspect=WIDTH / HEIGHT)
    source = cameras.parse("dolly_in", FRAMES, intrinsics=lens)
    world = cameras.preset("orbit_left", FRAMES, intrinsics=lens).c2w[3].astype(np.float64)
    in_world = lambda c: c._replace(c2w=(world @ c.c2w).astype(np.float32))  # noqa: E731
    target = in_world(cameras.parse("orbit_left:30:-15", FRAMES, intrinsics=lens))
    time = np.arange(FRAMES, dtype=np.float32)
    video = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return video, View(*in_world(source), time), View(*target, time[::-1].copy())


@functools.cache
def vae_reference():
    vae = build("vae", VAE, "official")
    return jax.jit(lambda x: vae.encode(x)), jax.jit(lambda z: vae.decode(z))


@functools.cache
def velocity_reference(model: str):
    dit = build("dit", dit_config(model), "official")

    def velocity(x, latents, timestep, views, prompt):
        conditioning = dit.condition(*views, text=prompt, latent_size=latents.shape[1:4])
        return dit(x, latents, timestep, conditioning)

    return jax.jit(velocity)


@pytest.mark.parametrize(
    ("model", "guidance", "tiled"),
    [("spacetimepilot", 5.0, False), ("recammaster", 1.0, False), ("spacetimepilot", 2.0, True)],
)
def test_a_video_is_what_the_official_steps_make_of_it(folders, model, guidance, tiled):
    folder = folders[model]
    rerenderer = Rerenderer(folder, **SIZE, steps=3, guidance=guidance, dtype="float32", tiled=tiled)
    video, source, target = inputs()
    result = rerenderer(video, source, target, prompt="a dog runs", negative_prompt="fast", seed=7)

    (encode, decode), velocity = vae_reference(), velocity_reference(model)
    latents = encode(video[None].astype(np.float32) / 127.5 - 1)  # smaller than a tile, so whole
    source_c2w, target_c2w = official_poses(
        source.c2w[None], target.c2w[None], target_reference=source.c2w[:1]
    )
    encoder = folder / "models_t5_umt5-xxl-enc-bf16.safetensors"
    embedded = text.embed(["a dog runs", "fast"], encoder, dtype="float32")

    views = (
        View(target_c2w, animation_time=target.animation_time[None]),
        View(source_c2w, animation_time=source.animation_time[None]),
    )
    x = official_noise(7, latents.shape).astype(np.float64)
    sigmas = flow.sampling_sigmas(3, 5.0)
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        timestep = np.full(1, 1000 * sigma, np.float32)
        given = x.astype(np.float32), latents, timestep, views
        v = np.asarray(velocity(*given, embedded[:1]), np.float64)
        if guidance != 1:
            negative = np.asarray(velocity(*given, embedded[1:]), np.float64)
            v = negative + guidance * (v - negative)
        x = x + (following - sigma) * v
    decoded = np.asarray(decode(x.astype(np.float32)))[0]
    expected = np.clip((decoded + 1) * 127.5, 0, 255).astype(np.uint8)  # cut off, not rounded
    difference = np.abs(result.astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_the_official_rounding_is_on_for_official_weights_in_bfloat16(folders):
    model = Rerenderer(folders["spacetimepilot"], **SIZE, dtype="bfloat16")
    assert model._dit_config.official_rounding and model._vae_config.official_rounding
    plain = Rerenderer(folders["spacetimepilot"], **SIZE, dtype="bfloat16", official_rounding=False)
    assert not plain._dit_config.official_rounding and not plain._vae_config.official_rounding


@pytest.mark.parametrize(
    ("guidance", "sizes", "knobs", "forwards"),
    [
        (5.0, {"data": 2, "sequence": 2}, {}, 4),
        (1.0, {"sequence": 6}, {}, 2),
        (5.0, {"data": 2, "sequence": 2}, {"guidance_interval": (0.9, 1.0), "cache_threshold": 0.1}, 3),
    ],
)
def test_one_video_on_several_devices_is_the_same(folders, guidance, sizes, knobs, forwards):
    devices = jax.devices()[: math.prod(sizes.values())]
    options = SIZE | {"steps": 2, "guidance": guidance, "dtype": "float32"} | knobs
    models = [
        Rerenderer(folders["spacetimepilot"], **options, mesh=mesh)
        for mesh in (None, make_mesh(**{"data": 1} | sizes, devices=devices))
    ]
    videos = [model(*inputs(), prompt="a dog", seed=1) for model in models]
    assert [model.forwards for model in models] == [forwards, forwards]
    assert np.abs(np.subtract(*videos, dtype=int)).max() <= 1


def test_without_cameras_of_the_target_the_sources_are_given_unscaled(folders):
    seen = []
    model = Rerenderer(folders["spacetimepilot"], **SIZE, steps=1, guidance=1, dtype="float32")
    condition = model._sampler.condition
    model._sampler.condition = lambda state, views, *rest, **more: (
        seen.extend(views) or condition(state, views, *rest, **more)
    )
    video, source, target = inputs()
    model(video, source, View(animation_time=target.animation_time))
    poses = source.c2w.astype(np.float64)
    expected = poses @ np.linalg.inv(poses[:1])
    assert len(seen) == 2
    for view in seen:
        np.testing.assert_allclose(view.c2w[0], expected, atol=1e-5)
    assert np.abs(expected[:, :3, 3]).max() < 0.99  # scaled it would be 1


def test_weights_in_our_own_form_are_used_as_the_official_ones(folders, run, tmp_path):
    official, ours, clip = folders["spacetimepilot"], tmp_path / "ours", tmp_path / "clip.mp4"
    export.main(["--weights", str(official), "--format", "ours", "--out", str(ours)])
    media.write_video(clip, inputs()[0].repeat(3, axis=0), 30)
    encoder = official / "models_t5_umt5-xxl-enc-bf16.safetensors"
    size = f"--frames {FRAMES} --size {WIDTH} {HEIGHT} --steps 2 --dtype float32"
    results = []
    for number, given in enumerate((official, f"{ours} --text_encoder {encoder}")):
        out = tmp_path / str(number)
        asked = f"--video {clip} --camera orbit_left --animation_time reverse --out {out}"
        status, said, error = run(f"{size} --weights {given} {asked}")
        assert status == 0 and "consecutive frames" in said, error
        results.append(media.read_video(out / "result.mp4")[0])
    # A function from the compilation cache may round otherwise; other frames would differ by tens.
    assert np.abs(np.subtract(*results, dtype=int)).mean() < 1


def test_a_text_encoder_of_another_width_is_refused_before_anything_is_computed(folders, tmp_path):
    config = dataclasses.replace(CONFIG, dim=20)
    save_file(random_tensors("text_encoder", config, "official"), tmp_path / "t5.safetensors")
    write_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(InputError, match="a umT5 encoder of width 20; SpaceTimePilot .* embeddings 12 wide"):
        Rerenderer(folders["spacetimepilot"], text_encoder=tmp_path / "t5.safetensors", **SIZE)


def test_low_memory_changes_no_pixel(folders):
    options = SIZE | {"steps": 2, "guidance": 2.0, "dtype": "float32"}
    videos = [
        Rerenderer(folders["spacetimepilot"], **options, low_memory=low)(*inputs(), prompt="a dog", seed=1)
        for low in (False, True)
    ]
    assert np.array_equal(*videos)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(words: str, *more: str):
        status = 0
        try:
            sample.main([*words.split(), *more])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


SMALL = f"--frames {FRAMES} --size {WIDTH} {HEIGHT} --steps 2 --duration 0.5 --dtype float32"


def test_sample_takes_a_folder_of_downloads(folders, run, tmp_path):
    out = tmp_path / "out"
    prompt = "a dog runs 狗"
    status, said, error = run(
        f"{SMALL} --weights {folders['spacetimepilot']} --out {out} --seed 3", "--prompt", prompt
    )
    assert status == 0, error
    settings = json.loads((out / "settings.json").read_text())
    assert settings["settings"]["prompt"] == prompt and settings["settings"]["guidance"] == 5.0
    assert settings["settings"]["shift"] == 5.0
    assert (out / "result.mp4").stat().st_size and (out / "contact_sheet.png").stat().st_size
    assert "48 x 32" in said


def test_a_long_video_is_an_approximation_and_the_same_with_low_memory(folders, run, tmp_path):
    media.write_video(tmp_path / "clip.mp4", inputs()[0].repeat(3, axis=0), 30)
    length = 2 * FRAMES + 1
    asked = f"--weights {folders['spacetimepilot']} --video {tmp_path}/clip.mp4 --animation_time reverse"
    size = f"--window {FRAMES} --frames {length} --size {WIDTH} {HEIGHT} --steps 2 --dtype float32"
    made = []
    for name, more in (("fast", ""), ("low", "--low_memory")):
        status, said, error = run(f"{size} {asked} --out {tmp_path}/{name} {more}")
        assert status == 0 and "(an approximation: SpaceTimePilot" in said, error
        made.append(media.read_video(tmp_path / name / "result.mp4")[0])
    assert len(made[0]) == length and np.array_equal(*made)


@pytest.mark.parametrize("prompt", ["", "a dog " * 400])
def test_empty_and_very_long_prompts_work(folders, run, tmp_path, prompt):
    status, _, error = run(
        f"{SMALL} --weights {folders['spacetimepilot']} --guidance 1 --out {tmp_path}/out", "--prompt", prompt
    )
    assert status == 0, error
    assert ("only the first 512 are read" in error) == (len(prompt) > 0)


MISTAKES = {
    "--weights {wan}": "Wan2.1 text-to-video.*takes no source video.*configs/wan_1_3b_plucker.py",
    "--weights {spacetimepilot}/Wan2.1_VAE.pth": "is a Wan VAE of width 8, not a DiT",
    "--weights {spacetimepilot}/models_t5_umt5-xxl-enc-bf16.safetensors": "is a umT5 encoder.*not a DiT",
    "--weights {spacetimepilot} --text_encoder {recammaster}/Wan2.1_VAE.pth": "not a text encoder",
    "--weights {spacetimepilot} --window 10": r"takes 4n \+ 1, for instance 9 or 13",
    "--weights {spacetimepilot} --size 50 32": "multiples of 16",
    "--weights {spacetimepilot} --animation_time official:nothing": "nothing",
    f"--weights {native.BUNDLED} --prompt dog": "takes no text",
    f"--weights {native.BUNDLED} --guidance 3": "takes no text",
    f"--weights {native.BUNDLED} --negative_prompt dog": "--negative_prompt: .* takes no text",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_named_and_leave_no_trace(folders, run, tmp_path, words):
    given = words.format(**folders)
    status, _, error = run(f"{SMALL} {given} --out {tmp_path}/out")  # of a flag given twice the last counts
    assert status == 2 and error.startswith("error: ") and error.count("\n") <= 2, error
    assert re.search(MISTAKES[words], error), error
    assert not (tmp_path / "out").exists()


def test_a_text_encoder_without_its_tokenizer_is_refused_before_anything_is_computed(run, tmp_path):
    folder = write_models(tmp_path / "models", "spacetimepilot")
    (folder / "google/umt5-xxl/tokenizer.json").unlink()
    status, said, error = run(f"{SMALL} --weights {folder} --prompt dog --out {tmp_path}/out")
    assert status == 2 and "its tokenizer is missing" in error and "google/umt5-xxl" in error
    assert "Computing" not in said and not (tmp_path / "out").exists()


def test_a_truncated_download_is_refused(run, tmp_path):
    folder = write_models(tmp_path / "models", "spacetimepilot")
    file = folder / "SpacetimePilot_1.3B_v1.ckpt"
    file.write_bytes(file.read_bytes()[:-1000])
    status, _, error = run(f"{SMALL} --weights {folder} --out {tmp_path}/out")
    assert status == 2 and "truncated" in error and file.name in error


def test_missing_tensors_are_listed_by_name(run, tmp_path):
    folder = write_models(tmp_path / "models", "spacetimepilot")
    tensors = random_tensors("dit", dit_config("spacetimepilot"), "official")
    tensors.pop("blocks.1.cam_encoder.bias")
    tensors["blocks.0.surprise"] = np.zeros(3, np.float32)
    save_file(tensors, folder / "SpacetimePilot_1.3B_v1.ckpt")
    status, _, error = run(f"{SMALL} --weights {folder} --out {tmp_path}/out")
    assert status == 2
    assert "missing (blocks.1.cam_encoder.bias)" in error and "not known (blocks.0.surprise)" in error


def test_sizes_that_do_not_fit_are_refused(folders):
    with pytest.raises(InputError, match="multiples of 16"):
        Rerenderer(folders["spacetimepilot"], frames=9, height=40, width=48)
