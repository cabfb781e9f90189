"""Weights files of strangers: whole ones give every bit, all others one clear line, and nothing in them runs.

The torch files here are written by hand (tests/torch_files.py); the last test reads ones that PyTorch wrote.
"""

import json
import os
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from stp_jax.errors import InputError
from stp_jax.weights.files import open_tensors
from tests.torch_files import Global, tensor, write_torch

VALUES = np.arange(12, dtype=np.float32)
A_TENSOR = {"a": tensor("0", "FloatStorage", (3, 4), (4, 1))}


def test_safetensors_of_every_type(tmp_path):
    kinds = (
        "float64",
        "float32",
        "float16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint64",
        "uint32",
        "uint16",
        "uint8",
        "bool",
    )
    tensors = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in kinds}
    tensors |= {
        "bfloat16": VALUES.astype(ml_dtypes.bfloat16),
        "float8_e4m3fn": VALUES.astype(ml_dtypes.float8_e4m3fn),
        "float8_e5m2": VALUES.astype(ml_dtypes.float8_e5m2),
        "scalar": np.array(3.0),
        "none": np.zeros((0, 4)),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    found = open_tensors(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name


def test_torch_tensors_as_views_of_their_storages(tmp_path):
    bits = VALUES.astype(ml_dtypes.bfloat16)
    structure = {
        "whole": tensor("0", "FloatStorage", (3, 4), (4, 1)),
        "transposed": tensor("0", "FloatStorage", (4, 3), (1, 4)),
        "part": tensor("0", "FloatStorage", (2,), (4,), offset=5, stored=12),
        "bfloat16": tensor("1", "BFloat16Storage", (12,), (1,)),
        "parameter": Global(
            "torch._utils",
            "_rebuild_parameter",
            tensor("0", "FloatStorage", (12,), (1,)),
            True,
            OrderedDict(),
        ),
        "epoch": 3,
    }
    found = open_tensors(write_torch(tmp_path / "a.pth", structure, {"0": VALUES, "1": bits}))
    square = VALUES.reshape(3, 4)
    expected = {"whole": square, "transposed": square.T, "part": VALUES[[5, 9]], "bfloat16": bits}
    expected["parameter"] = VALUES
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name
        assert not found[name].flags.writeable


@pytest.mark.parametrize("key", ["state_dict", "model", "module"])
def test_tensors_below_a_key_are_found(tmp_path, key):
    structure = {key: OrderedDict(A_TENSOR), "global_step": 20000, "optimizer": [1, {"lr": 0.1}]}
    assert list(open_tensors(write_torch(tmp_path / "a.ckpt", structure, {"0": VALUES}))) == ["a"]


def test_parts_are_read_through_their_index(tmp_path):
    for i, name in enumerate("ab"):
        save_file({name: VALUES + i}, tmp_path / f"m-{i}.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m-0.safetensors", "b": "m-1.safetensors"}}))
    assert np.array_equal(open_tensors(index)["b"], VALUES + 1)
    assert open_tensors(tmp_path).keys() == {"a", "b"}  # the folder is enough
    (tmp_path / "m-1.safetensors").unlink()
    with pytest.raises(InputError, match=r"m-1\.safetensors of its 2 parts are missing"):
        open_tensors(index)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(InputError, match="names '../../etc/passwd', which is not a part in its own folder"):
        open_tensors(index)
    index.write_text(json.dumps({"weight_map": {"a": "m-0.safetensors", "c": "m-0.safetensors"}}))
    with pytest.raises(InputError, match="names c, which is in none of its parts"):
        open_tensors(index)


HOSTILE = {
    "os.system": Global("os", "system", "touch {marker}"),
    "builtins.eval": Global("builtins", "eval", "open('{marker}', 'w')"),
    "subprocess.Popen": Global("subprocess", "Popen", ["touch", "{marker}"]),
    "posix.system": Global("posix", "system", "touch {marker}"),
    "torch.serialization.load": Global("torch.serialization", "load", "x"),
    "builtins.getattr": Global("builtins", "getattr", Global("os", "system"), "__call__"),
    "collections.OrderedDict.fromkeys": Global("collections", "OrderedDict.fromkeys", "ab"),
}


