"""A small latent cache of long paths, whose latents say what they are of."""

import numpy as np

from input_pipeline import pairs
from input_pipeline.latents import LatentCache
from stp_jax.controls.view import view_of
from tests.input_pipeline import synthetic

FRAMES, LATENT_FRAMES, WINDOWS, SCENES, CLIPS, PER_PATH, K = 9, 3, 3, 2, 12, 6, 2


def long_scene(times: int = 30):
    """A scene without pictures, one grid time for each source frame."""
    scene = synthetic.scene(times=2, step=1.0)
    return scene._replace(
        videos=np.zeros((5, times, 1, 1, 3), np.uint8),
        c2w=np.repeat(scene.c2w[:, :1], times, axis=1),
        intrinsics=np.repeat(scene.intrinsics[:, :1], times, axis=1),
        animation_time=np.arange(times, dtype=np.float32),
    )


def write_long_cache(path, windows=WINDOWS):
    """Latents that hold camera and animation time of their last picture, the clip and the latent frame."""
    cache = LatentCache.create(
        path, scenes=SCENES, clips=CLIPS, frames=FRAMES, latent_shape=(LATENT_FRAMES, 2, 2, 4),
        clips_per_path=PER_PATH, windows=windows, meta={"vae": "test"},
    )  # fmt: skip
    for scene in range(SCENES):
        rng = np.random.default_rng(scene)
        clips = pairs.random_clips(long_scene(), rng, FRAMES, CLIPS, PER_PATH, windows=windows)
        del clips["video"]
        number = np.arange(CLIPS)[:, None] + scene * CLIPS
        values = [
            clips["c2w"][:, ::4, 0, 3],
            clips["animation_time"][:, ::4],
            number,
            np.arange(LATENT_FRAMES),
        ]
        held = np.stack(np.broadcast_arrays(*values), -1)[:, :, None, None]
        cache.write(scene, np.broadcast_to(held, (CLIPS, LATENT_FRAMES, 2, 2, 4)), view_of(clips))
