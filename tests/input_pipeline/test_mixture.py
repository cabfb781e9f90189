"""Mixtures: exact shares, one order for any number of hosts and workers, and what each kind of scene gives.

The data sets are cut out of grids whose colours say which scene, camera and grid time each frame is. Each has
three scenes of its own.
"""

import hashlib
from collections import Counter

import numpy as np
import pytest
import synthetic

from input_pipeline import mixture, pipeline
from input_pipeline.config import default_config
from input_pipeline.datasets import cam_x_time, from_grids
from input_pipeline.latents import LatentCache
from stp_jax.controls.view import View
from stp_jax.errors import InputError
from stp_jax.training.config import DiTTraining, make_config

FRAMES, CAMERAS, TIMES = 5, 6, 11
KINDS = ("grid", "static", "synchronised", "single")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    parent = tmp_path_factory.mktemp("mixture")
    for number, kind in enumerate(KINDS):
        scenes = parent / "scenes" / kind
        for index in range(3 * number, 3 * number + 3):
            synthetic.write_scene(scenes, f"scene_{index:06d}", index, cameras=CAMERAS, times=TIMES)
        flags = ["--scenes", str(scenes), "--out", str(parent / kind), "--workers", "1"]
        if kind == "grid":
            cam_x_time.main(flags)
        else:
            from_grids.main([*flags, "--kind", kind])
    return parent


def part(folder, kind, **changes):
    """The fields of a data set of scenes of this kind."""
    name = "cam_x_time" if kind == "grid" else f"grids_{kind}"
    return {"kind": name, "path": str(folder / kind)} | changes


def config_of(folder, mixed=None, **changes):
    config = default_config()
    config.update(frames=FRAMES, height=8, width=16, pairs_per_scene=2, scenes_at_once=2, cached_scenes=3)
    config.update(changes)
    config.mixture = mixed or {}
    return config


def all_kinds(folder):
    """Grids twice as often as the others; videos at half their rate, which is that of the grids' sources."""
    shares = {"grid": 2.0, "static": 1.0, "synchronised": 1.0, "single": 1.0}
    return {name: part(folder, name, weight=weight, fps=15.0) for name, weight in shares.items()}


def read(config, count=None, batch_size=4, seed=3, **options):
    iterator = iter(pipeline.make_dataset(config, split="train", seed=seed, batch_size=batch_size, **options))
    try:
        return [next(iterator) for _ in range(count)] if count else list(iterator)
    finally:
        iterator.close()


def hashes(batches):
    """One for each example: of all its arrays."""
    found = []
    for batch in batches:
        for i in range(len(batch["source_c2w"])):
            arrays = (name.encode() + batch[name][i].tobytes() for name in sorted(batch))
            found.append(hashlib.sha256(b"".join(arrays)).hexdigest())
    return found


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ([1.0], [1]),
        ([0.5, 0.5], [1, 1]),
        ([2.0, 1.0, 1.0], [2, 1, 1]),
        ([1 / 3, 1 / 6, 0.5], [2, 1, 3]),
        ([0.123, 0.877], [123, 877]),
        ([13_600.0, 66_000.0, 400.0, 7.0], [13_600, 66_000, 400, 7]),
    ],
)
def test_shares_are_exact_and_no_part_waits_for_long(weights, shares):
    pattern = mixture.Pattern(weights)
    assert pattern.shares == shares and pattern.period == sum(shares)
    periods = [pattern(i) for i in range(3 * pattern.period if pattern.period < 2000 else 64 * 50)]
    for number, share in enumerate(shares):
        own = [place for part, place in periods if part == number]
        assert sorted(own) == list(range(len(own)))  # none twice, none left out
        if pattern.period < 2000:
            assert len(own) == 3 * share
        counts = np.cumsum([part == number for part, _ in periods[: pattern.period]])
        ideal = np.arange(1, len(counts) + 1) * share / pattern.period
        late = np.abs(counts - ideal)
        assert late[mixture.BLOCK - 1 :: mixture.BLOCK].max(initial=0) < len(shares)
        assert late.max() < mixture.BLOCK / 4


