"""What leaves in other layouts keeps every bit, and gives the same numbers where it arrives."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections import namedtuple

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stp_jax.controls.view import view_of
from stp_jax.export import command as export
from stp_jax.export import files
from stp_jax.models.config import DiTConfig
from stp_jax.models.parameters import bind, merge_lora
from stp_jax.training.checkpoints import Checkpoints
from stp_jax.training.state import TrainState
from stp_jax.weights import kinds, native, reading, recognition
from stp_jax.weights.adapters import Lora
from stp_jax.weights.files import open_tensors
from stp_jax.weights.layouts import dit
from stp_jax.weights.merging import merge
from tests.stored_tensors import (
    LATENTS,
    NOISY,
    SPACETIMEPILOT,
    TEXT,
    TIMESTEP,
    TINY,
    TINY_DIT,
    VIDEO,
    build,
    normal,
    random_tensors,
)
from tests.tiny_model import write_tiny_model

PILOT = DiTConfig(**SPACETIMEPILOT | TINY_DIT | {"dim": 64}, dtype="float32")


def run(capsys, *flags) -> str:
    export.main([str(flag) for flag in flags])
    return capsys.readouterr().out


def same(tensors, others) -> bool:
    return tensors.keys() == others.keys() and all(
        tensors[name].dtype == others[name].dtype and np.array_equal(tensors[name], others[name])
        for name in tensors
    )


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Official files of a tiny SpaceTimePilot in bfloat16 and a tiny VAE in float32."""
    folder = tmp_path_factory.mktemp("official")
    dit = random_tensors("dit", PILOT, "official")
    save_file(
        {name: array.astype(ml_dtypes.bfloat16) for name, array in dit.items()}, folder / "dit.safetensors"
    )
    save_file(random_tensors("vae", TINY["vae"], "official"), folder / "vae.safetensors")
    (folder / "config.json").write_text(json.dumps({"dim": PILOT.dim, "num_heads": PILOT.heads}))
    return folder


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    """Official files of a tiny text-to-video model and a tiny VAE."""
    folder = tmp_path_factory.mktemp("wan")
    for kind in ("dit", "vae"):
        save_file(random_tensors(kind, TINY[kind], "official"), folder / f"{kind}.safetensors")
    (folder / "config.json").write_text(json.dumps({"dim": TINY["dit"].dim, "num_heads": TINY["dit"].heads}))
    return folder


def test_official_to_ours_and_back_keeps_every_bit(official, tmp_path, capsys):
    run(capsys, "--weights", official, "--format", "ours", "--out", tmp_path / "ours")
    run(capsys, "--weights", tmp_path / "ours", "--format", "official", "--out", tmp_path / "again")
    for kind in ("dit", "vae"):
        file = f"{kind}.safetensors"
        assert same(load_file(official / file), load_file(tmp_path / "again" / file))
        configs = [recognition.recognise(folder, kind).config for folder in (official, tmp_path / "again")]
        assert configs[0] == configs[1]


def test_ours_to_official_keeps_what_the_tensors_do_not_say(tmp_path, capsys):
    ours = write_tiny_model(tmp_path / "ours")
    run(capsys, "--weights", ours, "--format", "official", "--only", "vae", "--out", tmp_path / "official")
    found = recognition.recognise(tmp_path / "official", "vae")
    assert found.config == recognition.recognise(ours, "vae").config
    assert same(reading.read(found), native.read_weights(ours, "vae"))


def test_values_change_their_type_on_request_alone(official, tmp_path, capsys):
    flags = ("--weights", official / "vae.safetensors", "--format", "official", "--dtype", "bfloat16")
    run(capsys, *flags, "--out", tmp_path / "small")
    small = load_file(tmp_path / "small/vae.safetensors")
    large = load_file(official / "vae.safetensors")
    assert all(np.array_equal(small[name], large[name].astype(ml_dtypes.bfloat16)) for name in large)


