"""Coarse depth on its way from scene folders to batches, of scenes whose depth says which cell is which."""

import json
import pickle
import shutil

import numpy as np
import pytest
import synthetic

from input_pipeline import augment, pairs
from input_pipeline.config import default_config
from input_pipeline.datasets import cam_x_time, from_grids
from input_pipeline.datasets.reading import open_records
from input_pipeline.fitting import Fit
from input_pipeline.latents import LatentCache
from input_pipeline.pipeline import make_clips, make_dataset
from input_pipeline.shots import decode_scene
from stp_jax.controls.view import view_of
from stp_jax.errors import InputError

FRAMES = 5
WITH_DEPTH = Fit((8, 16), depth=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes 0 and 1 with depth and 2 (of the test split) without, and their data set."""
    folder = tmp_path_factory.mktemp("depth")
    for index, name in enumerate(("scene_000000", "scene_000001", "scene_1000000")):
        synthetic.write_scene(folder / "scenes", name, index, depth=index < 2)
    cam_x_time.main(["--scenes", str(folder / "scenes"), "--out", str(folder / "built"), "--workers", "1"])
    return folder


def config_of(folder, **changes):
    config = default_config()
    config.update(path=str(folder / "built"), frames=FRAMES, height=8, width=16, depth=0.1, **changes)
    return config


def check_cells(depth, video, mirrored=None):
    """The cells [.., F, 1, 2] are of the camera, time and side that the pictures show.

    Returns whether they are mirrored.
    """
    cells = synthetic.read_depth_cells(depth)
    shown = synthetic.read_colour(video)[..., 1:]
    np.testing.assert_array_equal(cells[..., :2], np.broadcast_to(shown[..., None, :], cells[..., :2].shape))
    columns = cells[..., 2].reshape(-1, 2)
    assert (columns == columns[0]).all() and sorted(columns[0]) == [0, 1]
    return bool(columns[0, 0])


def test_depth_is_cut_and_mirrored_with_the_frames():
    scene, rng = synthetic.scene(depth=True, times=11), np.random.default_rng(0)
    found = set()
    for _ in range(40):
        pair = pairs.random_pair(scene, rng, FRAMES, (0.3, 0.3, 0.4), source_warp=0.3)
        changed = augment.augment(rng, *pair, flip=True, permute_channels=False)
        sides = {check_cells(clip["depth"], clip["video"]) for clip in changed}
        assert len(sides) == 1 and not check_cells(pair[0]["depth"], pair[0]["video"])
        found |= sides
        example = pairs.make_relative(*changed)
        np.testing.assert_array_equal(example["target_depth"], changed[1]["depth"])
        assert example["source_depth"].dtype == np.float16
    assert found == {False, True}


def test_a_stretch_of_a_static_scene_has_its_own_depth():
    scene = synthetic.scene(depth=True, kind="static", step=1.0)
    part = pairs.stretch(np.random.default_rng(1), scene, 4)
    assert part.depth.shape == (5, 4, 1, 2)
    check_cells(part.depth, part.videos)


def test_depth_is_read_where_it_is_wanted(folder):
    records = open_records(folder / "built", "cam_x_time", "train")
    np.testing.assert_array_equal(decode_scene(records[1], WITH_DEPTH).depth, synthetic.depth_cells(5, 9))
    assert decode_scene(records[1]).depth is None and decode_scene(records[1], Fit((8, 16))).depth is None
    with pytest.raises(InputError, match="depth is not resized: set data.width and data.height"):
        decode_scene(records[0], Fit((4, 8), depth=True))
    (without,) = open_records(folder / "built", "cam_x_time", "test")
    assert decode_scene(without).depth is None
    with pytest.raises(InputError, match="has no depth; render it with --depth_stride 8"):
        decode_scene(without, WITH_DEPTH)


def test_depth_is_in_the_unit_that_poses_are_brought_to(folder):
    record = open_records(folder / "built", "cam_x_time", "train")[0] | {"metric": np.bool_(False)}
    plain = decode_scene(record | {"metric": np.bool_(True)}, WITH_DEPTH)
    scaled = decode_scene(record, WITH_DEPTH._replace(camera_extent=3.0))
    moved = np.linalg.norm(scaled.c2w[4, 0, :3, 3]) / np.linalg.norm(plain.c2w[4, 0, :3, 3])
    np.testing.assert_allclose(scaled.depth * moved, plain.depth, rtol=2e-3)
    assert abs(moved - 1) > 0.1


def test_scenes_cut_out_of_a_grid_have_its_depth(folder):
    for kind in ("static", "synchronised", "single"):
        grid, record = cam_x_time.read_scene(folder / "scenes" / "scene_000001"), None
        record = from_grids.cut_scene(folder / "scenes" / "scene_000001", kind)
        cells = synthetic.read_depth_cells(record["depth"])[..., 0, :]
        np.testing.assert_array_equal(record["c2w"], grid["c2w"][cells[..., 0], 0])
        if kind != "static":
            assert (cells[..., 1] == np.arange(9)).all()
    assert not from_grids.cut_scene(folder / "scenes" / "scene_1000000", "single")["depth"].size


MISTAKES = {
    "another stride": (lambda d, f: d["coarse_depth"].update(stride=4), "stride 4; data sets have 8"),
    "no file": (lambda d, f: (f / "cells.npy").unlink(), "cells.npy: cannot be read"),
    "no array": (lambda d, f: (f / "cells.npy").write_bytes(b"x" * 200), "cells.npy: cannot be read"),
    "pickled": (lambda d, f: np.save(f / "cells.npy", np.array([{}])), "cells.npy: cannot be read"),
    "another shape": (
        lambda d, f: np.save(f / "cells.npy", synthetic.depth_cells(5, 8)),
        r"depth of shape \[5, 8, 1, 2\], but videos of \[5, 9, 8, 16\]",
    ),
    "below zero": (lambda d, f: np.save(f / "cells.npy", -synthetic.depth_cells(5, 9)), "no inverse depth"),
    "no description": (lambda d, f: d.update(coarse_depth=[1]), "name of a file, and a stride"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_damaged_depth_is_named(folder, tmp_path, mistake, capsys):
    damage, message = MISTAKES[mistake]
    scene = tmp_path / "scenes" / "scene_000000"
    shutil.copytree(folder / "scenes" / "scene_000000", scene)
    data = json.loads((scene / "camera_data.json").read_text())
    damage(data, scene)
    (scene / "camera_data.json").write_text(json.dumps(data))
    arguments = ["--scenes", str(tmp_path / "scenes"), "--out", str(tmp_path / "out"), "--strict"]
    with pytest.raises(SystemExit):
        cam_x_time.main([*arguments, "--workers", "1"])
    with pytest.raises(InputError, match=message):
        raise InputError(capsys.readouterr().err)


def write_cache(folder, path, depth_size=(1, 2)):
    """A cache of the folder's clips with depth, whose latents are zeros."""
    config = config_of(folder, flip=True)
    clips = list(make_clips(config, split="train", seed=2, clips=4, clips_per_path=2, read_threads=1))
    cache = LatentCache.create(
        path,
        scenes=2,
        clips=4,
        frames=FRAMES,
        latent_shape=(2, 1, 2, 4),
        clips_per_path=2,
        depth_size=depth_size,
        meta={},
    )
    for clip in clips:
        depth = clip["depth"] if depth_size else None
        cache.write(clip["row"], np.zeros((4, 2, 1, 2, 4), np.float16), view_of(clip), depth=depth)
    return clips


def test_a_latent_cache_keeps_depth(folder, tmp_path):
    clips = write_cache(folder, tmp_path / "one" / "train")
    mirrored = {check_cells(clip["depth"][k], clip["video"][k]) for clip in clips for k in range(4)}
    assert mirrored == {False, True}  # a seed with both
    stored = np.stack([clip["depth"] for clip in clips]).reshape(8, FRAMES, 1, 2)
    cache = pickle.loads(pickle.dumps(LatentCache.open(tmp_path / "one" / "train", depth=True)))
    batch = cache.pairs_at(np.array([1, 6]), np.array([2, 4]))
    np.testing.assert_array_equal(batch["target_depth"], stored[[1, 6]])
    np.testing.assert_array_equal(batch["source_depth"], stored[[2, 4]])
    joined = LatentCache.join(tmp_path / "joined", [cache, cache])
    np.testing.assert_array_equal(
        LatentCache.open(joined.path, depth=True).clips_at(np.arange(16))["depth"],
        np.tile(stored, (2, 1, 1, 1)),
    )
    assert "depth" not in LatentCache.open(joined.path).clips_at(np.arange(2))


def test_batches_have_depth_where_the_config_asks(folder, tmp_path):
    write_cache(folder, tmp_path / "latents" / "train")
    config = config_of(folder)
    videos = next(iter(make_dataset(config, split="train", seed=0, batch_size=3)))
    for clip in ("source", "target"):
        check_cells(videos[f"{clip}_depth"], videos[f"{clip}_video"])
    config.update(kind="latents", path=str(tmp_path / "latents"))
    batch = next(iter(make_dataset(config, split="train", seed=0, batch_size=3)))
    assert batch["source_depth"].shape == batch["target_depth"].shape == (3, FRAMES, 1, 2)
    config.depth = 0.0
    batch = next(iter(make_dataset(config, split="train", seed=0, batch_size=3)))
    assert not [name for name in batch if "depth" in name]


def test_caches_without_depth_and_damaged_ones_are_refused(folder, tmp_path):
    write_cache(folder, tmp_path / "with")
    write_cache(folder, tmp_path / "without", depth_size=None)
    with pytest.raises(InputError, match="has no depth; stp_jax.encode_dataset --depth"):
        LatentCache.open(tmp_path / "without", depth=True)
    parts = [LatentCache.open(tmp_path / name) for name in ("with", "without")]
    with pytest.raises(InputError, match=r"differ \(shapes\)"):
        LatentCache.join(tmp_path / "joined", parts)
    np.load(tmp_path / "with" / "depth.npy", mmap_mode="r+")[1, 2] = -1
    with pytest.raises(InputError, match="scene 1 is damaged, it differs from its checksum"):
        LatentCache.open(tmp_path / "with", depth=True).clips_at(np.arange(8))
    meta = json.loads((tmp_path / "with" / "meta.json").read_text())
    for depth in ([2, 4, FRAMES, 1], [2, 4, 4, 1, 2], 3, None):
        meta["shapes"]["depth"] = depth
        (tmp_path / "with" / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(InputError, match="damaged"):
            LatentCache.open(tmp_path / "with")
