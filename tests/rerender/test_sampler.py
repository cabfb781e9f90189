"""Sampling is the Euler integration of the guided velocity, step by step."""

import itertools
import math

import jax
import numpy as np
import pytest
from flax import nnx

from stp_jax import flow
from stp_jax.controls.view import view_of
from stp_jax.official.noise import official_noise
from stp_jax.rerender import speed
from stp_jax.rerender.caching import VelocityCache
from stp_jax.rerender.given import lowest_known
from stp_jax.rerender.sampler import Sampler, jax_noise, mesh_for_one_video
from tests.models.test_dit import SPACETIMEPILOT, inputs, randomised

STEPS, SHIFT, SIZE = 5, 5.0, (3, 8, 8)


@pytest.fixture(scope="module")
def parts():
    model, x = randomised(SPACETIMEPILOT), inputs()
    views = view_of(x, "target"), view_of(x, "source")
    graph, state = nnx.split(model)
    return model, Sampler(graph), state, x, views


@pytest.fixture(scope="module")
def reference(parts):
    """`velocity(latents, sigma, guidance)` in float64, by the model alone; a sampler's conditioning."""
    model, sampler, state, x, views = parts
    negative = np.random.default_rng(9).standard_normal(x["text"].shape).astype(np.float32)
    graph = nnx.graphdef(model)

    @jax.jit
    def predicted(state, latents, timestep, text):
        model = nnx.merge(graph, state)
        return model(latents, x["source"], timestep, model.condition(*views, text=text, latent_size=SIZE))

    def velocity(latents, sigma, guidance):
        given = state, latents.astype(np.float32), np.full(2, 1000 * sigma, np.float32)
        v = np.asarray(predicted(*given, x["text"]), np.float64)
        if guidance is None:
            return v
        other = np.asarray(predicted(*given, negative), np.float64)
        return other + guidance * (v - other)

    def conditioning(guidance):
        return sampler.condition(state, views, x["text"], negative if guidance else None, latent_size=SIZE)

    return velocity, conditioning


def levels(steps=STEPS):
    u = 1 - np.arange(steps + 1) / steps
    return SHIFT * u / (1 + (SHIFT - 1) * u)


def sampled(parts, conditioning, guidance, steps=STEPS, **options):
    _, sampler, state, x, _ = parts
    given = x["noisy"], x["source"], conditioning, flow.sampling_sigmas(steps, SHIFT)
    return np.asarray(sampler.sample(state, *given, guidance=guidance, **options))


