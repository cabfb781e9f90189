"""Attention in 8 bits: its rounding against float64, its call of jax's own interface, its use in models."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from scipy.linalg import hadamard

from stp_jax.devices.sharding import make_mesh
from stp_jax.errors import InputError
from stp_jax.models import fp8_attention as module
from stp_jax.models import stack
from stp_jax.models.attention import attention
from stp_jax.models.config import DiTConfig
from stp_jax.rerender.pretrained import available_attention
from stp_jax.rerender.rerenderer import Rerenderer
from tests.tiny_model import write_tiny_model

CONFIG = DiTConfig(dim=32, ffn_dim=32, layers=6, heads=2, dtype="float32")


def draw(queries=40, keys=56, heads=2, width=16, offset=0.0):
    """Queries, keys, values; keys and values with offset channels."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, n, heads, width)).astype(np.float32) for n in (queries, keys, keys))
    k[..., 3] += offset
    v[..., 5] -= offset
    return q, k, v


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def exact(q, k, v):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    return np.einsum("bhqk,bkhd->bqhd", softmax(logits), v)


def e4m3(x):
    return np.asarray(x, np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)


def relative_error(y, true):
    return np.linalg.norm(np.asarray(y, np.float64) - true) / np.linalg.norm(true)


def rounded(q, k, v):
    """The rounding that the module describes, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    mean = v.mean(1, keepdims=True)
    k, v = k - k.mean(1, keepdims=True), v - mean
    sizes = [np.sqrt(np.square(x).mean(1, keepdims=True)) for x in (q, k)]
    by_channel = 2 ** np.round(np.log2(sizes[1] / sizes[0]) / 2)
    q, k = q * by_channel @ hadamard(16), k / by_channel @ hadamard(16)
    scales = [2.0 ** np.floor(np.log2(448 / np.abs(x).max())) for x in (q, k, v)]
    q, k, v = (e4m3(x * scale) / scale for x, scale in zip((q, k, v), scales, strict=True))
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / 16 * 16**-0.5
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    total = weights.sum(-1, keepdims=True)
    y = np.einsum("bhqk,bkhd->bqhd", e4m3(256 * weights) / 256 / total, v)
    return e4m3(y * scales[2]) / scales[2] + mean


simulated = jax.jit(lambda q, k, v: module.attention(q, k, v, mode="fp8_simulated"))


def test_the_simulation_rounds_as_described():
    inputs = draw(offset=20.0)
    assert relative_error(simulated(*inputs), rounded(*inputs)) < 2e-4  # ties that fall otherwise in float32
    assert 1e-4 < relative_error(simulated(*inputs), exact(*inputs)) < 0.05


def test_offsets_of_keys_and_values_cost_no_accuracy():
    plain, offset = (np.asarray(simulated(*draw(offset=x))) for x in (0.0, 64.0))
    moved = np.where(np.arange(16) == 5, 64.0, 0.0)
    np.testing.assert_allclose(offset + moved, plain, atol=0.02)  # float32 and a few roundings


@pytest.mark.parametrize("width", [16, 24, 20])
def test_mixing_changes_no_logit(width):
    q, k, _ = draw(width=width)
    q[..., 1] *= 100
    k[..., 2] = 0
    mixed_q, mixed_k, factor = jax.jit(module.mix)(q, k)
    logits = np.einsum("bqhd,bkhd->bhqk", mixed_q, mixed_k, dtype=np.float64) / factor
    np.testing.assert_allclose(logits, np.einsum("bqhd,bkhd->bhqk", q, k, dtype=np.float64), atol=1e-3)


def test_mixing_makes_the_error_of_few_large_channels_smaller():
    """Channels of which a few make most of the logits, and others that are large in the keys alone."""
    q, k, v = draw(width=64, keys=256)
    for channels, factor in (([7, 8], 8.0), ([20, 21], 0.05)):
        q[..., channels] *= factor
    k[..., [20, 21]] *= 20
    true = exact(q, k, v)
    compute = jax.jit(lambda given: module.simulated(given, jnp.float32))
    plain = module.Quantised(*(x.astype(module.E4M3) for x in (q, k, v)), (1, 1, 1), 0, 1 / 8)
    without = relative_error(compute(plain), true)
    given = jax.jit(module.quantise)(q, k, v)
    found, scale, mean = (np.asarray(x) for x in (compute(given), given.scales[2], given.mean))
    with_it = relative_error(found / scale + mean, true)
    assert with_it < 0.7 * without


def test_constant_inputs_are_exact():
    q, k, v = (np.full((1, 8, 2, 16), x, np.float32) for x in (0.0, 3.0, -5.0))
    np.testing.assert_array_equal(simulated(q, k, v), v)


def test_scales_are_powers_of_two_that_leave_no_number_too_large():
    for largest in (0.0, 1e-30, 0.9, 1.0, 447.9, 448.0, 449.0, 1e30):
        scale = float(module.power_of_two(jnp.float32(largest)))
        assert np.frexp(scale)[0] == 0.5
        assert largest * scale <= 448 and (largest * scale > 224 or scale == 2.0**64)


def kernel_in_float64(q, k, v, *, fp8_params, scale, use_fp8):
    """What cuDNN documents for its e4m3 attention, in float64, with zero padding attended to."""
    assert use_fp8 and all(x.shape == (1, 1, 1, 1) for x in fp8_params.values())
    assert {x.dtype for x in (q, k, v)} == {jnp.dtype("float8_e4m3fn")}
    assert q.shape[1] % 128 == 0 and k.shape[1] % 128 == 0
    cudnn.check_fp8_params(fp8_params)
    p = {name: np.asarray(x, np.float64) for name, x in fp8_params.items()}
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) * p["descale_q"] * p["descale_k"] * scale
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    total = weights.sum(-1).swapaxes(1, 2)[..., None]
    y = np.einsum("bhqk,bkhd->bqhd", e4m3(weights * p["scale_s"]), v) * p["descale_s"] * p["descale_v"]
    return jnp.asarray(e4m3(y / total * p["scale_o"]), jnp.float8_e4m3fn), None, None


def test_the_kernel_gets_what_it_needs_and_padding_hardly_counts(monkeypatch):
    monkeypatch.setattr(cudnn, "dot_product_attention", kernel_in_float64)
    monkeypatch.setattr(module, "unavailable", lambda head_dim, keys: None)
    whole = draw(queries=128, keys=256, offset=8.0)
    y = module.attention(*whole, mode="fp8")
    assert relative_error(y, rounded(*whole)) < 2e-4
    q, k, v = draw(queries=100, keys=246, offset=8.0)  # 10 of padding
    y = module.attention(q, k, v, mode="fp8")
    assert y.shape == q.shape
    found, expected = (x - v.mean(1, keepdims=True) for x in (np.asarray(y, np.float64), rounded(q, k, v)))
    assert 1 - 10 / 256 < (found * expected).sum() / (expected**2).sum() <= 1


def test_jax_makes_a_call_of_cudnn(monkeypatch):
    """The installed jax has the interface: lowered for CUDA, though there is no GPU here."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_000)
    assert module.interface_problem(jax.__version__) is None
    monkeypatch.setattr(module, "unavailable", lambda head_dim, keys: None)
    x = jax.ShapeDtypeStruct((1, 200, 2, 64), jnp.bfloat16)
    traced = jax.jit(lambda q, k, v: module.attention(q, k, v, mode="fp8")).trace(x, x, x)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    (call,) = [line for line in text.splitlines() if "custom_call @__cudnn$fmhaSoftmaxF8" in line]
    assert call.count("tensor<1x256x2x64xf8E4M3FN>") == 3


