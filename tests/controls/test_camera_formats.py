"""Every form of camera files gives the same cameras: written by other means, projected, rendered."""

import json
from pathlib import Path

import numpy as np
import pytest

from stp_jax.controls import camera_files, cameras
from stp_jax.controls.cameras import Reading
from tests.controls import camera_writers
from tests.controls.filmed import LENS, SIZE, VIDEO, F, refused
from tests.controls.random_cameras import project
from tests.opengl import needs_opengl

CASES = Path(__file__).parent / "cases"
NORMALISED = np.array([130 / 160, 130 / 96, 0.5, 0.5])


def read(writer, folder, c2w, reading=VIDEO):
    return cameras.load(writer(folder, c2w, LENS, SIZE), reading=reading)


# The same cameras in every form ---------------------------------------------------------------------------


@pytest.mark.parametrize("writer", camera_writers.ALL, ids=lambda writer: writer.__name__)
def test_every_form_gives_the_same_cameras(tmp_path, poses, writer):
    path = read(writer, tmp_path, poses)
    np.testing.assert_allclose(path.cameras.c2w, poses, atol=1e-9)
    if writer in camera_writers.WITH_LENS:
        np.testing.assert_allclose(path.cameras.intrinsics, [NORMALISED] * F, rtol=1e-6)
        assert path.lens
    else:
        np.testing.assert_array_equal(path.cameras.intrinsics, [cameras.default_intrinsics()] * F)
        assert path.lens is None
    order = "world-to-camera" if writer.__name__ in W2C else "camera-to-world"
    axes = "OpenGL axes" if writer.__name__ in OPENGL else "OpenCV axes"
    assert order in path.form and axes in path.form


W2C = {"realestate", "vggt", "uni3c", "colmap_text", "colmap_binary"}
OPENGL = {
    "nerfstudio",
    "nerfstudio_by_frame",
    "blender",
    "camera_path",
    "cam_x_time",
    "cam_x_time_evaluation",
}


def test_all_forms_of_the_table_are_written_here_or_tested_elsewhere(tmp_path, poses):
    found = set()
    for i, writer in enumerate(camera_writers.ALL):
        (tmp_path / str(i)).mkdir()
        where = str(writer(tmp_path / str(i), poses, LENS, SIZE))
        content = camera_files.content(where)
        found.add(next(form.title for form in camera_files.FORMATS if form.matches(content)))
    elsewhere = {
        "camera_data.json",
        "camera_data.json, official",
        "camera_extrinsics.json",
        "TrajectoryCrafter",
    }
    assert found | elsewhere == {form.title for form in camera_files.FORMATS}


def test_forms_are_known_by_content_not_by_name(tmp_path, poses):
    for writer, name in (
        (camera_writers.nerfstudio, "tum.json"),
        (camera_writers.realestate, "kitti.txt"),
        (camera_writers.kitti, "re10k.txt"),
        (camera_writers.vggt, "megasam.npz"),
        (camera_writers.tum, "images.txt"),
    ):
        written = writer(tmp_path, poses, LENS, SIZE).rename(tmp_path / name)
        np.testing.assert_allclose(cameras.load(written, reading=VIDEO).cameras.c2w, poses, atol=1e-9)
        written.unlink()


def test_worlds_far_from_their_origin_keep_their_digits(tmp_path, poses):
    """As georeferenced models: millions of metres, of which float32 keeps decimetres."""
    far = poses.copy()
    far[:, :3, 3] += [4_000_000.0, 500_000.0, 100.0]
    path = cameras.load(camera_writers.colmap_binary(tmp_path, far, LENS, SIZE))
    relative = cameras.relative_to(path.cameras.c2w, path.cameras.c2w[0])
    np.testing.assert_allclose(relative, np.linalg.inv(far[0]) @ far, atol=2e-6)


