"""What a user points at is found, recognised, or refused with the reason."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig
from stp_jax.models.parameters import flatten
from stp_jax.weights import kinds, native, reading, recognition
from stp_jax.weights.layouts import dit
from stp_jax.weights.layouts.table import stored_shapes
from stp_jax.weights.layouts.text_encoder import TIED
from tests.stored_tensors import SPACETIMEPILOT, TINY, TINY_DIT, build, random_tensor, random_tensors

SPACETIMEPILOT = DiTConfig(**SPACETIMEPILOT | TINY_DIT)
HEADS = {"dim": 64, "num_heads": 2}


def write(path, kind, config=None, layout="official", tensors=None):
    """A weights file, as safetensors whatever its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    config = config or TINY[kind]
    save_file(random_tensors(kind, config, layout) if tensors is None else tensors, path)
    if kind == "dit":
        (path.parent / "config.json").write_text(json.dumps(HEADS))
    return path


@pytest.fixture
def downloads(tmp_path):
    """A folder of official files, some folders deep; diffusers' form of the VAE beside them."""
    wan = tmp_path / "models/Wan2.1"
    write(wan / "diffusion_pytorch_model.safetensors", "dit")
    write(wan / "vae/diffusion_pytorch_model.safetensors", "vae", layout="diffusers")
    write(wan / "text_encoder/model.safetensors", "text_encoder", layout="diffusers")
    return tmp_path


def write_ours(folder, kind, config):
    shapes = kinds.shapes(kind, config)
    parameters = {name: random_tensor(name, shape.shape) for name, shape in shapes.items()}
    native.save_weights(folder, kind, parameters, dataclasses.asdict(config), part_bytes=10_000)
    return parameters


@pytest.mark.parametrize("kind, layout", [(k, la) for k in TINY for la in ("official", "diffusers")])
def test_files_of_every_kind_and_layout(tmp_path, kind, layout):
    found = recognition.recognise(write(tmp_path / "weights.safetensors", kind, layout=layout))
    assert (found.kind, found.layout) == (kind, layout)
    assert dataclasses.replace(found.config, dtype=TINY[kind].dtype) == TINY[kind]


def test_official_model_is_named_and_sampled_as_published(tmp_path):
    found = recognition.recognise(write(tmp_path / "x.safetensors", "dit", SPACETIMEPILOT), "dit")
    assert found.title == "SpaceTimePilot of width 64"
    assert reading.sampling_notes(found) == (81, 480, 832, 20, 5.0, 5.0, True, 0)


def test_models_of_a_download_folder_are_found_by_published_name(downloads):
    wan = downloads / "models/Wan2.1"
    assert recognition.find(downloads, "dit") == wan / "diffusion_pytorch_model.safetensors"
    assert recognition.find(downloads, "vae") == wan / "vae/diffusion_pytorch_model.safetensors"
    assert recognition.find(downloads, "text_encoder") == wan / "text_encoder/model.safetensors"
    pilot = write(downloads / "SpacetimePilot_1.3B_v1.ckpt", "dit", SPACETIMEPILOT)
    official = write(downloads / "models/Wan2.1_VAE.pth", "vae")
    assert recognition.find(downloads, "dit") == pilot
    assert recognition.find(downloads, "vae") == official


def test_folder_four_levels_down_is_not_searched(tmp_path):
    write(tmp_path / "a/b/c/d/Wan2.1_VAE.pth", "vae")
    with pytest.raises(InputError, match=r"holds no weights of a VAE.*Wan2.1_VAE.pth"):
        recognition.find(tmp_path, "vae")
    assert recognition.find(tmp_path / "a", "vae").name == "Wan2.1_VAE.pth"


def test_a_file_of_any_name_is_found_where_it_is_the_only_one_of_its_kind(tmp_path):
    mine = write(tmp_path / "mine.safetensors", "dit")
    write(tmp_path / "decoder.safetensors", "vae")
    assert recognition.find(tmp_path, "dit") == mine
    write(tmp_path / "other.safetensors", "dit", dataclasses.replace(TINY["dit"], layers=1))
    with pytest.raises(InputError, match="more than one file of a DiT: mine.safetensors, other.safetensors"):
        recognition.find(tmp_path, "dit")


