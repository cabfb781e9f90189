import dataclasses
import hashlib
import json
import os
import re

import numpy as np
import pytest
from flax import nnx

from stp_jax.errors import InputError
from stp_jax.models.layers import MLP
from stp_jax.models.parameters import flatten, load_into
from stp_jax.weights import native, recognition, schema


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A small model saved in several parts, one tensor of which is itself split."""
    monkeypatch.setattr(native, "PART_BYTES", 1000)
    model = MLP(8, 64, 8, rngs=nnx.Rngs(0))
    native.save_weights(tmp_path, "mlp", flatten(model), {"inputs": 8})
    return tmp_path, model


def test_round_trip_is_exact_and_parts_are_small(saved):
    folder, model = saved
    parts = sorted(folder.glob("*.safetensors"))
    assert len(parts) > 2 and max(part.stat().st_size for part in parts) < 1500
    other = MLP(8, 64, 8, rngs=nnx.Rngs(1))
    load_into(other, native.read_weights(folder, "mlp"), "test")
    for key, value in flatten(model).items():
        np.testing.assert_array_equal(value, flatten(other)[key])
    assert native.read_index(folder, "mlp")["config"] == {"inputs": 8}


def test_saving_again_leaves_no_part_of_the_older_weights(saved, monkeypatch):
    folder, model = saved
    monkeypatch.setattr(native, "PART_BYTES", 10**6)
    native.save_weights(folder, "mlp", flatten(model), {"inputs": 8}, dtype="bfloat16")
    (part,) = folder.glob("*.safetensors")
    assert re.fullmatch(r"mlp-[0-9a-f]{8}-00001-of-00001\.safetensors", part.name)
    assert {path.name for path in folder.iterdir()} == {"mlp.json", part.name}
    assert native.read_weights(folder, "mlp")["layer_in.kernel"].dtype == "bfloat16"


def test_weights_of_another_model_are_refused_by_name(saved):
    folder, _ = saved
    with pytest.raises(InputError, match=r"layer_in.kernel has shape \(8, 64\), not \(4, 64\)"):
        load_into(MLP(4, 64, 8, rngs=nnx.Rngs(0)), native.read_weights(folder, "mlp"), "there")


@pytest.mark.parametrize("damage", ["missing", "truncated", "index", "swapped"])
def test_damaged_weights_are_refused_naming_the_file(saved, damage):
    folder, _ = saved
    part = sorted(folder.glob("*.safetensors"))[0]
    if damage == "missing":
        part.unlink()
    elif damage == "truncated":
        part.write_bytes(part.read_bytes()[:-10])
    elif damage == "swapped":
        part.write_bytes(sorted(folder.glob("*.safetensors"))[1].read_bytes())
    else:
        (folder / "mlp.json").write_text("{")
        part = folder / "mlp.json"
    with pytest.raises(InputError, match=part.name):
        native.read_weights(folder, "mlp")


def test_folder_without_weights_is_named(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match="holds no dit weights"):
        native.read_weights(tmp_path, "dit")


def index_of(folder, name="mlp"):
    return json.loads((folder / f"{name}.json").read_text())


def test_the_json_has_the_sha256_of_every_part_and_of_itself(saved):
    folder, _ = saved
    index = index_of(folder)
    parts = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")
    }
    assert index["sha256"] == parts and index["files"].keys() == parts.keys()
    checksum = index.pop("checksum")
    text = json.dumps(index, sort_keys=True, separators=(",", ":"))
    assert checksum == hashlib.sha256(text.encode()).hexdigest()


def test_every_flipped_bit_is_noticed(saved):
    """In the numbers, in the headers and in the JSON: an error, or the same values."""
    folder, _ = saved
    whole = native.read_weights(folder, "mlp")
    draw = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for bit in draw.integers(0, 8 * len(content), 12):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                read = native.read_weights(folder, "mlp")
            except InputError as error:
                assert path.name in str(error)
            else:  # between two values of the JSON
                assert path.suffix == ".json" and native.read_index(folder, "mlp") is not None
                assert all(np.array_equal(whole[name], read[name]) for name in whole)
        path.write_bytes(content)


def test_weights_without_checksums_are_read_and_can_be_given_them(saved):
    folder, _ = saved
    index = index_of(folder)
    old = {name: index[name] for name in ("config", "notes", "files")}
    (folder / "mlp.json").write_text(json.dumps(old))
    assert native.read_weights(folder, "mlp") and not native.sums_of(folder, native.read_index(folder, "mlp"))
    assert not native.is_whole(folder, "mlp", {"inputs": 8})
    native.add_checksums(folder, "mlp")
    assert index_of(folder) == index
    assert native.is_whole(folder, "mlp", {"inputs": 8}) and not native.is_whole(folder, "mlp", {"inputs": 9})


@pytest.mark.parametrize("replaced", [0, 1, 2, 5])
def test_a_writer_that_is_killed_leaves_the_older_weights_whole(saved, monkeypatch, replaced):
    """Killed after some of its files have got their final names; the next writer removes what it left."""
    folder, model = saved
    before = native.read_weights(folder, "mlp")
    newer = {name: value + 1 for name, value in flatten(model).items()}
    rename, left = os.replace, [replaced]

    def killed(*paths):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        rename(*paths)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        native.save_weights(folder, "mlp", newer, {"inputs": 8})
    monkeypatch.setattr(os, "replace", rename)
    after = native.read_weights(folder, "mlp")
    assert all(np.array_equal(before[name], after[name]) for name in before)
    native.save_weights(folder, "mlp", newer, {"inputs": 8})
    assert {path.name for path in folder.iterdir()} == {"mlp.json", *index_of(folder)["files"]}
    assert np.array_equal(native.read_weights(folder, "mlp")["layer_in.bias"], newer["layer_in.bias"])


def test_a_reader_gets_the_newer_weights_when_the_older_ones_are_replaced(saved, monkeypatch):
    folder, model = saved
    newer = {name: value + 1 for name, value in flatten(model).items()}
    opened = native.open_tensors

    def replaced_meanwhile(path):
        monkeypatch.setattr(native, "open_tensors", opened)
        native.save_weights(folder, "mlp", newer, {"inputs": 9})
        return opened(path)

    monkeypatch.setattr(native, "open_tensors", replaced_meanwhile)
    index, tensors = native.open_model(folder, "mlp")
    assert index["config"] == {"inputs": 9}
    assert np.array_equal(tensors["layer_in.bias"], newer["layer_in.bias"])


@pytest.mark.parametrize("name", ["dit", "vae"])
def test_the_bundled_model_matches_its_checksums(name):
    assert native.is_whole(native.BUNDLED, name, native.read_index(native.BUNDLED, name)["config"])


def test_the_schema_has_every_field_of_the_configs_and_takes_their_values():
    for kind, config in recognition.CONFIGS.items():
        fields = {field.name for field in dataclasses.fields(config)}
        assert schema.CONFIGS[kind].keys() == fields
        schema.check_fields(dataclasses.asdict(config()), schema.CONFIGS[kind], "default ")
    assert set(native.SamplingNotes._fields) <= schema.NOTES.keys()


WRONG = [
    ("dit", {"config": []}, "has no config"),
    ("dit", {"config": {"dim": "48"}}, "its config's dim is '48'; it should be a whole number from 1 to"),
    ("dit", {"config": {"dim": True}}, "its config's dim is True"),
    ("dit", {"config": {"dim": 48.0}}, "its config's dim is 48.0"),
    ("dit", {"config": {"layers": 10**9}}, "its config's layers is 1000000000"),
    (
        "dit",
        {"config": {"eps": float("nan")}},
        "its config's eps is nan; it should be a number from 1e-30 to 1",
    ),
    ("dit", {"config": {"scene_scale": 0}}, "its config's scene_scale is 0"),
    ("dit", {"config": {"source": 1}}, "its config's source is 1; it should be true or false"),
    ("dit", {"config": {"camera": None}}, "its config's camera is None; it should be a text"),
    (
        "vae",
        {"config": {"latent_std": [1.0, 0.0]}},
        "its config's latent_std is a list of 2; it should be a list",
    ),
    ("vae", {"config": {"latent_mean": 3}}, "its config's latent_mean is 3"),
    ("vae", {"config": {"dim_mult": []}}, "its config's dim_mult is a list of 0"),
    ("dit", {"notes": 7}, "its notes are 7"),
    ("dit", {"notes": {"frames": 0}}, "its note frames is 0"),
    ("dit", {"files": {}}, "it has no files"),
    ("dit", {"files": {"../a.safetensors": []}}, "names '../a.safetensors', which is not a part"),
    ("dit", {"files": {"a.safetensors": [7]}}, "a.safetensors has a list of 1 as its tensors"),
    ("dit", {"colour": 1}, "'colour' in it is not known"),
    ("dit", {"sha256": {}}, "some of its checksums are missing"),
    (
        "dit",
        {"sha256": {"b.safetensors": "00"}, "checksum": "0" * 64},
        "checksums are not those of its files",
    ),
]


@pytest.mark.parametrize(("kind", "wrong", "complaint"), WRONG)
def test_wrong_values_in_the_json_are_named_in_one_line(tmp_path, kind, wrong, complaint):
    index = {"config": {}, "notes": {}, "files": {"a.safetensors": []}} | wrong
    (tmp_path / f"{kind}.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=complaint) as error:
        native.read_index(tmp_path, kind)
    assert f"{kind}.json" in str(error.value) and "\n" not in str(error.value)
