"""Sampling is the Euler integration of the guided velocity, step by step."""

import math

import jax
import numpy as np
import pytest
from flax import nnx

from stp_jax import flow
from stp_jax.controls.view import view_of
from stp_jax.official.noise import official_noise
from stp_jax.rerender.sampler import Sampler, jax_noise, mesh_for_one_video
from tests.models.test_dit import SPACETIMEPILOT, inputs, randomised

STEPS, SHIFT, SIZE = 5, 5.0, (3, 8, 8)


@pytest.fixture(scope="module")
def parts():
    model, x = randomised(SPACETIMEPILOT), inputs()
    views = view_of(x, "target"), view_of(x, "source")
    graph, state = nnx.split(model)
    return model, Sampler(graph), state, x, views


@pytest.mark.parametrize("guidance", [None, 5.0])
def test_five_steps_equal_a_loop_in_float64(parts, guidance):
    model, sampler, state, x, views = parts
    negative = np.random.default_rng(9).standard_normal(x["text"].shape).astype(np.float32)
    velocity = jax.jit(
        lambda state, latents, timestep, text: nnx.merge(nnx.graphdef(model), state)(
            latents,
            x["source"],
            timestep,
            nnx.merge(nnx.graphdef(model), state).condition(*views, text=text, latent_size=SIZE),
        )
    )
    expected = x["noisy"].astype(np.float64)
    u = 1 - np.arange(STEPS + 1) / STEPS
    sigmas = SHIFT * u / (1 + (SHIFT - 1) * u)
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        at = np.full(2, 1000 * sigma, np.float32)
        v = np.asarray(velocity(state, expected.astype(np.float32), at, x["text"]), np.float64)
        if guidance:
            other = np.asarray(velocity(state, expected.astype(np.float32), at, negative), np.float64)
            v = other + guidance * (v - other)
        expected = expected + (following - sigma) * v

    conditioning = sampler.condition(
        state, views, x["text"], negative if guidance else None, latent_size=SIZE
    )
    seen, finite = [], []
    result = sampler.sample(
        state,
        x["noisy"],
        x["source"],
        conditioning,
        flow.sampling_sigmas(STEPS, SHIFT),
        guidance=guidance,
        progress=lambda number, latents: seen.append(number),
        finite=finite,
    )
    assert np.abs(np.asarray(result) - expected).max() < 1e-4 * np.abs(expected).max()
    assert seen == list(range(STEPS)) and all(finite)
    # A step that overflows is told from those before it.
    sigmas, flags = np.array([1, 0.5, np.inf, 0], np.float32), []
    sampler.sample(state, x["noisy"], x["source"], conditioning, sigmas, guidance=guidance, finite=flags)
    assert [bool(flag) for flag in flags] == [True, False, False]


@pytest.mark.parametrize(
    ("devices", "target_tokens", "guided", "sizes"),
    [
        (8, 32_760, True, (2, 4)),
        (8, 32_760, False, (1, 8)),
        (2, 32_760, True, (2, 1)),
        (3, 32_760, True, (1, 3)),
        (1, 32_760, True, (1, 1)),
        (8, 2_050, False, (1, 8)),  # though the tokens do not divide by it
        (8, 320, True, (1, 1)),  # not worth it
    ],
)
def test_one_video_takes_all_devices_if_it_is_worth_it(devices, target_tokens, guided, sizes):
    mesh = mesh_for_one_video(jax.devices()[:devices], target_tokens, guided=guided)
    assert (mesh.shape["data"], mesh.shape["sequence"]) == sizes and mesh.size == math.prod(sizes)


def test_noise_of_a_video_does_not_depend_on_its_batch():
    shape = (2, 3, 4, 4, 16)
    np.testing.assert_array_equal(jax_noise(3, (3, *shape[1:]))[:2], jax_noise(3, shape))
    assert np.abs(np.subtract(*jax_noise(3, shape))).max() > 0.1
    first, second = official_noise(3, shape)
    np.testing.assert_array_equal(first, second)
    # Drawn in the official order: channels before frames.
    channels_first = official_noise(3, (1, 1, 1, 1, 3 * 4 * 4 * 16)).reshape(16, 3, 4, 4)
    np.testing.assert_array_equal(first, channels_first.transpose(1, 2, 3, 0))