def test_companions_are_found_beside_the_file_of_a_dit(downloads):
    transformer = recognition.find(downloads, "dit")
    assert recognition.recognise(transformer, "vae").title == "a Wan VAE of width 8"
    assert recognition.find(transformer, "text_encoder").name == "model.safetensors"
    alone = write(downloads / "elsewhere/wan.safetensors", "dit")
    with pytest.raises(InputError, match="of width 64, not a VAE, and none lies beside it"):
        recognition.recognise(alone, "vae")


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    other = write(tmp_path / "Wan2.1_VAE.pth", "vae")
    with pytest.raises(InputError, match="Wan2.1_VAE.pth is a Wan VAE of width 8, not a DiT"):
        recognition.recognise(other, "dit")
    unknown = write(tmp_path / "clip.safetensors", "vae", tensors={"visual.conv1.weight": np.zeros(3)})
    with pytest.raises(InputError, match="not a known model: its tensors are visual.conv1.weight"):
        recognition.recognise(unknown, "dit")


def test_missing_and_unknown_tensors_are_named_when_a_file_is_recognised(tmp_path):
    tensors = random_tensors("dit", SPACETIMEPILOT, "official")
    del tensors["blocks.1.projector.weight"], tensors["head.head.bias"]
    tensors["blocks.7.ffn.0.weight"] = tensors.pop("blocks.1.ffn.0.weight")
    path = write(tmp_path / "damaged.safetensors", "dit", tensors=tensors)
    complaint = (
        r"damaged.safetensors \(SpaceTimePilot.*: 3 missing \(.*; 1 not known \(blocks.7.ffn.0.weight\)"
    )
    with pytest.raises(InputError, match=complaint):
        recognition.recognise(path)
    del tensors["patch_embedding.weight"]
    write(path, "dit", tensors=tensors)
    with pytest.raises(InputError, match="patch_embedding.weight is missing"):
        recognition.recognise(path)


LOST = {  # pattern of the tensors -> what the message names as missing
    r"blocks\.1\..*": r"43 missing \(blocks.1",
    r"blocks\.0\.cam_encoder\.weight": r"1 missing \(blocks.0.cam_encoder.weight\)",
    r"blocks\.0\.frame_time_embedding\.0\.weight": "1 missing .*frame_time_embedding",
    r"blocks\.0\.self_attn\.q\.weight": r"1 missing \(blocks.0.self_attn.q.weight\)",
}


@pytest.mark.parametrize("lost", LOST)
def test_what_a_block_lacks_is_named_as_missing(tmp_path, lost):
    tensors = random_tensors("dit", SPACETIMEPILOT, "official")
    kept = {name: array for name, array in tensors.items() if not re.fullmatch(lost, name)}
    path = write(tmp_path / "x.safetensors", "dit", tensors=kept)
    (tmp_path / "config.json").write_text(json.dumps(HEADS | {"num_layers": 2}))
    with pytest.raises(InputError, match=LOST[lost]) as error:
        recognition.recognise(path)
    assert "not known" not in str(error.value)


def test_a_published_model_without_its_last_blocks_is_not_whole(tmp_path):
    config = dataclasses.replace(SPACETIMEPILOT, dim=1536, heads=12, layers=1, ffn_dim=8)
    shapes = stored_shapes(dit.rules(config, "official"), kinds.shapes("dit", config))
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    assert dit.read_config(tensors, "official", {}, "x").layers == 30
    assert dit.read_config(tensors, "official", {"dim": 1536, "num_layers": 1}, "x").layers == 1


@pytest.mark.parametrize(
    ("described", "complaint"),
    [
        ({"num_heads": 3}, "num_heads 3, which does not divide the model's width 64"),
        ({"num_heads": 0}, "config.json: num_heads is 0; it should be a whole number from 1 to 1024"),
        ({"num_heads": "2"}, "num_heads is '2'; it should be a whole number"),
        ({"num_layers": None}, "num_layers is None; it should be a whole number"),
        ({"eps": "x"}, "eps is 'x'; it should be a number"),
    ],
)
def test_nonsense_in_a_config_is_refused(tmp_path, described, complaint):
    path = write(tmp_path / "x.safetensors", "dit", SPACETIMEPILOT)
    (tmp_path / "config.json").write_text(json.dumps(HEADS | described))
    with pytest.raises(InputError, match=complaint):
        recognition.recognise(path)