@needs_opengl
def test_cameras_of_all_forms_project_a_rendered_scene_to_its_pixels(tmp_path):
    """A small glowing sphere is rendered by known cameras, and found where the cameras that are read say."""
    import mujoco

    from input_pipeline.render import film, rig, scene

    spec = mujoco.MjSpec()
    spec.visual.quality.numslices = spec.visual.quality.numstacks = 24
    spec.visual.headlight.active = 0
    spec.worldbody.add_geom(
        name="ground", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 1], rgba=[0, 0, 0, 1]
    )
    spec.add_material(name="glow", emission=1)
    spec.worldbody.add_body(mocap=True).add_geom(size=[0.05, 0, 0], material="glow")
    model = spec.compile()
    points = np.array([[0.3, -0.2, 1.0], [-0.4, 0.1, 0.6]])
    states = [scene.State(np.zeros(0), p[None], np.array([[1.0, 0, 0, 0]])) for p in points]
    path = rig.draw(np.random.default_rng(2), F, np.array([0, 0, 0.8]), 1.7)
    lens = np.tile(NORMALISED, (F, 1))
    path = path._replace(intrinsics=lens) if hasattr(path, "_replace") else type(path)(path.c2w, lens)
    with film.Film(scene.Scene(model, mujoco.MjData(model), states, path, [], []), *SIZE) as camera:
        pictures = np.stack([camera.shoot(i) for i in range(2)], 1)[..., 0]  # [F, 2, H, W]
    seen = np.full((F, 2, 2), np.nan)
    for f, i in np.ndindex(F, 2):
        rows, columns = np.nonzero(pictures[f, i])
        if len(rows) and 3 < rows.min() and rows.max() < SIZE[1] - 4 and 3 < columns.min() < SIZE[0] - 20:
            weights = pictures[f, i][rows, columns]
            seen[f, i] = [np.average(v + 0.5, weights=weights) for v in (columns, rows)]
    there = np.isfinite(seen[..., 0])
    assert there.sum() > F
    for number, writer in enumerate(camera_writers.ALL):
        (tmp_path / str(number)).mkdir()
        got = read(writer, tmp_path / str(number), path.c2w.astype(np.float64)).cameras
        own = got.intrinsics if writer in camera_writers.WITH_LENS else lens
        for f in range(F):
            pixels = project(points, got.c2w[f], own[f])[0] * SIZE
            assert (np.hypot(*(pixels - seen[f]).T)[there[f]] < 0.2).all(), writer.__name__


# Against other programs and their documents ---------------------------------------------------------------


@pytest.mark.parametrize("binary", [False, True])
def test_models_that_colmap_wrote(tmp_path, poses, binary):
    pycolmap = pytest.importorskip("pycolmap")
    made = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model="OPENCV", width=640, height=480, camera_id=3)
    camera.params = [500, 510, 330, 250, 0.1, 0, 0, 0]
    made.add_camera_with_trivial_rig(camera)
    for i, pose in enumerate(poses):
        image = pycolmap.Image(name=f"clip/{i}.png", camera_id=3, image_id=2 * F - i)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D([5.0 * j, 7.0]) for j in range(i % 3)])
        made.add_image_with_trivial_frame(image, pycolmap.Rigid3d(np.linalg.inv(pose)[:3]))
    (made.write_binary if binary else made.write_text)(tmp_path)
    for given in (tmp_path, tmp_path / f"images.{'bin' if binary else 'txt'}"):
        path = cameras.load(given)
        np.testing.assert_allclose(path.cameras.c2w, poses, atol=1e-6)
        lens = [500 / 640, 510 / 480, 330 / 640, 250 / 480]
        np.testing.assert_allclose(path.cameras.intrinsics, [lens] * F, rtol=1e-6)
        assert path.lens == "OPENCV of 640 x 480 (the model's cameras); distortion is not used"


