"""The DiT against a float64 numpy reading of the same formulas, and the promises that its inputs make."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stp_jax.controls import cameras
from stp_jax.controls.view import view_of
from stp_jax.models import attention, layers
from stp_jax.models.block import Conditioning, to_tokens
from stp_jax.models.conditioning import TemporalDownsampler
from stp_jax.models.config import DiTConfig
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.layers import sinusoid
from stp_jax.models.parameters import bind, flatten
from stp_jax.models.vae_layers import Conv
from stp_jax.weights import kinds
from tests.models import reference_dit

CONFIG = DiTConfig(
    dim=48, ffn_dim=80, layers=3, heads=2, channels=4, freq_dim=16, conditioning_dim=12, dtype="float32"
)
B, FRAMES, LATENT_FRAMES, SIZE, WORDS = 2, 9, 3, 8, 5
SPACETIMEPILOT = dataclasses.replace(
    CONFIG,
    dim=64,  # group norms of 32 groups
    text_dim=20,
    camera="pose12",
    animation_time="official_conv",
    rope_frames="stream",
)
VARIANTS = {
    "ours": CONFIG,
    "ours with text": dataclasses.replace(CONFIG, text_dim=20),
    "ours with a memory": dataclasses.replace(CONFIG, memory=2),
    "uniform, shared, with a memory": dataclasses.replace(
        CONFIG, memory=2, animation_time="uniform", rope_frames="shared"
    ),
    "stream with a memory": dataclasses.replace(CONFIG, memory=2, rope_frames="stream"),
    "SpaceTimePilot": SPACETIMEPILOT,
    "ReCamMaster": dataclasses.replace(SPACETIMEPILOT, camera="pose12_target", animation_time="none"),
    "plain Wan": dataclasses.replace(SPACETIMEPILOT, camera="none", animation_time="none", source=False),
}


@functools.cache
def randomised(config: DiTConfig) -> SpaceTimeDiT:
    """A model whose zero-initialised parts are random too, so that every path counts; not to be changed."""
    graph, shapes = kinds.abstract("dit", config)
    rng = np.random.default_rng(0)
    tensors = {
        key: (0.2 * rng.standard_normal(leaf.shape) + key.endswith("scale")).astype(leaf.dtype)
        for key, leaf in shapes.items()
    }
    return bind(graph, jax.device_put(tensors))  # jnp.asarray would compile for each shape


def inputs(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    paths = [cameras.preset(name, FRAMES) for name in ("orbit_left", "dolly_in")]
    c2w = np.stack([path.c2w for path in paths]).astype(np.float32)
    intrinsics = np.stack([path.intrinsics for path in paths]).astype(np.float32)
    return {
        "noisy": rng.standard_normal((B, LATENT_FRAMES, SIZE, SIZE, CONFIG.channels)).astype(np.float32),
        "source": rng.standard_normal((B, LATENT_FRAMES, SIZE, SIZE, CONFIG.channels)).astype(np.float32),
        "timestep": np.array([120.0, 870.0], np.float32),
        "source_c2w": np.broadcast_to(np.eye(4, dtype=np.float32), c2w.shape),
        "source_intrinsics": intrinsics,
        "source_animation_time": np.tile(np.arange(FRAMES, dtype=np.float32), (B, 1)),
        "target_c2w": c2w,
        "target_intrinsics": intrinsics,
        "target_animation_time": rng.uniform(0, FRAMES - 1, (B, FRAMES)).astype(np.float32),
        "text": rng.standard_normal((B, WORDS, 20)).astype(np.float32),
    }


def with_memory(x: dict, frames: int = 2, seed: int = 5) -> dict:
    """Inputs with a memory of this many latent frames, from other cameras at earlier animation times."""
    rng = np.random.default_rng(seed)
    paths = [cameras.preset(name, 4 * frames) for name in ("orbit_right", "truck_left")]
    latents = (B, frames, SIZE, SIZE, CONFIG.channels)
    return x | {
        "memory": rng.standard_normal(latents).astype(np.float32),
        "memory_c2w": np.stack([path.c2w for path in paths]).astype(np.float32),
        "memory_intrinsics": np.stack([path.intrinsics for path in paths]).astype(np.float32),
        "memory_animation_time": rng.uniform(-8, 2, (B, 4 * frames)).astype(np.float32),
    }


@functools.partial(jax.jit, static_argnums=0)
def forward(graph, state, x: dict) -> jax.Array:
    model = nnx.merge(graph, state)
    return model(x["noisy"], x["source"], x["timestep"], condition(model, x), x.get("memory"))


def condition(model: SpaceTimeDiT, x: dict) -> Conditioning:
    views = [view_of(x, clip) for clip in ("target", "source", *(["memory"] if "memory" in x else []))]
    return model.condition(*views, text=x["text"], latent_size=x["noisy"].shape[1:4])


def run(model: SpaceTimeDiT, x: dict) -> np.ndarray:
    return np.asarray(forward(*nnx.split(model), x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_equals_float64_reference(variant):
    config = VARIANTS[variant]
    model, x = randomised(config), inputs()
    x = with_memory(x) if config.memory else x
    tensors = {key: np.asarray(value) for key, value in flatten(model).items()}
    out = run(model, x)
    for sample in range(B):
        expected = reference_dit.predict(tensors, config, x, sample)
        assert np.abs(out[sample] - expected).max() < 2e-5 * np.abs(expected).max()


def test_sinusoids_of_large_timesteps_are_those_of_float64():
    timesteps = np.float32([0, 1, 500.5, 978.26, 999.9999, 1000, 4321.123])
    angles = timesteps.astype(np.float64)[:, None] * 10000.0 ** (-np.arange(128) / 128)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], -1)
    np.testing.assert_allclose(jax.jit(lambda t: sinusoid(t, 256))(timesteps), expected, atol=1e-6)


def test_the_feed_forward_nonlinearity_rounds_once_in_bfloat16():
    x = np.linspace(-6, 6, 4001).astype(jnp.bfloat16).astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    value = 0.5 * x * (1 + np.tanh(inner))
    gradient = 0.5 * (1 + np.tanh(inner)) + 0.5 * x * slope / np.cosh(inner) ** 2
    inputs = x.astype(jnp.bfloat16)
    found = jax.jit(layers.gelu)(inputs)
    found_gradient = jax.jit(jax.grad(lambda x: jnp.sum(layers.gelu(x).astype(jnp.float32))))(inputs)
    half_a_step = 2.0**-8
    np.testing.assert_allclose(np.asarray(found, np.float64), value, rtol=half_a_step, atol=1e-5)
    np.testing.assert_allclose(np.asarray(found_gradient, np.float64), gradient, rtol=half_a_step, atol=1e-5)


def test_the_downsampler_drops_incomplete_groups_and_ignores_every_fourth_frame():
    layer = TemporalDownsampler(64, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((2, 9, 64)).astype(np.float32)
    lengths = {1: 1, 5: 2, 6: 2, 8: 2, 9: 3}
    assert {frames: jax.eval_shape(layer, x[:, :frames]).shape[1] for frames in lengths} == lengths
    changed = np.array(x)
    changed[:, [4, 8]] += 1
    compiled = jax.jit(lambda x: layer(x))
    found = np.asarray(compiled(x))
    np.testing.assert_array_equal(compiled(changed), found)
    np.testing.assert_array_equal(found[:, 0], x[:, 0])


def test_official_rounding_means_the_timestep_of_bfloat16():
    x = inputs()
    rounded = x | {"timestep": x["timestep"].astype(jnp.bfloat16).astype(np.float32)}
    assert (rounded["timestep"] != x["timestep"]).any()
    official = run(randomised(dataclasses.replace(SPACETIMEPILOT, official_rounding=True)), x)
    np.testing.assert_array_equal(official, run(randomised(SPACETIMEPILOT), rounded))
    assert np.abs(official - run(randomised(SPACETIMEPILOT), x)).max() > 1e-3


def test_long_sequences_attend_block_by_block_to_the_same_result(monkeypatch):
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 37, 2, 8)).astype(np.float32)
    loss = lambda: lambda q: jnp.sum(attention.attention(q, k, v) ** 2)  # noqa: E731 (each is traced)
    value_and_grad = lambda: jax.jit(jax.value_and_grad(loss()))(q)  # noqa: E731
    whole = value_and_grad()
    monkeypatch.setattr(attention, "LOGITS_BYTES", 4 * 2 * 2 * 37 * 5)  # five queries at a time
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), value_and_grad(), whole)


def test_a_model_says_what_it_must_be_given():
    model = randomised(SPACETIMEPILOT)
    with pytest.raises(ValueError, match="target.animation_time.*source.c2w.*text"):
        model.condition(latent_size=(1, 4, 4))
    with pytest.raises(ValueError, match="source is False"):
        dataclasses.replace(CONFIG, source=False)


def test_a_model_of_the_targets_poses_needs_none_of_the_source():
    model, x = randomised(VARIANTS["ReCamMaster"]), inputs()
    without = {name: value for name, value in x.items() if name != "source_c2w"}
    encoded = jax.jit(functools.partial(condition, model))
    jax.tree.map(np.testing.assert_array_equal, encoded(without), encoded(x))
    with pytest.raises(ValueError, match=r"must be given target\.c2w$"):
        condition(model, {name: value for name, value in without.items() if name != "target_c2w"})


def test_new_model_predicts_zero_and_ignores_conditioning():
    @jax.jit
    def starting():
        new = SpaceTimeDiT(CONFIG, rngs=nnx.Rngs(0))
        return flatten(new.head), [new.blocks.camera.kernel[...], new.blocks.animation_time.kernel[...]]

    head, of_conditioning = starting()
    graph, _ = kinds.abstract("dit", CONFIG)
    tensors = flatten(randomised(CONFIG)) | {f"head.{key}": value for key, value in head.items()}
    np.testing.assert_array_equal(run(bind(graph, tensors), inputs()), 0)
    for kernel in of_conditioning:
        np.testing.assert_array_equal(kernel, 0)


@pytest.mark.parametrize(
    ("key", "frame"),
    [("target_c2w", 6), ("source_c2w", 7), ("target_animation_time", 8), ("target_intrinsics", 3)],
)
def test_every_pixel_frame_of_the_conditioning_counts(key, frame):
    model, x = randomised(CONFIG), inputs()
    before = run(model, x)
    changed = np.array(x[key])
    changed[:, frame] += 0.1
    assert np.abs(run(model, x | {key: changed}) - before).max() > 1e-4


def test_rematerialisation_changes_no_gradient():
    """Of the blocks, which alone are computed again, and of what comes into them from the conditioning.

    Those of "full" are compared in test_fused_dit.py.
    """
    model, x = randomised(CONFIG), inputs()
    conditioning = jax.jit(lambda: condition(model, x))()
    gradients = []
    for changes in (
        {},
        {"remat": "dots"},
        {"remat": "attention", "ffn_parts": 4},
        {"remat": "offload"},
    ):
        model = randomised(dataclasses.replace(CONFIG, **changes))
        graph, blocks, rest = nnx.split(model, lambda path, _: path[0] == "blocks", ...)

        def loss(blocks, conditioning, graph=graph, rest=rest):
            model = nnx.merge(graph, blocks, rest)
            return jnp.mean(model(x["noisy"], x["source"], x["timestep"], conditioning) ** 2)

        gradients.append(jax.jit(jax.grad(loss, argnums=(0, 1)))(blocks, conditioning))
    for other in gradients[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), gradients[0], other)


@pytest.mark.parametrize("changes", [{}, {"camera": "pose12", "lora_rank": 2, "ffn_parts": 4}], ids=str)
def test_gates_multiplied_into_kernels_change_nothing_but_the_cost(monkeypatch, changes):
    config = dataclasses.replace(CONFIG, remat="attention", layers=1, unroll=True, **changes)
    (graph, state), x = nnx.split(randomised(config)), inputs()
    results, flops = [], []
    for threshold in (10**9, 0):
        monkeypatch.setattr(layers, "LONG_SEQUENCE", threshold)
        # Not through `forward`, which may have been traced with the other threshold.
        loss = lambda state: jnp.mean(forward.__wrapped__(graph, state, x) ** 2)  # noqa: E731
        compiled = jax.jit(jax.value_and_grad(loss)).lower(state).compile()
        results.append(compiled(state))
        flops.append(compiled.cost_analysis()["flops"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), *results)
    if not changes:
        assert flops[1] < flops[0]


@pytest.mark.parametrize("what", ["bias", "gated bias", "gate", "convolution's bias", "frames"])
def test_gradients_summed_over_many_tokens_count_every_token_in_bfloat16(what):
    """A sum of ones in bfloat16 stops at 256, or at some times that if it is taken in parts."""
    tokens = 2**15 if what != "gate" else 4000
    x = jnp.zeros((1, tokens, 2), jnp.bfloat16)

    def outputs(v):
        if what == "frames":
            return to_tokens(v.astype(jnp.bfloat16)[None, None], tokens, tokens + 16)
        if what == "convolution's bias":
            layer = Conv(2, 3, (1, 1), dtype="bfloat16", rngs=nnx.Rngs(0))
            layer.bias[...] = v
            return layer(x[:, None, None])
        layer = layers.Dense(2, 3, rngs=nnx.Rngs(0))
        layer.bias[...] = jnp.ones(3) if what == "gate" else v
        gates = {"bias": None, "gated bias": jnp.ones((1, 1, 3)), "gate": v[None, None]}
        return layer(x, gates[what])

    gradient = jax.jit(jax.grad(lambda v: jnp.sum(outputs(v).astype(jnp.float32))))(jnp.ones(3))
    np.testing.assert_allclose(gradient, tokens, rtol=1e-2)


def test_what_a_gradient_copies_of_the_parameters_is_in_16_bits():
    x = inputs()
    changes = dict(layers=6, dim=96, ffn_dim=2048, remat="full", dtype="bfloat16")
    config = dataclasses.replace(CONFIG, **changes)
    graph, state = nnx.split(nnx.eval_shape(lambda: SpaceTimeDiT(config, rngs=nnx.Rngs(0))))
    parameters = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.blocks))
    gradient = jax.jit(jax.grad(lambda state: jnp.mean(forward(graph, state, x) ** 2)))
    needed = gradient.lower(state).compile().memory_analysis()
    assert needed.temp_size_in_bytes < 1.75 * parameters  # copy and gradient; 2 in float32


def test_the_last_block_has_no_more_queries_than_it_needs(monkeypatch):
    model, x = randomised(CONFIG), inputs()
    x |= {name: x[name][:, :, :6, :6] for name in ("noisy", "source")}  # 3 frames of 3 x 3 tokens
    queries, real = set(), attention._local
    monkeypatch.setattr(attention, "_local", lambda q, *rest: queries.add(q.shape[1]) or real(q, *rest))
    jax.eval_shape(functools.partial(forward.__wrapped__, *nnx.split(model), x))  # traced anew
    assert queries == {56, 32}  # 54 and 27, padded to multiples of 8


def test_the_form_for_sampling_predicts_the_same():
    model, x = randomised(SPACETIMEPILOT), inputs()
    graph, state = nnx.split(model)

    @jax.jit
    def predict(state, x):
        model = nnx.merge(graph, state)
        return model(x["noisy"], x["source"], x["timestep"], condition(model, x), differentiable=False)

    np.testing.assert_allclose(predict(state, x), run(model, x), rtol=1e-5, atol=1e-5)


def test_rope_modes_differ_and_unknown_ones_are_refused():
    x = with_memory(inputs())
    config = VARIANTS["ours with a memory"]
    tensors = {key: np.asarray(value) for key, value in flatten(randomised(config)).items()}
    outs = [
        reference_dit.predict(tensors, dataclasses.replace(config, rope_frames=mode), x, 0)
        for mode in ("stream", "shared", "animation_time")  # the model equals the reference in each
    ]
    for one, other in itertools.combinations(outs, 2):
        assert np.abs(one - other).max() > 1e-3
    with pytest.raises(ValueError, match="rope_frames"):
        dataclasses.replace(CONFIG, rope_frames="spiral")
