"""A view's frames and batch axis; parts that a model has no use for stay None."""

import numpy as np

from stp_jax.controls.view import View

RNG = np.random.default_rng(0)
VIEW = View(RNG.standard_normal((2, 9, 4, 4)), RNG.standard_normal((2, 9, 4)), RNG.standard_normal((2, 9)))


def test_frames_are_chosen_by_slice_or_number_with_and_without_a_batch():
    for frames in (slice(1, 8, 3), np.array([8, 0, 0])):
        chosen = VIEW.at(frames)
        for array, whole in zip(chosen, VIEW, strict=True):
            np.testing.assert_array_equal(array, whole[:, frames])
        alone = View(*(array[1] for array in VIEW)).at(frames)
        for array, whole in zip(alone, VIEW, strict=True):
            np.testing.assert_array_equal(array, whole[1, frames])


def test_a_batch_of_one_clip_has_one_more_axis():
    for array, whole in zip(VIEW.as_batch(), VIEW, strict=True):
        np.testing.assert_array_equal(array[0], whole)
        assert array.shape == (1, *whole.shape)


def test_absent_parts_stay_absent():
    time = View(animation_time=[0.0, 1.0, 2.0])
    assert time.as_batch().animation_time.shape == (1, 3) and time.as_batch().c2w is None
    chosen = View(animation_time=np.arange(3)).at(slice(1, None))
    assert chosen.c2w is None and chosen.intrinsics is None and chosen.animation_time.tolist() == [1, 2]