def test_whole_numbers_are_no_weights(tmp_path):
    tensors = random_tensors("dit", SPACETIMEPILOT, "official")
    tensors["head.head.bias"] = tensors["head.head.bias"].astype(np.int8)
    path = write(tmp_path / "x.safetensors", "dit", tensors=tensors)
    with pytest.raises(InputError, match=r"1 no floating-point numbers \(head.head.bias int8\)"):
        recognition.recognise(path)


def test_a_parameter_of_several_types_keeps_every_value(tmp_path):
    tensors: dict = random_tensors("dit", SPACETIMEPILOT, "official")
    name = "blocks.0.ffn.0.weight"
    tensors[name] = tensors[name].astype("bfloat16")
    read = reading.read(recognition.recognise(write(tmp_path / "x.safetensors", "dit", tensors=tensors)))
    kernel = read["blocks.ffn_in.kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[0], tensors[name].astype(np.float32).T)
    np.testing.assert_array_equal(kernel[1], tensors["blocks.1.ffn.0.weight"].T)


def test_two_models_of_equal_size_are_not_mistaken_for_copies(tmp_path):
    tensors = random_tensors("dit", SPACETIMEPILOT, "official")
    for folder, factor in (("a", 1), ("b", 1), ("c", 2)):
        changed = {name: factor * array for name, array in tensors.items()}
        write(tmp_path / folder / "diffusion_pytorch_model.safetensors", "dit", tensors=changed)
    with pytest.raises(InputError, match="more than one file of a DiT: a/"):
        recognition.recognise(tmp_path, "dit")
    shutil.rmtree(tmp_path / "c")
    assert recognition.recognise(tmp_path, "dit").path.parent.name == "a"  # b is a copy of it
    write(tmp_path / "SpacetimePilot_1.3B_v1.ckpt", "dit", SPACETIMEPILOT)
    assert recognition.recognise(tmp_path, "dit").path.suffix == ".ckpt"  # Wan's are what it started from
    write(tmp_path / "step20000.ckpt", "dit")
    with pytest.raises(InputError, match="SpacetimePilot_1.3B_v1.ckpt, step20000.ckpt. Give the path of one"):
        recognition.recognise(tmp_path, "dit")


def test_an_adapter_beside_the_weights_does_not_matter(tmp_path):
    write(tmp_path / "a_lora.safetensors", "dit", tensors={"lora.down": np.zeros(3)})
    with pytest.raises(InputError, match=r"a_lora.safetensors is an adapter \(LoRA\), not a model"):
        recognition.recognise(tmp_path, "dit")
    write(tmp_path / "mine.safetensors", "dit", SPACETIMEPILOT)
    found = recognition.recognise(tmp_path, "dit")
    assert found.path.name == "mine.safetensors"
    (remark,) = recognition.remarks(found)
    assert "a_lora.safetensors is an adapter (LoRA) and is NOT applied" in remark


@pytest.mark.parametrize(
    "prefix", ["pipe.dit.", "diffusion_model.", "model.diffusion_model.", "module.student.net."]
)
def test_a_prefix_before_all_names_is_left_out(tmp_path, prefix):
    tensors = random_tensors("dit", SPACETIMEPILOT, "official")
    named = {f"{prefix}{name}": array for name, array in tensors.items()}
    found = recognition.recognise(write(tmp_path / "x.safetensors", "dit", tensors=named), "dit")
    assert found.tensors.keys() == tensors.keys() and found.title.startswith("SpaceTimePilot")
    named["first_stage_model.encoder.conv1.weight"] = np.zeros((2, 2), np.float32)
    write(tmp_path / "x.safetensors", "dit", tensors=named)
    with pytest.raises(InputError, match=f"holds more than one model: {prefix}.* beside first_stage_model"):
        recognition.recognise(tmp_path, "dit")


def test_several_models_in_one_file_as_comfyui_saves_them(tmp_path):
    """The prefixes of ComfyUI's class for Wan: unet_prefix, vae_key_prefix, text_encoder_key_prefix."""
    prefixes = {
        "dit": ("model.diffusion_model.", SPACETIMEPILOT, "official"),
        "vae": ("vae.", TINY["vae"], "official"),
        "text_encoder": ("text_encoders.umt5xxl.transformer.", TINY["text_encoder"], "diffusers"),
    }
    models = {kind: random_tensors(kind, *rest) for kind, (_, *rest) in prefixes.items()}
    all_in_one = {
        f"{prefixes[kind][0]}{name}": array for kind, of in models.items() for name, array in of.items()
    }
    all_in_one["text_encoders.umt5xxl.logit_scale"] = np.zeros((), np.float32)
    path = write(tmp_path / "all.safetensors", "dit", tensors=all_in_one)
    assert recognition.kinds_in(path) == recognition.kinds_in(tmp_path) == list(models)
    for place in (path, tmp_path):
        for kind, tensors in models.items():
            found = recognition.recognise(place, kind)
            assert (found.kind, found.layout) == (kind, prefixes[kind][2]) and found.path == path
            assert found.tensors.keys() >= tensors.keys()
            for name, array in tensors.items():
                np.testing.assert_array_equal(found.tensors[name], array)
    more = all_in_one | {f"teacher.{name}": array for name, array in models["dit"].items()}
    write(path, "dit", tensors=more)
    with pytest.raises(InputError, match="holds more than one model: model.diffusion_model.* beside"):
        recognition.recognise(path, "vae")
    write(path, "dit", tensors=all_in_one | {"clip_vision.proj": np.zeros(2, np.float32)})
    with pytest.raises(InputError, match="more than one model: .* beside clip_vision.proj, .. Read are one"):
        recognition.recognise(path, "dit")


def test_names_that_wrappers_write_into_others_are_left_out(tmp_path):
    tensors = random_tensors("dit", SPACETIMEPILOT, "official")
    wrapped = {
        f"_orig_mod.model.{name}".replace("blocks.1.", "blocks.1._fsdp_wrapped_module._orig_mod."): array
        for name, array in tensors.items()
    }
    found = recognition.recognise(write(tmp_path / "x.safetensors", "dit", tensors=wrapped), "dit")
    assert found.tensors.keys() == tensors.keys()


@pytest.mark.parametrize(
    "kind, prefix", [("vae", "vae."), ("text_encoder", "text_encoders.umt5.transformer.")]
)
def test_other_models_have_prefixes_too(tmp_path, kind, prefix):
    tensors = random_tensors(kind, TINY[kind], "diffusers")
    named = {f"{prefix}{name}": array for name, array in tensors.items()}
    found = recognition.recognise(write(tmp_path / "x.safetensors", kind, tensors=named), kind)
    assert (found.kind, found.layout) == (kind, "diffusers")


def test_why_a_dit_beside_a_good_vae_is_not_read_is_said(tmp_path):
    write(tmp_path / "Wan2.1_VAE.pth", "vae")
    path = write(tmp_path / "dit.safetensors", "dit", SPACETIMEPILOT)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        InputError, match=r"holds no weights of a DiT. Not read: .*dit.safetensors is truncated"
    ):
        recognition.recognise(tmp_path, "dit")
    path.unlink()
    (tmp_path / "wan-Q4.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(
        InputError, match=r"Not read: .*wan-Q4.gguf is truncated or damaged: it is of version 0"
    ):
        recognition.recognise(tmp_path, "dit")


