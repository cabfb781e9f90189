"""The variants of the DiT that a config may ask for: each against float64 or against an equal computation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stp_jax.controls import cameras
from stp_jax.devices.sharding import batch_sharding, make_mesh
from stp_jax.models import camera_attention
from stp_jax.models.attention import attention
from stp_jax.models.block import to_tokens
from stp_jax.models.config import LEAST_SIGMA, DiTConfig
from stp_jax.models.dit import SpaceTimeDiT
from stp_jax.models.rope import axis_frequencies, rotary_tables
from tests.models.test_dit import (
    CONFIG,
    FRAMES,
    LATENT_FRAMES,
    SIZE,
    condition,
    forward,
    inputs,
    randomised,
    run,
)

WIDE = dataclasses.replace(CONFIG, dim=64)  # heads of 32
VARIANTS = {
    "animation_time_modulation": {"animation_time_modulation": True},
    "prope": {"camera_attention": "prope"},
    "prope alone": {"camera_attention": "prope", "camera": "none"},
    "value_residual": {"value_residual": True},
    "all": {
        "animation_time_modulation": True,
        "camera_attention": "prope",
        "prediction": "x0",
        "value_residual": True,
        "source_patch": 1,
    },
}


def copied(into: SpaceTimeDiT, model: SpaceTimeDiT) -> SpaceTimeDiT:
    """`into` with all parameters that `model` has, too."""
    known = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    state = nnx.to_flat_state(nnx.state(into, nnx.Param))
    nnx.update(into, nnx.from_flat_state({path: known.get(path, value) for path, value in state}))
    return into


@pytest.mark.parametrize("name", ["all"])
def test_eight_devices_predict_what_one_does(name):
    x = inputs()
    x |= {clip: x[clip][:, :, :6, :6] for clip in ("noisy", "source")}  # tokens that do not divide by 8
    model = randomised(dataclasses.replace(WIDE, **VARIANTS[name]))
    graph, state = nnx.split(model)
    alone = np.asarray(forward(graph, state, x))
    gradient = jax.grad(lambda state: jnp.mean(forward(graph, state, x) ** 2))
    expected = jax.tree.leaves(jax.jit(gradient)(state))
    mesh = make_mesh(data=2, sequence=2, tensor=2)
    with jax.set_mesh(mesh):
        shared = jax.device_put(x, batch_sharding(mesh))
        np.testing.assert_allclose(
            forward(graph, state, shared), alone, rtol=1e-3, atol=2e-5 * np.abs(alone).max()
        )
        gradient = jax.grad(lambda state: jnp.mean(forward(graph, state, shared) ** 2))
        for a, b in zip(jax.tree.leaves(jax.jit(gradient)(state)), expected, strict=True):
            assert np.abs(a - b).max() < 1e-3 * np.abs(b).max() + 1e-7


@pytest.mark.parametrize("name", ["animation_time_modulation", "value_residual"])
def test_a_trained_model_starts_unchanged(name):
    base = randomised(WIDE)
    if name == "animation_time_modulation":  # which stands in the place of the added projection
        base.blocks.animation_time.kernel[...] *= 0
        base.blocks.animation_time.bias[...] *= 0
    model = copied(SpaceTimeDiT(dataclasses.replace(WIDE, **VARIANTS[name]), rngs=nnx.Rngs(0)), base)
    expected = run(base, inputs())
    np.testing.assert_allclose(run(model, inputs()), expected, atol=2e-6 * np.abs(expected).max())


def test_a_modulation_that_only_shifts_the_first_norm_is_the_added_projection():
    base = randomised(WIDE)
    model = copied(randomised(dataclasses.replace(WIDE, animation_time_modulation=True)), base)
    for leaf in ("kernel", "bias"):
        added = getattr(base.blocks.animation_time, leaf)[...]
        parts = jnp.concatenate([added, 0 * added, 0 * added, 0 * added], axis=-1)
        getattr(model.blocks.animation_time_modulation, leaf)[...] = parts
    expected = run(base, inputs())
    np.testing.assert_allclose(run(model, inputs()), expected, atol=1e-5 * np.abs(expected).max())


def test_the_modulation_scales_and_shifts_both_norms_of_a_frame():
    """One block, whose attention and feed-forward net read a constant `c = shift` where the norm is scaled to
    nothing."""
    config = dataclasses.replace(WIDE, layers=1, animation_time_modulation=True)
    model, x = randomised(config), inputs()
    block = model.blocks
    dim = config.dim
    block.animation_time_modulation.kernel[...] *= 0
    block.modulation[...] *= 0
    model.timestep_projection.kernel[...] *= 0
    model.timestep_projection.bias[...] = jnp.concatenate(
        [jnp.zeros(5 * dim), jnp.ones(dim)]  # of all only the gate of the feed-forward net is open
    )
    shift = jnp.asarray(np.random.default_rng(0).standard_normal(dim), jnp.float32)
    block.animation_time_modulation.bias[...] = jnp.concatenate([jnp.zeros(2 * dim), shift, -jnp.ones(dim)])[
        None
    ]
    graph, state = nnx.split(model)
    hidden = np.asarray(shift, np.float64) @ np.asarray(block.ffn_in.kernel[0], np.float64)
    hidden += np.asarray(block.ffn_in.bias[0])
    hidden *= 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    added = hidden @ np.asarray(block.ffn_out.kernel[0], np.float64) + np.asarray(block.ffn_out.bias[0])
    plain = copied(SpaceTimeDiT(dataclasses.replace(config, layers=1), rngs=nnx.Rngs(0)), model)
    plain.blocks.ffn_out.kernel[...] *= 0
    plain.blocks.ffn_out.bias[...] = jnp.asarray(added, jnp.float32)[None]
    expected = run(plain, x)
    np.testing.assert_allclose(
        np.asarray(forward(graph, state, x)), expected, atol=1e-5 * np.abs(expected).max()
    )


# --- cameras inside attention -------------------------------------------------------------------


def poses(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    c2w = np.stack([cameras.preset(name, FRAMES).c2w for name in ("orbit_left", "crane_up")]).astype(
        np.float32
    )
    low, high = (0.9, 0.9, 0.4, 0.45), (1.4, 1.4, 0.6, 0.55)
    return c2w, rng.uniform(low, high, (2, FRAMES, 4)).astype(np.float32)


def projections64(c2w: np.ndarray, intrinsics: np.ndarray, scale: float) -> np.ndarray:
    """World to picture as 4 x 4 matrices of the frames 0, 4, 8, ..., [B, F', 4, 4]."""
    c2w, intrinsics = c2w[:, ::4].astype(np.float64), intrinsics[:, ::4].astype(np.float64)
    c2w = c2w.copy()
    c2w[..., :3, 3] /= scale
    k = np.zeros_like(c2w)
    k[..., 0, 0], k[..., 1, 1] = intrinsics[..., 0], intrinsics[..., 1]
    k[..., 0, 2], k[..., 1, 2] = intrinsics[..., 2] - 0.5, intrinsics[..., 3] - 0.5
    k[..., 2, 2] = k[..., 3, 3] = 1
    return k @ np.linalg.inv(c2w)


def test_projections_are_those_of_float64_and_their_inverses():
    c2w, intrinsics = poses()
    expected = projections64(c2w, intrinsics, 4.0)
    found = np.asarray(camera_attention.latent_projections(jnp.asarray(c2w), jnp.asarray(intrinsics), 4.0))
    np.testing.assert_allclose(found[:, :, 0], expected, atol=1e-6)
    np.testing.assert_allclose(found[:, :, 1], np.linalg.inv(expected), atol=2e-6)


def test_prope_is_attention_by_relative_projections():
    rng, grid, heads, width = np.random.default_rng(0), (2, 3), 2, 16
    c2w, intrinsics = poses()
    per_frame = grid[0] * grid[1]
    n = LATENT_FRAMES * per_frame
    q, k, v = rng.standard_normal((3, 2, n, heads, width)).astype(np.float32)
    positions = rng.uniform(0, 8, (2, LATENT_FRAMES)).astype(np.float32)
    cos, sin = rotary_tables(jnp.asarray(positions), grid, width // 2)
    one = camera_attention.latent_projections(jnp.asarray(c2w), jnp.asarray(intrinsics), 4.0)
    own = jnp.repeat(one, per_frame, axis=1)
    a = attention(
        camera_attention.encode_queries(q, own, cos, sin),
        camera_attention.encode_keys(k, own, cos, sin),
        camera_attention.encode_values(v, own),
    )
    found = np.asarray(camera_attention.decode(a, own))

    p = np.repeat(projections64(c2w, intrinsics, 4.0), per_frame, axis=1)
    frequencies = axis_frequencies(width // 2)
    row, column = (x.reshape(-1) for x in np.indices(grid))
    for b in range(2):
        place = (
            np.repeat(positions[b], per_frame),
            np.tile(row, LATENT_FRAMES),
            np.tile(column, LATENT_FRAMES),
        )
        angle = np.concatenate([x[:, None] * f for x, f in zip(place, frequencies, strict=True)], 1)
        turn = np.exp(1j * angle)
        relative = np.einsum("iab,jbc->ijac", p[b], np.linalg.inv(p[b]))
        for h in range(heads):
            # Component i of all vectors of four comes before component i + 1.
            own = [x[b, :, h].astype(np.float64) for x in (q, k, v)]
            four = [x[:, : width // 2].reshape(n, 4, width // 8) for x in own]
            pairs = [(x[:, width // 2 : 3 * width // 4] + 1j * x[:, 3 * width // 4 :]) * turn for x in own]
            logits = np.einsum("iac,ijab,jbc->ij", four[0], relative, four[1])
            logits += (pairs[0] @ pairs[1].conj().T).real
            weight = np.exp(logits / np.sqrt(width))
            weight /= weight.sum(1, keepdims=True)
            out = np.einsum("ij,ijab,jbc->iac", weight, relative, four[2]).reshape(n, -1)
            rest = weight @ own[2][:, width // 2 :]
            np.testing.assert_allclose(found[b, :, h], np.concatenate([out, rest], 1), atol=2e-5)


def test_prope_knows_cameras_by_their_relation_alone():
    model, x = randomised(dataclasses.replace(WIDE, **VARIANTS["prope alone"])), inputs()
    before = run(model, x)
    moved = cameras.preset("crane_up", FRAMES).c2w[-1].astype(np.float64)
    moved[:3, 3] += (0.3, -0.2, 0.5)
    other = {
        name: (moved @ x[name].astype(np.float64)).astype(np.float32) for name in ("source_c2w", "target_c2w")
    }
    scale = np.abs(before).max()
    np.testing.assert_allclose(run(model, x | other), before, atol=2e-5 * scale)
    alone = {"target_c2w": other["target_c2w"]}
    assert np.abs(run(model, x | alone) - before).max() > 1e-3 * scale


# --- the others ---------------------------------------------------------------------------------


def test_velocity_follows_from_the_predicted_x0():
    model, x = randomised(WIDE), inputs()
    x["timestep"] = np.float32([20, 870])
    x0 = run(model, x).astype(np.float64)
    found = run(copied(SpaceTimeDiT(dataclasses.replace(WIDE, prediction="x0"), rngs=nnx.Rngs(0)), model), x)
    sigma = np.array([LEAST_SIGMA, 0.87])[:, None, None, None, None]  # 0.02 is below the least
    np.testing.assert_allclose(found, (x["noisy"] - x0) / sigma, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_whole_value_residual_gives_every_block_the_values_of_the_first(remat):
    """With the share 1 the other blocks' values must not count; with 0 those of the first only there."""
    config = dataclasses.replace(WIDE, value_residual=True, remat=remat)
    x = inputs()

    def changed(share: float, layer: int) -> float:
        model = randomised(config)
        model.blocks.value_residual[...] = jnp.full((config.layers, 1), share)
        before = run(model, x)
        model.blocks.v.kernel[...] = model.blocks.v.kernel[...].at[layer].multiply(2)
        return float(np.abs(run(model, x) - before).max() / np.abs(before).max())

    assert changed(1.0, 1) < 1e-5 < 1e-2 < changed(1.0, 0)
    assert changed(0.0, 1) > 1e-2


def test_finer_source_tokens_stand_at_the_centres_of_their_cells():
    coarse, fine = (
        [np.asarray(t)[0] for t in rotary_tables(jnp.zeros((1, 1)), grid, 24, cell=cell)]
        for grid, cell in (((3, 3), 1.0), ((6, 6), 0.5))
    )
    frequencies = axis_frequencies(24)[1]
    place = (np.arange(6) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(place[:4], [-0.25, 0.25, 0.75, 1.25])
    rows = np.repeat(place, 6)[:, None] * frequencies
    start = len(axis_frequencies(24)[0])
    np.testing.assert_allclose(fine[0][:, 0, start : start + rows.shape[1]], np.cos(rows), atol=1e-6)
    np.testing.assert_allclose(fine[1][:, 0, start : start + rows.shape[1]], np.sin(rows), atol=1e-6)
    assert coarse[0].shape == (9, 1, 12)


def test_source_tokens_of_the_target_s_size_are_the_plain_model():
    """source_patch = patch has an embedding of its own and is otherwise the same."""
    base = randomised(CONFIG)
    model = copied(randomised(dataclasses.replace(CONFIG, source_patch=CONFIG.patch)), base)
    for leaf in ("kernel", "bias"):
        getattr(model.source_embedding, leaf)[...] = getattr(base.patch_embedding, leaf)[...]
    expected = run(base, inputs())
    np.testing.assert_allclose(run(model, inputs()), expected, atol=1e-5 * np.abs(expected).max())


def test_every_source_cell_counts_by_itself_and_tokens_are_counted():
    config = dataclasses.replace(CONFIG, source_patch=1)
    size = (LATENT_FRAMES, SIZE, SIZE)
    assert config.clip_tokens(size) == {"target": 48, "source": 192}
    model, x = randomised(config), inputs()
    shared = condition(model, x).shared
    assert shared.rays.shape[1] == shared.cos.shape[1] == 240


def test_frames_of_two_sizes_of_tokens_are_spread_alike_on_one_device_and_on_several():
    frames = jnp.asarray(np.random.default_rng(0).standard_normal((8, 4, 3)), jnp.float32)
    expected = np.concatenate(
        [np.repeat(frames[:, :2], 3, axis=1), np.repeat(frames[:, 2:], 12, axis=1), np.zeros((8, 2, 3))],
        axis=1,
    )
    spread = jax.jit(lambda frames: to_tokens(frames, 30, 32, 4))
    np.testing.assert_array_equal(spread(frames), expected)
    with jax.set_mesh(make_mesh(data=2, sequence=4)):
        np.testing.assert_allclose(
            jax.jit(lambda frames: to_tokens(frames, 30, 32, 4))(frames), expected, atol=1e-6
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera_attention": "rope"}, "camera_attention"),
        ({"camera_attention": "prope", "dim": 24}, "multiple of 8"),
        ({"animation_time": "official_conv", "animation_time_modulation": True}, "animation_time_modulation"),
        ({"prediction": "noise"}, "prediction"),
        ({"source_patch": 3}, "source_patch"),
        ({"source": False, "camera": "none", "animation_time": "none", "source_patch": 1}, "source is False"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DiTConfig(**(dataclasses.asdict(CONFIG) | changes))
