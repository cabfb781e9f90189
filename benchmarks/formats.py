"""How long a DiT takes to load in each form that weights come in, and how much memory that needs.

    python benchmarks/formats.py                # no GPU is needed; 8 GB of disk, 12 GB of memory
    python benchmarks/formats.py --blocks 6     # a fifth of it

A DiT of the size of Wan2.1 1.3B, of random numbers, is written in bfloat16, in fp8 with scales, and as GGUF
in Q8_0 and Q4_K; and a LoRA of rank 64 on all layers of its blocks. Each is loaded in a process of its own,
as `sample.py` does it, into bfloat16 in this machine's memory. The files are in the system's cache.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from stp_jax.errors import exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import gguf
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save_file

    from stp_jax.command_line import Parser, count
    from stp_jax.models.config import DiTConfig
    from stp_jax.weights import kinds
    from stp_jax.weights.layouts import dit
    from stp_jax.weights.layouts.table import stored_shapes

RANK = 64
TIMES = 3
SMALL = 2**20  # numbers of one random array, which is repeated


def shapes_of(blocks: int) -> dict[str, tuple[int, ...]]:
    """Every stored tensor of Wan2.1 1.3B with this number of blocks."""
    config = DiTConfig(
        text_dim=4096,
        source=False,
        camera="none",
        animation_time="none",
        rope_frames="stream",
        layers=blocks,
    )
    return stored_shapes(dit.rules(config, "official"), kinds.shapes("dit", config))


def is_layer(name: str, shape: tuple[int, ...]) -> bool:
    return name.startswith("blocks.") and len(shape) == 2 and name.endswith(".weight")


def values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Float32 numbers of the size of weights."""
    noise = np.random.default_rng(seed).standard_normal(SMALL, np.float32) * np.float32(0.02)
    return np.resize(noise, shape)


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], fp8: bool) -> None:
    tensors: dict[str, np.ndarray] = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        narrow = fp8 and is_layer(name, shape)
        array = values(shape, seed) * (1000 if narrow else 1)
        tensors[name] = array.astype(ml_dtypes.float8_e4m3fn if narrow else ml_dtypes.bfloat16)
        if narrow:
            tensors[name.replace(".weight", ".scale_weight")] = np.full(1, 0.001, np.float32)
    save_file(tensors, path)


def write_gguf(path: Path, shapes: dict[str, tuple[int, ...]], kind: gguf.GGMLQuantizationType) -> None:
    writer = gguf.GGUFWriter(path, "wan")
    block, size = gguf.GGML_QUANT_SIZES[kind]
    for seed, (name, shape) in enumerate(shapes.items()):
        if not is_layer(name, shape):
            writer.add_tensor(name, values(shape, seed))
            continue
        codes = np.resize(
            np.random.default_rng(seed).integers(0, 256, (SMALL // size, size), np.uint8),
            (shape[0] * shape[1] // block, size),
        )
        codes[:, :4:2], codes[:, 1:4:2] = 0, 0x10  # small scales, in float16
        writer.add_tensor(name, codes.reshape(shape[0], -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_lora(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    tensors: dict[str, np.ndarray] = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        if is_layer(name, shape):
            module = name.removesuffix(".weight")
            tensors[f"{module}.lora_down.weight"] = values((RANK, shape[1]), seed).astype(np.float16)
            tensors[f"{module}.lora_up.weight"] = values((shape[0], RANK), seed + 1).astype(np.float16)
            tensors[f"{module}.alpha"] = np.array(RANK, np.float16)
    save_file(tensors, path)


def measure(model: str, loras: list[str]) -> tuple[float, float]:
    """Seconds of the fastest loading, and bytes of memory at most, above what the process had before."""
    from stp_jax.devices.sharding import make_mesh
    from stp_jax.weights import reading, recognition
    from stp_jax.weights.adapters import parse_lora
    from stp_jax.weights.merging import merge

    mesh, seconds = make_mesh(), []
    before = memory("VmRSS")
    for _ in range(TIMES):
        start = time.perf_counter()
        found, _ = merge(recognition.recognise(model, "dit"), [parse_lora(one) for one in loras])
        _, state = reading.load(found, mesh, "bfloat16")
        seconds.append(time.perf_counter() - start)
        del state
    return min(seconds), memory("VmHWM") - before


def memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def write_all(folder: Path, blocks: int) -> Iterator[tuple[str, Path, list[str]]]:
    """Writes each form before it is measured; yields its name, file and LoRAs."""
    shapes = shapes_of(blocks)
    described = {"dim": 1536, "num_heads": 12, "num_layers": blocks}
    (folder / "config.json").write_text(json.dumps(described))
    plain, lora = folder / "bf16.safetensors", folder / "lora.safetensors"
    write_safetensors(plain, shapes, fp8=False)
    yield "bfloat16", plain, []
    write_lora(lora, shapes)
    yield f"bfloat16 and a LoRA of rank {RANK}", plain, [str(lora)]
    plain.unlink()
    write_safetensors(folder / "fp8.safetensors", shapes, fp8=True)
    yield "fp8 with scales", folder / "fp8.safetensors", []
    yield f"fp8 and a LoRA of rank {RANK}", folder / "fp8.safetensors", [str(lora)]
    (folder / "fp8.safetensors").unlink()
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_K):
        path = folder / f"{kind.name}.gguf"
        write_gguf(path, shapes, kind)
        yield f"GGUF, {kind.name}", path, []
        path.unlink()


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python benchmarks/formats.py", description=__doc__)
    parser.add_argument(
        "--blocks", type=count, default=30, help="of the DiT; default: 30, as Wan2.1 1.3B has"
    )
    parser.add_argument(
        "--folder", help="for the files, which are removed at the end; default: a temporary one"
    )
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=flags.folder) as temporary:
        print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{'form':32} {'file, GB':>9} {'seconds':>8} {'memory at most, GB':>19}")
        for name, path, loras in write_all(Path(temporary), flags.blocks):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, most = pool.apply(measure, (str(path), loras))
            print(f"{name:32} {path.stat().st_size / 1e9:9.2f} {seconds:8.1f} {most / 1e9:19.2f}", flush=True)


if __name__ == "__main__":
    main()
