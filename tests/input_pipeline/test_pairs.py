"""Shots, camera paths, pairs and augmentation, on scenes whose colours say which frame is which."""

import numpy as np
import pytest
import synthetic

from input_pipeline import augment, pairs
from stp_jax.errors import InputError

FRAMES = 5
EQUAL = (1 / 3, 1 / 3, 1 / 3)


def check_clip(clip, scene, first_grid_time=0):
    """Reads camera and grid time back from the pictures; compares all else with the scene's definition."""
    _, cameras, grid_times = np.moveaxis(synthetic.read_colour(clip["video"]), -1, 0)
    times = np.zeros(FRAMES) if scene.kind == "grid" else grid_times
    poses = [synthetic.rig_pose(c, t) for c, t in zip(cameras, times, strict=True)]
    np.testing.assert_allclose(clip["c2w"], poses, atol=1e-6)
    np.testing.assert_allclose(clip["intrinsics"], [synthetic.rig_intrinsics(c) for c in cameras], atol=1e-6)
    per_frame = 2 if scene.kind == "grid" else 1
    np.testing.assert_allclose(clip["animation_time"] * per_frame, grid_times - first_grid_time)
    return cameras, grid_times


@pytest.mark.parametrize("cameras", [1, 2, 17])
def test_camera_paths_are_smooth_and_stay_on_the_rig(cameras):
    rng = np.random.default_rng(0)
    paths = np.array([pairs.random_camera_path(rng, cameras, 17) for _ in range(300)])
    assert paths.min() == 0 and paths.max() == cameras - 1
    # The steepest path is a whole sweep there and back, or one that ends twice as fast as its mean.
    assert np.abs(np.diff(paths)).max() <= np.ceil(2 * 2 * (cameras - 1) / 16) + 1
    static = (paths == paths[:, :1]).all(1).mean()
    assert static == 1 if cameras == 1 else 0.1 < static < 0.6
    if cameras == 17:
        assert (paths[:, -1] > paths[:, 0]).any() and (paths[:, -1] < paths[:, 0]).any()
        assert np.ptp(paths, axis=1).max() == 16


@pytest.mark.parametrize("kind", ["grid", "synchronised"])
def test_frames_poses_and_times_of_random_pairs_agree(kind):
    scene = synthetic.scene(kind=kind, step=0.5 if kind == "grid" else 1.0, times=11)
    rng = np.random.default_rng(1)
    firsts = set()
    for _ in range(60):
        pair = pairs.random_pair(scene, rng, FRAMES, EQUAL, source_warp=0.3)
        # Both count from one grid time: the one that fits pictures and times of the source.
        grid_time = synthetic.read_colour(pair[0]["video"])[0, 2]
        first = grid_time - int(pair[0]["animation_time"][0] * scene.steps_per_frame)
        firsts.add(first)
        for clip in pair:
            cameras, _ = check_clip(clip, scene, first)
            if kind != "grid":
                assert len(set(cameras)) == 1
    assert firsts == set(range(3 if kind == "grid" else 7))


def test_by_synchronised_rules_the_camera_is_where_it_was_at_that_moment():
    """One camera of the rig for each time of a clip, and the other's path in any mode but time_only."""
    scene, rng, warped = synthetic.scene(cameras=5, times=9), np.random.default_rng(3), 0
    for mode in range(3):
        for _ in range(20):
            modes = np.eye(3)[mode]
            pair = pairs.random_pair(scene, rng, FRAMES, modes, source_warp=0.5, rules="synchronised")
            where = []
            for clip in pair:
                cameras, times = check_clip(clip, scene)
                own = {}
                for camera, time in zip(cameras, np.rint(times / 2), strict=True):
                    assert own.setdefault(time, camera) == camera
                where.append(own)
                warped += not np.array_equal(times, 2 * np.arange(FRAMES))
            if pairs.MODES[mode] == "time_only":  # the same video, warped
                assert all(where[0][time] == where[1][time] for time in where[0].keys() & where[1].keys())
    assert warped > 30
    path, curve = np.array([4, 3, 2, 1, 0]), np.float32([0, 0.5, 1.5, 4, 3.5])
    np.testing.assert_array_equal(pairs.diagonal(path, curve), [4, 4, 2, 0, 0])