def test_workers_that_take_turns_do_not_get_one_part_each():
    for weights, workers in (([1.0, 1.0], 2), ([1.0, 1.0, 1.0, 1.0], 4), ([333.0, 667.0], 3)):
        pattern = mixture.Pattern(weights)
        for worker in range(workers):
            counts = Counter(pattern(i)[0] for i in range(worker, 1200, workers))
            for number, share in enumerate(pattern.shares):
                assert abs(counts[number] * workers / 1200 - share / pattern.period) < 0.12


def test_an_epoch_of_a_mixture_has_exact_shares_and_all_examples_of_each_part(folder):
    config = config_of(folder, all_kinds(folder))
    assert pipeline.count_examples(config, "train") == 30  # 6 of each kind, so 6 periods of 5
    found = Counter(kind for batch in read(config, epochs=1) for kind, _, _ in examples(batch))
    assert found == {"grid": 12, "static": 6, "synchronised": 6, "single": 6}
    config.mixture.grid.pairs_per_scene = 20  # 60 examples of grids: 30 periods
    assert pipeline.count_examples(config, "train") == 150
    config.mixture.grid.weight = 0.0
    assert pipeline.count_examples(config, "train") == 18


def examples(batch):
    """The kind of each example and its clips, with what their pictures show: cameras and grid times."""
    for i in range(len(batch["source_video"])):
        clips, scenes = [], set()
        for which in ("source", "target"):
            shown = np.moveaxis(synthetic.read_colour(batch[f"{which}_video"][i]), -1, 0)
            scenes |= set(shown[0])
            names = ("c2w", "intrinsics", "animation_time")
            clip = {name: batch[f"{which}_{name}"][i].astype(np.float64) for name in names}
            clips.append(clip | {"cameras": shown[1], "times": shown[2]})
        (scene,) = scenes
        yield KINDS[scene // 3], *clips


def test_pictures_poses_and_times_of_every_kind_agree(folder):
    """Against the definition of the rig, in float64: poses follow from the cameras that the pictures show."""
    seen = {kind: Counter() for kind in KINDS}
    fractions = Counter()
    for batch in read(config_of(folder, all_kinds(folder), source_warp=0.3), count=50):
        for kind, source, target in examples(batch):
            reference = np.linalg.inv(synthetic.rig_pose(source["cameras"][0]))
            zeros = []
            for clip in (source, target):
                poses = reference @ np.array([synthetic.rig_pose(c) for c in clip["cameras"]])
                np.testing.assert_allclose(clip["c2w"], poses, atol=1e-5)
                lenses = [synthetic.rig_intrinsics(c) for c in clip["cameras"]]
                np.testing.assert_allclose(clip["intrinsics"], lenses, atol=1e-6)
                zeros.append(clip["times"] - 2 * clip["animation_time"])
                fractions[kind] += (clip["animation_time"] % 0.5 > 0).any()
            if kind == "static":  # one time of the grid, at any animation time
                assert len({*source["times"], *target["times"]}) == 1
            else:  # pictures show the animation time, which counts from one grid time for both clips
                np.testing.assert_allclose(zeros, zeros[0][0])
            if kind in ("synchronised", "single"):  # a time is seen from where the camera was at that time
                same_camera = dict(zip(source["times"], source["cameras"], strict=True))
                pairs = zip(target["times"], target["cameras"], strict=True)
                agrees = all(same_camera.get(time, camera) == camera for time, camera in pairs)
                assert agrees or kind == "synchronised"
            forward = [np.array_equal(c["animation_time"], np.arange(FRAMES)) for c in (source, target)]
            seen[kind][(np.array_equal(source["cameras"], target["cameras"]), *forward)] += 1
    assert fractions["static"] > 5 and not fractions["grid"] + fractions["single"]
    assert {key[1] for key in seen["static"]} == {True, False}  # sources are warped, too
    for kind in ("grid", "static"):  # all three modes
        assert {key[::2] for key in seen[kind]} >= {(True, False), (False, True), (False, False)}
    assert not any(key[2] for key in seen["single"])  # always at another animation time


@pytest.mark.parametrize("mode", range(3))
def test_modes_of_static_scenes_change_what_they_say(folder, mode):
    modes = dict(zip(("time_only", "camera_only", "both"), np.eye(3)[mode], strict=True))
    config = config_of(folder, None, **part(folder, "static"), modes=modes, source_warp=0.0)
    for batch in read(config, count=5):
        for _, source, target in examples(batch):
            np.testing.assert_array_equal(source["animation_time"], np.arange(FRAMES))
            assert np.array_equal(source["cameras"], target["cameras"]) == (mode == 0)
            assert np.array_equal(target["animation_time"], np.arange(FRAMES)) == (mode == 1)


def test_both_paths_of_a_static_pair_lie_within_reach(folder):
    config = config_of(folder, {"static": part(folder, "static", static_reach=3)}, frames=3)
    places = Counter()
    for batch in read(config, count=30):
        for _, source, target in examples(batch):
            shown = [*source["cameras"], *target["cameras"]]
            assert max(shown) - min(shown) < 3
            places.update(shown)
    assert set(places) == set(range(CAMERAS))


def test_scenes_that_are_too_short_are_replaced_if_so_wanted(tmp_path):
    for index, times in enumerate((5, 5, 11, 5)):  # 3 and 6 source frames
        synthetic.write_scene(tmp_path / "scenes", f"scene_{index:06d}", index, cameras=2, times=times)
    cam_x_time.main(["--scenes", str(tmp_path / "scenes"), "--out", str(tmp_path / "grid")])
    mixed = {"a": part(tmp_path, "grid", skip_short=True)}
    epoch = read(config_of(tmp_path, mixed), epochs=1, batch_size=8)
    shown = synthetic.read_colour(epoch[0]["target_video"])[..., 0]
    assert shown.shape[0] == 8 and (shown == 2).all()
    for changes, message in (({"frames": 7}, "6 source frames|3 source frames"), ({}, "3 source frames")):
        mixed["a"]["skip_short"] = bool(changes)
        with pytest.raises(InputError, match=message):
            read(config_of(tmp_path, mixed, **changes), count=1)


def test_hosts_and_threads_share_one_order(folder):
    config = config_of(folder, all_kinds(folder))
    endless = hashes(read(config, count=15, read_threads=4))
    one = hashes(read(config, epochs=1, read_threads=1))
    # The next epoch goes on in the orders of the data sets: other pairs.
    assert len(one) == 30 and one == endless[:30] and len(set(endless)) == 60
    assert set(one).isdisjoint(hashes(read(config, count=2, seed=4)))
    for hosts in (2, 4):
        rows = np.split(np.arange(4), hosts)
        parts = [read(config, epochs=1, rows=part.tolist()) for part in rows]
        joined = []
        for batches in zip(*parts, strict=False):
            joined += [h for batch in batches for h in hashes([batch])]
        rest = [h for batches in parts for batch in batches[len(joined) // 4 :] for h in hashes([batch])]
        assert joined + rest == one


def test_worker_processes_read_the_same_examples(folder):
    config = config_of(folder, all_kinds(folder))
    assert hashes(read(config, epochs=1, num_workers=2)) == hashes(read(config, epochs=1))


def test_a_state_saved_in_mid_epoch_gives_the_same_rest(folder):
    config = config_of(folder, all_kinds(folder))
    dataset = pipeline.make_dataset(config, split="train", seed=3, batch_size=4)
    first = iter(dataset)
    for _ in range(3):
        next(first)
    state = first.get_state()
    rest = hashes([next(first) for _ in range(8)])  # into the second epoch
    second = iter(dataset)
    second.set_state(state)
    assert hashes([next(second) for _ in range(8)]) == rest
    for iterator in (first, second):
        iterator.close()
    hosts = [read(config, count=8, first_example=12, rows=rows) for rows in ([0, 3], [1, 2])]
    for i, (one, other) in enumerate(zip(*hosts, strict=True)):
        (a, d), (b, c) = hashes([one]), hashes([other])
        assert [a, b, c, d] == rest[4 * i : 4 * i + 4]


def write_cache(path, first, scenes, channels=4, **meta):
    """Latents and first translations that are the number of the clip, counted from `first`."""
    cache = LatentCache.create(
        path,
        scenes=scenes,
        clips=4,
        frames=FRAMES,
        latent_shape=(2, 2, 2, channels),
        clips_per_path=4 if "scene_kind" in meta else 2,
        meta={"vae": "test"} | meta,
    )
    for scene in range(scenes):
        number = first + scene * 4 + np.arange(4)
        c2w = np.tile(np.eye(4), (4, FRAMES, 1, 1))
        c2w[..., 0, 3] = number[:, None]
        latents = np.broadcast_to(number[:, None, None, None, None], (4, 2, 2, 2, channels))
        cache.write(scene, latents, View(c2w, np.ones((4, FRAMES, 4)), np.zeros((4, FRAMES))))


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    parent = tmp_path_factory.mktemp("caches")
    write_cache(parent / "a" / "train", 0, 3)
    write_cache(parent / "b" / "train", 100, 2)
    write_cache(parent / "wide" / "train", 0, 2, channels=8)
    write_cache(parent / "other" / "train", 0, 2, vae="another")
    write_cache(parent / "single" / "train", 200, 2, scene_kind="single", fps=15.0)
    return parent


def cached(parent, **weights):
    return {
        name: dict(kind="latents", path=str(parent / name), weight=weight) for name, weight in weights.items()
    }


def test_caches_are_mixed_by_the_same_rules(caches):
    config = config_of(caches, cached(caches, a=3.0, b=1.0))
    assert pipeline.count_examples(config, "train") == 32  # 8 periods of 4, for the 8 clips of b
    epoch = read(config, epochs=1)
    targets = np.concatenate([batch["target_latents"][:, 0, 0, 0, 0] for batch in epoch]).astype(int)
    sources = np.concatenate([batch["source_latents"][:, 0, 0, 0, 0] for batch in epoch]).astype(int)
    assert Counter(targets >= 100) == {True: 8, False: 24}
    assert Counter(targets[targets >= 100]) == dict.fromkeys(range(100, 108), 1)
    assert Counter(targets[targets < 100]) == dict.fromkeys(range(12), 2)
    assert ((targets // 4) == (sources // 4)).all()  # of one scene
    shifts = np.concatenate([batch["target_c2w"][:, 0, 0, 3] for batch in epoch])
    np.testing.assert_allclose(shifts, targets - sources)
    one = hashes(read(config, count=20))
    assert hashes(epoch) == one[:32]
    hosts = [read(config, count=12, first_example=32, rows=rows) for rows in ([0, 1], [2, 3])]
    joined = [h for both in zip(*hosts, strict=True) for batch in both for h in hashes([batch])]
    assert joined == one[32:] and mixture.reads_latents(config)


def test_a_cache_of_single_videos_gives_other_warps_of_the_same_video(caches, tmp_path):
    found = Counter()
    for batch in read(config_of(caches, cached(caches, single=1.0), source_warp=0.0), count=40):
        target, source = (
            batch[f"{w}_latents"][:, 0, 0, 0, 0].astype(int) - 200 for w in ("target", "source")
        )
        assert ((target // 4 == source // 4) & (target != source)).all()
        assert (source % 4 == 0)[target % 4 > 0].all()  # forward, unless that is the target
        found.update(target)
    assert set(found) == set(range(8)) and np.ptp(list(found.values())) <= 4
    with pytest.raises(InputError, match="one camera path; give clips_per_path = 4"):
        LatentCache.create(
            tmp_path / "new", scenes=1, clips=4, frames=5, latent_shape=(2, 2, 2, 4), clips_per_path=2,
            meta={"scene_kind": "single"},
        )  # fmt: skip


def test_what_cannot_be_mixed_is_said(folder, caches):
    grid, static = part(folder, "grid"), part(folder, "static")
    for mixed, changes, message in (
        ({"a": grid | {"weight": -1.0}}, {}, "data.mixture.a.weight = -1.0: must be 0, or from 0.001"),
        ({"a": grid | {"weight": float("nan")}}, {}, "weight = nan"),
        ({"a": grid | {"weight": 0.0}}, {}, "give a weight above 0"),
        ({"a": grid | {"wieght": 1.0}}, {}, "unknown field of data.mixture.a .wieght.: did you mean weight"),
        ({"a": grid | {"frames": 9}}, {}, "unknown field of data.mixture.a"),
        ({"a": grid | {"flip": "yes"}}, {}, "data.mixture.a: "),
        ({"update": grid}, {}, "'update' cannot be the name"),
        ({"a": "data"}, {}, "data.mixture.a: must have the fields"),
        ({"a": {"kind": "cam_x_time"}}, {}, "data.mixture.a.path: give the folder"),
        ({"a": grid | {"path": "none"}}, {}, "no such folder"),
        ({"a": grid | {"kind": "grids_static"}}, {}, "it holds cam_x_time"),
        ({"a": grid | {"split": "nothing"}}, {}, "no split 'nothing'"),
        ({"a": grid | {"modes": {"time_only": -1.0}}}, {}, "data.mixture.a.modes"),
        ({"a": grid | {"fps": -1.0}}, {}, "data.mixture.a.fps"),
        ({"a": grid}, {"path": "data"}, "data.path = 'data': not with data.mixture"),
        ({"a": grid} | cached(caches, b=1.0), {}, "of latents alone or of videos alone"),
        (cached(caches, a=1.0, wide=1.0), {}, "clips of another size or VAE"),
        (cached(caches, a=1.0, other=1.0), {}, "clips of another size or VAE"),
        (cached(caches, single=1.0), {"warp": False}, "of one camera; set data.warp to True"),
        (cached(caches, single=1.0), {"fps": 10.0}, "encoded with fps = 15.0, but data.fps = 10.0"),
        (cached(caches, a=1.0), {"static_reach": 40}, "encoded with static_reach = 0, but"),
        ({"a": static | {"rules": "static"}}, {}, "'static' says how a full grid is used"),
        ({"a": part(folder, "synchronised", rules="static")}, {}, "of kind 'synchronised'"),
        ({"a": static}, {"frames": 7}, "6 source frames"),
        ({"a": static | {"static_reach": 3}}, {}, "static_reach = 3 is below data.frames"),
        ({"a": part(folder, "synchronised", fps=7.5)}, {}, "3 source frames"),
        ({"a": part(folder, "single", warp=False)}, {}, "only the animation time can be chosen"),
        ({"a": grid}, {"height": 9}, "videos of 16 x 8, smaller than data.width x data.height = 16 x 9"),
    ):
        with pytest.raises(InputError, match=message):
            read(config_of(folder, mixed, **changes), count=1)


def test_fields_of_parts_follow_those_of_the_data_unless_they_are_set():
    parts = dict(a=dict(weight=2, path="x"), b=dict(path="y", fps=5, modes=dict(both=0.0)))
    config = make_config(DiTTraining, data=dict(kind="grids_static", fps=10.0, mixture=parts))
    config.data.fps, config.data.modes.time_only = 12.0, 0.9
    config.data.mixture.a.weight = 0.5
    a, b = mixture.parts_of(config.data).values()
    assert (a.kind, a.fps, a.weight, a.modes.time_only, a.modes.both) == ("grids_static", 12.0, 0.5, 0.9, 0.4)
    assert (b.kind, b.fps, b.weight, b.modes.time_only, b.modes.both) == ("grids_static", 5.0, 1.0, 0.9, 0.0)
    config.data.mixture.b.kind, config.data.mixture.b.modes.time_only = "latents", 0.1
    config.data.mixture.a.kind = "latents"
    c, d = mixture.parts_of(config.data).values()
    assert (config.data.kind, config.data.modes.time_only) == ("grids_static", 0.9)
    assert (c.kind, c.modes.time_only, d.kind, d.modes.time_only) == ("latents", 0.9, "latents", 0.1)
    with pytest.raises(InputError, match="unknown field of data.mixture.a"):
        make_config(DiTTraining, data=dict(mixture=dict(a=dict(pathh="x"))))
