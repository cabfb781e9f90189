"""The task of a VAE: its config, its crops, and the PSNR of its pictures."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stp_jax.errors import InputError
from stp_jax.training.config import DiTTraining, make_config
from stp_jax.training.run import make_task
from stp_jax.training.vae_task import VAETask, random_crop
from stp_jax.training.videos import psnr
from tests.training.real_models import SIZE, vae_config


def test_pictures_have_captions_where_training_has_them():
    config = make_config(DiTTraining, data=dict(captions="a"))
    assert config.pictures.data.captions == "a"
    config.data.captions = "b"
    assert config.pictures.data.captions == "b"
    own = make_config(DiTTraining, data=dict(captions="a"), pictures=dict(data=dict(captions="own")))
    assert own.pictures.data.captions == "own"
    config = vae_config(Path("none"))
    config.data.captions = "a"
    with pytest.raises(InputError, match="config.data.captions is a, but a VAE takes no text"):
        VAETask(config)


def test_psnr_is_of_each_whole_video_then_averaged():
    reference = np.zeros((2, 3, 4, 4, 3), np.float32)
    video = reference.copy()
    video[0] += 0.2  # mean squared error 0.01 of the range [0, 1]
    video[1, 0] += 0.6  # 0.03 on average over three frames
    np.testing.assert_allclose(psnr(video, reference), (20 + 10 * np.log10(1 / 0.03)) / 2, rtol=1e-5)


def test_crops_are_windows_of_their_own_clips_and_reach_every_corner():
    pixels = np.arange(64 * 2 * 6 * 5).reshape(64, 2, 6, 5, 1).repeat(3, -1)
    crops = np.asarray(random_crop(jnp.asarray(pixels), 4, jax.random.key(0)))
    corners = set()
    for clip, crop in zip(pixels, crops, strict=True):
        places = [(y, x) for y in range(3) for x in range(2) if crop[0, 0, 0, 0] == clip[0, y, x, 0]]
        ((y, x),) = places
        np.testing.assert_array_equal(crop, clip[:, y : y + 4, x : x + 4])
        corners.add((y, x))
    assert corners == {(y, x) for y in range(3) for x in range(2)}
    assert random_crop(pixels, 0, jax.random.key(0)) is pixels


@pytest.mark.parametrize("crop", [SIZE + 1, -8])
def test_crop_that_does_not_fit_is_refused(crop):
    config = vae_config(Path("none"))
    config.crop = crop
    with pytest.raises(InputError, match="config.crop.*1 to 16"):
        make_task(config)
