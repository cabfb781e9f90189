"""A cache of latents: continued where it ended, kept when it is whole, and joined with others."""

import numpy as np
import pytest
from test_pipeline import CLIPS, FRAMES, PER_PATH, ROWS, SCENES, write_cache

from input_pipeline.latents import LatentCache
from stp_jax.controls.view import View
from stp_jax.errors import InputError


def test_an_unfinished_cache_goes_on_and_a_finished_one_is_kept(tmp_path):
    write_cache(tmp_path, rows=[1])
    with pytest.raises(InputError, match="2 of 3 scenes are not written yet"):
        LatentCache.open(tmp_path)
    cache = write_cache(tmp_path, rows=[])
    assert cache.missing() == [0, 2]
    write_cache(tmp_path, rows=[0, 2])
    np.testing.assert_array_equal(
        LatentCache.open(tmp_path).clips_at(np.arange(ROWS))["latents"][:, 0, 0, 0, 0], np.arange(ROWS)
    )
    with pytest.raises(InputError, match="already complete"):
        write_cache(tmp_path)


def test_a_cache_of_other_settings_is_not_continued(tmp_path):
    write_cache(tmp_path, rows=[1])
    common = dict(
        scenes=SCENES, clips=CLIPS, frames=FRAMES, latent_shape=(2, 2, 2, 4), clips_per_path=PER_PATH
    )
    with pytest.raises(InputError, match=r"other settings \(vae\)"):
        LatentCache.create(tmp_path, meta={"vae": "another"}, **common)
    with pytest.raises(InputError, match="give no second camera path"):
        LatentCache.create(tmp_path / "new", meta={}, **common | dict(clips_per_path=CLIPS))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        LatentCache.create(tmp_path / "other", meta={}, **common)


def test_caches_are_joined_in_their_order(tmp_path):
    parts = []
    for i, scenes in enumerate((2, 1)):
        path = tmp_path / str(i)
        common = dict(clips=3, frames=5, latent_shape=(2, 2, 2, 4), clips_per_path=2)
        cache = LatentCache.create(path, scenes=scenes, meta={"vae": "test", "seed": 7 * i}, **common)
        for scene in range(scenes):
            rng = np.random.default_rng([i, scene])
            c2w = np.tile(np.eye(4), (3, 5, 1, 1))
            c2w[..., :3, 3] = rng.random((3, 5, 3))
            view = View(c2w, rng.random((3, 5, 4)), rng.random((3, 5)))
            cache.write(scene, rng.random((3, 2, 2, 2, 4)), view)
        parts.append(LatentCache.open(path))
    LatentCache.join(tmp_path / "all", parts)
    joined = LatentCache.open(tmp_path / "all")
    assert (joined.scenes, joined.clips, joined.clips_per_path) == (3, 3, 2)
    for rows, part in ((np.arange(6), parts[0]), (np.arange(6, 9), parts[1])):
        for name, expected in part.clips_at(rows - rows[0]).items():
            np.testing.assert_array_equal(joined.clips_at(rows)[name], expected)
    other = LatentCache.create(tmp_path / "other", scenes=1, meta={"vae": "another"}, **common)
    with pytest.raises(InputError, match=r"differ \(vae\)"):
        LatentCache.join(tmp_path / "both", [parts[0], other])
    assert not (tmp_path / "both").exists()
