"""Readers of weights files: torch, safetensors, index files, our own folders, official config.json."""

import dataclasses
import json
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.fuzz import mutators
from tests.fuzz.inputs import Reader, Seed
from tests.torch_files import Global, tensor, write_torch

VALUES = np.arange(12, dtype=np.float32)


def _torch_seeds(work: Path) -> list[Seed]:
    tensors = OrderedDict(
        a=tensor("0", "FloatStorage", (3, 4), (4, 1)),
        b=tensor("0", "FloatStorage", (4, 3), (1, 4)),
        c=tensor("1", "BFloat16Storage", (5,), (1,), offset=1, stored=6),
        d=Global(
            "torch._utils", "_rebuild_parameter", tensor("1", "HalfStorage", (6,), (1,)), True, OrderedDict()
        ),
    )
    storages = {"0": VALUES, "1": VALUES[:3]}
    structures = tensors, {"state_dict": tensors, "epoch": 3, "optimizer": [1, {"lr": 0.1}, ("x", None)]}
    return [
        Seed({"a.pth": write_torch(work / "a.pth", one, storages).read_bytes()}, "a.pth", mutators.TORCH)
        for one in structures
    ]


def _safetensors(work: Path, tensors: dict[str, np.ndarray]) -> bytes:
    save_file(tensors, work / "a.safetensors", metadata={"format": "pt"})
    return (work / "a.safetensors").read_bytes()


def _safetensors_seeds(work: Path) -> list[Seed]:
    tensors = {"a": VALUES, "b": VALUES[:6].reshape(2, 3).astype(np.float16), "c": np.zeros((0, 4))}
    return [Seed({"a.safetensors": _safetensors(work, tensors)}, "a.safetensors", mutators.SAFETENSORS)]


def _index_seeds(work: Path) -> list[Seed]:
    name = "m.safetensors.index.json"
    parts = {f"m-{i}.safetensors": _safetensors(work, {key: VALUES + i}) for i, key in enumerate("ab")}
    index = {"metadata": {"total_size": 96}, "weight_map": {"a": "m-0.safetensors", "b": "m-1.safetensors"}}
    return [Seed({name: json.dumps(index).encode(), **parts}, name, mutators.JSON)]


def _read_file(folder: Path) -> None:
    """Opens the only file, and reads every number in it."""
    from stp_jax.weights.files import open_tensors

    for array in open_tensors(folder).values():
        np.array(array).tobytes()


def _of_kind(kind: str):
    def read(folder: Path) -> None:
        from stp_jax.weights import reading, recognition

        reading.read(recognition.recognise(folder, kind))

    return read


def _ours(kind: str):
    def seeds(work: Path) -> list[Seed]:
        from tests.tiny_model import write_tiny_model

        write_tiny_model(work)
        files = {path.name: path.read_bytes() for path in work.iterdir()}
        index = json.loads(files[f"{kind}.json"])
        old = {name: value for name, value in index.items() if name in ("config", "notes", "files")}
        part = next(iter(index["files"]))
        without_sums = files | {f"{kind}.json": json.dumps(old).encode()}
        return [
            Seed(files, f"{kind}.json", mutators.JSON),
            *[Seed(without_sums, f"{kind}.json", mutators.JSON)] * 3,
            Seed(files, part, mutators.BYTES),
        ]

    return seeds


def _sampling_notes(folder: Path) -> None:
    from stp_jax.rerender.request import read_notes

    read_notes(folder)


def _published(kind: str, described: dict, layout: str = "official"):
    """Seeds of a model under published names, of which config.json or the file itself is mutated."""

    def seeds(work: Path) -> list[Seed]:
        from tests.stored_tensors import TINY, random_tensors

        config = TINY[kind] if kind != "dit" else dataclasses.replace(TINY[kind], layers=1)
        model = _safetensors(work, random_tensors(kind, config, layout))
        files = {"model.safetensors": model, "config.json": json.dumps(described).encode()}
        return [
            *[Seed(files, "config.json", mutators.JSON)] * 4,
            Seed(files, "model.safetensors", (mutators.safetensors_header,)),
        ]

    return seeds


