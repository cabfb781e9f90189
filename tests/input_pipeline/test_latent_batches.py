"""Long paths cut into clips that continue each other, and batches with a memory drawn from them."""

import numpy as np
import pytest
import synthetic
from absl import flags

from input_pipeline import pairs, pipeline
from input_pipeline.config import default_config
from input_pipeline.latents import LatentCache
from input_pipeline.memory_outputs import MemoryOutputs
from stp_jax.errors import InputError
from tests.input_pipeline.long_cache import (
    CLIPS,
    FRAMES,
    LATENT_FRAMES,
    PER_PATH,
    SCENES,
    WINDOWS,
    K,
    write_long_cache,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])  # for Grain's worker processes
    parent = tmp_path_factory.mktemp("memory")
    write_long_cache(parent / "long" / "train")
    write_long_cache(parent / "plain" / "train", windows=1)
    return parent


def batches(folder, count, *, path="long", changes=(), **options):
    config = default_config()
    config.update(kind="latents", path=str(folder / path), frames=FRAMES, memory_frames=K)
    config.update(dict(changes))
    iterator = iter(pipeline.make_dataset(config, split="train", seed=3, batch_size=4, **options))
    try:
        return [next(iterator) for _ in range(count)]
    finally:
        iterator.close()


def test_windows_of_a_path_continue_each_other():
    scene = synthetic.scene(times=11, step=1.0)
    clips = pairs.random_clips(scene, np.random.default_rng(0), 5, count=12, clips_per_path=4, windows=2)
    seen = synthetic.read_colour(clips["video"])[..., 1:]  # camera and grid time, [12, 5, 2]
    first = seen[0, 0, 1]
    np.testing.assert_array_equal(seen[..., 1] - first, clips["animation_time"])
    np.testing.assert_array_equal(seen[0::2, -1], seen[1::2, 0])
    forward = np.arange(5) + np.array([[0], [4]])
    for path in range(3):
        np.testing.assert_array_equal(clips["animation_time"][4 * path : 4 * path + 2], forward)
        np.testing.assert_array_equal(seen[4 * path : 4 * path + 2, :, 0], seen[4 * path + 2 :][:2, :, 0])
        assert not np.array_equal(clips["animation_time"][4 * path + 2 : 4 * path + 4], forward)
    with pytest.raises(InputError, match="11 source frames, but 3 windows of 5 frames need 13"):
        pairs.random_clips(scene, np.random.default_rng(0), 5, count=12, clips_per_path=6, windows=3)


def test_a_memory_is_of_the_stretch_that_the_target_continues(folder):
    found = batches(folder, 60)
    with_memory = [batch for batch in found if "memory_latents" in batch]
    assert 20 < len(with_memory) < 40
    forward, warped, frames_seen = 0, 0, set()
    for batch in with_memory:
        assert batch["memory_latents"].shape == (4, K, 2, 2, 4)
        for i in range(4):
            one = {name: array[i] for name, array in batch.items()}
            cells = {name: one[f"{name}_latents"][:, 0, 0].astype(float) for name in ("source", "target")}
            memory = one["memory_latents"][:, 0, 0].astype(float)  # camera, time, clip, latent frame
            target, source = int(cells["target"][0, 2]), int(cells["source"][0, 2])
            assert target % WINDOWS > 0 and source // CLIPS == target // CLIPS
            assert source % PER_PATH < WINDOWS  # forward
            for clip, frame in memory[:, 2:].astype(int):
                assert clip // WINDOWS == target // WINDOWS and clip < target and frame in (1, 2)
                frames_seen.add((target - clip, frame))
            order = memory[:, 2] * LATENT_FRAMES + memory[:, 3]
            assert (np.diff(order) > 0).all()
            # Times count from the source's first frame, cameras from its first camera.
            np.testing.assert_array_equal(one["source_animation_time"], np.arange(FRAMES))
            zero = cells["source"][0, 1]
            np.testing.assert_array_equal(one["memory_animation_time"][3::4] + zero, memory[:, 1])
            np.testing.assert_array_equal(one["target_animation_time"][::4] + zero, cells["target"][:, 1])
            own = np.linalg.inv(synthetic.rig_pose(int(cells["source"][0, 0])))
            expected = [own @ synthetic.rig_pose(int(camera)) for camera in memory[:, 0]]
            np.testing.assert_allclose(one["memory_c2w"][3::4], expected, atol=1e-5)
            lenses = [synthetic.rig_intrinsics(int(camera)) for camera in memory[:, 0]]
            np.testing.assert_allclose(one["memory_intrinsics"][3::4], lenses, atol=1e-6)
            # No other window of the source's path shows more of the target's animation times.
            times = one["target_animation_time"] + zero
            shown = [((times >= 8 * w) & (times <= 8 * w + 8)).sum() for w in range(WINDOWS)]
            assert shown[source % WINDOWS] == max(shown)
            if target % PER_PATH < WINDOWS:
                forward += 1
                assert source // PER_PATH != target // PER_PATH and source % WINDOWS == target % WINDOWS
            else:
                warped += 1
    assert forward > 20 and warped > 20
    assert frames_seen == {(1, 1), (1, 2), (2, 1), (2, 2)}


def same(parts, whole):
    for name, array in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)
    assert all(part.keys() == whole.keys() for part in parts)


def test_hosts_workers_and_restarts_agree_on_which_batches_have_a_memory(folder):
    straight = batches(folder, 16)
    assert {"memory_latents" in batch for batch in straight[8:]} == {True, False}
    hosts = [batches(folder, 16, rows=rows) for rows in ([0, 3], [1, 2])]
    for whole, first, second in zip(straight, *hosts, strict=True):
        order = np.argsort([0, 3, 1, 2])
        joined = {name: np.concatenate([first[name], second[name]])[order] for name in first}
        same([joined], whole)
    resumed = batches(folder, 8, rows=[0, 1], num_workers=2, first_example=8 * 4)
    for whole, part in zip(straight[8:], resumed, strict=True):
        same([part], {name: array[:2] for name, array in whole.items()})


