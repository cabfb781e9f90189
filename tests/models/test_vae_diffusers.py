"""The VAE against diffusers' AutoencoderKLWan with random weights; needs the extra `convert`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stp_jax.models.vae import VAE, VAEConfig

torch = pytest.importorskip("torch", reason="pip install 'stp-jax[convert]' to compare with diffusers")
diffusers = pytest.importorskip(
    "diffusers", reason="pip install 'stp-jax[convert]' to compare with diffusers"
)

DIM = 8


def diffusers_name(name: str) -> str:
    """What diffusers calls the parameter that we call `name`."""

    def upsampling(match: re.Match) -> str:
        block, part = divmod(int(match[1]), 4)
        return f"decoder.up_blocks.{block}." + (f"resnets.{part}." if part < 3 else "upsamplers.0.")

    for pattern, replacement in (
        (r"^conv1\.", "quant_conv."),
        (r"^conv2\.", "post_quant_conv."),
        (r"coder\.conv1\.", "coder.conv_in."),
        (r"encoder\.downsamples\.", "encoder.down_blocks."),
        (r"decoder\.upsamples\.(\d+)\.", upsampling),
        (r"middle\.0", "mid_block.resnets.0"),
        (r"middle\.1", "mid_block.attentions.0"),
        (r"middle\.2", "mid_block.resnets.1"),
        ("head_norm", "norm_out"),
        ("head_conv", "conv_out"),
        ("shortcut", "conv_shortcut"),
        ("kernel", "weight"),
        (r"\.conv\.(weight|bias)$", r".resample.1.\1"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module")
def both():
    """Diffusers' model with random parameters, and ours with the same."""
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLWan(base_dim=DIM).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            noise = torch.randn_like(parameter)
            if name.endswith("gamma"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    tensors = {name: parameter.detach().numpy() for name, parameter in theirs.named_parameters()}

    def fill(path, variable):
        array = tensors.pop(diffusers_name(".".join(map(str, path))))
        if path[-1] == "kernel":
            array = np.moveaxis(array, (0, 1), (-1, -2))
        if path[-1] == "gamma":
            array = array.reshape(variable.shape)
        assert array.shape == tuple(variable.shape), path
        return variable.replace(jnp.asarray(array))

    ours = nnx.eval_shape(lambda: VAE(VAEConfig(dim=DIM), rngs=nnx.Rngs(0)))
    graph, state = nnx.split(ours)
    state = nnx.map_state(fill, state)
    assert not tensors, f"no place for {sorted(tensors)[:3]}"
    return theirs, nnx.merge(graph, state)


def to_torch(x: np.ndarray):
    return torch.from_numpy(x).permute(0, 4, 1, 2, 3)


def from_torch(x) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 4, 1).numpy()


def test_encoder_equals_diffusers(both):
    theirs, ours = both
    video = np.random.default_rng(0).uniform(-1, 1, (1, 9, 16, 24, 3)).astype(np.float32)
    mean, logvar = jax.jit(lambda v: ours.moments(v))(video)
    expected = theirs.encode(to_torch(video)).latent_dist
    np.testing.assert_allclose(mean, from_torch(expected.mean), atol=2e-5)
    np.testing.assert_allclose(np.clip(logvar, -30, 20), from_torch(expected.logvar), atol=2e-5)


def test_decoder_equals_diffusers(both):
    theirs, ours = both
    z = np.random.default_rng(1).standard_normal((1, 3, 2, 3, 16)).astype(np.float32)
    decoded = jax.jit(lambda z: ours.decode_raw(z))(z)
    expected = theirs.decode(to_torch(z)).sample
    np.testing.assert_allclose(np.clip(decoded, -1, 1), from_torch(expected), atol=2e-5)