def test_why_it_is_unavailable(monkeypatch):
    assert "and this is cpu" in module.unavailable(128, 65_520)
    monkeypatch.setattr(module, "_device_problem", lambda: None)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_000)
    assert module.unavailable(128, 65_520) is None
    assert "heads are 100 wide" in module.unavailable(100, 65_520)
    assert "videos have 640 tokens" in module.unavailable(128, 640)
    assert "jax 0.13.0 may ask for it in another way than jax 0.10, 0.11 and" in module.interface_problem(
        "0.13.0"
    )
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 90_000)
    assert "cuDNN is older" in module.interface_problem("0.11.2")
    monkeypatch.setattr(cudnn, "fp8_params_keys_fwd", ["scale"])
    assert "may ask for it in another way" in module.interface_problem("0.11.2")


def test_it_is_never_silently_exact():
    with pytest.raises(InputError, match="sampling_attention is fp8: it needs an NVIDIA GPU"):
        attention(*draw(), mode="fp8")
    config, lines = available_attention("fp8", CONFIG, 65_520)
    assert config.sampling_attention == "exact"
    (line,) = lines
    assert line.startswith("Attention is exact, not in 8 bits: it needs")
    with pytest.raises(InputError, match="choose one of exact, fp8, fp8_simulated"):
        available_attention("fp4", CONFIG, 65_520)
    config, lines = available_attention("fp8_simulated", CONFIG, 640)
    assert (config.sampling_attention, lines) == ("fp8_simulated", ())


