"""GGUF files, as the package's writer and its quantisation make them, and as ComfyUI's converter does."""

import dataclasses
import importlib.util
import json
import struct

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import quants
from safetensors.numpy import save_file

from stp_jax.errors import InputError
from stp_jax.models.config import DiTConfig
from stp_jax.weights import reading, recognition
from stp_jax.weights.adapters import Lora
from stp_jax.weights.files import open_tensors
from stp_jax.weights.gguf_files import NOT_DECODED, PLAIN
from stp_jax.weights.layouts import dit, text_encoder
from stp_jax.weights.layouts.table import lazy_parameters
from stp_jax.weights.merging import merge
from tests.stored_tensors import SPACETIMEPILOT, TINY, TINY_DIT, random_tensor, random_tensors

PILOT = DiTConfig(**SPACETIMEPILOT | TINY_DIT | {"dim": 256, "ffn_dim": 512})
OFFICIAL = random_tensors("dit", PILOT, "official")


def write_gguf(path, tensors, kinds=(), shapes=()):
    """A file whose tensors of these names are quantised; `shapes` are noted as ComfyUI's converter does."""
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])  # texts and floats are passed over
    writer.add_float32("some.number", 0.5)
    for name, shape in dict(shapes).items():
        writer.add_array(f"comfy.gguf.orig_shape.{name}", list(shape))
    for name, array in tensors.items():
        kind = dict(kinds).get(name)
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (path.parent / "config.json").write_text(json.dumps({"dim": 256, "num_heads": 2}))
    return path


def codes_of(values: np.ndarray, kind: Kind) -> np.ndarray:
    """Quantised; types that the package cannot quantise have random codes with moderate scales."""
    try:
        return quants.quantize(values, kind)
    except NotImplementedError:
        pass
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = values.size // block
    codes = np.random.RandomState(0).randint(0, 256, (count, size)).astype(np.uint8)
    half = np.float16(0.01).view(np.uint16)
    for at in range(0, size - 1, 2):  # any two bytes may be a scale: no large or non-finite float16
        codes[:, at + 1] &= 0x3B
    codes[:, :2] = np.array([half & 255, half >> 8], np.uint8)
    return codes.reshape(*values.shape[:-1], -1)


