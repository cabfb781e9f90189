"""Batches: nothing lost or repeated, one order for any number of hosts and workers, saved positions."""

import multiprocessing
from collections import Counter

import grain
import numpy as np
import pytest
import synthetic
from absl import flags

from input_pipeline import pipeline, shots
from input_pipeline.config import default_config
from input_pipeline.datasets import cam_x_time
from input_pipeline.host_share import HostShare
from input_pipeline.latents import LatentCache
from input_pipeline.shots import SceneReader
from stp_jax.controls.view import View, view_of
from stp_jax.errors import InputError

SCENES, CLIPS, PER_PATH, FRAMES = 3, 7, 3, 5
ROWS = SCENES * CLIPS


@pytest.fixture(autouse=True, scope="module")
def parsed_flags():
    """Grain's worker processes need absl flags to have been parsed."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])


def write_cache(path, rows=range(SCENES)):
    """A cache whose latents and first translations are the number of the clip."""
    cache = LatentCache.create(
        path,
        scenes=SCENES,
        clips=CLIPS,
        frames=FRAMES,
        latent_shape=(2, 2, 2, 4),
        clips_per_path=PER_PATH,
        meta={"vae": "test"},
    )
    for scene in rows:
        number = scene * CLIPS + np.arange(CLIPS)
        c2w = np.tile(np.eye(4), (CLIPS, FRAMES, 1, 1))
        c2w[..., 0, 3] = number[:, None]
        times = np.tile(np.arange(FRAMES), (CLIPS, 1))
        times[np.arange(CLIPS) % PER_PATH > 0] = 0
        cache.write(
            scene,
            np.broadcast_to(number[:, None, None, None, None], (CLIPS, 2, 2, 2, 4)),
            View(c2w, np.ones((CLIPS, FRAMES, 4)), times),
        )
    return cache


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    parent = tmp_path_factory.mktemp("pipeline")
    for index in range(5):
        synthetic.write_scene(parent / "scenes", f"scene_{index:06d}", index)
    cam_x_time.main(["--scenes", str(parent / "scenes"), "--out", str(parent / "built")])
    write_cache(parent / "latents" / "train")
    return parent


def config_for(folder, kind, **changes):
    config = default_config()
    config.kind = kind
    config.path = str(folder / ("latents" if kind == "latents" else "built"))
    config.update(frames=FRAMES, height=8, width=16, pairs_per_scene=3, scenes_at_once=2, cached_scenes=2)
    config.update(changes)
    return config


def batches(folder, kind, count=None, batch_size=4, seed=3, split="train", changes=(), **options):
    config = config_for(folder, kind, **dict(changes))
    iterator = iter(pipeline.make_dataset(config, split=split, seed=seed, batch_size=batch_size, **options))
    try:
        return [next(iterator) for _ in range(count)] if count else list(iterator)
    finally:
        iterator.close()


def ids(batch):
    """What identifies an example: target clip or target scene, source clip or source pose and time."""
    if "target_latents" in batch:
        return [
            (int(t), int(s))
            for t, s in zip(
                *(batch[f"{w}_latents"][:, 0, 0, 0, 0] for w in ("target", "source")), strict=True
            )
        ]
    scene = synthetic.read_colour(batch["target_video"])[:, 0, 0]
    return [
        (
            int(n),
            batch["target_c2w"][i].tobytes(),
            batch["target_animation_time"][i].tobytes(),
            batch["source_video"][i].tobytes(),
        )
        for i, n in enumerate(scene)
    ]


def all_ids(batches):
    return [one for batch in batches for one in ids(batch)]


def once_per_epoch(kind):
    return {"latents": {row: 1 for row in range(ROWS)}, "cam_x_time": {scene: 3 for scene in range(5)}}[kind]


KINDS = ["latents", "cam_x_time"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 4, 25])
def test_an_epoch_has_every_record_once(folder, kind, batch_size):
    epoch = batches(folder, kind, batch_size=batch_size, epochs=1)
    assert Counter(one[0] for one in all_ids(epoch)) == once_per_epoch(kind)
    length = sum(once_per_epoch(kind).values())
    assert [len(ids(batch)) for batch in epoch[:-1]] == [batch_size] * (len(epoch) - 1)
    # In the endless stream batches run across the ends of epochs; each epoch has its own order and pairs.
    endless = all_ids(batches(folder, kind, count=-(-2 * length // batch_size), batch_size=batch_size))
    assert endless[:length] == all_ids(epoch)
    second = endless[length : 2 * length]
    assert Counter(one[0] for one in second) == once_per_epoch(kind)
    assert second != endless[:length]


@pytest.mark.parametrize("kind", KINDS)
def test_hosts_and_threads_share_one_order(folder, kind):
    one = all_ids(batches(folder, kind, count=12, read_threads=1))
    assert one == all_ids(batches(folder, kind, count=12, read_threads=4))
    assert one != all_ids(batches(folder, kind, count=12, seed=4))
    hosts = [batches(folder, kind, count=12, rows=rows) for rows in ([0, 3], [1, 2])]
    for i, (first, second) in enumerate(zip(*hosts, strict=True)):
        (a, d), (b, c) = ids(first), ids(second)
        assert [a, b, c, d] == one[4 * i : 4 * i + 4]


@pytest.mark.parametrize(
    ("kind", "hosts", "workers"),
    [("latents", 1, 0), ("latents", 2, 0), ("cam_x_time", 2, 0), ("cam_x_time", 1, 2)],
)
def test_a_run_goes_on_with_the_same_examples_on_any_hosts_and_workers(folder, kind, hosts, workers):
    config, options = config_for(folder, kind), dict(split="train", seed=3, epochs=4)
    assert 4 * pipeline.count_examples(config, "train") % 4 == 0  # whole batches
    straight = list(pipeline.make_dataset(config, batch_size=4, **options))[7:]  # into later epochs
    shares = [
        iter(
            pipeline.make_dataset(
                config,
                batch_size=4,
                rows=range(4)[host * 4 // hosts : (host + 1) * 4 // hosts],
                num_workers=workers,
                first_example=7 * 4,
                **options,
            )
        )
        for host in range(hosts)
    ]
    for share in shares:
        share.get_state()  # as a thread that prefetches does; the processes start together all the same
    for expected in straight:
        parts = [next(share) for share in shares]
        assert len(multiprocessing.active_children()) == hosts * workers
        for name, array in expected.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)
    for share in shares:
        assert next(share, None) is None
        share.close()


@pytest.mark.parametrize(("total", "first"), [(24, 0), (24, 5), (20, 0), (3, 0), (0, 0)])
def test_shares_of_hosts_are_all_examples_once(total, first):
    shares = [HostShare(grain.MapDataset.range(total), 6, rows, first) for rows in ([0, 4, 5], [1, 2, 3])]
    found = [share[i] for share in shares for i in range(len(share))]
    assert sorted(found) == list(range(first, total))


def test_an_epoch_has_as_many_examples_as_counted(folder):
    for kind in ("latents", "cam_x_time"):
        config = config_for(folder, kind)
        dataset = pipeline.make_dataset(config, split="train", seed=0, batch_size=1, epochs=1)
        assert sum(1 for _ in dataset) == pipeline.count_examples(config, "train")


def test_examples_show_what_their_cameras_and_times_say(folder):
    """Frames read back from decoded files, against the definition of the rig, with relative poses."""
    for batch in batches(folder, "cam_x_time", count=8):
        assert batch["source_video"].dtype == np.uint8
        for i in range(len(batch["source_video"])):
            reference = None
            for which in ("source", "target"):
                _, cameras, times = np.moveaxis(synthetic.read_colour(batch[f"{which}_video"][i]), -1, 0)
                poses = np.array([synthetic.rig_pose(c) for c in cameras])
                reference = np.linalg.inv(poses[0]) if reference is None else reference
                np.testing.assert_allclose(batch[f"{which}_c2w"][i], reference @ poses, atol=1e-5)
                np.testing.assert_allclose(batch[f"{which}_animation_time"][i], times / 2)
                np.testing.assert_allclose(
                    batch[f"{which}_intrinsics"][i], [synthetic.rig_intrinsics(c) for c in cameras], atol=1e-6
                )


def test_pairs_of_latents_keep_the_promised_mixture(folder):
    modes = dict(time_only=3.0, camera_only=1.0, both=1.0)
    many = dict(count=25, batch_size=48)
    pairs = all_ids(batches(folder, "latents", **many, changes=dict(modes=modes, source_warp=0.0)))
    same_path = Counter()
    for target, source in pairs:
        assert target != source and target // CLIPS == source // CLIPS
        path, place = divmod(target % CLIPS, PER_PATH)
        source_path, source_place = divmod(source % CLIPS, PER_PATH)
        assert source_place == 0
        if place == 0:
            assert source_path != path
        else:
            same_path[source_path == path] += 1
    assert abs(same_path[True] / same_path.total() - 0.75) < 0.06
    warped = all_ids(batches(folder, "latents", count=8, batch_size=48, changes=dict(source_warp=1.0)))
    assert all(target != source for target, source in warped)
    assert any(source % CLIPS % PER_PATH for _, source in warped)


@pytest.mark.parametrize("kind", ["cam_x_time", "latents"])
def test_without_warps_time_runs_forward_in_source_and_target(folder, kind):
    changes = {"warp": False, "source_warp": 0.5}
    found = batches(folder, kind, epochs=2, changes=changes)
    for batch in found:
        for clip in ("source", "target"):
            np.testing.assert_array_equal(
                batch[f"{clip}_animation_time"], np.tile(np.arange(FRAMES), (len(batch["source_c2w"]), 1))
            )
    examples = sum(len(batch["source_c2w"]) for batch in found)
    assert examples == 2 * pipeline.count_examples(config_for(folder, kind, **changes), "train")
    if kind == "latents":
        assert examples == 2 * SCENES * 3  # the clips 0, 3 and 6 of each scene


def test_a_cache_serves_the_rules_by_which_it_was_encoded(folder):
    for rules in ("synchronised", "static"):
        with pytest.raises(InputError, match="encoded by the rules 'grid'"):
            batches(folder, "latents", 1, changes={"rules": rules})
    # Without warps the diagonal is all that is used of a grid.
    assert batches(folder, "latents", 1, changes={"rules": "synchronised", "warp": False})


def test_latents_come_with_their_own_cameras(folder):
    (batch,) = batches(folder, "latents", count=1)
    numbers = {w: batch[f"{w}_latents"][:, 0, 0, 0, 0].astype(int) for w in ("source", "target")}
    assert batch["source_latents"].shape == (4, 2, 2, 2, 4) and batch["source_latents"].dtype == np.float16
    np.testing.assert_allclose(batch["source_c2w"][:, 0], np.tile(np.eye(4), (4, 1, 1)))
    shift = batch["target_c2w"][:, 0, 0, 3]
    np.testing.assert_allclose(shift, numbers["target"] - numbers["source"])
    forward = batch["target_animation_time"][:, -1] > 0
    np.testing.assert_array_equal(forward, numbers["target"] % CLIPS % PER_PATH == 0)


def write_source_latents(path, config, passes=2, **changes):
    """Latents that hold the colours of the frames that they are of."""
    shape = (2, 1, 2, 4)
    meta = {"vae": {"temporal_downsample": [False, True, True]}, "seed": 5} | {
        name: config[name] for name in ("flip", "permute_channels")
    }
    cache = LatentCache.create(
        path, scenes=passes * 5, clips=CLIPS, frames=FRAMES, latent_shape=shape, clips_per_path=PER_PATH,
        meta=meta | changes,
    )  # fmt: skip
    options = dict(split="train", seed=5, clips=CLIPS, clips_per_path=PER_PATH, rows=range(passes * 5))
    for clips in pipeline.make_clips(config, **options):
        latents = np.zeros((CLIPS, *shape), np.float32)
        latents[..., :3] = clips["video"][:, ::4].mean((2, 3), keepdims=True)
        cache.write(clips["row"], latents, view_of(clips))


def test_sources_from_latents_and_decoded_targets_are_of_one_scene_and_time(folder, tmp_path):
    write_source_latents(tmp_path / "train", config_for(folder, "cam_x_time"))
    changes = dict(source_latents=str(tmp_path), source_warp=0.3)
    modes, warped = Counter(), Counter()
    for batch in batches(folder, "cam_x_time", count=30, changes=changes):
        assert "source_video" not in batch and batch["source_latents"].shape == (4, 2, 1, 2, 4)
        for i in range(4):
            seen = np.rint((batch["source_latents"][i, :, 0, 0, :3].astype(float) - 20) / synthetic.STEP)
            (scene, camera, first), (_, last_camera, last) = seen.astype(int)
            scenes, cameras, times = np.moveaxis(synthetic.read_colour(batch["target_video"][i]), -1, 0)
            assert set(scenes) == {scene}
            shown = batch["source_animation_time"][i]
            np.testing.assert_allclose(shown[-1] - shown[0], (last - first) / 2)
            zero = first - 2 * shown[0]  # the grid time that counts as animation time 0, of both clips
            np.testing.assert_allclose(batch["target_animation_time"][i], (times - zero) / 2)
            reference = np.linalg.inv(synthetic.rig_pose(camera))
            own = reference @ synthetic.rig_pose(last_camera)
            np.testing.assert_allclose(batch["source_c2w"][i, -1], own, atol=1e-5)
            poses = reference @ np.array([synthetic.rig_pose(c) for c in cameras])
            np.testing.assert_allclose(batch["target_c2w"][i], poses, atol=1e-5)
            modes[np.allclose(batch["source_c2w"][i], batch["target_c2w"][i])] += 1
            warped[not np.array_equal(shown, np.arange(FRAMES))] += 1
    assert min(modes[True], modes[False]) > 20  # time_only is 0.3 of them
    assert abs(warped[True] / warped.total() - 0.3) < 0.12


def test_targets_are_mirrored_and_recoloured_as_the_latents_of_their_sources_were(folder, tmp_path):
    changed = config_for(folder, "cam_x_time", flip=True, permute_channels=True)
    write_source_latents(tmp_path / "train", changed, passes=4)
    only = dict(source_latents=str(tmp_path), modes=dict(time_only=1.0, camera_only=0.0, both=0.0))
    mirrored = Counter()
    for batch in batches(folder, "cam_x_time", count=30, changes=only):
        for i in range(4):
            # The same cameras: pictures differ in the channel of the time, and in that alone.
            source = batch["source_latents"][i, :, 0, 0, :3].astype(float)
            target = batch["target_video"][i, ::4].mean((1, 2))
            differs = (np.abs(source - target) > synthetic.STEP / 2).any(0)
            assert differs.sum() <= 1
            np.testing.assert_allclose(batch["source_c2w"][i], batch["target_c2w"][i], atol=1e-5)
            np.testing.assert_allclose(batch["source_intrinsics"][i], batch["target_intrinsics"][i])
            mirrored[bool(batch["source_intrinsics"][i, 0, 2] > 0.5)] += 1
    assert min(mirrored.values()) > 20


def test_latents_of_other_data_are_refused(folder, tmp_path):
    config = config_for(folder, "cam_x_time")
    write_source_latents(tmp_path / "other_seed" / "train", config, seed=6)
    write_source_latents(tmp_path / "good" / "train", config)
    for name, changes, message in (
        ("other_seed", {}, "not of scene scene_0"),
        ("good", dict(flip=True), "as their sources' latents were"),
        ("good", dict(frames=3), "clips of 5 frames, 16 x 8; the config asks for 3 frames, 16 x 8"),
        ("none", {}, "not found"),
    ):
        with pytest.raises(InputError, match=message):
            batches(
                folder, "cam_x_time", count=1, changes=dict(source_latents=str(tmp_path / name)) | changes
            )


def test_clips_to_encode_do_not_depend_on_where_one_begins(folder):
    config = config_for(folder, "cam_x_time", flip=True, permute_channels=True)
    options = dict(split="train", seed=1, clips=CLIPS, clips_per_path=PER_PATH)
    assert pipeline.count_scenes(config, "train") == 5
    everything = list(pipeline.make_clips(config, **options))
    assert [element["row"] for element in everything] == list(range(5))
    assert everything[0]["video"].shape == (CLIPS, FRAMES, 8, 16, 3)
    rest = list(pipeline.make_clips(config, rows=[4, 5], **options))
    np.testing.assert_array_equal(rest[0]["video"], everything[4]["video"])
    # Row 5 is scene 0 again, with other clips.
    assert not np.array_equal(rest[1]["c2w"], everything[0]["c2w"])


def test_a_scene_is_decoded_once_while_it_is_kept(folder, monkeypatch):
    decoded = []
    monkeypatch.setattr(shots, "decode_scene", lambda record, fit: decoded.append(record) or record)
    reader = SceneReader(list("abc"), cached_scenes=2)
    assert [reader[i] for i in (0, 1, 0, 1, 2, 2, 1, 0)] == list("ababccba")
    assert decoded == list("abca")


def test_mistakes_in_the_config_and_the_data(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for kind, changes, message in (
        ("../video", {}, "data.kind = '../video'"),
        ("cam_x_time", dict(path=""), "data.path"),
        ("cam_x_time", dict(path=str(tmp_path / "none")), "no such folder"),
        ("cam_x_time", dict(path=str(tmp_path / "empty")), "no data set of kind 'cam_x_time'"),
        ("multi_view", {}, "no data set of kind 'multi_view' there; it holds cam_x_time"),
        ("cam_x_time", dict(height=16), "videos of 8 x 16|videos of 16 x 8"),
        ("cam_x_time", dict(frames=9), "5 source frames"),
        ("cam_x_time", dict(modes=dict(time_only=-1.0)), "data.modes"),
        ("latents", dict(path=str(tmp_path / "empty")), "not found"),
        ("latents", dict(frames=9), "clips of 5 frames"),
        ("latents", dict(flip=True), "set them when encoding"),
    ):
        with pytest.raises(InputError, match=message):
            batches(folder, kind, count=1, changes=changes)
    with pytest.raises(InputError, match="no split 'test'"):
        batches(folder, "cam_x_time", count=1, split="test")


def test_clips_to_encode_are_contiguous_since_grain_shares_only_such_memory(folder):
    config = config_for(folder, "cam_x_time", flip=True, permute_channels=True)
    for clips in pipeline.make_clips(config, split="train", seed=0, clips=2, clips_per_path=1):
        assert clips["video"].flags.c_contiguous