def test_int8_is_of_our_own_format_alone(official, tmp_path, capsys):
    run(capsys, "--weights", official, "--format", "ours", "--dtype", "int8", "--out", tmp_path / "ours")
    assert not recognition.remarks(recognition.recognise(tmp_path / "ours", "dit"))
    with pytest.raises(SystemExit):
        run(capsys, "--weights", official, "--format", "official", "--dtype", "int8", "--out", tmp_path / "x")
    assert "--dtype int8 is for --format ours" in capsys.readouterr().err


def test_large_models_are_split_and_found_again(official, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(files, "PART_BYTES", 20_000)
    run(capsys, "--weights", official, "--only", "dit", "--format", "official", "--out", tmp_path / "out")
    parts = sorted(file.name for file in (tmp_path / "out").glob("dit-*.safetensors"))
    assert len(parts) > 2 and parts[0] == f"dit-00001-of-{len(parts):05d}.safetensors"
    again = open_tensors(tmp_path / "out/dit.safetensors.index.json")
    assert same(again, load_file(official / "dit.safetensors"))
    assert recognition.recognise(tmp_path / "out", "dit").config == dataclasses.replace(
        PILOT, dtype="bfloat16"
    )


def test_ckpt_files_load_in_pytorch(official, tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="pip install 'stp-jax[convert]' to write .ckpt files")
    run(capsys, "--weights", official, "--format", "ckpt", "--out", tmp_path / "out")
    for kind in ("dit", "vae"):
        state = torch.load(tmp_path / f"out/{kind}.ckpt", weights_only=True)
        expected = load_file(official / f"{kind}.safetensors")
        assert state.keys() == expected.keys()
        for name, tensor in state.items():
            assert np.array_equal(tensor.float().numpy(), expected[name].astype(np.float32))
            assert str(tensor.dtype) == f"torch.{expected[name].dtype}"
        assert same(open_tensors(tmp_path / f"out/{kind}.ckpt"), expected)


def test_diffusers_folders_round_trip(wan, tmp_path, capsys):
    run(capsys, "--weights", wan, "--format", "diffusers", "--out", tmp_path / "out")
    for kind, sub in (("dit", "transformer"), ("vae", "vae")):
        file = tmp_path / "out" / sub / "diffusion_pytorch_model.safetensors"
        assert load_file(file).keys() == random_tensors(kind, TINY[kind], "diffusers").keys()
    run(capsys, "--weights", tmp_path / "out", "--format", "official", "--out", tmp_path / "again")
    for kind in ("dit", "vae"):
        file = f"{kind}.safetensors"
        assert same(load_file(tmp_path / "again" / file), load_file(wan / file))


def test_diffusers_loads_the_folders_and_gives_the_same_output(wan, tmp_path, capsys):
    reason = "pip install 'stp-jax[convert]' to compare with diffusers"
    torch = pytest.importorskip("torch", reason=reason)
    diffusers = pytest.importorskip("diffusers", reason=reason)
    from tests.weights.make_golden import channels_first, channels_last

    run(capsys, "--weights", wan, "--format", "diffusers", "--out", tmp_path / "out")
    transformer = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / "out", subfolder="transformer")
    vae = diffusers.AutoencoderKLWan.from_pretrained(tmp_path / "out", subfolder="vae")
    with torch.no_grad():
        velocity = transformer(
            hidden_states=channels_first(NOISY),
            timestep=torch.from_numpy(TIMESTEP),
            encoder_hidden_states=torch.from_numpy(TEXT),
        ).sample
        mean = vae.encode(channels_first(VIDEO)).latent_dist.mean
        video = vae.decode(channels_first(LATENTS)).sample
    ours = build("dit", TINY["dit"], "official")

    @jax.jit
    def expected(noisy, timestep, text):
        return ours(noisy, None, timestep, ours.condition(text=text, latent_size=noisy.shape[1:4]))

    close = {"atol": 2e-5, "rtol": 0}
    np.testing.assert_allclose(channels_last(velocity), expected(NOISY, TIMESTEP, TEXT), **close)
    ours_vae = build("vae", TINY["vae"], "official")
    np.testing.assert_allclose(channels_last(mean), jax.jit(lambda x: ours_vae.moments(x)[0])(VIDEO), **close)
    decoded = jax.jit(lambda z: ours_vae.decode_raw(z))(LATENTS)
    np.testing.assert_allclose(channels_last(video), np.clip(decoded, -1, 1), **close)


