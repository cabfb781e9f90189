"""Plans of windows and choices of a memory, against closed forms."""

import numpy as np
import pytest
from scipy import ndimage

from stp_jax.controls import cameras
from stp_jax.controls.view import View
from stp_jax.errors import InputError
from stp_jax.rerender import memory_choice, windows
from stp_jax.rerender.takes import Takes


@pytest.mark.parametrize("frames", [5, 17, 81])
@pytest.mark.parametrize("length", [18, 100, 497, 500])
@pytest.mark.parametrize("overlap", [1, 9, 17])
def test_windows_cover_the_video_and_latents_fit_on_each_other(frames, length, overlap):
    if not overlap < frames < length:
        return
    plan = windows.plan(np.linspace(0, length - 1, length), frames, overlap, length)
    number = len(plan.starts)
    assert plan.starts[0] == 0 and not (plan.starts % 4).any()
    assert number == 1 + -(-(length - frames) // (frames - overlap))  # no more than are needed
    common = [plan.overlap(i) for i in range(number)]
    assert common[0] == 0 and set(common[1:-1]) <= {overlap} and overlap <= common[-1] < frames
    assert np.array_equal(plan.target_frames(number - 1)[-4:][:1] <= length - 1, [True])
    finals = np.concatenate([np.arange(plan.starts[i], plan.new_until(i)) for i in range(number)])
    assert np.array_equal(finals, np.arange(length))
    assert all(plan.new_until(i) <= plan.starts[i] + frames for i in range(number))
    # A latent frame belongs to the first window that has it, and is there one of four frames.
    latents = 1 + np.arange((plan.starts[-1] + frames - 1) // 4)
    owners = plan.owner(latents)
    places = latents - plan.starts[owners] // 4
    assert (places >= 1).all() and (places < plan.latent_frames).all()
    before = owners > 0
    assert (latents[before] > plan.starts[owners[before] - 1] // 4 + plan.latent_frames - 1).all()


def test_the_source_follows_the_clock():
    forward = windows.plan(np.arange(65.0), 17, 1, 65)
    assert np.array_equal(forward.sources, forward.starts)
    assert windows.source_start(np.full(17, 32.0), 17, 65) == 24  # in the middle
    assert windows.source_start(np.full(17, 1.0), 17, 65) == 0
    assert windows.source_start(np.full(17, 64.0), 17, 65) == 48
    half = 10 + np.arange(17) / 2  # 10 to 18
    assert windows.source_start(half, 17, 65) == 6
    double = 2 * np.arange(17.0)  # 0 to 32, of which 9 are in any 17 that begin at an even one
    assert windows.source_start(double, 17, 65) == 0
    reverse = windows.plan(np.arange(64.0, -1, -1), 17, 1, 65)
    assert np.array_equal(reverse.sources, 48 - reverse.starts)


def test_plans_that_are_impossible():
    clock = np.zeros(40)
    for overlap in (0, 2, 17, 21):
        with pytest.raises(InputError, match=f"--overlap {overlap}: windows of 17 frames overlap by 4n"):
            windows.plan(clock, 17, overlap, 40)
    with pytest.raises(InputError, match="the source has 16 frames there"):
        windows.plan(clock, 17, 1, 16)


def test_default_overlaps():
    clock, still = np.arange(40.0), np.full(40, 8.0)
    assert windows.default_overlap(clock, 81, Takes("pose12")) == 17
    assert windows.default_overlap(clock, 5, Takes("pose12")) == 1
    assert windows.default_overlap(clock, 17, Takes(memory=4)) == 1
    assert windows.default_overlap(clock, 17, Takes(memory=4), 5) == 5  # as the weights' notes say
    assert windows.default_overlap(clock, 5, Takes(memory=1), 5) == 1
    assert windows.default_overlap(still, 17, Takes(memory=4), 5) == 1
    assert windows.default_overlap(still, 81, Takes("pose12")) == 17


def test_blending_ends_with_the_window_that_goes_on():
    before, after = np.full((4, 2, 2, 3), 100, np.uint8), np.full((4, 2, 2, 3), 200, np.uint8)
    assert windows.blend(before, after)[:, 0, 0, 0].tolist() == [125, 150, 175, 200]
    assert np.array_equal(windows.blend(before[:1], after[:1]), after[:1])


def jumping(jump, frames=17, size=64):
    """One half of the picture grows lighter by 3 levels a frame, the other one jumps before frame 5."""
    video = np.full((frames, size, size, 3), 50.0)
    video[..., : size // 2, :] += 3 * np.arange(frames)[:, None, None, None]
    video[5:, :, size // 2 :] += jump
    return video


def test_a_jump_is_spread_over_two_frames_on_each_side():
    made = windows.without_jump(jumping(8).astype(np.uint8), 5)[:, 32, 60, 0]  # far from what does not jump
    # Of 8 levels 1 / (1 + (8 / 16)^2) are taken out, 6.4: half of it on either side, a quarter beyond.
    assert made.tolist() == [50, 50, 50, 52, 53, 55, 56, 58, 58, 58, 58, 58, 58, 58, 58, 58, 58]


def test_what_moves_fast_leaves_no_ghosts():
    made = windows.without_jump(jumping(150).astype(np.uint8), 5)
    assert np.abs(made.astype(int) - jumping(150)).max() <= 4  # of 75


def test_a_jump_as_of_other_steps_is_taken_in_part():
    video = jumping(8)
    video[3:] += 4  # of the step before frame 3
    video[7:] += 4
    near = np.diff(video[1:9], axis=0)
    of_steps = [near[at] - (near[at - 1] + near[at + 1]) / 2 for at in (1, 3, 5)]
    blurred = [ndimage.gaussian_filter(jump, (1, 1, 0)) for jump in of_steps]
    before, here, after = (ndimage.gaussian_filter(np.square(jump), (2, 2, 0)) for jump in blurred)
    taken = np.clip(1 - (before + after) / 2 / np.maximum(here, 1e-6), 0, 1) * blurred[1]
    taken /= 1 + (np.abs(blurred[1]).max(-1, keepdims=True) / 16) ** 2
    made = windows.without_jump(video.astype(np.uint8), 5)
    for frame, share in {2: 0, 3: 0.25, 4: 0.5, 5: -0.5, 6: -0.25, 7: 0}.items():
        assert np.abs(made[frame] - (video[frame] + share * taken)).max() <= 0.51


@pytest.mark.parametrize("first", [1, 3, 14])
def test_even_motion_and_short_sides_stay_as_they_are(first):
    assert np.array_equal(windows.without_jump(jumping(8).astype(np.uint16), first), jumping(8))
    assert np.array_equal(windows.without_jump(jumping(0).astype(np.uint8), 5), jumping(0))


def seen(moves, times=None, fov=90.0):
    """Cameras of a lens of `fov` degrees, at poses that are given as (yaw in degrees, x in metres)."""
    c2w = np.tile(np.eye(4), (len(moves), 1, 1))
    for pose, (yaw, x) in zip(c2w, moves, strict=True):
        a = np.radians(yaw)
        pose[:3, :3] = [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]
        pose[0, 3] = x
    lens = np.tile(cameras.default_intrinsics(fov), (len(moves), 1))
    return View(c2w, lens, np.zeros(len(moves)) if times is None else np.asarray(times, float))


def test_overlap_of_views_in_closed_form():
    one = seen([(0, 0)])
    others = seen([(0, 0), (180, 0), (90, 0), (0, 4), (0, 100)])
    same, behind, beside, moved, far = memory_choice.overlap(others, one, 4.0)[:, 0]
    assert same == 1 and behind == 0 and beside == 0 and far == 0
    # A picture of 90 degrees is 2 z wide at the depth z. 4 m to the side leave 1 - 4 / (2 z) of it: at 2, 4
    # and 8 m that is 0, 1/2, 3/4.
    assert moved == pytest.approx((0 + 1 / 2 + 3 / 4) / 3, abs=1e-12)
    # A turn by 45 degrees: x / z from 0 on is seen again, and rows where |y| <= the depth along the new axis.
    at = 2 * (np.arange(8) + 0.5) / 8 - 1
    x, y = np.meshgrid(at, at)
    turned = (x >= 0) & (np.abs(y) <= (1 + x) / np.sqrt(2))
    assert memory_choice.overlap(seen([(45, 0)]), one, 4.0)[0, 0] == pytest.approx(turned.mean())


def test_worth_of_a_memory():
    candidates, target = seen([(0, 0)] * 3, [0, 4, 1000]), seen([(0, 0)], [0])
    worths = memory_choice.worth(candidates, target, 4.0)[:, 0]
    np.testing.assert_allclose(worths, [1, (1 + np.exp(-1)) / 2, 0.5])


def test_candidates_are_bounded():
    assert memory_choice.thinned(np.arange(1, 9), 8).tolist() == list(range(1, 9))
    assert memory_choice.thinned(np.arange(100), 8).tolist() == [0, 19, 39, 58, 78, 97, 98, 99]


def test_a_memory_is_what_shows_the_same_not_only_what_is_recent():
    path = [(yaw, 0) for yaw in range(0, 200, 10)]
    earlier = seen(path)
    back = seen([(0, 0), (5, 0)])  # the camera has returned to its start
    chosen = memory_choice.choose(earlier, back, 3, 4.0)
    assert chosen.tolist() == [0, 1, 19]  # and the most recent
    assert memory_choice.choose(earlier, back, 30, 4.0).tolist() == list(range(20))
    still = seen([(0, 0)] * 9, np.arange(9))
    assert memory_choice.choose(still, seen([(0, 0)], [2]), 2, 4.0).tolist() == [2, 8]  # of the same time
    frozen = seen([(0, 0)] * 9)
    assert memory_choice.choose(frozen, seen([(0, 0)]), 3, 4.0).tolist() == [6, 7, 8]  # equals: the last
