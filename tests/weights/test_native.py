import json

import numpy as np
import pytest
from flax import nnx

from stp_jax.errors import InputError
from stp_jax.models.layers import MLP
from stp_jax.models.parameters import flatten, load_into
from stp_jax.weights import native


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
    assert [path.name for path in folder.glob("*.safetensors")] == ["mlp-00001-of-00001.safetensors"]
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
