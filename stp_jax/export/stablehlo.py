"""The denoiser as a StableHLO program by `jax.export`, which runs without our Python code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stp_jax.controls.view import View, named, view_of
from stp_jax.errors import InputError
from stp_jax.export.files import write_json, write_safetensors
from stp_jax.models.attention import attention_backend
from stp_jax.models.config import DiTConfig
from stp_jax.models.parameters import bind
from stp_jax.models.vae import VAEConfig
from stp_jax.text import LENGTH
from stp_jax.weights import kinds, reading, recognition
from stp_jax.weights.checksums import verified
from stp_jax.weights.layouts.table import lazy_parameters
from stp_jax.weights.recognition import Pretrained

PLATFORMS = ("cpu", "cuda", "tpu")

RUN_PY = '''"""Calls the exported denoiser once, with noise. Needs jax, numpy and safetensors alone."""

import json
from pathlib import Path

import jax
import ml_dtypes  # noqa: F401  gives numpy its bfloat16
import numpy as np
from jax import export
from safetensors.numpy import load_file

folder = Path(__file__).parent
denoise = export.deserialize((folder / "denoiser.stablehlo").read_bytes())
parameters = {}
for file in sorted(folder.glob("parameters*.safetensors")):
    parameters |= load_file(file)
rng = np.random.default_rng(0)
inputs = {
    name: rng.standard_normal(one["shape"]).astype(one["dtype"])
    for name, one in json.loads((folder / "inputs.json").read_text()).items()
}
velocity = denoise.call(jax.device_put(parameters), inputs)
print("velocity", velocity.shape, velocity.dtype, "mean square", float((velocity**2).mean()))
'''


def inputs_of(
    config: DiTConfig, latent_size: tuple[int, int, int], batch: int, frames: int
) -> dict[str, Any]:
    """Shape, dtype and meaning of everything that the exported program takes beside the parameters."""
    latents = (batch, *latent_size, config.channels)
    inputs: dict[str, tuple[tuple[int, ...], str]] = {
        "noisy": (latents, "noisy latents of the target [B, F', H', W', C], normalised"),
        "timestep": ((batch,), "noise level [B], 1000 is pure noise"),
    }
    if config.flow_map:
        inputs["target_timestep"] = (batch,), "noise level [B] at which the step ends"
    if config.source:
        inputs["source"] = (latents, "latents of the source, normalised")
        view = _described_view(config, batch, frames)
        inputs |= named("source", view) | named("target", view)
    if config.text_dim:
        inputs["text"] = (
            (batch, LENGTH, config.text_dim),
            "embeddings of the prompt, zeros past its end (stp_jax.text)",
        )
    return {
        name: {"shape": shape, "dtype": "float32", "meaning": meaning}
        for name, (shape, meaning) in inputs.items()
    }


def _described_view(config: DiTConfig, batch: int, frames: int) -> View:
    """Shape and meaning of the parts of a clip's view that a model takes."""
    c2w = intrinsics = animation_time = None
    if config.camera == "plucker":
        c2w = "camera to world, OpenCV axes, relative to the source's first camera, metres"
        intrinsics = (batch, frames, 4), "fx, fy, cx, cy divided by width, height, width, height"
    elif config.camera != "none":
        c2w = "poses as stp_jax.official.poses.official_poses gives them"
    if config.animation_time != "none" or config.rope_frames == "animation_time":
        animation_time = (batch, frames), "animation time of each frame, in source frames"
    return View(c2w and ((batch, frames, 4, 4), c2w), intrinsics, animation_time)


def _vae_config(found: Pretrained) -> VAEConfig:
    """The config of the VAE beside weights in our own format; for other weights that of Wan's VAE."""
    if found.layout != "ours" or not (found.path / "vae.json").is_file():
        return VAEConfig()
    return recognition.recognise(found.path, "vae").config


def _denoiser(graph: nnx.GraphDef, latent_size: tuple[int, int, int]) -> Callable:
    """`denoise(parameters, inputs) -> velocity` of a model."""

    def denoise(parameters: dict[str, jax.Array], inputs: dict[str, jax.Array]) -> jax.Array:
        model = bind(graph, parameters)
        conditioning = model.condition(
            view_of(inputs, "target"),
            view_of(inputs, "source"),
            text=inputs.get("text"),
            latent_size=latent_size,
        )
        arguments = inputs["noisy"], inputs.get("source"), inputs["timestep"], conditioning
        ends = inputs.get("target_timestep")
        return model(*arguments, target_timestep=ends, differentiable=False).astype(jnp.float32)

    return denoise


def export_stablehlo(
    found: Pretrained,
    folder: Path,
    *,
    dtype: str | None = None,
    batch: int = 1,
    frames: int | None = None,
    size: Sequence[int] | None = None,
) -> None:
    """Writes denoiser.stablehlo, parameters.safetensors, inputs.json and run.py.

    The program is `denoise(parameters, inputs) -> velocity` [B, F', H', W', C] float32, for fixed shapes. Its
    attention is XLA's own on every platform: kernels of one vendor have no portable form.

    Args:
      found: a DiT.
      folder: an empty one.
      dtype: of the computation and of the kernels; default: bfloat16 if they are stored so, or
        float32.
      batch: videos at a time.
      frames, size: of the video, size as (width, height); default: as noted in the weights.

    Raises:
      InputError: a size that the model cannot work at; the extra `export` is not installed.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise InputError("--format stablehlo needs flatbuffers: pip install 'stp-jax[export]'.") from None
    notes = reading.sampling_notes(found)
    frames = frames or notes.frames
    width, height = size or (notes.width, notes.height)
    vae = _vae_config(found)
    vae.check_video_size(frames, height, width, patch=found.config.patch)
    latent_size = vae.latent_size(frames, height, width)
    lazy = lazy_parameters(found.rules, found.tensors)
    if dtype is None:
        stored = {lazy[name].dtype for name in lazy if name.endswith("kernel")}
        dtype = "bfloat16" if stored == {np.dtype("bfloat16")} else "float32"
    graph, shapes = kinds.abstract("dit", dataclasses.replace(found.config, dtype=dtype, remat="none"))
    dtypes = {name: jnp.dtype(dtype) if name.endswith("kernel") else jnp.dtype("float32") for name in shapes}
    inputs = inputs_of(found.config, latent_size, batch, frames)
    wanted = {name: jax.ShapeDtypeStruct(shape.shape, dtypes[name]) for name, shape in shapes.items()}
    given = {name: jax.ShapeDtypeStruct(one["shape"], one["dtype"]) for name, one in inputs.items()}
    denoise = jax.jit(_denoiser(graph, latent_size))
    with attention_backend("xla"):
        exported = jax.export.export(denoise, platforms=PLATFORMS)(wanted, given)
    (folder / "denoiser.stablehlo").write_bytes(exported.serialize())
    write_json(folder / "inputs.json", inputs)
    (folder / "run.py").write_text(RUN_PY)
    arrays = ((name, np.asarray(lazy[name], dtypes[name])) for name in sorted(lazy))
    with verified(found.sums):
        write_safetensors(folder, "parameters", arrays)
