"""fp8 checkpoints are read as PyTorch dequantises them, or refused by name."""

import json
from collections import OrderedDict

import numpy as np
import pytest
from safetensors.numpy import save_file

from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig
from stp_jax.models.parameters import flatten
from stp_jax.weights import changes, reading, recognition
from stp_jax.weights.adapters import Lora
from stp_jax.weights.encoded import Float8
from stp_jax.weights.files import open_tensors
from stp_jax.weights.layouts import dit, text_encoder
from stp_jax.weights.layouts.table import lazy_parameters
from stp_jax.weights.merging import merge
from tests.stored_tensors import SPACETIMEPILOT, TINY, TINY_DIT, random_tensor, random_tensors
from tests.torch_files import Global, Storage, write_torch

PILOT = DiTConfig(**SPACETIMEPILOT | TINY_DIT)
OFFICIAL = random_tensors("dit", PILOT, "official")
WEIGHTS = [
    name for name in OFFICIAL if name.startswith("blocks") and OFFICIAL[name].ndim >= 2 and "weight" in name
]


def quantised(form: str, dtype: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The tensors of a file, and the values that they stand for in float64."""
    stored: dict = {name: array.astype(np.float16) for name, array in OFFICIAL.items()}
    values = {name: array.astype(np.float64) for name, array in stored.items()}
    for name in WEIGHTS:
        weight, module = OFFICIAL[name], name.removesuffix(".weight")
        scale = (
            np.abs(weight).max() / 448
            if form != "rows"
            else np.abs(weight.reshape(len(weight), -1)).max(1) / 448
        )
        scale = np.ones((), np.float32) if form == "plain" else np.asarray(scale, np.float32)
        by_row = scale.reshape(-1, *(1,) * (weight.ndim - 1)) if form == "rows" else scale
        stored[name] = (weight / by_row).astype(dtype)
        values[name] = stored[name].astype(np.float64) * by_row.astype(np.float64)
        if form == "comfyui":
            stored |= {
                f"{module}.scale_weight": scale.reshape(1),
                f"{module}.scale_input": np.ones(1, np.float32),
            }
        elif form == "comfyui, newer":
            marks = np.frombuffer(json.dumps({"format": dtype}).encode(), np.uint8)
            stored |= {f"{module}.weight_scale": scale, f"{module}.comfy_quant": marks}
        elif form == "rows":
            stored[f"{module}.weight_scale"] = scale[:, None].astype("bfloat16").astype(np.float32)
            values[name] = stored[name].astype(np.float64) * stored[f"{module}.weight_scale"].reshape(
                by_row.shape
            )
    if form == "comfyui":
        stored["scaled_fp8"] = np.zeros(2, dtype)
    return stored, values


def write(folder, tensors, prefix=""):
    path = folder / "model.safetensors"
    marks = {"scaled_fp8": tensors["scaled_fp8"]} if "scaled_fp8" in tensors else {}
    rest = {f"{prefix}{name}": array for name, array in tensors.items() if name not in marks}
    save_file(rest | marks, path)
    (folder / "config.json").write_text(json.dumps({"dim": 64, "num_heads": 2}))
    return path


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("form", ["plain", "comfyui", "comfyui, newer", "rows"])
def test_values_are_codes_times_scales(tmp_path, form, dtype):
    stored, values = quantised(form, dtype)
    found = recognition.recognise(write(tmp_path, stored, "model.diffusion_model."), "dit")
    assert found.title.startswith("SpaceTimePilot")
    read = reading.read(found)
    for name, value in lazy_parameters(dit.rules(PILOT, "official"), values).items():
        np.testing.assert_allclose(
            np.asarray(read[name], np.float64), np.asarray(value), rtol=1e-6, err_msg=name
        )
    assert read["blocks.q.kernel"].dtype == ("bfloat16" if form == "plain" else "float32")
    assert f"{len(WEIGHTS)} of its {len(OFFICIAL)} tensors in fp8 with" in recognition.remarks(found)[0]


def test_all_codes_have_pytorchs_values():
    torch = pytest.importorskip("torch", reason="pip install 'stp-jax[convert]' to compare with PyTorch")
    codes = np.arange(256, dtype=np.uint8)
    for name in ("float8_e4m3fn", "float8_e5m2"):
        theirs = torch.from_numpy(codes).view(getattr(torch, name)).float().numpy()
        ours = Float8(codes.view(name))
        np.testing.assert_array_equal(np.asarray(ours, np.float32), theirs)
        exact = np.asarray(ours)  # bfloat16 keeps every value
        np.testing.assert_array_equal(exact.astype(np.float32), theirs)


def test_files_of_pytorch(tmp_path):
    """Written by hand as torch.save does it, and by itself."""
    codes = np.arange(12, dtype=np.uint8)
    for name in ("float8_e4m3fn", "float8_e5m2"):
        storage = Storage("0", "UntypedStorage", 12)
        storage.pid = ("storage", Global("torch.storage", "UntypedStorage"), "0", "cpu", 12)
        arguments = storage, 4, (2, 4), (4, 1), False, OrderedDict(), Global("torch", name)
        path = write_torch(
            tmp_path / "x.pth", {"a": Global("torch._utils", "_rebuild_tensor_v3", *arguments)}, {"0": codes}
        )
        np.testing.assert_array_equal(open_tensors(path)["a"], codes[4:].view(name).reshape(2, 4))
    torch = pytest.importorskip("torch", reason="pip install 'stp-jax[convert]' to write one")
    torch.save({"a": torch.from_numpy(codes).view(torch.float8_e5m2)[2:]}, tmp_path / "y.pth")
    np.testing.assert_array_equal(open_tensors(tmp_path / "y.pth")["a"], codes[2:].view("float8_e5m2"))


def test_a_lora_is_merged_into_fp8_and_devices_read_their_parts(tmp_path):
    stored, values = quantised("comfyui", "float8_e4m3fn")
    down, up = random_tensor("down", (3, 64)), random_tensor("up", (64, 3))
    pair = {"blocks.1.self_attn.q.lora_A.weight": down, "blocks.1.self_attn.q.lora_B.weight": up}
    save_file(pair, tmp_path / "lora.safetensors")
    found, _ = merge(
        recognition.recognise(write(tmp_path, stored)), [Lora(tmp_path / "lora.safetensors", 0.5)]
    )
    values["blocks.1.self_attn.q.weight"] += 0.5 * up.astype(np.float64) @ down
    graph, state = reading.load(found, make_mesh(data=2, fsdp=4), "float32")
    from flax import nnx

    read = flatten(nnx.merge(graph, state))
    for name, value in lazy_parameters(dit.rules(PILOT, "official"), values).items():
        np.testing.assert_allclose(np.asarray(read[name]), np.asarray(value), rtol=1e-6, atol=1e-6)


def test_text_encoders_of_comfyui(tmp_path):
    tensors: dict = random_tensors("text_encoder", TINY["text_encoder"], "diffusers")
    values = {name: array.astype(np.float64) for name, array in tensors.items()}
    for name in [name for name in tensors if "SelfAttention.q" in name]:
        tensors[name] = tensors[name].astype("float8_e4m3fn")
        tensors[name.replace(".weight", ".scale_weight")] = np.array(0.25, np.float32)
        values[name] = tensors[name].astype(np.float64) / 4
    tensors |= {"scaled_fp8": np.zeros(0, "float8_e4m3fn"), "spiece_model": np.zeros(9, np.uint8)}
    save_file(tensors, tmp_path / "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
    read = reading.read(recognition.recognise(tmp_path, "text_encoder"))
    rules = text_encoder.rules(TINY["text_encoder"], "diffusers")
    for name, value in lazy_parameters(rules, values).items():
        np.testing.assert_array_equal(np.asarray(read[name], np.float64), np.asarray(value))


MODULE = "blocks.0.self_attn.q"
FOREIGN = {  # what is in the file -> the complaint
    "a format": (
        {f"{MODULE}.comfy_quant": np.frombuffer(b'{"format": "nvfp4"}', np.uint8)},
        r"quantised in a form that is not read \(blocks.0.self_attn.q.comfy_quant says 'nvfp4'\)",
    ),
    "nonsense": ({f"{MODULE}.comfy_quant": np.frombuffer(b"{[", np.uint8)}, "comfy_quant says None"),
    "blocks": (
        {f"{MODULE}.weight_scale": np.ones((2, 2), np.float32)},
        r"weight_scale is float32 \[2, 2\] for",
    ),
    "columns": (
        {f"{MODULE}.weight_scale": np.ones((8, 8), np.float32)},
        r"weight_scale has the shape \[8, 8\]",
    ),
    "integers": (
        {f"{MODULE}.weight": np.zeros((64, 64), np.int8), f"{MODULE}.weight_scale": np.ones(1, np.float32)},
        "it has weights in int8",
    ),
    "others": (
        {f"{MODULE}.weight_scale_inv": np.ones(1, np.float32)},
        "it has blocks.0.self_attn.q.weight_scale_inv",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_other_forms_are_refused_by_name(tmp_path, what):
    tensors, complaint = FOREIGN[what]
    with pytest.raises(InputError, match=complaint):
        recognition.recognise(write(tmp_path, OFFICIAL | tensors), "dit")


def test_numbers_that_are_not_finite_are_found(tmp_path):
    stored, _ = quantised("comfyui", "float8_e4m3fn")
    stored[f"{MODULE}.scale_weight"] = np.full(1, np.nan, np.float32)
    found = recognition.recognise(write(tmp_path, stored), "dit")
    with pytest.raises(InputError, match="blocks.0.self_attn.q.weight has numbers that are NaN"):
        reading.read(found)


def test_no_tensor_is_decoded_more_than_once(tmp_path, monkeypatch):
    """An embedding, a convolution and matrices, read in blocks smaller than they are."""
    monkeypatch.setattr(changes, "BLOCK", 100)
    decoded: dict = {}
    rows = Float8.rows

    def counted(self, start, stop):
        decoded[id(self)] = decoded.get(id(self), 0) + (stop - start)
        return rows(self, start, stop)

    monkeypatch.setattr(Float8, "rows", counted)
    for kind in ("text_encoder", "vae"):
        tensors = random_tensors(kind, TINY[kind], "official")
        narrow = {name: array.astype("float8_e4m3fn") for name, array in tensors.items()}
        save_file(narrow, tmp_path / f"{kind}.safetensors")
        found = recognition.recognise(tmp_path / f"{kind}.safetensors")
        read = reading.read(found)
        wide = {name: array.astype(np.float32) for name, array in narrow.items()}
        for name, value in lazy_parameters(found.rules, wide).items():
            np.testing.assert_array_equal(np.asarray(read[name], np.float32), np.asarray(value))
        for array in found.tensors.values():
            assert decoded[id(array)] == len(array)
