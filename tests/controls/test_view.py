"""The names that a clip's arrays have in a batch."""

import numpy as np

from stp_jax.controls.view import View, named, view_of


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