def test_parts_and_models_of_pictures_are_refused_as_such(tmp_path):
    part = write(tmp_path / "model-00001-of-00002.safetensors", "dit", SPACETIMEPILOT)
    with pytest.raises(InputError, match="is one part of a model: give"):
        recognition.recognise(part, "dit")
    with pytest.raises(InputError, match="00002.safetensors is a part of a model, whose .index.json is"):
        recognition.recognise(tmp_path, "dit")
    tensors = {"encoder.down_blocks.0.resnets.0.conv1.weight": np.zeros((8, 4, 3, 3), np.float32)}
    path = write(tmp_path / "other/vae.safetensors", "vae", tensors=tensors)
    with pytest.raises(InputError, match="It is a VAE of pictures"):
        recognition.recognise(path, "vae")


def test_text_encoders_saved_by_pytorch_are_found(tmp_path):
    folder = tmp_path / "text_encoder"
    write(folder / "pytorch_model-00001-of-00001.bin", "text_encoder", layout="diffusers")
    names = random_tensors("text_encoder", TINY["text_encoder"], "diffusers")
    places = {"weight_map": dict.fromkeys(names, "pytorch_model-00001-of-00001.bin")}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(places))
    for given in (tmp_path, folder):
        assert recognition.recognise(given, "text_encoder").path.name == "pytorch_model.bin.index.json"


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        recognition.recognise(tmp_path / "nowhere", "dit")
    with pytest.raises(InputError, match=r"holds no weights of a DiT. Looked for dit.json"):
        recognition.recognise(tmp_path, "dit")