@pytest.mark.parametrize("which", ["ours", "official"])
def test_program_gives_the_numbers_of_the_model(which, official, tmp_path, capsys):
    source = write_tiny_model(tmp_path / "ours") if which == "ours" else official
    latent_size = (2, 12, 8) if which == "ours" else (2, 6, 4)  # strides of the VAE beside it, or Wan's
    size = ("--frames", 5, "--size", 32, 48, "--batch", 2, "--dtype", "float32")
    out = tmp_path / "out"
    run(capsys, "--weights", source, "--format", "stablehlo", "--out", out, *size)
    program = jax.export.deserialize((out / "denoiser.stablehlo").read_bytes())
    assert program.platforms == ("cpu", "cuda", "tpu")
    described = json.loads((out / "inputs.json").read_text())
    inputs = {name: normal(i, *one["shape"]) for i, (name, one) in enumerate(described.items())}
    parameters = load_file(out / "parameters.safetensors")
    velocity = program.call(parameters, inputs)

    found = recognition.recognise(source, "dit")
    config = dataclasses.replace(found.config, dtype="float32")
    model = bind(kinds.abstract("dit", config)[0], jax.device_put(parameters))

    @jax.jit
    def expected(inputs):
        views = view_of(inputs, "target"), view_of(inputs, "source")
        conditioning = model.condition(*views, text=inputs.get("text"), latent_size=latent_size)
        return model(inputs["noisy"], inputs["source"], inputs["timestep"], conditioning)

    assert velocity.shape == (2, *latent_size, 4)
    np.testing.assert_allclose(velocity, expected(inputs), atol=2e-5)
    if which == "ours":  # what a reader without this library does
        example = subprocess.run([sys.executable, out / "run.py"], capture_output=True, text=True)
        assert "velocity (2, 2, 12, 8, 4) float32" in example.stdout, example.stderr


def test_a_model_with_loras_merged_is_written(official, tmp_path, capsys):
    name, rng = "blocks.1.self_attn.q", np.random.default_rng(0)
    down, up = rng.standard_normal((3, 64)).astype("f4"), rng.standard_normal((64, 3)).astype("f4")
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    flags = ["--weights", official, "--only", "dit", "--format", "official", "--dtype", "float32"]
    printed = run(capsys, *flags, "--lora", f"{tmp_path}/lora.safetensors:0.5", "--out", tmp_path / "out")
    assert "lora.safetensors (LoRA) is merged into 1 layer, strength 0.5." in printed
    written, before = load_file(tmp_path / "out/dit.safetensors"), load_file(official / "dit.safetensors")
    wanted = before[f"{name}.weight"].astype(np.float64) + 0.5 * up.astype(np.float64) @ down
    np.testing.assert_allclose(written[f"{name}.weight"], wanted, atol=1e-6)
    other = "blocks.0.self_attn.q.weight"
    np.testing.assert_array_equal(written[other], before[other].astype(np.float32))


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory):
    """The work directory of a LoRA run from `wan`, and its parameters, averaged."""
    workdir = tmp_path_factory.mktemp("run")
    config = dataclasses.replace(TINY["dit"], lora_rank=3)
    base = reading.read(recognition_of("wan", config))
    shapes = kinds.shapes("dit", config)
    params = {name: normal(len(name), *shape.shape) for name, shape in shapes.items() if ".lora_" in name}
    ema = {name: 2 * array for name, array in params.items()} | {
        "head.bias": normal(0, *shapes["head.bias"].shape)
    }
    state = TrainState(np.int32(7), base | params, {}, ema)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(jax.device_put(state), {"step": 7})
    checkpoints.close()
    model = dataclasses.asdict(config)
    train = {"trainable": r".*\.lora_[ab]|head\.bias"}
    (workdir / "config.json").write_text(json.dumps({"task": "dit", "model": model, "train": train}))
    return workdir, base | ema


