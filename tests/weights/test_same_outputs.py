"""Our models give the outputs of diffusers' and transformers' models with the same stored tensors.

Against numbers that `make_golden` wrote, and, with the extra `convert`, against the models themselves.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from stp_jax.models.config import DiTConfig
from stp_jax.models.text_encoder import TextEncoderConfig
from stp_jax.models.vae import VAEConfig
from stp_jax.weights import kinds
from stp_jax.weights.layouts import dit, text_encoder, vae
from stp_jax.weights.layouts.table import stored_shapes
from tests.stored_tensors import IDS, LATENTS, MASK, NOISY, TEXT, TIMESTEP, TINY, VIDEO, WAN, build

TOLERANCE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module", params=["golden numbers", "live"])
def expected(request):
    if request.param == "live":
        for package in ("torch", "diffusers", "transformers"):
            pytest.importorskip(package, reason=f"pip install 'stp-jax[convert]' to compare with {package}")
        from tests.weights import make_golden

        return make_golden.outputs()
    return dict(np.load(Path(__file__).parent / "golden.npz"))


def test_transformer(expected):
    model = build("dit", TINY["dit"], "diffusers")

    @jax.jit
    def velocity(noisy, timestep, text):
        return model(noisy, None, timestep, model.condition(text=text, latent_size=noisy.shape[1:4]))

    np.testing.assert_allclose(velocity(NOISY, TIMESTEP, TEXT), expected["velocity"], **TOLERANCE)


def test_vae_encoder(expected):
    model = build("vae", TINY["vae"], "diffusers")
    mean, logvar = jax.jit(lambda video: model.moments(video))(VIDEO)
    np.testing.assert_allclose(mean, expected["mean"], **TOLERANCE)
    np.testing.assert_allclose(np.clip(logvar, -30, 20), expected["logvar"], **TOLERANCE)


def test_vae_decoder(expected):
    model = build("vae", TINY["vae"], "diffusers")
    video = jax.jit(lambda z: model.decode_raw(z))(LATENTS)
    np.testing.assert_allclose(np.clip(video, -1, 1), expected["video"], **TOLERANCE)


def test_text_encoder(expected):
    model = build("text_encoder", TINY["text_encoder"], "diffusers")
    words = jax.jit(lambda ids, mask: model(ids, mask))(IDS, MASK)
    keep = MASK[..., None]  # what stands behind a prompt is cut off
    np.testing.assert_allclose(words * keep, expected["words"] * keep, **TOLERANCE)


@pytest.mark.parametrize("size", ["1.3B", "14B", "vae", "text encoder"])
def test_names_and_shapes_at_full_size(size):
    """The tables for diffusers' layout know exactly the tensors of its models at their published sizes."""
    torch = pytest.importorskip("torch", reason="pip install 'stp-jax[convert]' to compare with diffusers")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        if size == "vae":
            theirs, kind, module, config = diffusers.AutoencoderKLWan(), "vae", vae, VAEConfig()
        elif size == "text encoder":
            kind, module, config = "text_encoder", text_encoder, TextEncoderConfig()
            theirs = transformers.UMT5EncoderModel(
                transformers.UMT5Config(
                    vocab_size=256384,
                    d_model=4096,
                    d_kv=64,
                    d_ff=10240,
                    num_layers=24,
                    num_heads=64,
                    feed_forward_proj="gated-gelu",
                )
            )
        elif size == "14B":  # the defaults of diffusers
            kind, module = "dit", dit
            config = DiTConfig(**WAN, dim=5120, ffn_dim=13824, heads=40, layers=40)
            theirs = diffusers.WanTransformer3DModel()
        else:
            kind, module, config = "dit", dit, DiTConfig(**WAN)
            theirs = diffusers.WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=30)
    shapes = {name: tuple(parameter.shape) for name, parameter in theirs.named_parameters()}
    assert stored_shapes(module.rules(config, "diffusers"), kinds.shapes(kind, config)) == shapes