def test_by_static_rules_all_frames_show_one_moment_from_two_paths():
    scene, rng, found = synthetic.scene(cameras=5, times=9), np.random.default_rng(3), set()
    for _ in range(40):
        clips = pairs.random_pair(scene, rng, FRAMES, EQUAL, source_warp=0.5, rules="static")
        (cameras, times), (other, same) = (check_clip(clip, scene) for clip in clips)
        assert set(times) == set(same) and len(set(times)) == 1
        assert not np.array_equal(cameras, other)
        found.add(times[0])
    assert found == {0, 2, 4, 6, 8}
    _, shots = pairs.random_shots(scene, rng, FRAMES, 4, 1, "static")
    assert len({time for _, curve in shots for time in curve}) == 1


@pytest.mark.parametrize("kind", ["grid", "synchronised"])
@pytest.mark.parametrize("mode", pairs.MODES)
def test_each_mode_changes_what_it_says_and_nothing_else(mode, kind):
    scene = synthetic.scene(kind=kind, step=0.5 if kind == "grid" else 1.0, times=9 if kind == "grid" else 5)
    rng = np.random.default_rng(2)
    for _ in range(30):
        only = [float(mode == other) for other in pairs.MODES]
        source, target = pairs.random_pair(scene, rng, FRAMES, only, source_warp=0.0)
        source_camera, _ = check_clip(source, scene)
        target_camera, _ = check_clip(target, scene)
        np.testing.assert_array_equal(source["animation_time"], np.arange(FRAMES))
        assert np.array_equal(source_camera, target_camera) == (mode == "time_only")
        assert np.array_equal(target["animation_time"], np.arange(FRAMES)) == (mode == "camera_only")


def test_warps_use_the_half_frames_of_the_grid():
    scene = synthetic.scene()
    rng = np.random.default_rng(3)
    times = [pairs.random_pair(scene, rng, FRAMES, EQUAL, 0.0)[1]["animation_time"] for _ in range(100)]
    assert (np.mod(times, 1) == 0.5).any()
    assert np.min(times) >= 0 and np.max(times) <= FRAMES - 1


def test_a_warped_source_tells_its_own_animation_time():
    rng = np.random.default_rng(4)
    source, _ = pairs.random_pair(synthetic.scene(), rng, FRAMES, EQUAL, source_warp=1.0)
    assert not np.array_equal(source["animation_time"], np.arange(FRAMES))
    check_clip(source, synthetic.scene())


@pytest.mark.parametrize("kind", ["grid", "synchronised"])
def test_clips_to_encode_share_a_path_by_groups_and_a_first_moment_by_scene(kind):
    scene = synthetic.scene(kind=kind, step=0.5 if kind == "grid" else 1.0)
    clips = pairs.random_clips(scene, np.random.default_rng(5), FRAMES, count=11, clips_per_path=3)
    assert clips["video"].shape == (11, FRAMES, 8, 16, 3)
    first = int(synthetic.read_colour(clips["video"])[0, 0, 2])
    paths = []
    for k in range(11):
        cameras, _ = check_clip({key: value[k] for key, value in clips.items()}, scene, first)
        forward = np.array_equal(clips["animation_time"][k], np.arange(FRAMES))
        assert forward == (k % 3 == 0)
        paths.append(tuple(cameras))
    assert all(len(set(paths[i : i + 3])) == 1 for i in range(0, 11, 3))
    assert len(set(paths)) == 4


def test_more_clips_than_camera_paths_is_the_users_mistake():
    scene = synthetic.scene(cameras=2, kind="synchronised", step=1.0)
    with pytest.raises(InputError, match="fewer than 3 camera paths"):
        pairs.random_clips(scene, np.random.default_rng(0), FRAMES, count=6, clips_per_path=2)


def test_a_scene_shorter_than_a_video_is_the_users_mistake():
    with pytest.raises(InputError, match="5 source frames, but the config asks for frames = 6"):
        pairs.random_pair(synthetic.scene(), np.random.default_rng(0), 6, EQUAL, 0.0)