@pytest.mark.parametrize("names", ["both", "second"])
def test_the_tied_embedding_of_transformers_may_stand_under_either_name(tmp_path, names):
    tensors = random_tensors("text_encoder", TINY["text_encoder"], "diffusers")
    tensors[TIED] = tensors["shared.weight"].copy()
    if names == "second":
        del tensors["shared.weight"]
    found = recognition.recognise(write(tmp_path / "model.safetensors", "text_encoder", tensors=tensors))
    np.testing.assert_array_equal(reading.read(found)["token_embedding"], tensors[TIED])


def test_folders_that_diffusers_and_transformers_write(tmp_path):
    for package in ("torch", "diffusers", "transformers"):
        pytest.importorskip(package, reason=f"pip install 'stp-jax[convert]' to compare with {package}")
    from tests.weights import make_golden

    make_golden.make_transformer().save_pretrained(tmp_path / "transformer", max_shard_size="100KB")
    make_golden.make_vae().save_pretrained(tmp_path / "vae")
    make_golden.make_text_encoder().save_pretrained(tmp_path / "text_encoder")
    for kind, config in TINY.items():
        found = recognition.recognise(tmp_path, kind)
        assert dataclasses.replace(found.config, dtype=config.dtype) == config
        expected = flatten(build(kind, config, "diffusers"))
        read = reading.read(found)
        assert read.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(read[name], array)
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1


@pytest.mark.parametrize("wrapper", [None, "model_state"])
def test_official_checkpoints_as_torch_writes_them(tmp_path, wrapper):
    torch = pytest.importorskip("torch", reason="pip install 'stp-jax[convert]' to write one")
    tensors = random_tensors("dit", SPACETIMEPILOT, "official")
    saved = {name: torch.from_numpy(array).bfloat16() for name, array in tensors.items()}
    torch.save({wrapper: saved} if wrapper else saved, tmp_path / "SpacetimePilot_1.3B_v1.ckpt")
    (tmp_path / "config.json").write_text(json.dumps(HEADS))
    found = recognition.recognise(tmp_path, "dit")
    assert found.title.startswith("SpaceTimePilot")
    read = reading.read(found)
    for name, array in flatten(build("dit", SPACETIMEPILOT, "official", tensors)).items():
        assert read[name].dtype == "bfloat16"
        np.testing.assert_array_equal(read[name], np.asarray(array).astype("bfloat16"))


def test_a_folder_of_very_many_files_is_not_searched_to_its_end(tmp_path, downloads, monkeypatch):
    for place in range(8):
        (downloads / f"photo_{place}.png").touch()
    assert recognition.find(downloads, "vae")
    monkeypatch.setattr("stp_jax.weights.folders.MOST_ENTRIES", 6)
    with pytest.raises(InputError, match="not all were looked at"):
        recognition.find(downloads, "vae")
    write(downloads / "model.safetensors", "vae")  # at the top it is found
    assert recognition.find(downloads, "vae") == downloads / "model.safetensors"


def test_files_that_cannot_be_looked_at_are_passed_over(tmp_path, monkeypatch):
    def busy(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pathlib.Path.iterdir", busy)
    with pytest.raises(InputError, match="holds no weights"):
        recognition.find(tmp_path, "dit")