def q4_k(codes: np.ndarray) -> np.ndarray:
    """Values of Q4_K by its definition in ggml: per 256 numbers d, dmin (float16), 8 scales and minima of
    6 bits in 12 bytes, 4-bit numbers in groups of 32, low halves before high ones."""
    out = np.zeros((len(codes), 8, 32))
    for n, block in enumerate(codes):
        d, dmin = (float(x) for x in block[:4].view(np.float16))
        q, s = block[16:].reshape(4, 32), block[4:16].astype(int)
        for j in range(8):
            if j < 4:
                scale, least = s[j] & 63, s[j + 4] & 63
            else:
                scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4
                least = (s[j + 4] >> 4) | (s[j] >> 6) << 4
            number = q[j // 2] & 15 if j % 2 == 0 else q[j // 2] >> 4
            out[n, j] = d * scale * number - dmin * least
    return out.reshape(-1)


def q8_0(codes: np.ndarray) -> np.ndarray:
    """Values of Q8_0: per 32 numbers a scale (float16) and as many int8."""
    blocks = codes.reshape(-1, 34)
    return (blocks[:, :2].copy().view(np.float16).astype(float) * blocks[:, 2:].view(np.int8)).reshape(-1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A DiT as ComfyUI's converter stores it, and the values that its tensors stand for."""
    stored, values, kinds = {}, {}, {}
    for name, array in OFFICIAL.items():
        values[name], stored[name] = array.astype(np.float64), array
        if name.startswith("blocks") and array.ndim == 2 and array.shape[-1] % 256 == 0:
            kinds[name] = Kind.Q8_0 if "ffn" in name else Kind.Q4_K
            stored[name] = codes_of(array, kinds[name])
            decode = q8_0 if "ffn" in name else lambda codes: q4_k(codes.reshape(-1, 144))
            values[name] = decode(stored[name]).reshape(array.shape)
        elif "bias" in name:
            stored[name] = array.astype(np.float16)
            values[name] = stored[name].astype(np.float64)
    patches = "patch_embedding.weight"  # five axes, of which the converter makes fewer
    shapes = {patches: OFFICIAL[patches].shape}
    stored[patches] = OFFICIAL[patches].reshape(-1, 4, 2, 2)
    path = write_gguf(tmp_path_factory.mktemp("gguf") / "wan-Q4_K.gguf", stored, kinds, shapes)
    return path, values


def test_values_are_those_of_the_formats_definition(model):
    path, values = model
    found = recognition.recognise(path.parent, "dit")
    assert found.title.startswith("SpaceTimePilot")
    read = reading.read(found)
    for name, value in lazy_parameters(dit.rules(PILOT, "official"), values).items():
        wanted = np.asarray(value)
        np.testing.assert_allclose(
            np.asarray(read[name], np.float64), wanted, rtol=1e-6, atol=1e-6, err_msg=name
        )
    assert "tensors in GGUF (Q4_K)" in recognition.remarks(found)[0]


def test_text_encoders_have_the_names_that_llama_cpp_gives_those_of_transformers(tmp_path):
    """By the package's own table; Q8_0 where rows have whole blocks."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, TINY["text_encoder"].layers)
    stored, values, quantised = {}, {}, {}
    for name, array in random_tensors("text_encoder", TINY["text_encoder"], "diffusers").items():
        theirs = names.get_name(name, try_suffixes=(".weight",))
        if theirs is None:
            continue  # the embedding once more
        values[name], stored[theirs] = array.astype(np.float64), array
        if array.ndim == 2 and array.shape[-1] % 32 == 0 and "attn_rel_b" not in theirs:
            quantised[theirs] = Kind.Q8_0
            stored[theirs] = codes_of(array, Kind.Q8_0)
            values[name] = q8_0(stored[theirs].reshape(-1, 34)).reshape(array.shape)
    assert quantised
    path = write_gguf(tmp_path / "umt5-Q8_0.gguf", stored, quantised)
    found = recognition.recognise(path, "text_encoder")
    assert dataclasses.replace(found.config, dtype=TINY["text_encoder"].dtype) == TINY["text_encoder"]
    read = reading.read(found)
    for name, value in lazy_parameters(text_encoder.rules(found.config, "diffusers"), values).items():
        np.testing.assert_allclose(np.asarray(read[name]), np.asarray(value), atol=1e-6, err_msg=name)


def test_a_lora_is_merged_into_quantised_layers(model, tmp_path):
    path, values = model
    name = "blocks.1.self_attn.q"
    down, up = random_tensor("down", (3, 256)), random_tensor("up", (256, 3))
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    found, _ = merge(recognition.recognise(path), [Lora(tmp_path / "lora.safetensors")])
    kernel = lazy_parameters(found.rules, found.tensors)["blocks.q.kernel"]
    wanted = values[f"{name}.weight"] + up.astype(np.float64) @ down
    np.testing.assert_allclose(kernel[1], wanted.T, atol=1e-5)
    np.testing.assert_allclose(
        kernel.read((slice(1, 2), slice(3, 9), slice(100, 120)))[0], wanted.T[3:9, 100:120], atol=1e-5
    )


@pytest.mark.parametrize(
    "kind", [kind for kind in Kind if kind.name not in NOT_DECODED], ids=lambda k: k.name
)
def test_every_type_is_read_or_refused_by_name(tmp_path, kind):
    values = np.random.RandomState(1).standard_normal((6, 256)).astype(np.float32)
    if kind.name in PLAIN:
        codes = values.astype(PLAIN[kind.name])
        wanted = codes.astype(np.float32)
        codes = codes.view(np.uint8) if kind.name == "BF16" else codes
    else:
        codes = codes_of(values, kind)
        wanted = quants.dequantize(codes, kind)
    path = write_gguf(tmp_path / "a.gguf", {"a": codes}, {"a": kind})
    np.testing.assert_array_equal(np.asarray(open_tensors(path)["a"], np.float32), wanted)


def header(*tensors, pairs=b"", pair_count=0, version=3):
    """The bytes of a file with tensors (name, axes, type, offset)."""
    text = b"GGUF" + struct.pack("<IQQ", version, len(tensors), pair_count) + pairs
    for name, axes, kind, offset in tensors:
        text += (
            struct.pack("<Q", len(name))
            + name
            + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, kind, offset)
        )
    return text


DAMAGED = {  # the bytes of a file -> the complaint
    "cut": (header((b"a", (4,), 0, 0))[:-3], "its header is not complete"),
    "short": (header((b"a", (400,), 0, 0)), "'a' lies beyond its end"),
    "far": (header((b"a", (4,), 0, 2**60)), "'a' lies beyond its end"),
    "huge": (header((b"a", (2**39, 2**39), 0, 0)), "'a' has an impossible shape"),
    "axes": (header((b"a", (1,) * 9, 0, 0)), "'a' has 9 axes"),
    "twice": (header((b"a", (1,), 0, 0), (b"a", (1,), 0, 0)), "two are 'a'"),
    "type": (header((b"a", (4,), 99, 0)), "'a' is of type 99, which is not known"),
    "whole": (header((b"a", (4,), 26, 0)) + bytes(100), "'a' is in I32, which is not read"),
    "block": (header((b"a", (33,), 8, 0)) + bytes(100), "'a' lies beyond its end"),
    "version": (header(version=1), "it is of version 1, not 2 or 3"),
    "endless list": (
        header(pair_count=1, pairs=struct.pack("<Q1sIIQ", 1, b"k", 9, 4, 2**62)),
        "its header is not complete",
    ),
    "endless texts": (
        header(pair_count=1, pairs=struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 2**62)),
        "its header is not complete",
    ),
    "lists of lists": (
        header(pair_count=1, pairs=struct.pack("<Q1sIIQ", 1, b"k", 9, 9, 1)),
        "a list of type 9",
    ),
    "alignment": (
        header(
            (b"a", (4,), 0, 0), pair_count=1, pairs=struct.pack("<Q17sII", 17, b"general.alignment", 4, 0)
        ),
        "an alignment of 0",
    ),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_damage_is_named(tmp_path, fault):
    content, complaint = DAMAGED[fault]
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        open_tensors(tmp_path / "a.gguf")


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
    import sys

    assert importlib.util.find_spec("gguf")
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    (tmp_path / "a.gguf").write_bytes(header((b"a", (4,), 0, 0)) + bytes(100))
    with pytest.raises(InputError, match=r"needs a package: pip install 'stp-jax\[gguf\]'"):
        open_tensors(tmp_path / "a.gguf")