def test_relative_cameras_are_seen_from_the_first_source_camera():
    scene = synthetic.scene()
    source, target = pairs.random_pair(scene, np.random.default_rng(6), FRAMES, (0, 0, 1), 0.0)
    example = pairs.make_relative(source, target)
    reference = np.linalg.inv(source["c2w"][0].astype(np.float64))
    np.testing.assert_allclose(example["source_c2w"][0], np.eye(4), atol=1e-6)
    np.testing.assert_allclose(example["source_c2w"], reference @ source["c2w"], atol=1e-6)
    np.testing.assert_allclose(example["target_c2w"], reference @ target["c2w"], atol=1e-6)
    assert example["target_c2w"].dtype == np.float32
    batched = pairs.make_relative(*({k: v[None] for k, v in clip.items()} for clip in (source, target)))
    np.testing.assert_allclose(batched["target_c2w"][0], example["target_c2w"], atol=1e-6)


def project(points, c2w, intrinsics):
    """Picture coordinates [F, N, 2] of world points [N, 3], as parts of the width and the height."""
    w2c = np.linalg.inv(c2w.astype(np.float64))
    camera = np.einsum("fij,nj->fni", w2c[:, :3, :3], points) + w2c[:, None, :3, 3]
    focal, centre = intrinsics[:, None, :2], intrinsics[:, None, 2:]
    return focal * camera[..., :2] / camera[..., 2:] + centre


def test_mirroring_moves_projected_points_as_it_moves_pixels():
    """A point of the mirror world must fall where the mirrored picture shows the point of the world."""
    rng = np.random.default_rng(7)
    scene = synthetic.scene()
    source, target = pairs.random_pair(scene, rng, FRAMES, (0, 0, 1), 0.0)
    points = np.array([0.0, 0.0, 8.0]) + rng.normal(size=(20, 3))
    for clip in (source, target):
        clip["video"] = rng.integers(0, 255, clip["video"].shape, np.uint8)
        flipped = augment.mirror(clip)
        np.testing.assert_array_equal(flipped["video"][:, :, 3], clip["video"][:, :, -4])
        before = project(points, clip["c2w"], clip["intrinsics"])
        after = project(points * [-1, 1, 1], flipped["c2w"], flipped["intrinsics"])
        np.testing.assert_allclose(after, before * [-1, 1] + [1, 0], atol=1e-5)
        np.testing.assert_allclose(np.linalg.det(flipped["c2w"][:, :3, :3]), 1, atol=1e-5)
    # Points given in the frame of the source's first camera: the same after the change to relative poses.
    plain = pairs.make_relative(source, target)
    flipped = pairs.make_relative(augment.mirror(source), augment.mirror(target))
    points = rng.normal(size=(20, 3)) + [0, 0, 8]
    for which in ("source", "target"):
        before = project(points, plain[f"{which}_c2w"], plain[f"{which}_intrinsics"])
        after = project(points * [-1, 1, 1], flipped[f"{which}_c2w"], flipped[f"{which}_intrinsics"])
        np.testing.assert_allclose(after, before * [-1, 1] + [1, 0], atol=1e-5)


def test_augmentation_treats_source_and_target_alike():
    scene = synthetic.scene()
    seen = set()
    for seed in range(40):
        source, target = pairs.random_pair(scene, np.random.default_rng(8), FRAMES, EQUAL, 0.0)
        changed = augment.augment(
            np.random.default_rng(seed), source, target, flip=True, permute_channels=True
        )
        found = []
        for clip, new in zip((source, target), changed, strict=True):
            flipped = not np.allclose(clip["intrinsics"], new["intrinsics"])
            old = clip["video"][..., ::-1, :] if flipped else clip["video"]
            order = [
                tuple(p)
                for p in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
                if np.array_equal(old[..., p], new["video"])
            ]
            assert order
            found.append((flipped, order))
        assert found[0][0] == found[1][0] and set(found[0][1]) & set(found[1][1])
        seen.add((found[0][0], found[0][1][0]))
    assert len(seen) > 6