@pytest.mark.parametrize("wanted", HOSTILE)
@pytest.mark.parametrize("place", ["beside", "below", "as the whole"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, wanted, place):
    marker = tmp_path / "it_ran"

    def fill(value):
        if isinstance(value, Global):
            return Global(value.module, value.name, *map(fill, value.arguments))
        return value.format(marker=marker) if isinstance(value, str) else value

    evil = fill(HOSTILE[wanted])
    structure = {
        "beside": A_TENSOR | {"evil": evil},
        "below": {"state_dict": {"deep": [evil]}},
        "as the whole": evil,
    }[place]
    path = write_torch(tmp_path / "model.ckpt", structure, {"0": VALUES})
    with pytest.raises(InputError, match="is refused: its pickle asks for") as error:
        open_tensors(path)
    assert wanted in str(error.value) or "os.system" in str(error.value)
    assert not marker.exists()


def truncated(path, whole):
    path.write_bytes(whole[: len(whole) // 2])


def safetensors_bytes(tmp_path):
    save_file({"a": VALUES}, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "whole").unlink()
    return content


def torch_bytes(tmp_path, *args, **kwargs):
    content = write_torch(tmp_path / "whole", *args, **kwargs).read_bytes()
    (tmp_path / "whole").unlink()
    return content


def beyond(stored, size, offset=0):
    return {"a": tensor("0", "FloatStorage", size, (1,) * len(size), offset, stored)}


BROKEN = {
    "half of a safetensors file": lambda t: (".safetensors", safetensors_bytes(t)[:100]),
    "a safetensors file without its last byte": lambda t: (".safetensors", safetensors_bytes(t)[:-1]),
    "the first bytes of a safetensors file": lambda t: (".safetensors", safetensors_bytes(t)[:30]),
    "half of a torch file": lambda t: (".pth", torch_bytes(t, A_TENSOR, {"0": VALUES})[:300]),
    "a torch file without its end": lambda t: (".pth", torch_bytes(t, A_TENSOR, {"0": VALUES})[:-40]),
    "a storage that lacks bytes": lambda t: (".pth", torch_bytes(t, A_TENSOR, {"0": VALUES[:5]})),
    "a storage that is not there": lambda t: (".pth", torch_bytes(t, A_TENSOR, {})),
    "a tensor beyond its storage": lambda t: (".pth", torch_bytes(t, beyond(12, (20,)), {"0": VALUES})),
    "a tensor before its storage": lambda t: (".pth", torch_bytes(t, beyond(12, (2,), -4), {"0": VALUES})),
    "a compressed torch file": lambda t: (
        ".pth",
        torch_bytes(t, A_TENSOR, {"0": VALUES}, compression=zipfile.ZIP_DEFLATED),
    ),
    "a big-endian torch file": lambda t: (".pth", torch_bytes(t, A_TENSOR, {"0": VALUES}, order=b"big")),
    "a zip file": lambda t: (".pth", b"PK\x05\x06" + bytes(18)),
    "an old pickle": lambda t: (".pth", pickle.dumps({"a": 1})),
    "a web page": lambda t: (".safetensors", b"<!DOCTYPE html><html>Sign in</html>"),
    "a pointer": lambda t: (".ckpt", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4\n"),
    "nothing": lambda t: (".pth", b""),
    "noise": lambda t: (".safetensors", bytes(range(256)) * 4),
    "no tensors": lambda t: (".pth", torch_bytes(t, {"epoch": 3}, {})),
    "a list": lambda t: (".pth", torch_bytes(t, [1, 2], {})),
}
SAYS = {
    "half of a safetensors file": "truncated",
    "a safetensors file without its last byte": "truncated",
    "the first bytes of a safetensors file": "truncated",
    "a storage that lacks bytes": "a storage that lacks bytes",
    "a storage that is not there": "storage '0' is missing",
    "a tensor beyond its storage": "a tensor that reaches beyond its storage",
    "a tensor before its storage": "a tensor of impossible shape",
    "a zip file": "a zip file, but not one that torch.save wrote",
    "noise": "is not a safetensors file: it is neither safetensors nor",
    "a list": "holds no tensors",
    "half of a torch file": "truncated or damaged",
    "a torch file without its end": "truncated or damaged",
    "a compressed torch file": "compressed",
    "a big-endian torch file": "big-endian",
    "an old pickle": "pickle of an old form",
    "a web page": "web page",
    "a pointer": "pointer of git-lfs",
    "nothing": "is empty",
    "no tensors": "no tensors",
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files_are_named_in_one_line(tmp_path, what):
    ending, content = BROKEN[what](tmp_path)
    path = tmp_path / f"model{ending}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=SAYS[what]) as error:
        open_tensors(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_any_cut_of_a_file_is_noticed(tmp_path):
    """Wherever a download stopped, no tensors come out of it."""
    for ending, whole in (
        (".safetensors", safetensors_bytes(tmp_path)),
        (".pth", torch_bytes(tmp_path, A_TENSOR, {"0": VALUES})),
    ):
        path = tmp_path / f"model{ending}"
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError):
                open_tensors(path)


LIES = [
    ({"dtype": "F32", "shape": [12], "data_offsets": [0, 4]}, "invalid shape, data type, or offset"),
    ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "integer `-1`"),
    ({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}, "integer `-4`"),
    ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "invalid offset"),
    ({"dtype": "Q3", "shape": [1], "data_offsets": [0, 4]}, "unknown variant `Q3`"),
    ({"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}, "a is of type F4; known are F64,"),
    ({"dtype": "F32", "shape": [1]}, "missing field `data_offsets`"),
    ({"dtype": "F32", "shape": "all", "data_offsets": [0, 4]}, "invalid type: string"),
    ({"dtype": [], "shape": [1], "data_offsets": [0, 4]}, "header is damaged"),
    ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}, "header is damaged"),
    ({"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 4]}, "header is damaged"),
    (7, "invalid type: integer `7`"),
]


@pytest.mark.parametrize(("entry", "complaint"), LIES)
def test_a_header_that_lies_is_noticed(tmp_path, entry, complaint):
    path = tmp_path / "a.safetensors"
    header = json.dumps({"a": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(InputError, match=complaint) as error:
        open_tensors(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_header_that_never_ends_is_noticed(tmp_path):
    header = b"[" * 100_000
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="header is damaged"):
        open_tensors(tmp_path / "a.safetensors")


def test_tensors_without_a_name_are_none(tmp_path):
    with pytest.raises(InputError, match="holds no tensors"):
        open_tensors(write_torch(tmp_path / "a.pth", {0: A_TENSOR["a"]}, {"0": VALUES}))


def test_tensors_of_newer_types_are_no_attack(tmp_path):
    narrow = {"a": Global("torch", "uint3")}
    with pytest.raises(InputError, match="of the type uint3, which is not known here: use bfloat16"):
        open_tensors(write_torch(tmp_path / "a.pth", narrow, {}))


def test_a_folder_without_or_with_several_files(tmp_path):
    with pytest.raises(InputError, match="no weights file"):
        open_tensors(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"a": VALUES}, tmp_path / name)
    with pytest.raises(InputError, match=r"more than one weights file: a\.safetensors, b\.safetensors"):
        open_tensors(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        open_tensors(tmp_path / "c")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    save_file({"a": VALUES}, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        open_tensors(tmp_path / "a.safetensors")


def test_files_that_pytorch_wrote(tmp_path):
    torch = pytest.importorskip("torch", reason="pip install 'stp-jax[convert]' to write files with PyTorch")
    whole = torch.arange(24).reshape(2, 3, 4)
    tensors = {
        "whole": whole,
        "float": whole.float() / 7,
        "transposed": whole.transpose(0, 2),
        "slice": whole[:, 1:, ::2],
        "bfloat16": (whole / 7).to(torch.bfloat16),
        "half": (whole / 7).half(),
        "parameter": torch.nn.Parameter(whole.float()),
        "expanded": torch.ones(1, 3).expand(4, 3),
        "scalar": torch.tensor(2.5),
        "bool": whole > 3,
    }
    torch.save({"state_dict": tensors, "step": 3}, tmp_path / "a.ckpt")
    found = open_tensors(tmp_path / "a.ckpt")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        expected = value.detach()
        if value.dtype == torch.bfloat16:
            assert found[name].dtype == ml_dtypes.bfloat16
            expected = expected.float()
        assert np.array_equal(found[name].astype(expected.numpy().dtype), expected.numpy()), name