@pytest.mark.parametrize("binary", [False, True])
def test_how_far_away_the_points_of_a_model_are_that_colmap_wrote(tmp_path, poses, binary):
    """Those that the first picture, by name, has in its middle; other pictures see points, too."""
    pycolmap = pytest.importorskip("pycolmap")
    made = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model="PINHOLE", width=640, height=480, camera_id=1)
    camera.params = [500, 500, 320, 240]
    made.add_camera_with_trivial_rig(camera)
    depths = np.concatenate([np.linspace(2, 3, 21), np.full(20, 50.0), np.full(7, 9.0)])
    x = np.concatenate([np.linspace(200, 440, 21), np.full(20, 20.0), np.full(7, 320.0)])
    rays = np.stack([(x - 320) / 500, np.zeros(48), np.ones(48)], 1) * depths[:, None]
    for i, pose in enumerate(poses):
        image = pycolmap.Image(name=f"{i}.png", camera_id=1, image_id=F - i)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D([one, 240.0]) for one in x])
        made.add_image_with_trivial_frame(image, pycolmap.Rigid3d(np.linalg.inv(pose)[:3]))
    for j, ray in enumerate(rays):  # the last seven are seen by another picture alone
        place = poses[0][:3, :3] @ ray + poses[0][:3, 3]
        elements = [pycolmap.TrackElement(F if j < 41 else F - 1, j), pycolmap.TrackElement(F - 2, j)]
        made.add_point3D(place, pycolmap.Track(elements))
    (made.write_binary if binary else made.write_text)(tmp_path)
    np.testing.assert_allclose(cameras.load(tmp_path).depth, 2.5, rtol=1e-6)
    points = tmp_path / f"points3D.{'bin' if binary else 'txt'}"
    whole = points.read_bytes()
    for damaged in (
        (whole[:200], whole[:51] + b"\xff" * 8 + whole[59:]) if binary else (b"a b c d\n" + whole,)
    ):
        points.write_bytes(damaged)
        assert f"{points.name}: is not COLMAP's file of that name" in refused(tmp_path)
    points.unlink()
    assert cameras.load(tmp_path).depth is None


def test_the_example_of_colmap_s_documents(tmp_path):
    """https://colmap.github.io/format.html, with a second image that stands still."""
    (tmp_path / "cameras.txt").write_text("1 SIMPLE_PINHOLE 3072 2304 2559.81 1536 1152\n")
    pose = "0.851773 0.0165051 0.503764 -0.142941 -0.737434 1.02973 3.74354 1 P1180141.JPG"
    (tmp_path / "images.txt").write_text(
        f"# Image list\n1 {pose}\n2362.39 248.498 58396 1784.7 268.254 59027 1784.7 268.254 -1\n"
        f"2 {pose.replace('141.J', '142.J')}\n\n"
    )
    path = cameras.load(tmp_path)
    # By hand: w x y z -> the first row of R is 1 - 2yy - 2zz, 2xy - 2wz, 2xz + 2wy.
    w, x, y, z = np.array([0.851773, 0.0165051, 0.503764, -0.142941])
    row = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    np.testing.assert_allclose(np.linalg.inv(path.cameras.c2w[0])[0], [*row, -0.737434], atol=2e-6)
    np.testing.assert_allclose(
        path.cameras.intrinsics[0], [2559.81 / 3072, 2559.81 / 2304, 0.5, 0.5], rtol=1e-6
    )


# Made by TrajectoryCrafter's own code (models/utils.py: generate_traj_txt, then demo.py: get_poses and the
# transformation of Warper.compute_transformed_points, inverted) for 49 frames and a radius of 3, in float32.
CRAFTED = {
    "0 2 10 15 12 6 0 -2 -5 -12 -8 -3 0\n0 -3 -10 -20 -30 -25 -17 -10 0\n0 0.02 0.09 0.16 0.25 0.2 0.09 0": {
        12: [
            [0.9831671, 0, 0.1827084, -0.5481253],
            [-0.0442409, 0.9702415, 0.2380633, -0.7141898],
            [-0.1772713, -0.2421392, 0.9539095, 0.3896386],
        ],
        30: [
            [0.9010455, 0, 0.4337246, -1.3011738],
            [0.0358921, 0.9965701, -0.0745644, 0.2236932],
            [-0.432237, 0.0827532, 0.897955, 0.9371423],
        ],
        48: np.eye(4)[:3].tolist(),
    },
    "0 5 12 20 28\n0 -10 -25\n0 0.1 0.3 0.35\n": {
        12: [
            [0.9961947, 0, 0.0871557, -0.2614672],
            [-0.0075961, 0.9961947, 0.0868241, -0.2604722],
            [-0.0868241, -0.0871557, 0.9924038, 0.1903666],
        ],
        48: [
            [0.9063078, 0, 0.4226183, -1.2678547],
            [-0.1984073, 0.8829476, 0.4254857, -1.2764573],
            [-0.3731498, -0.4694716, 0.8002223, 1.6493331],
        ],
    },
}


