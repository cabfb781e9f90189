"""Latent caches: what is damaged is found, and several processes write one cache, also after a kill."""

import json
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import latent_batches
from input_pipeline.config import default_config
from input_pipeline.latent_files import alone
from input_pipeline.latents import LatentCache
from stp_jax.controls.view import View
from stp_jax.encode_dataset import verify
from stp_jax.errors import InputError

SCENES, CLIPS, FRAMES = 12, 4, 5
SHAPE = dict(scenes=SCENES, clips=CLIPS, frames=FRAMES, latent_shape=(2, 2, 2, 3), clips_per_path=2)


def write(cache, scene, shard=(0, 1)):
    """Numbers that follow from the scene; every third one has captions."""
    rng = np.random.default_rng(scene)
    c2w = np.tile(np.eye(4), (CLIPS, FRAMES, 1, 1))
    c2w[..., :3, 3] = rng.standard_normal((CLIPS, FRAMES, 3))
    view = View(c2w, rng.random((CLIPS, FRAMES, 4)), rng.random((CLIPS, FRAMES)))
    captions = [] if scene % 3 else [f"scene {scene}", "狗"]
    cache.write(scene, rng.standard_normal((CLIPS, 2, 2, 2, 3)), view, captions, shard)


def create(path, **options):
    return LatentCache.create(path, **SHAPE, meta={"vae": "test"}, **options)


@pytest.fixture
def cache(tmp_path):
    made = create(tmp_path / "train")
    for scene in range(SCENES):
        write(made, scene)
    return tmp_path / "train"


def change(file, place, value):
    data = bytearray(file.read_bytes())
    data[place] ^= value
    file.write_bytes(data)


def place_of(name, scene, clip):
    """Where a clip begins in the file of an array."""
    count = {"latents": 2 * 24, "c2w": 4 * 80, "animation_time": 4 * FRAMES}[name]
    return 128 + (scene * CLIPS + clip) * count


def test_checksums_are_crc32_of_what_the_files_hold(cache):
    arrays = [np.load(cache / f"{name}.npy") for name in ("latents", "c2w", "intrinsics", "animation_time")]
    sums = np.load(cache / "checksums.npy")
    assert sums.shape == (SCENES, CLIPS + 1) and sums.dtype == np.uint32
    for scene, clip in ((0, 0), (7, 3)):
        assert sums[scene, clip] == zlib.crc32(b"".join(array[scene, clip].tobytes() for array in arrays))
    found = LatentCache.open(cache)
    assert found.captions == [() if s % 3 else (f"scene {s}", "狗") for s in range(SCENES)]
    rows = np.arange(SCENES * CLIPS)
    np.testing.assert_array_equal(found.clips_at(rows)["latents"].reshape(arrays[0].shape), arrays[0])


@pytest.mark.parametrize("name", ["latents", "c2w", "animation_time"])
def test_damage_that_looks_like_numbers_is_found_where_it_is_read(cache, name, capsys):
    change(cache / f"{name}.npy", place_of(name, 7, 2), 1)  # the lowest bit of a number
    found = LatentCache.open(cache)
    found.clips_at(np.array([7 * CLIPS + 1, 6 * CLIPS + 2]))
    for _ in range(2):
        with pytest.raises(InputError, match="scene 7 is damaged, it differs from its checksum; python -m"):
            found.pairs_at(np.array([0, 7 * CLIPS + 2]), np.array([1, 1]))
    with pytest.raises(SystemExit) as ended:
        verify.main([str(cache.parent), "--again"])
    assert ended.value.code == 1 and "1 scenes are damaged: 7\n" in capsys.readouterr().out
    again = create(cache)  # the command that wrote it
    assert again.missing() == [7]
    write(again, 7)
    verify.main([str(cache)])
    assert capsys.readouterr().out == f"{cache}: whole\n"