def test_batches_without_a_memory_are_those_of_their_own_cache(folder):
    plain = batches(folder, 12, path="plain", changes=dict(memory_frames=0))
    mixed = batches(folder, 12, path="plain", changes=dict(memory_path=str(folder / "long")))
    kinds = ["memory_latents" in batch for batch in mixed]
    assert set(kinds) == {True, False} and not any("memory_latents" in batch for batch in plain)
    for has_memory, one, other in zip(kinds, mixed, plain, strict=True):
        if not has_memory:
            same([one], other)


@pytest.fixture(scope="module")
def outputs(folder):
    """As a model's output: true latents plus 100. Sources of scene 0 are on path 0, of scene 1 on path 1."""
    cache = LatentCache.open(folder / "long" / "train")
    made = MemoryOutputs.create(folder / "outputs" / "train", cache, {"model": "test"})
    for scene in range(SCENES):
        latents = cache.clips_at(scene * CLIPS + np.arange(CLIPS))["latents"]
        made.write(scene, latents + 100, np.full(CLIPS // WINDOWS, scene))
    return folder / "outputs"


def test_a_share_of_the_memories_is_a_models_own_output_from_the_same_source(folder, outputs):
    changes = dict(memory_share=1.0, memory_outputs=str(outputs), memory_output_share=0.25)
    plain = batches(folder, 40, changes=dict(memory_share=1.0))
    own = 0
    for one, true in zip(batches(folder, 40, changes=changes), plain, strict=True):
        for i in range(4):
            memory, latents = one["memory_latents"][i], true["memory_latents"][i]
            of_model = bool((memory == latents + 100).all())
            assert of_model or (memory == latents).all()
            np.testing.assert_array_equal(one["target_latents"][i], true["target_latents"][i])
            own += of_model
            if of_model:
                scene, clip = divmod(int(one["source_latents"][i, 0, 0, 0, 2]), CLIPS)
                assert clip // PER_PATH == scene and clip % PER_PATH < WINDOWS
            else:
                np.testing.assert_array_equal(one["source_latents"][i], true["source_latents"][i])
    assert 20 < own < 60  # of 160


def test_outputs_of_other_clips_or_unfinished_ones_are_refused(folder, outputs, tmp_path):
    def read(where):
        batches(folder, 1, changes=dict(memory_outputs=str(where)))

    with pytest.raises(InputError, match="not found; write them with python -m stp_jax.sample_dataset"):
        read(tmp_path)
    write_long_cache(tmp_path / "longer" / "train", windows=2)
    other = LatentCache.open(tmp_path / "longer" / "train")
    MemoryOutputs.create(tmp_path / "train", other, {"model": "test"})
    with pytest.raises(InputError, match="not of the latent cache"):
        read(tmp_path)
    cache = LatentCache.open(folder / "long" / "train")
    MemoryOutputs.create(tmp_path / "begun" / "train", cache, {"model": "test"}).write(
        0, np.zeros((CLIPS, *cache.latent_shape)), np.zeros(CLIPS // WINDOWS)
    )
    with pytest.raises(InputError, match="1 of 2 scenes are not written yet"):
        read(tmp_path / "begun")
    with pytest.raises(InputError, match="begun with another model"):
        MemoryOutputs.create(tmp_path / "begun" / "train", cache, {"model": "another"})
    with pytest.raises(InputError, match="already complete"):
        MemoryOutputs.create(outputs / "train", cache, {"model": "test"})
    with pytest.raises(InputError, match="needs data.memory_frames"):
        batches(folder, 1, changes=dict(memory_frames=0, memory_outputs=str(outputs)))


def test_mistakes_are_named(folder, tmp_path):
    of_videos = dict(kind="cam_x_time", path="anywhere")
    for path, changes, message in (
        ("plain", {}, "do not continue each other.*--windows 2"),
        ("long", dict(memory_frames=3), "memory_frames = 3: a clip of .* has 2 latent frames"),
        ("long", dict(memory_share=1.5), "data.memory_share"),
        ("long", dict(memory_output_share=1.5), "data.memory_output_share"),
        ("long", dict(memory_path=str(tmp_path)), "not found"),
        ("long", of_videos, "a memory comes from a latent cache"),
    ):
        with pytest.raises(InputError, match=message):
            batches(folder, 1, path=path, changes=changes)


def test_batches_with_a_memory_of_a_mixture_are_those_of_its_long_paths(folder):
    """The other batches are of the mixture; which are which does not depend on it."""
    parts = {name: dict(path=str(folder / name), weight=w) for name, w in (("plain", 3.0), ("long", 1.0))}
    changes = dict(path="", mixture=parts, memory_path=str(folder / "long"))
    alone = batches(folder, 12, changes=dict(memory_path=str(folder / "long")))
    mixed = batches(folder, 12, changes=changes)
    which = ["memory_latents" in batch for batch in mixed]
    assert which == ["memory_latents" in batch for batch in alone] and 2 < sum(which) < 10
    for batch in mixed:
        if "memory_latents" in batch:
            assert batch["memory_latents"].shape == (4, K, 2, 2, 4)
            windows = batch["target_latents"][:, 0, 0, 0, 2].astype(int) % WINDOWS
            assert (windows > 0).all()  # continues another
    with pytest.raises(InputError, match="data.memory_path: give the latent cache"):
        batches(folder, 1, changes=changes | {"memory_path": ""})