def _lora_seeds(work: Path) -> list[Seed]:
    down, up = VALUES[:8].reshape(2, 4), VALUES.reshape(6, 2)
    kohya = {"lora_unet_a_b.lora_down.weight": down, "lora_unet_a_b.lora_up.weight": up}
    peft = {"transformer.a.b.lora_A.weight": down, "transformer.a.b.lora_B.weight": up, "a.diff_b": VALUES}
    header = {
        "lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 4, "transformer.alpha_pattern": {}})
    }
    config = json.dumps({"r": 2, "lora_alpha": 4, "use_rslora": True, "alpha_pattern": {"a.b": 3}})
    save_file(kohya | {"lora_unet_a_b.alpha": np.array(1, np.float32)}, work / "k.safetensors")
    save_file(peft, work / "p.safetensors", metadata=header)
    name, files = "adapter_model.safetensors", [(work / f"{one}.safetensors").read_bytes() for one in "kp"]
    return [
        *[Seed({name: one}, name, (mutators.safetensors_header,)) for one in files],
        *[Seed({name: one}, name, mutators.SAFETENSORS) for one in files],
        Seed({name: files[1], "adapter_config.json": config.encode()}, "adapter_config.json", mutators.JSON),
    ]


def _read_lora(folder: Path) -> None:
    from stp_jax.weights.adapters import read_adapter

    read_adapter(folder / "adapter_model.safetensors")


def _gguf_seeds(work: Path) -> list[Seed]:
    import gguf

    writer = gguf.GGUFWriter(work / "a.gguf", "wan")
    writer.add_array("comfy.gguf.orig_shape.a", [4, 64])
    writer.add_array("tokens", ["a", "b"])
    for name, kind in (("a", "Q8_0"), ("b", "Q4_K"), ("c", "F16"), ("d", "BF16"), ("e", "IQ3_S")):
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        codes = np.arange(256 // block * size, dtype=np.uint8).reshape(1, -1)
        writer.add_tensor(name, codes, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [Seed({"a.gguf": (work / "a.gguf").read_bytes()}, "a.gguf", mutators.BYTES)]


def _fp8_seeds(work: Path) -> list[Seed]:
    codes = VALUES.reshape(3, 4).astype(ml_dtypes.float8_e4m3fn)
    marks = np.frombuffer(b'{"format": "float8_e4m3fn"}', np.uint8)
    tensors = {"a.weight": codes, "a.weight_scale": VALUES[:3, None], "a.comfy_quant": marks}
    tensors |= {"b.weight": codes, "b.scale_weight": VALUES[:1], "scaled_fp8": codes[:0]}
    seed = Seed({"a.safetensors": _safetensors(work, tensors)}, "a.safetensors", mutators.SAFETENSORS)
    return [seed, dataclasses.replace(seed, mutators=(mutators.safetensors_header,))]


def _read_fp8(folder: Path) -> None:
    from stp_jax.weights.files import open_tensors
    from stp_jax.weights.fp8 import decoded

    for array in decoded(open_tensors(folder), folder).values():
        np.array(array).tobytes()


WAN_JSON = {"dim": 64, "num_heads": 2, "num_layers": 1, "eps": 1e-6}
DIFFUSERS_JSON = {
    **{"num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 1, "eps": 1e-6},
    **{"patch_size": [1, 2, 2], "_class_name": "WanTransformer3DModel"},
}
VAE_JSON = {"latents_mean": [0.0] * 16, "latents_std": [1.0] * 16, "z_dim": 16}
T5_JSON = {
    **{"d_model": 24, "num_layers": 2, "relative_attention_max_distance": 128},
    "layer_norm_epsilon": 1e-6,
}

READERS = [
    Reader("torch", _torch_seeds, _read_file, share=3),
    Reader("safetensors", _safetensors_seeds, _read_file, share=2),
    Reader("index", _index_seeds, _read_file),
    Reader("lora", _lora_seeds, _read_lora),
    Reader("gguf", _gguf_seeds, _read_file, share=2),
    Reader("fp8", _fp8_seeds, _read_fp8),
    Reader("dit.json", _ours("dit"), _of_kind("dit")),
    Reader("vae.json", _ours("vae"), _of_kind("vae")),
    Reader("sampling notes", _ours("dit"), _sampling_notes),
    Reader("config.json of Wan", _published("dit", WAN_JSON), _of_kind("dit")),
    Reader("config.json of diffusers", _published("dit", DIFFUSERS_JSON, "diffusers"), _of_kind("dit")),
    Reader("config.json of a VAE", _published("vae", VAE_JSON), _of_kind("vae"), share=0.15),
    Reader("config.json of umT5", _published("text_encoder", T5_JSON, "diffusers"), _of_kind("text_encoder")),
]