def test_a_rerenderer_takes_it_or_says_why_not(tmp_path):
    folder = write_tiny_model(tmp_path / "weights")
    plain, simulated, without = (Rerenderer(folder, attention=mode) for mode in module.MODES[::2] + ("fp8",))
    assert not plain.remarks and not simulated.remarks
    assert plain._dit.graph != simulated._dit.graph and plain._dit.graph == without._dit.graph
    assert any(line.startswith("Attention is exact, not in 8 bits: ") for line in without.remarks)


@pytest.mark.parametrize("sizes", [{"sequence": 8}, {"sequence": 4, "tensor": 2}, {"data": 2, "sequence": 4}])
def test_a_mesh_changes_nothing_though_each_device_has_its_own_scales(sizes):
    q, k, v = draw(queries=64, keys=64, heads=4)
    q[:, :, 1] *= 5  # heads of other ranges
    v[1] *= 0.1
    with jax.set_mesh(make_mesh(**{"data": 1} | sizes)):
        y = jax.jit(lambda *x: attention(*x, keys=60, mode="fp8_simulated"))(q, k, v)
    whole = simulated(q, k[:, :60], v[:, :60])
    # Queries of one half of the tokens may get other factors by channel than those of all.
    assert relative_error(y, np.asarray(whole, np.float64)) < 0.02


@pytest.mark.parametrize(
    ("mode", "exact_blocks", "expected"),
    [
        ("exact", 2, "eeeeee"),
        ("fp8_simulated", 0, "ssssss"),
        ("fp8_simulated", 1, "esssse"),
        ("fp8_simulated", 2, "eessee"),
        ("fp8_simulated", 3, "eeeeee"),
        ("fp8_simulated", 9, "eeeeee"),
    ],
)
def test_the_first_and_last_blocks_are_exact(mode, exact_blocks, expected):
    config = dataclasses.replace(CONFIG, sampling_attention=mode, sampling_exact_blocks=exact_blocks)

    def run(seen, layer, out_tokens, *, mode):
        return seen.at[layer].set("es".index(mode.removeprefix("fp8_")[0]))

    with jax.disable_jit():
        seen = stack._run_in_place(run, jnp.full(6, -1), jnp.arange(6), 8, 4, config)
    assert "".join("es"[i] for i in seen) == expected


def test_only_self_attention_while_sampling_is_in_8_bits(monkeypatch):
    from stp_jax.models.dit import SpaceTimeDiT

    seen = []
    real = module.attention

    def recorded(q, k, v, *, mode):
        seen.append((mode, k.shape[1]))
        return real(q, k, v, mode=mode)

    monkeypatch.setattr(module, "attention", recorded)
    text_to_video = DiTConfig(
        dim=32, ffn_dim=32, layers=3, heads=2, channels=4, text_dim=8, dtype="float32", freq_dim=16,
        source=False, camera="none", animation_time="none", rope_frames="stream",
        sampling_attention="fp8_simulated", sampling_exact_blocks=1,
    )  # fmt: skip
    model = nnx.eval_shape(lambda: SpaceTimeDiT(text_to_video, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)

    def forward(state, latents, text, differentiable):
        model = nnx.merge(graph, state)
        conditioning = model.condition(text=text, latent_size=(1, 4, 4))
        return model(latents, None, jnp.zeros(1), conditioning, differentiable=differentiable)

    latents, text = (jax.ShapeDtypeStruct(x, jnp.float32) for x in ((1, 1, 4, 4, 4), (1, 5, 8)))
    for differentiable in (True, False):
        jax.eval_shape(lambda *x, d=differentiable: forward(*x, d), state, latents, text)
    assert seen == [("fp8_simulated", 4)]  # one loop over the middle block; no gradient, no prompt