def recognition_of(name, config):
    tensors = random_tensors("dit", config, "official")
    rules = dit.rules(dataclasses.replace(config, lora_rank=0), "official")
    return recognition.Pretrained(
        "dit", "official", name, dataclasses.replace(config, lora_rank=0), rules, tensors, None
    )


def test_the_lora_of_a_run_gives_the_runs_model_when_it_is_merged(lora_run, wan, tmp_path, capsys, caplog):
    workdir, params = lora_run
    printed = run(capsys, "--weights", workdir, "--format", "lora", "--out", tmp_path / "out")
    assert (
        "the LoRA of 20 layers, rank 3, step 7\nThe run also trained 1 parameters that are no LoRA (head"
        in printed
    )
    assert not caplog.records  # Orbax warns of what is as it should be
    lora = Lora(tmp_path / "out/lora.safetensors", 1.0)
    found, (merged,) = merge(recognition.recognise(wan, "dit"), [lora])
    assert merged.layers == 20 and not merged.left_out
    read = reading.read(found)
    for name, array in merge_lora(params).items():
        if name != "head.bias":
            np.testing.assert_allclose(read[name], array, atol=1e-5, err_msg=name)


def test_a_folder_with_two_dits_is_not_exported_without_them(official, tmp_path, capsys):
    for file in official.iterdir():
        shutil.copy(file, tmp_path / file.name)
    tensors = load_file(official / "dit.safetensors")
    save_file(tensors, tmp_path / "other.safetensors", metadata={"other": "size"})
    with pytest.raises(SystemExit):
        run(capsys, "--weights", tmp_path, "--format", "ours", "--out", tmp_path / "out")
    assert "more than one file of a DiT: dit.safetensors, other.safetensors" in capsys.readouterr().err


MISTAKES = {
    "--weights {ours} --format official": "camera plucker.*--format ours",
    "--weights {official} --format diffusers": "no encoders of camera and animation time",
    "--weights {official} --format ours --out {official}": "exists and is not empty",
    "--weights {official} --format ours --only text_encoder": "no weights of a text encoder",
    "--weights {official}/nothing --format ours": "does not exist",
    "--weights {ours} --format stablehlo --frames 6": r"6 frames: the model takes 4n \+ 1",
    "--weights {ours} --format stablehlo --only vae": "dit alone",
    "--weights {official} --format lora": "is no --workdir of a DiT's run|is not the config of a DiT's run",
    "--weights {ours} --format lora": r"is no --workdir of train.py \(config.json is missing\)",
    "--weights {official} --format official --lora {ours}/x": "--lora .*/x: there is no such file",
    "--weights {official} --only vae --format official --lora {ours}": "--lora changes a DiT, and none",
    "--weights {ours} --format onnx": "invalid choice: 'onnx'",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_mistakes_are_one_line_and_write_nothing(flags, official, tmp_path, capsys):
    ours = write_tiny_model(tmp_path / "ours")
    before = sorted(tmp_path.rglob("*"))
    given = flags.format(ours=ours, official=official).split()
    with pytest.raises(SystemExit) as stop:
        export.main(given if "--out" in given else [*given, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") <= 2
    assert re.search(MISTAKES[flags], error), error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_to_an_empty_folder_stays_one_and_the_own_folder_is_refused(
    official, tmp_path, capsys, monkeypatch
):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    (tmp_path / "dangling").symlink_to("later")
    for link in ("link", "dangling"):
        out = tmp_path / link
        run(capsys, "--weights", official, "--only", "dit", "--format", "official", "--out", out)
        assert out.is_symlink() and (out / "dit.safetensors").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SystemExit):
        run(capsys, "--weights", official, "--format", "official", "--out", ".")
    assert "the folder you are in" in capsys.readouterr().err


def test_full_disk_is_noticed_before_anything_is_written(official, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(1000))
    with pytest.raises(SystemExit):
        run(capsys, "--weights", official, "--format", "ours", "--out", tmp_path / "out")
    assert "are needed" in capsys.readouterr().err and not list(tmp_path.iterdir())
