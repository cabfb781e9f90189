"""What a data set's figures say of its scenes, and which of them stand out."""

import numpy as np
from scipy.spatial.transform import Rotation

from input_pipeline.inspect import figures, scenes


def a_scene(kind="synchronised", frames=21, cameras=3, **changes):
    """Cameras that stand in a row, look forward and move forward by 0.1 m in each frame."""
    c2w = np.tile(np.eye(4), (cameras, frames, 1, 1))
    c2w[:, :, 0, 3] = np.arange(cameras)[:, None]
    c2w[:, :, 2, 3] = 0.1 * np.arange(frames)
    return scenes.Known(
        number=0,
        name="a",
        kind=kind,
        metric=True,
        captions=("b",),
        fps=10.0,
        c2w=c2w,
        intrinsics=np.tile([0.5, 2 / 3, 0.5, 0.5], (cameras, frames, 1)),
        animation_time=np.tile(np.arange(frames), (cameras, 1)),
        sizes=((120, 160),) * cameras,
        lengths=(frames,) * cameras,
        size=1000,
    )._replace(**changes)


def unusual(scene):
    return " | ".join(figures.of_its_own(scene, figures.of_scene(scene)))


def test_figures_of_a_scene():
    row = figures.of_scene(a_scene())
    assert (row["cameras"], row["frames"], row["seconds"], row["size"]) == (3, 21, 2.1, "160 x 120")
    np.testing.assert_allclose(row["extent"], np.hypot(2, 2))
    np.testing.assert_allclose([row["step_median"], row["step_max"], row["jump"]], [0.1, 0.1, 1])
    np.testing.assert_allclose([row["fov_x_max"], row["fov_y_min"]], [90, 2 * np.degrees(np.arctan(0.75))])
    assert row["directions_apart"] < 1e-4 and row["turn_max"] < 1e-4 and row["roll_max"] < 1e-4
    assert unusual(a_scene()) == ""


def test_the_point_that_cameras_look_at():
    aim = np.array([1.0, -2, 6])
    c2w = np.tile(np.eye(4), (5, 1, 1))
    c2w[:, :3, 3] = np.random.default_rng(0).normal(0, 1, (5, 3))
    for pose in c2w:
        forward = aim - pose[:3, 3]
        pose[:3, :3] = Rotation.align_vectors([forward / np.linalg.norm(forward)], [[0, 0, 1]])[0].as_matrix()
    point, spread, in_front = figures.look_at(c2w)
    np.testing.assert_allclose(point, aim, atol=1e-5)
    assert spread < 1e-3 and in_front == 1
    c2w[:, :3, :3] = c2w[:, :3, :3] @ np.diag([1, -1, -1])
    assert figures.look_at(c2w)[2] == 0


def test_what_is_unusual_in_a_scene_is_said():
    scene = a_scene()
    jumping = scene.c2w.copy()
    jumping[1, 12:, 1, 3] += 3
    assert "camera 1, at frame 12, jumps: 30 times" in unusual(scene._replace(c2w=jumping))
    starting = scene.c2w.copy()  # stands still at first: no jump
    starting[:, :12, 2, 3] = starting[:, 12:13, 2, 3]
    assert unusual(scene._replace(c2w=starting)) == ""
    turned = scene.c2w.copy()
    turned[2, :, :3, :3] = Rotation.from_euler("y", 170, degrees=True).as_matrix()
    assert "look away from each other, by up to 170 degrees" in unusual(scene._replace(c2w=turned))
    turned[0, 5:, :3, :3] = Rotation.from_euler("x", 40, degrees=True).as_matrix()
    assert "camera 0 turns by 40 degrees at frame 5" in unusual(scene._replace(c2w=turned))
    rolled = scene.c2w.copy()
    rolled[0, :, :3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    assert "cameras are rolled" in unusual(scene._replace(c2w=rolled))
    assert "differ in size: 160 x 120, 80 x 60" in unusual(
        scene._replace(sizes=((120, 160), (60, 80), (120, 160)))
    )
    assert "camera 1 says it has 20 frames, not 21" in unusual(scene._replace(lengths=(21, 20, 0)))
    assert "the same poses" in unusual(scene._replace(c2w=np.tile(scene.c2w[:1], (3, 1, 1, 1))))
    lens = scene.intrinsics * [0.2, 0.2, 1, 1] + [0, 0, 0.2, 0]
    said = unusual(scene._replace(intrinsics=lens))
    assert "field of view of 157 degrees" in said and "20% of the picture away from its middle" in said
    assert "no squares: fy is 0.75 times fx" in unusual(scene._replace(sizes=((90, 160),) * 3))


def test_scenes_that_differ_from_most_are_found():
    rows = [figures.of_scene(a_scene(number=number, name=str(number))) for number in range(20)]
    assert not any(figures.among_all(rows))
    rows[3] |= {"step_max": 2.0, "fov_x_max": 150.0, "fps": 60.0, "size": "80 x 60", "scene": "4"}
    said = figures.among_all(rows)
    assert [place for place, texts in enumerate(said) if texts] == [3, 4]
    assert said[3] == [
        "its fastest step is 20 times that of most scenes",
        "its field of view is 1.67 times that of most scenes",
        "pictures of 80 x 60, where most have 160 x 120",
        "frames in a second: 60, where most have 10",
        "another scene has the same name",
    ]