def near(result, expected):
    return np.abs(result - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("guidance", [None, 5.0])
def test_five_steps_equal_a_loop_in_float64(parts, reference, guidance):
    _, sampler, state, x, _ = parts
    velocity, condition = reference
    expected = x["noisy"].astype(np.float64)
    for sigma, following in itertools.pairwise(levels()):
        expected = expected + (following - sigma) * velocity(expected, sigma, guidance)

    conditioning, seen, finite, forwards = condition(guidance), [], [], []
    result = sampled(
        parts,
        conditioning,
        guidance,
        progress=lambda number, latents: seen.append(number),
        finite=finite,
        forwards=forwards,
    )
    assert near(result, expected)
    assert seen == list(range(STEPS)) and all(finite) and forwards == [2 if guidance else 1] * STEPS
    # Knobs that leave nothing out change no bit.
    idle = sampled(parts, conditioning, guidance, guidance_interval=(0.0, 1.0), cache_threshold=0.0)
    np.testing.assert_array_equal(idle, result)
    # A step that overflows is named, and none before it.
    sigmas, flags = np.array([1, 0.5, np.inf, 0], np.float32), []
    sampler.sample(state, x["noisy"], x["source"], conditioning, sigmas, guidance=guidance, finite=flags)
    assert [bool(flag) for flag in flags] == [True, False, False]


def test_guidance_is_on_within_its_interval_alone(parts, reference):
    (velocity, condition), expected = reference, parts[3]["noisy"].astype(np.float64)
    sigmas, interval = levels(), (0.6, 0.96)
    inside = [interval[0] <= sigma <= interval[1] for sigma in sigmas[:-1]]
    assert inside == [False, True, True, True, False]
    for sigma, following, guided in zip(sigmas[:-1], sigmas[1:], inside, strict=True):
        expected = expected + (following - sigma) * velocity(expected, sigma, 5.0 if guided else None)
    forwards = []
    result = sampled(parts, condition(5.0), 5.0, guidance_interval=interval, forwards=forwards)
    assert near(result, expected) and forwards == [1, 2, 2, 2, 1]
    with pytest.raises(ValueError, match="no batch of both"):
        sampled(parts, condition(5.0), 5.0, guidance_interval=interval, batched_guidance=True)


def test_known_frames_are_put_in_place_down_to_the_lowest_level(parts, reference):
    (velocity, condition), noise = reference, parts[3]["noisy"].astype(np.float64)
    known = np.random.default_rng(4).standard_normal(noise[:, :2].shape)
    sigmas, expected = levels(), noise
    assert sum(sigmas[:-1] >= 0.7) == 4
    for sigma, following in itertools.pairwise(sigmas):
        if sigma >= 0.7:
            begun = (1 - sigma) * known + sigma * noise[:, :2]
            expected = np.concatenate([begun, expected[:, 2:]], axis=1)
        expected = expected + (following - sigma) * velocity(expected, sigma, None)
    given = {"known": known.astype(np.float32), "lowest_known": 0.7}
    assert near(sampled(parts, condition(None), None, **given), expected)
    assert [lowest_known(one, 4) for one in (known, known[:, :1], None)] == [0.7, 0, 0]
    assert lowest_known(known, 0) == 0


def easy_cache(velocity, x, sigmas, threshold, guidance, interval, known=None):
    """EasyCache as in its paper, by sums of predicted changes for each video of `x` [B, ...].

    Frames that are `known` are put in their place before each step; what changes are the others.

    Returns the latents after the last step, and the forwards of each.
    """

    def size(a):
        return np.abs(a[:, in_place:]).mean((1, 2, 3, 4))

    noise, in_place = x, 0 if known is None else known.shape[1]
    steps = len(sigmas) - 1
    guided = [guidance is not None and interval[0] <= sigma <= interval[1] for sigma in sigmas[:-1]]
    rate, total, forwards = np.full(len(x), 1 / 3), np.zeros(len(x)), []
    kept = at = before = None
    for number, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        if known is not None:
            x = np.concatenate([(1 - sigma) * known + sigma * noise[:, :in_place], x[:, in_place:]], 1)
        jump = number == 0 or guided[number] != guided[number - 1]
        new = velocity(x, sigma, guidance if guided[number] else None)
        if number == 0:
            kept, at, before = new, x, x
        total = total + rate * size(x - before) / size(kept)
        always = jump or number < math.ceil(steps / 5) or number == steps - 1
        wanted = (total >= threshold) | always
        if not jump:
            rate = np.where(wanted, size(new - kept) / size(x - at), rate)
        total = np.where(wanted, 0, total)
        spread = wanted[:, None, None, None, None]
        kept, at, before = np.where(spread, new, kept), np.where(spread, x, at), x
        x = x + (following - sigma) * kept
        forwards.append(int(wanted.any()) * (1 + guided[number]))
    return x if known is None else np.concatenate([known, x[:, in_place:]], 1), forwards


@pytest.mark.parametrize(("guidance", "interval"), [(None, (0.0, 1.0)), (5.0, (0.55, 0.9))])
def test_velocities_are_reused_as_easy_cache_says(parts, reference, guidance, interval):
    (velocity, condition), x = reference, parts[3]["noisy"].astype(np.float64)
    counts = []
    for threshold in (1e-6, 1.5, 3.0):
        expected, by_step = easy_cache(velocity, x, levels(12), threshold, guidance, interval)
        forwards, options = [], {"guidance_interval": interval, "cache_threshold": threshold}
        result = sampled(parts, condition(guidance), guidance, 12, **options, forwards=forwards)
        assert forwards == by_step and near(result, expected)
        counts.append(sum(forwards))
    assert counts[0] == sum(1 + (guidance is not None and 0.55 <= one <= 0.9) for one in levels(12)[:-1])
    assert counts[0] > counts[1] > counts[2]
    known = 3 * np.random.default_rng(4).standard_normal(x[:, :2].shape)
    forwards, options = [], {"guidance_interval": interval, "cache_threshold": 1.5, "known": known}
    expected, by_step = easy_cache(velocity, x, levels(12), 1.5, guidance, interval, known)
    result = sampled(parts, condition(guidance), guidance, 12, **options, forwards=forwards)
    assert forwards == by_step and near(result, expected)


def test_frames_in_place_do_not_decide_what_is_reused():
    """Six of eight, whose velocity stays, beside two whose velocity changes as that of a video of two."""
    velocities = np.random.default_rng(0).standard_normal((3, 1, 8, 2, 2, 4)).astype(np.float32)
    velocities[:, :, :6] = 1.0
    wanted = []
    for first, shown in ((6, slice(None)), (0, slice(6, None)), (0, slice(None))):
        cache = VelocityCache(velocities[0][:, shown], np.zeros(10, bool), 0.2, first)
        for number, sigma in enumerate((1.0, 0.9, 0.8)):
            cache.keep(number, sigma, np.ones(1, bool), velocities[number][:, shown])
        wanted.append([bool(cache.wanted(3, sigma)[0]) for sigma in (0.79, 0.775, 0.75, 0.7)])
    assert wanted[0] == wanted[1] == [False, True, True, True]
    assert wanted[2] != wanted[0]  # where they count


@pytest.mark.parametrize(("preset", "most"), [("exact", 40), ("fast", 33), ("draft", 28)])
def test_forwards_of_twenty_guided_steps(parts, reference, preset, most):
    knobs, (_, condition) = speed.PRESETS[preset], reference
    made, reusing = [], []
    options = {"guidance_interval": knobs.guidance_interval, "steps": 20}
    sampled(parts, condition(5.0), 5.0, **options, forwards=made)
    # Where no change reaches the threshold: the first four steps, that at which guidance ends, the last.
    sampled(parts, condition(5.0), 5.0, **options, cache_threshold=1e9, forwards=reusing)
    ends = [] if preset == "exact" else [1]
    assert sum(made) == most and [one for one in reusing if one] == [2] * 4 + ends + [1 + (not ends)]


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
