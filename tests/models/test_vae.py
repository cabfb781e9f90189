"""The VAE against float64 numpy, see `reference_vae`, and the promises that its methods make."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.models import vae_layers
from stp_jax.models.vae import VAE, VAEConfig, from_pixels, to_pixels
from stp_jax.models.vae_layers import (
    AttentionBlock,
    Downsample,
    ResidualBlock,
    RMSNorm,
    Upsample,
    double_size,
)
from tests.models.reference_vae import Reference

TINY = VAEConfig(
    dim=4,
    z_dim=3,
    dim_mult=(1, 2, 3, 3),
    res_blocks=1,
    latent_mean=(0.3, -0.5, 0.1),
    latent_std=(0.8, 1.3, 2.0),
)
SMALL = dataclasses.replace(TINY, dim_mult=(1, 2), temporal_downsample=(True,))  # for what any depth shows
FLAT = dataclasses.replace(TINY, dim_mult=(1,), temporal_downsample=())  # for what residual blocks show


def randomised(create):
    """The module of `create()` with random values in every parameter, also those that start at zero."""
    graph, state = nnx.split(nnx.eval_shape(create))
    rng = np.random.default_rng(0)

    def fill(path, param):
        scale = 0.3 if len(param.shape) == 1 else 1 / np.sqrt(np.prod(param.shape[:-1]))
        value = scale * rng.standard_normal(param.shape) + (path[-1] == "gamma")
        return param.replace(jax.device_put(value.astype(np.float32)))  # jnp.asarray compiles for each shape

    return nnx.merge(graph, nnx.map_state(fill, state))


def parameters(module):
    state = nnx.to_flat_state(nnx.state(module))
    return {".".join(map(str, path)): np.asarray(param[...], np.float64) for path, param in state}


@pytest.fixture(scope="module")
def vae():
    return randomised(lambda: VAE(TINY, rngs=nnx.Rngs(0)))


def jitted(module, method, **options):
    graph, state = nnx.split(module)
    call = compiled(graph, method, **{name: value for name, value in options.items() if value is not None})
    return lambda x: jax.tree.map(np.asarray, call(state, np.asarray(x, np.float32)))


@functools.cache  # tests call the same methods at the same sizes
def compiled(graph, method, **options):
    return jax.jit(lambda state, x: getattr(nnx.merge(graph, state), method)(x, **options))


def random_video(frames, height=16, width=24, batch=1, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (batch, frames, height, width, 3))


class Holder(nnx.Module):
    """Gives a single layer a name, as the reference expects."""

    def __init__(self, layer):
        self.layer = layer


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: ResidualBlock(3, 5, **options),
        lambda **options: ResidualBlock(4, 4, **options),
        lambda **options: AttentionBlock(4, **options),
        lambda **options: Downsample(4, temporal=False, **options),
        lambda **options: Downsample(4, temporal=True, **options),
        lambda **options: Upsample(4, temporal=False, **options),
        lambda **options: Upsample(4, temporal=True, **options),
    ],
    ids=["residual", "residual_same", "attention", "down2d", "down3d", "up2d", "up3d"],
)
def test_each_layer_over_a_whole_video_equals_the_reference_in_pieces(make, frames):
    layer = randomised(lambda: make(dtype="float32", rngs=nnx.Rngs(0)))
    channels = 3 if isinstance(layer, ResidualBlock) and layer.shortcut else 4
    x = np.random.default_rng(2).standard_normal((2, frames, 4, 6, channels))
    reference = Reference(parameters(Holder(layer)))
    pieces = [reference.any("layer", x[:, :1])] + [
        reference.any("layer", x[:, i : i + 2]) for i in range(1, frames, 2)
    ]
    y = jax.jit(lambda x: layer(x)[0])(x.astype(np.float32))
    np.testing.assert_allclose(y, np.concatenate(pieces, axis=1), atol=2e-5)


def test_norm_is_computed_in_float32_and_survives_zeros():
    norm = RMSNorm(64)
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    exact = wide / np.linalg.norm(wide, axis=-1, keepdims=True) * 8
    found = jax.jit(lambda x: norm(x))(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, exact.astype(np.float32).astype(jnp.bfloat16))
    gradient = jax.jit(jax.grad(lambda x: norm(x).sum()))(np.zeros((2, 64), np.float32))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("frames", [1, 9])
def test_encoder_equals_the_reference_in_pieces(vae, frames):
    video = random_video(frames)
    mean, logvar = jitted(vae, "moments")(video)
    expected_mean, expected_logvar = Reference(parameters(vae)).encode(video)
    assert mean.shape == (1, (frames + 3) // 4, 2, 3, 3)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-4)
    np.testing.assert_allclose(logvar, expected_logvar, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 3])
def test_decoder_equals_the_reference_in_pieces(vae, frames):
    z = np.random.default_rng(3).standard_normal((1, frames, 2, 3, 3))
    video = jitted(vae, "decode_raw")(z)
    assert video.shape == (1, 4 * frames - 3, 16, 24, 3)
    np.testing.assert_allclose(video, Reference(parameters(vae)).decode(z), atol=1e-4)


def test_working_in_chunks_changes_nothing():
    """The first frame, twice a chunk of two latent frames, and a rest of one."""
    config = dataclasses.replace(TINY, dim_mult=(1, 2, 3), temporal_downsample=(True, True))
    vae = randomised(lambda: VAE(config, rngs=nnx.Rngs(0)))
    video = random_video(21, batch=2)
    latents = jitted(vae, "encode")(video)
    assert latents.shape[1] == 1 + 2 + 2 + 1
    np.testing.assert_allclose(jitted(vae, "encode", chunk=2)(video), latents, atol=1e-4)
    whole = jitted(vae, "decode")(latents)
    np.testing.assert_allclose(jitted(vae, "decode", chunk=2)(latents), whole, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "sizes", "batch", "chunk"),
    [
        (TINY, {"data": 2, "sequence": 4}, 1, 1),
        (TINY, {"data": 2, "sequence": 4}, 1, None),
        (SMALL, {"sequence": 2}, 2, 1),
    ],
)
def test_devices_share_the_pictures_of_a_video(config, sizes, batch, chunk):
    vae = randomised(lambda: VAE(config, rngs=nnx.Rngs(0)))
    mesh = make_mesh(**{"data": 1} | sizes, devices=jax.devices()[: math.prod(sizes.values())])
    graph, state = nnx.split(vae)
    video = random_video(5, height=16, width=64, batch=batch).astype(np.float32)
    shape = batch, *config.latent_size(*video.shape[1:4]), config.z_dim
    latents = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    for method, x in (("encode", video), ("decode", latents)):
        call = jax.jit(lambda state, x, name=method: getattr(nnx.merge(graph, state), name)(x, chunk=chunk))
        alone = call.lower(state, x).compile()
        with jax.set_mesh(mesh):
            whole = jax.device_put((state, x), NamedSharding(mesh, P()))
            spread = call.lower(*whole).compile()
            found = spread(*whole)
        np.testing.assert_allclose(found, alone(state, x), atol=2e-5)
        share = spread.cost_analysis()["flops"] / alone.cost_analysis()["flops"]
        assert share < 1.5 / mesh.size, share  # each looks at its neighbours' edges, too


def test_latents_and_pictures_do_not_depend_on_later_frames(vae):
    encode, decode = jitted(vae, "encode"), jitted(vae, "decode_raw")
    video = random_video(9)
    changed = video.copy()
    changed[:, 5:] = random_video(4, seed=7)
    a, b = encode(video), encode(changed)
    np.testing.assert_array_equal(a[:, :2], b[:, :2])  # pixel frames 0 and 1..4
    assert np.all(np.abs(a - b).max(axis=(0, 2, 3, 4))[2:] > 1e-3)
    a, b = decode(a), decode(np.concatenate([a[:, :2], b[:, 2:]], axis=1))
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
    assert np.all(np.abs(a - b).max(axis=(0, 2, 3, 4))[5:] > 1e-3)


def test_latents_are_normalised_and_video_is_clamped(vae):
    video = random_video(9)
    mean, _ = jitted(vae, "moments")(video)
    latents = jitted(vae, "encode")(video)
    np.testing.assert_allclose(latents * TINY.latent_std + TINY.latent_mean, mean, atol=1e-5)
    raw = jitted(vae, "decode_raw")(5 * mean)
    assert np.abs(raw).max() > 1
    decoded = jitted(vae, "decode")((5 * mean - TINY.latent_mean) / np.asarray(TINY.latent_std))
    np.testing.assert_allclose(decoded, np.clip(raw, -1, 1), atol=1e-4)


def test_pixels_in_and_out_equal_pixels_converted_before_and_after():
    """In chunks, of which the first is computed as a whole video is."""
    chunk = 1
    vae = randomised(lambda: VAE(SMALL, rngs=nnx.Rngs(0)))
    pixels = np.random.default_rng(4).integers(0, 256, (1, 9, 16, 24, 3), dtype=np.uint8)
    graph, state = nnx.split(vae)
    encode = compiled(graph, "encode", chunk=chunk)
    latents = encode(state, pixels)
    assert latents.shape == (1, 5, 8, 12, TINY.z_dim)
    np.testing.assert_array_equal(latents, encode(state, jax.jit(from_pixels)(pixels)))
    decoded = jitted(vae, "decode", chunk=chunk, finish=to_pixels)(latents)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, to_pixels(jitted(vae, "decode", chunk=chunk)(latents)))


def test_official_rounding_normalises_with_bfloat16_statistics(vae):
    config = dataclasses.replace(TINY, official_rounding=True)
    rounded = randomised(lambda: VAE(config, rngs=nnx.Rngs(0)))
    video = random_video(9)
    mean, _ = jitted(vae, "moments")(video)
    centre, inverse = (
        np.asarray(x).astype(jnp.bfloat16).astype(np.float64)
        for x in (TINY.latent_mean, 1 / np.asarray(TINY.latent_std))
    )
    latents = jitted(rounded, "encode")(video)
    np.testing.assert_allclose(latents, (mean - centre) * inverse, atol=2e-5)
    assert np.abs(latents - jitted(vae, "encode")(video)).max() > 1e-4
    np.testing.assert_allclose(rounded.denormalise(latents), mean, atol=2e-5)


def test_attention_in_few_frames_at_a_time_equals_attention_in_all(monkeypatch):
    layer = randomised(lambda: AttentionBlock(4, dtype="float32", rngs=nnx.Rngs(0)))
    x = np.random.default_rng(5).standard_normal((2, 3, 4, 6, 4)).astype(np.float32)
    whole = jax.jit(lambda x: layer(x)[0])(x)
    monkeypatch.setattr(vae_layers, "LOGITS_BYTES", 4 * 24**2 * 4)  # four of the six frames
    few = jax.jit(lambda x: layer(x)[0]).trace(x)
    assert "scan" in str(few.jaxpr)
    np.testing.assert_allclose(few.lower().compile()(x), whole, atol=1e-6)


def test_rematerialisation_gives_the_same_gradients():
    video = random_video(5, width=16).astype(np.float32)
    state = nnx.state(randomised(lambda: VAE(FLAT, rngs=nnx.Rngs(0))))

    def gradient(remat):
        config = dataclasses.replace(FLAT, remat=remat)
        graph, _ = nnx.split(nnx.eval_shape(lambda: VAE(config, rngs=nnx.Rngs(0))))

        def loss(state):
            module = nnx.merge(graph, state)
            return jnp.mean(module.decode_raw(module.moments(video)[0]) ** 2)

        traced = jax.jit(jax.grad(loss)).trace(state)
        assert ("remat" in str(traced.jaxpr)) == remat
        return traced.lower().compile()(state)

    for a, b in zip(jax.tree.leaves(gradient(False)), jax.tree.leaves(gradient(True)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4)


def test_bfloat16_is_close_to_float32_and_keeps_float32_parameters(vae):
    config = dataclasses.replace(TINY, dtype="bfloat16")
    half = randomised(lambda: VAE(config, rngs=nnx.Rngs(0)))  # the same values
    assert {x.dtype for x in jax.tree.leaves(nnx.state(half))} == {jnp.dtype("float32")}
    video = random_video(9)
    latents, exact = jitted(half, "encode")(video), jitted(vae, "encode")(video)
    assert latents.dtype == np.float32
    assert np.sqrt(np.mean((latents - exact) ** 2)) < 0.03 * exact.std()


def test_the_default_has_the_parameters_of_wan():
    shapes = nnx.state(nnx.eval_shape(lambda: VAE(VAEConfig(), rngs=nnx.Rngs(0))))
    leaves = jax.tree.leaves(shapes)
    assert len(leaves) == 194
    assert sum(leaf.size for leaf in leaves) == 126_892_531


def test_doubling_the_size_repeats_pixels():
    image = np.arange(2 * 2 * 3 * 2.0).reshape(2, 2, 3, 2)
    np.testing.assert_array_equal(double_size(jnp.asarray(image)), image.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize(
    "shape, words",
    [
        ((1, 6, 16, 16, 3), r"6 frames.*4n \+ 1, for instance 5 or 9"),
        ((1, 5, 20, 16, 3), "16 x 20 pixels.*multiples of 8, for instance 16 x 16"),
        ((1, 5, 16, 20, 3), "20 x 16 pixels.*multiples of 8"),
        ((1, 5, 16, 16, 4), "shape"),
        ((5, 16, 16, 3), "shape"),
        ((1, 0, 16, 16, 3), "shape"),
    ],
)
def test_a_video_that_does_not_fit_is_refused_with_what_to_do(vae, shape, words):
    with pytest.raises(InputError, match=words):
        vae.encode(jnp.zeros(shape))


def test_latents_and_chunks_that_do_not_fit_are_refused(vae):
    with pytest.raises(InputError, match="latents have shape"):
        vae.decode_raw(jnp.zeros((1, 2, 2, 2, 4)))
    with pytest.raises(InputError, match="chunk is 0"):
        vae.decode(jnp.zeros((1, 2, 2, 2, 3)), chunk=0)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"z_dim": 8}, "latent_mean has 16 values but z_dim is 8"),
        ({"temporal_downsample": (True,)}, "give 3"),
        ({"dtype": "float16"}, "float16"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        VAEConfig(**change)
