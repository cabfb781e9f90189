"""Every data set's layout is written in its own axes, units and forms, and read back to the same cameras.

The writers here follow the documents of the data sets, not our readers. That poses and pictures belong
together is seen by dots of known places, which must be where the record's cameras see them.
"""

import json
import shutil
from fractions import Fraction

import av
import dots
import numpy as np
import pytest
from dots import LENS, SIZE, SQUARE, refused, write

from input_pipeline.datasets import (
    cam_x_time_published,
    captions,
    layouts,
    multicam_video,
    shots,
)
from input_pipeline.datasets.reading import open_records
from input_pipeline.shots import decode_scene

# MultiCamVideo ----------------------------------------------------------------------------------------------

UNREAL = np.array(
    [[0, 0, 1.0], [1, 0, 0], [0, -1, 0]]
)  # x right, y down, z forward -> x forward, y right, z up
FOCAL = np.array([24 / 23.76, 24 / 23.76, 0.5, 0.5])
FRAMES = 4


def unreal_rows(c2w):
    """The text of a camera: its forward, right and up in Unreal's world, then its place in centimetres."""
    axes = UNREAL @ np.stack([c2w[:3, 2], c2w[:3, 0], -c2w[:3, 1]], 1)
    rows = [*axes.T, 100 * UNREAL @ c2w[:3, 3]]
    texts = [
        " ".join(f"{value:.10g}" for value in (*row, last))
        for row, last in zip(rows, (0, 0, 0, 1), strict=True)
    ]
    return "".join(f"[{text}] " for text in texts)