@pytest.mark.parametrize("text", CRAFTED)
def test_trajectorycrafter_s_keys_give_its_own_cameras(tmp_path, text):
    (tmp_path / "loop.txt").write_text(text)
    path = cameras.load(tmp_path / "loop.txt", reading=Reading(distance=3.0))
    assert path.uses_distance and path.motion_only and len(path.cameras.c2w) == 49
    relative = cameras.relative_to(path.cameras.c2w, path.cameras.c2w[0])
    for frame, expected in CRAFTED[text].items():
        np.testing.assert_allclose(relative[frame, :3], expected, atol=2e-6)


@pytest.mark.parametrize(
    ("keys", "axis", "sign"),
    [("0 20\n0 0\n0 0", 1, -1), ("0 0\n0 20\n0 0", 0, 1), ("0 0\n0 0\n0 0.5", 2, 1)],
)
def test_trajectorycrafter_s_keys_mean_what_its_document_says(tmp_path, keys, axis, sign):
    """docs/config_help.md: +theta rotates the camera upward, +phi to the right, +r moves it forward."""
    (tmp_path / "a.txt").write_text(keys)
    path = cameras.load(tmp_path / "a.txt", reading=Reading(frames=5, distance=2.0)).cameras
    relative = cameras.relative_to(path.c2w, path.c2w[0])
    assert len(relative) == 5 and sign * relative[-1, axis, 3] > 0.5
    if axis != 2:  # it looks at the point in the middle, from the same distance
        pixel, depth = project(np.array([[0, 0, 2.0]]), relative[-1], np.array([1, 1, 0.5, 0.5]))
        np.testing.assert_allclose(pixel, [[0.5, 0.5]], atol=1e-6)
        np.testing.assert_allclose(depth, 2, rtol=1e-6)


# The given cases ------------------------------------------------------------------------------------------

W = np.eye(4)
W[:3, :3], W[:3, 3] = [[0.36, 0.48, -0.8], [-0.8, 0.6, 0], [0.48, 0.64, 0.6]], [5, 2, 1]


@pytest.mark.parametrize(
    ("name", "lens", "world"),
    [
        ("transforms.json", [0.78125, 1500 / 1080, 0.5, 0.5], W),
        ("camera_path.json", [0.603143, 1.072253, 0.5, 0.5], W),
        ("re10k.txt", [0.474812, 0.844111, 0.5, 0.5], W),
        ("vggt.npz", [500 / 518, 500 / 294, 0.5, 0.5], W),
        ("norm169.json", [0.78125, 1.38889, 0.5, 0.5], np.eye(4)),
        ("px.json", [0.78125, 1500 / 1080, 0.5, 0.5], np.eye(4)),
        ("k33.json", [0.78125, 1500 / 1080, 0.5, 0.5], np.eye(4)),
        ("fwd_rel.npy", None, np.eye(4)),
        ("f81.npy", None, np.eye(4)),
        ("f120.npy", None, np.eye(4)),
        ("keys5.npy", None, np.eye(4)),
    ],
)
def test_cases_that_move_forward(name, lens, world):
    path = cameras.load(CASES / name)
    expected = np.tile(np.eye(4), (len(path.cameras.c2w), 1, 1))
    expected[:, 2, 3] = np.linspace(0, 1, len(expected))
    np.testing.assert_allclose(path.cameras.c2w, world @ expected, atol=1e-6)
    relative = cameras.relative_to(path.cameras.c2w, path.cameras.c2w[0])
    np.testing.assert_allclose(relative, expected, atol=1e-6)
    if lens:
        np.testing.assert_allclose(path.cameras.intrinsics, [lens] * len(expected), atol=1e-6)


def test_cases_that_need_an_option_or_move_elsewhere():
    path = cameras.load(CASES / "opengl_c2w.npy", reading=Reading(axes="opengl")).cameras.c2w
    np.testing.assert_allclose(cameras.relative_to(path, path[0])[-1, :3, 3], [0, 0, 1], atol=1e-6)
    up = cameras.load(CASES / "my_extrinsics_c2w.npy").cameras.c2w
    np.testing.assert_allclose(cameras.relative_to(up, up[0])[-1, :3, 3], [0, -1, 0], atol=1e-6)
    right = cameras.load(CASES / "tum.txt").cameras.c2w
    np.testing.assert_allclose(right[:, :3, 3], np.arange(17)[:, None] / 17 * [1, 0, 0], atol=1e-6)