def test_captions_that_are_lost_or_changed_are_found(cache, capsys):
    file = cache / "captions_0_of_1.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    for changed in (lines[:1] + lines[2:], [lines[0], lines[1].replace("scene 3", "scene 4"), *lines[2:]]):
        file.write_text("".join(changed))
        with pytest.raises(InputError, match="captions of scene 3 are missing or damaged"):
            _ = LatentCache.open(cache).captions
        with pytest.raises(SystemExit):
            verify.main([str(cache)])
        assert "1 scenes are damaged: 3\n" in capsys.readouterr().out
    file.write_text("".join([lines[0], lines[1][:9], "\n", *lines[1:]]))  # an interruption, then continued
    assert LatentCache.open(cache).captions[3] == ("scene 3", "狗")


def test_a_cache_without_checksums_is_read_and_said(cache, capsys):
    meta = json.loads((cache / "meta.json").read_text())
    del meta["checksums"]
    (cache / "meta.json").write_text(json.dumps(meta))
    (cache / "checksums.npy").unlink()
    found = LatentCache.open(cache)
    assert found.captions == [()] * SCENES and found.clips_at(np.arange(3))["latents"].shape[0] == 3
    config = default_config()
    config.update(kind="latents", path=str(cache.parent))
    (remark,) = latent_batches.remarks(config, "train")
    assert "without checksums" in remark
    verify.main([str(cache)])
    assert "without checksums" in capsys.readouterr().out
    found = LatentCache.open(cache)
    LatentCache(found.path, found.meta, "r+").reopen(2)
    again = create(cache)  # one that an earlier version began
    write(again, 2)
    assert not again.missing()


def test_joined_caches_keep_checksums_and_captions(cache, tmp_path):
    part = LatentCache.open(cache)
    joined = LatentCache.join(tmp_path / "joined", [part, part])
    assert joined.captions == part.captions * 2
    one = np.load(cache / "checksums.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "joined" / "checksums.npy"), np.concatenate([one, one]))
    change(cache / "latents.npy", place_of("latents", 3, 0), 1)
    with pytest.raises(InputError, match="scene 3 is damaged"):
        LatentCache.join(tmp_path / "other", [LatentCache.open(cache)])


# Several processes ---------------------------------------------------------------------------------------

WRITER = """
import sys, time
sys.path[:0] = [{folder!r}, {root!r}]
import test_latent_checksums as t
path, number, count, seconds = sys.argv[1:]
shard = int(number), int(count)
cache = t.create(t.Path(path), shared=True)
with t.alone(cache.path, shard):
    for scene in cache.missing(shard):
        t.write(cache, scene, shard)
        time.sleep(float(seconds))
"""


def start(path, shard, seconds=0.0):
    here = Path(__file__).parent
    code = WRITER.format(folder=str(here), root=str(here.parent.parent))
    words = [str(path), *map(str, shard), str(seconds)]
    return subprocess.Popen([sys.executable, "-c", code, *words])


def test_processes_share_one_cache_and_one_may_be_killed(cache, tmp_path):
    path = tmp_path / "shared"
    slow, other = start(path, (0, 2), 30.0), start(path, (1, 2))
    assert other.wait(120) == 0
    deadline, underway = time.monotonic() + 120, create(path, shared=True)
    while underway.missing() != [2, 4, 6, 8, 10]:
        assert time.monotonic() < deadline, underway.missing()
        time.sleep(0.02)
    with pytest.raises(InputError, match=r"another process writes part_0_of_2; all that write at once need"):
        with alone(path, (0, 3)):
            pass
    slow.kill()
    slow.wait()
    with alone(path, (2, 3)):  # what is left, by another number of processes
        again = create(path, shared=True)
        for scene in again.missing((2, 3)):
            write(again, scene, (2, 3))
    again = create(path)
    assert again.missing() == [4, 6, 10]
    for scene in again.missing():
        write(again, scene)
    for file in ("latents", "c2w", "intrinsics", "animation_time", "complete", "checksums"):
        assert (path / f"{file}.npy").read_bytes() == (cache / f"{file}.npy").read_bytes()
    assert LatentCache.open(path).captions == LatentCache.open(cache).captions
    assert not create(path, shared=True).missing()
    with pytest.raises(InputError, match="already complete"):
        create(path)