@pytest.fixture(scope="module")
def multicam(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multicam") / "train" / "f24_aperture5" / "scene7"
    paths = np.stack([dots.path(FRAMES, seed) for seed in range(3)])
    data = {
        f"frame{f}": {f"cam{c + 1:02d}": unreal_rows(paths[c, f]) for c in range(3)} for f in range(FRAMES)
    }
    (folder / "cameras").mkdir(parents=True)
    (folder / "cameras" / "camera_extrinsics.json").write_text(json.dumps(data))
    for c, path in enumerate(paths):
        write(folder / "videos" / f"cam{c + 1:02d}.mp4", dots.film(path, FOCAL, SQUARE))
    return folder, paths


def test_multicam_video(multicam, tmp_path):
    folder, paths = multicam
    listed = {"f24_aperture5_scene7": ["a dancer"]}
    record = multicam_video.read_scene(folder, multicam_video.Settings(listed))
    dots.check(record, paths, np.tile(FOCAL, (3, 1)))
    assert record["kind"] == "synchronised" and record["metric"] and record["captions"] == ["a dancer"]
    assert record["scene"] == "f24_aperture5_scene7" and abs(record["fps"] - 15) < 1e-3
    root = folder.parents[2]
    multicam_video.main(["--scenes", str(root), "--out", str(tmp_path)])
    (kept,) = open_records(tmp_path, "multicam_video", "train")
    scene = decode_scene(kept)
    assert scene.name == "f24_aperture5_scene7"
    np.testing.assert_allclose(scene.c2w, record["c2w"])


def test_the_basic_trajectories_say_what_their_names_say(multicam, tmp_path):
    """As in the published file: cam01 pans right, cam05 moves forward, along Unreal's axes."""
    source, _ = multicam
    folder = tmp_path / "val" / "10basic_trajectories"
    (folder / "cameras").mkdir(parents=True)
    (folder / "videos").mkdir()
    data = {}
    for f in range(FRAMES):
        turn = np.radians(5 * f)
        c, s = np.cos(turn), np.sin(turn)
        data[f"frame{f}"] = {
            "cam01": f"[{c:.6g} {s:.6g} 0 0] [{-s:.6g} {c:.6g} 0 0] [0 -0 1 0] [3390 1380 240 1] ",
            "cam02": f"[1 0 0 0] [-0 1 0 0] [0 -0 1 0] [{3390 + 100 * f} 1380 240 1] ",
        }
    (folder / "cameras" / "camera_extrinsics.json").write_text(json.dumps(data))
    for name in ("cam01", "cam02"):
        (folder / "videos" / f"{name}.mp4").write_bytes((source / "videos" / "cam01.mp4").read_bytes())
    assert "--focal_length" in refused(multicam_video.read_scene, folder)
    record = multicam_video.read_scene(folder, multicam_video.Settings(focal_length=35))
    forward = record["c2w"][0, :, :3, 2]
    np.testing.assert_allclose(
        np.degrees(np.arctan2(forward[:, 0], forward[:, 2])), 5 * np.arange(4), atol=1e-3
    )
    np.testing.assert_allclose(record["c2w"][1, :, :3, 3], np.outer(np.arange(4), [0, 0, 1]), atol=1e-5)


def test_broken_scenes_of_multicam_video_are_named(multicam, tmp_path):
    for number, (damage, named) in enumerate(
        {
            "no poses of cam09": lambda f: shutil.copy(f / "videos/cam01.mp4", f / "videos/cam09.mp4"),
            "no video cam02.mp4": lambda f: (f / "videos/cam02.mp4").unlink(),
            "camera_extrinsics.json: no such file": lambda f: (f / "cameras/camera_extrinsics.json").unlink(),
            "cam03.mp4": lambda f: (f / "videos/cam03.mp4").write_bytes(b"no video"),
            "3 poses, but its video has 4 frames": lambda f: drop_frame(f / "cameras/camera_extrinsics.json"),
        }.items()
    ):
        folder = tmp_path / str(number) / "f24_aperture5" / "scene7"
        shutil.copytree(multicam[0], folder)
        named(folder)
        assert damage in refused(multicam_video.read_scene, folder)


def drop_frame(path):
    data = json.loads(path.read_text())
    del data["frame3"]
    path.write_text(json.dumps(data))


# Cam x Time -------------------------------------------------------------------------------------------------


def test_cam_x_time_as_published(tmp_path):
    """Cameras stand still along a path, the dots move; entries are keyed by number, 10 comes after 9."""
    cameras, frames = 11, 3
    path = dots.path(cameras)
    lens = np.array([0.8767, 0.8767, 0.5, 0.5])

    def movement(frame):
        return np.array([0.0, 0.1, -0.05]) * frame

    folder = tmp_path / "data" / "train" / "Scene001" / "camera-trajectory-02"
    for c in range(cameras):
        video = dots.film(np.repeat(path[c : c + 1], frames, 0), lens, SQUARE, movement=movement)
        write(folder / f"cam{c + 1:03d}_full_motion.mp4", video)
    blender = path @ np.diag([1.0, -1, -1, 1])
    k = [[0.8767 * 128, 0, 64], [0, 0.8767 * 128, 64], [0, 0, 1]]
    entries = {str(c): {"c2w": blender[c].tolist()} for c in reversed(range(cameras))}
    file = folder / f"{folder.name}-camera.json"
    file.write_text(json.dumps({"trajectory": entries, "intrinsics": {"K": k}}))
    record = cam_x_time_published.read_grid(folder)
    grid = np.repeat(path[:, None], frames, 1)
    dots.check(record, grid, np.tile(lens, (cameras, 1)), movement=movement)
    assert record["kind"] == "grid" and record["c2w"].shape == (cameras, 1, 4, 4)
    assert record["scene"] == "Scene001_camera-trajectory-02"
    every = cam_x_time_published.Settings(cameras_every=4)
    dots.check(
        cam_x_time_published.read_grid(folder, every), grid[::4], np.tile(lens, (3, 1)), movement=movement
    )
    arguments = ["--scenes", str(tmp_path / "data"), "--out", str(tmp_path / "built"), "--cameras_every", "5"]
    cam_x_time_published.main(arguments)
    (kept,) = open_records(tmp_path / "built", "cam_x_time_published", "train")
    assert decode_scene(kept).videos.shape[:2] == (3, frames)
    file.write_text(json.dumps({"trajectory": [entries[str(c)] for c in range(10)], "intrinsics": {"K": k}}))
    assert "10 poses, but there are 11 videos" in refused(cam_x_time_published.read_grid, folder)
    (folder / "cam003_full_motion.mp4").unlink()
    assert "cam003_full_motion.mp4 is missing" in refused(cam_x_time_published.read_grid, folder)


def test_grids_of_the_evaluation_set(tmp_path):
    path, lens = dots.path(3), np.array([0.9, 0.9, 0.5, 0.5])
    folder = tmp_path / "CamxTime_eval" / "full_grid_renders" / "scene_4"
    for c, pose in enumerate(path):
        write(folder / f"camera_{c:03d}.mp4", dots.film(np.tile(pose, (2, 1, 1)), lens, SQUARE))
    blender = path @ np.diag([1.0, -1, -1, 1])
    cameras = {
        str(c): {"c2w": pose.tolist(), "w2c": np.linalg.inv(pose).tolist()} for c, pose in enumerate(blender)
    }
    data = {"n_cameras": 3, "cameras": cameras}
    data["intrinsics"] = {"fx": 972, "fy": 972, "cx": 540, "cy": 540, "width": 1080, "height": 1080}
    (folder / "camera_data.json").write_text(json.dumps(data))
    dots.check(cam_x_time_published.read_grid(folder), np.repeat(path[:, None], 2, 1), np.tile(lens, (3, 1)))
    cam_x_time_published.main(["--scenes", str(tmp_path), "--out", str(tmp_path / "built")])
    assert len(open_records(tmp_path / "built", "cam_x_time_published", "test")) == 1


def test_sources_of_the_evaluation_set(tmp_path):
    """Its camera_data.json: world-to-camera, Blender's axes. The mirror of that release cancels."""
    path = dots.path(5)
    video = tmp_path / "eval_input" / "videos" / "a_cat.mp4"
    lens = np.array([0.875 / 1.5, 0.875, 0.5, 0.5])
    write(video, dots.film(path, lens, (96, 144)))
    blender = path @ np.diag([1.0, -1, -1, 1])
    names = [f"camera_{i:04d}" for i in range(7)]  # more than the video has frames
    w2c = np.linalg.inv(np.concatenate([blender, blender[-2:]]))
    (tmp_path / "eval_input" / "src_cam" / "a_cat").mkdir(parents=True)
    cameras = {"cameras": {"extrinsic": dict(zip(names, w2c.tolist(), strict=True))}}
    (tmp_path / "eval_input" / "src_cam" / "a_cat" / "camera_data.json").write_text(json.dumps(cameras))
    assert "--fov" in refused(cam_x_time_published.read_source, video)
    fov = float(np.degrees(2 * np.arctan(0.5 / 0.875)))
    record = cam_x_time_published.read_source(video, cam_x_time_published.Settings(fov=fov))
    dots.check(record, path[None], lens[None])
    assert record["kind"] == "single" and record["scene"] == "a_cat"


# Anyone's videos --------------------------------------------------------------------------------------------


def test_synchronised_shots_in_several_forms(tmp_path):
    paths = np.stack([dots.path(4, seed) for seed in (3, 4)])
    folder = tmp_path / "my" / "kitchen"
    for name, path in zip(("left", "right"), paths, strict=True):
        write(folder / f"{name}.mp4", dots.film(path, LENS, SIZE))
    pixels = (LENS * np.array([160, 96, 160, 96])).tolist()
    np.savez(folder / "left_cameras.npz", c2w=paths[0], intrinsics=pixels, width=160, height=96)
    opengl = (paths[1] @ np.diag([1.0, -1, -1, 1])).tolist()
    frames = [{"file_path": f"{i}.png", "transform_matrix": pose} for i, pose in enumerate(opengl)]
    data = {"w": 160, "h": 96, "fl_x": pixels[0], "fl_y": pixels[1], "cx": pixels[2], "cy": pixels[3]}
    (folder / "right_cameras.json").write_text(json.dumps(data | {"frames": frames}))
    (folder / "left.txt").write_text("somebody cooks\n\n a  kitchen \n")
    assert "--kind must say" in refused(shots.read_scene, folder)
    (folder / "shot.json").write_text(json.dumps({"kind": "synchronised", "metric": True}))
    # The axes are said for files that state none: a transforms.json does.
    assert "leave out the option" in refused(shots.read_scene, folder, shots.Settings(camera_axes="opengl"))
    np.savez(folder / "left_cameras.npz", c2w=paths[0], intrinsics=pixels)
    assert "of 166.4 x 90.24 (twice the principal point) do not fit" in refused(shots.read_scene, folder)
    np.savez(folder / "left_cameras.npz", c2w=paths[0], intrinsics=pixels, width=160, height=96)
    record = shots.read_scene(folder)
    dots.check(record, paths, np.tile(LENS, (2, 1)))
    assert record["kind"] == "synchronised" and record["metric"]
    assert record["captions"] == ["somebody cooks", "a kitchen"]
    half = shots.read_scene(folder, shots.Settings(camera_scale=0.5))
    np.testing.assert_allclose(half["c2w"][..., :3, 3], record["c2w"][..., :3, 3] / 2, atol=1e-7)
    shots.main(["--scenes", str(tmp_path / "my"), "--out", str(tmp_path / "built")])
    (kept,) = open_records(tmp_path / "built", "shots", "train")
    np.testing.assert_allclose(decode_scene(kept).c2w, record["c2w"])


def test_single_static_and_grid_shots(tmp_path):
    path = dots.path(4)
    write(tmp_path / "walk.mp4", dots.film(path, LENS, SIZE))
    assert "walk.mp4: its cameras are missing" in refused(shots.read_scene, tmp_path / "walk.mp4")
    np.save(tmp_path / "walk_cameras.npy", np.linalg.inv(path))
    w2c = shots.Settings(camera_poses="w2c")
    assert "--fov" in refused(shots.read_scene, tmp_path / "walk.mp4", w2c)
    fov = float(np.degrees(2 * np.arctan(0.5 / LENS[1])))
    centred = np.array([LENS[0], LENS[1], 0.5, 0.5])
    (tmp_path / "walk.mp4").unlink()
    write(tmp_path / "walk.mp4", dots.film(path, centred, SIZE))
    record = shots.read_scene(tmp_path / "walk.mp4", w2c._replace(fov=fov))
    dots.check(record, path[None], centred[None])
    assert record["kind"] == "single" and not record["metric"] and record["scene"] == "walk"
    assert shots.read_scene(tmp_path / "walk.mp4", w2c._replace(fov=fov, kind="static"))["kind"] == "static"
    still = tmp_path / "studio"
    for c, pose in enumerate(path[:3]):
        write(still / f"{c}.mp4", dots.film(np.tile(pose, (4, 1, 1)), LENS, SIZE))
        (still / f"{c}.json").write_text(json.dumps({"c2w": [pose.tolist()], "intrinsics": LENS.tolist()}))
    record = shots.read_scene(still, shots.Settings(kind="grid"))
    dots.check(record, np.repeat(path[:3, None], 4, 1), np.tile(LENS, (3, 1)))
    assert record["kind"] == "grid" and record["c2w"].shape == (3, 1, 4, 4)


def test_mistakes_in_shots_are_named(tmp_path):
    path = dots.path(4)
    folder = tmp_path / "a"
    for name, count in (("one", 4), ("two", 3)):
        write(folder / f"{name}.mp4", dots.film(path[:count], LENS, SIZE))
        (folder / f"{name}.json").write_text(json.dumps({"c2w": path.tolist(), "intrinsics": LENS.tolist()}))
    both = shots.Settings(kind="synchronised")
    assert "two.mp4: 3 frames, but one.mp4 has 4" in refused(shots.read_scene, folder, both)
    assert "are not single" in refused(shots.read_scene, folder, shots.Settings(kind="single"))
    (folder / "one.mp4").unlink()
    assert "two.json: 4 poses, but its video has 3 frames" in refused(shots.read_scene, folder)
    assert "one video is not grid" in refused(shots.read_scene, folder, shots.Settings(kind="grid"))
    for note, said in (
        ({"kindd": "grid"}, "unknown field 'kindd': did you mean kind?"),
        ({"kind": "grids"}, '"kind" cannot be "\'grids\'"'),
        ({"fov": True}, '"fov" cannot be'),
    ):
        (folder / "shot.json").write_text(json.dumps(note))
        assert said in refused(shots.read_scene, folder)
    (tmp_path / "a.mp4").write_bytes(b"")
    assert "two scenes are named 'a'" in refused(shots.find_scenes, tmp_path)


# What all share ---------------------------------------------------------------------------------------------


def test_a_rate_that_varies_is_refused_where_the_world_moves(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for number, pts in enumerate((0, 1, 2, 5, 6)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "its frame rate varies (frame 3 comes after 0.1 s" in refused(layouts.read_video, path)
    assert layouts.read_video(path, moving=False).frames == 5


def test_captions_of_scenes(tmp_path):
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"a": "one", "b": ["two", " ", "three\nlines"]}))
    assert captions.read(file) == {"a": ["one"], "b": ["two", "three lines"]}
    table = tmp_path / "captions.csv"
    table.write_text("file_name,text\na,one\nb,two\nb,three\n")
    assert captions.read(table) == {"a": ["one"], "b": ["two", "three"]}
    file.write_text('{"a": 3}')
    assert "expected a caption" in refused(captions.read, file)
    table.write_text("x,y\n1,2\n")
    assert "columns scene and caption" in refused(captions.read, table)


def test_scenes_are_held_out_by_name_and_never_in_two_splits(tmp_path):
    scenes = [tmp_path / f"Scene{i}" / f"camera-trajectory-{j}" for i in range(20) for j in (1, 2)]
    held = [tmp_path / "test" / "Scene99" / "camera-trajectory-1"]
    splits = layouts.split([*scenes, *held], tmp_path, 3, lambda path: path.parent.name)
    assert len(splits["test"]) == 7 and len(splits["train"]) == 34 and held[0] in splits["test"]
    assert not {p.parent.name for p in splits["test"]} & {p.parent.name for p in splits["train"]}
    more = layouts.split(
        [*scenes, tmp_path / "Scene20" / "camera-trajectory-1"], tmp_path, 3, lambda p: p.parent.name
    )
    assert len(set(more["test"]) & set(splits["test"])) >= 4
    assert "training needs one" in refused(layouts.split, scenes[:1], tmp_path, 1)