# Frames without poses, and uneven times -------------------------------------------------------------------


def forward(at):
    c2w = np.tile(np.eye(4), (len(at), 1, 1))
    c2w[:, 2, 3] = at
    return c2w


def test_frames_that_have_no_pose_get_one_between_their_neighbours(tmp_path):
    at = np.array([0, 1, 2, 5, 6, 7, 9])
    c2w = forward(at)
    frames = [
        {"file_path": f"images/{i + 1:03d}.png", "transform_matrix": (p @ camera_writers.GL).tolist()}
        for i, p in zip(at, c2w, strict=True)
    ]
    where = camera_writers.as_json(tmp_path / "t.json", {"frames": frames})
    path = cameras.load(where)
    np.testing.assert_allclose(path.cameras.c2w[:, 2, 3], np.arange(10), atol=1e-6)
    assert "3 of 10 frames have no pose" in path.form
    # As many as the video or the result has frames: one for each.
    np.testing.assert_allclose(cameras.load(where, reading=Reading(frames=7)).cameras.c2w, c2w, atol=1e-6)
    (tmp_path / "pose").mkdir()
    np.savez(tmp_path / "pose" / "a.npz", data=c2w[1:], inds=at[1:])
    path = cameras.load(tmp_path / "pose" / "a.npz")
    np.testing.assert_allclose(path.cameras.c2w[:, 2, 3], [1, *range(1, 10)], atol=1e-6)
    assert path.frame_numbers.tolist() == list(range(10))
    np.savez(tmp_path / "pose" / "b.npz", data=c2w[1:4], inds=[4, 6, 8])  # every second frame
    path = cameras.load(tmp_path / "pose" / "b.npz")
    np.testing.assert_allclose(path.cameras.c2w[:, 2, 3], [1, 1, 1, 2, 5], atol=1e-6)
    np.savez(tmp_path / "pose" / "c.npz", data=c2w[1:4], inds=[0, 1, 90])
    path = cameras.load(tmp_path / "pose" / "c.npz")
    assert len(path.cameras.c2w) == 3 and path.frame_numbers.tolist() == [0, 1, 90]
    far = [one | {"file_path": f"{n}.png"} for one, n in zip(frames, (1, 2, 91), strict=False)]
    where = camera_writers.as_json(tmp_path / "far.json", {"frames": far})
    assert "their numbers are not those of frames" in cameras.load(where).form


def test_key_frames_of_a_tracker_are_brought_to_even_times(tmp_path):
    at = np.array([0, 1, 2, 3, 4, 7, 8, 9])
    rows = [[1e9 + i / 25, 0, 0, i, 0, 0, 0, 1] for i in at]
    path = cameras.load(camera_writers.lines(tmp_path / "a.tum", rows))
    assert path.form.endswith("its 8 poses at uneven times are brought to 10 at even ones")
    np.testing.assert_allclose(path.cameras.c2w[:, 2, 3], np.arange(10), atol=1e-3)


# Lenses ---------------------------------------------------------------------------------------------------


def test_distortion_is_said_not_to_be_used(tmp_path, poses):
    where = camera_writers.nerfstudio(tmp_path, poses, LENS, SIZE)
    assert cameras.load(where).lens.endswith("; its distortion is not used")
    for value, said in ((0, False), ([0, 0.1], True), ("none", False)):
        data = json.loads(where.read_text()) | {"k1": value}
        path = cameras.load(camera_writers.as_json(where, data))
        assert path.lens.endswith("not used") == said


def test_a_field_of_view_alone_is_of_the_video_s_shape(tmp_path, poses):
    where = camera_writers.blender(tmp_path, poses, LENS, SIZE)
    square = cameras.load(where, reading=Reading(video=(800, 800))).cameras.intrinsics[0]
    np.testing.assert_allclose(square, [130 / 160, 130 / 160, 0.5, 0.5], rtol=1e-6)
    data = json.loads(where.read_text()) | {"w": 320, "h": 192}
    stated = cameras.load(camera_writers.as_json(where, data), reading=Reading(video=(800, 800)))
    np.testing.assert_allclose(stated.cameras.intrinsics[0], NORMALISED, rtol=1e-6)
