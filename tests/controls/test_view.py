"""A view's frames, batch axis and names in a batch; parts that a model has no use for stay None."""

import numpy as np

from stp_jax.controls.view import View, named, view_of

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


def test_names_in_a_batch_are_those_of_the_latent_caches_and_checkpoints():
    view = View(c2w=np.zeros((2, 5, 4, 4)), intrinsics=np.ones((2, 5, 4)), animation_time=np.arange(10))
    batch = named("source", view, latents="latents") | named("memory", View(c2w=view.c2w))
    assert list(batch) == [
        *("source_latents", "source_c2w", "source_intrinsics", "source_animation_time", "memory_c2w")
    ]
    for part, other in zip(view_of(batch, "source"), view, strict=True):
        assert part is other
    assert view_of(batch, "memory") == View(c2w=view.c2w)
    assert view_of(batch, "target") == View()


def test_a_clip_alone_has_plain_names():
    view = View(c2w=1, animation_time=3)
    assert named("", view, video=0) == {"video": 0, "c2w": 1, "animation_time": 3}
    assert view_of({"video": 0, "c2w": 1, "animation_time": 3}) == view
