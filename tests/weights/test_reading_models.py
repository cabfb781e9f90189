"""Reading a recognised model: all its numbers, checked, into the model and the devices that ask for it."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig
from stp_jax.models.parameters import flatten
from stp_jax.weights import kinds, reading, recognition
from tests.stored_tensors import TINY, TINY_DIT, random_tensors
from tests.tiny_model import edit_index
from tests.weights.test_recognition import SPACETIMEPILOT, write, write_ours


def test_numbers_that_are_not_finite_are_named_when_they_are_read(tmp_path):
    tensors = random_tensors("dit", SPACETIMEPILOT, "official")
    tensors["blocks.1.ffn.0.weight"][3, 4] = np.nan
    found = recognition.recognise(write(tmp_path / "x.safetensors", "dit", tensors=tensors))
    complaint = r"x.safetensors: blocks.1.ffn.0.weight has numbers that are NaN or infinite"
    for read in (reading.read, lambda found: reading.load(found, make_mesh(data=2, fsdp=4), "bfloat16")):
        with pytest.raises(InputError, match=complaint):
            read(found)


def test_a_file_that_does_not_match_its_checksum_is_named_when_it_is_read(tmp_path):
    write_ours(tmp_path, "dit", DiTConfig(**TINY_DIT | {"text_dim": 0}))
    part = sorted(tmp_path.glob("*.safetensors"))[1]
    content = bytearray(part.read_bytes())
    content[-3] ^= 1
    part.write_bytes(content)
    found = recognition.recognise(tmp_path, "dit")
    assert not recognition.remarks(found)
    for read in (reading.read, lambda found: reading.load(found, make_mesh(data=2, fsdp=4), "bfloat16")):
        with pytest.raises(InputError, match=f"{part.name} is damaged: its SHA-256 is not the one"):
            read(found)
    edit_index(tmp_path, "dit")
    found = recognition.recognise(tmp_path, "dit")
    assert "without checksums" in recognition.remarks(found)[0] and reading.read(found)


def test_our_own_folder_is_read_as_it_was_written(tmp_path):
    parameters = write_ours(tmp_path, "dit", DiTConfig(**TINY_DIT | {"text_dim": 0}))
    write_ours(tmp_path, "vae", TINY["vae"])
    found = recognition.recognise(tmp_path)
    assert (found.kind, found.layout, found.path) == ("dit", "ours", tmp_path)
    assert any(rule.pieces > 1 for rule in found.rules)
    read = reading.read(found)
    assert read.keys() == parameters.keys()
    for name, array in parameters.items():
        np.testing.assert_array_equal(read[name], array)
    assert recognition.recognise(tmp_path, "vae").config == TINY["vae"]


def test_a_config_of_another_version_is_refused(tmp_path):
    write_ours(tmp_path, "vae", TINY["vae"])
    edit_index(tmp_path, "vae", config={"colour": "blue"})
    with pytest.raises(InputError, match=r"vae.json: .*colour"):
        recognition.recognise(tmp_path, "vae")


def test_loading_spreads_a_model_over_the_mesh_in_the_dtypes_asked_for(tmp_path):
    found = recognition.recognise(write(tmp_path / "x.safetensors", "dit", SPACETIMEPILOT))
    mesh = make_mesh(data=2, fsdp=4)
    graph, state = reading.load(found, mesh, "bfloat16")
    expected = reading.read(found)
    read = flatten(nnx.merge(graph, state))
    assert read.keys() == expected.keys()
    for name, array in read.items():
        matrix = name.endswith("kernel")
        assert array.dtype == ("bfloat16" if matrix else "float32"), name
        np.testing.assert_array_equal(array, expected[name].astype(array.dtype))
    kernel = read["blocks.ffn_in.kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    assert nnx.graphdef(nnx.merge(graph, state)) == reading.graph(found)


def test_training_may_start_from_a_model_that_lacks_some_parts(tmp_path):
    found = recognition.recognise(write(tmp_path / "wan.safetensors", "dit"))
    wanted = kinds.shapes("dit", dataclasses.replace(TINY["dit"], source=True, camera="plucker"))
    with pytest.raises(InputError, match=r"missing \(blocks.camera"):
        reading.read(found, wanted)
    read = reading.read(found, wanted, allow_missing=lambda name: "camera" in name)
    assert {name for name in wanted if name not in read} == {name for name in wanted if "camera" in name}


def test_text_weights_are_left_over_for_a_model_without_text(tmp_path):
    found = recognition.recognise(write(tmp_path / "wan.safetensors", "dit"))
    with pytest.raises(InputError, match="not known .*cross_attn"):
        reading.read(found, kinds.shapes("dit", dataclasses.replace(TINY["dit"], text_dim=0)))
