"""The builders: what is on disk comes back, and what is wrong with a folder is said."""

import json
import shutil

import numpy as np
import pytest
import synthetic
import tensorflow_datasets as tfds

from input_pipeline.datasets import building, cam_x_time, form, multi_view
from input_pipeline.datasets.reading import open_records
from input_pipeline.decoding import decode_video
from input_pipeline.shots import decode_scene
from stp_jax.errors import InputError


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folders of scenes of both kinds, and the data sets built from them."""
    parent = tmp_path_factory.mktemp("data")
    for index, seed in enumerate((0, 1, 1_000_000)):
        synthetic.write_scene(parent / "grids", f"scene_{seed:06d}", index)
        synthetic.write_scene(parent / "takes", f"take_{index}", index, kind="synchronised", cameras=3)
    (parent / "grids" / "scene_000005.tmp").mkdir()  # one that is being rendered
    cam_x_time.main(["--scenes", str(parent / "grids"), "--out", str(parent / "built")])
    multi_view.main(["--scenes", str(parent / "takes"), "--out", str(parent / "built"), "--test_scenes", "1"])
    return parent


@pytest.mark.parametrize(("name", "kind"), [("cam_x_time", "grid"), ("multi_view", "synchronised")])
def test_built_scenes_are_what_was_written(built, name, kind):
    for split, indices in (("train", {0, 1}), ("test", {2})):
        records = open_records(built / "built", name, split)
        assert len(records) == len(indices)
        seen = set()
        for record in records:
            scene = decode_scene(record)
            colours = synthetic.read_colour(scene.videos)
            index = colours[0, 0, 0]
            seen.add(index)
            wanted = synthetic.scene(index, kind=kind, cameras=5 if kind == "grid" else 3)
            assert (scene.kind, scene.captions, scene.metric) == (kind, (), True)
            assert np.abs(scene.videos.astype(int) - wanted.videos).max() <= 4
            np.testing.assert_allclose(scene.c2w, wanted.c2w, atol=1e-6)
            np.testing.assert_allclose(scene.intrinsics, wanted.intrinsics, atol=1e-6)
            np.testing.assert_allclose(scene.animation_time, np.arange(9) * (0.5 if kind == "grid" else 1))
            assert record["fps"] == 30
        assert seen == indices


def test_held_out_seeds_never_reach_the_train_split(built):
    names = {r["scene"].decode() for r in open_records(built / "built", "cam_x_time", "train")}
    assert names == {"scene_000000", "scene_000001"}


def test_a_complete_data_set_is_not_replaced(built, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cam_x_time.main(["--scenes", str(built / "grids"), "--out", str(built / "built")])
    assert exit_info.value.code == 2
    assert "the data set exists" in capsys.readouterr().err


def test_an_interrupted_build_leaves_nothing_that_counts_as_a_data_set(built, tmp_path, monkeypatch):
    def interrupt(self, folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cam_x_time.CamXTime, "read_scene", interrupt)
        with pytest.raises(SystemExit, match="130"):
            cam_x_time.main(["--scenes", str(built / "grids"), "--out", str(tmp_path)])
    with pytest.raises(InputError, match="no data set of kind"):
        open_records(tmp_path, "cam_x_time", "train")
    cam_x_time.main(["--scenes", str(built / "grids"), "--out", str(tmp_path)])
    assert len(open_records(tmp_path, "cam_x_time", "train")) == 2


def damage_json(folder, change):
    path = folder / "camera_data.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def set_pose(value):
    return lambda data: data["cameras"]["extrinsic"].update(camera_001=value)


MISTAKES = {
    "truncated video": (
        lambda f: (f / "videos/camera_001.mp4").write_bytes((f / "videos/camera_001.mp4").read_bytes()[:900]),
        "camera_001.mp4",
    ),
    "missing video": (lambda f: (f / "videos/camera_001.mp4").unlink(), "camera_001.mp4"),
    "no cameras": (lambda f: (f / "camera_data.json").unlink(), "camera_data.json"),
    "no json": (lambda f: (f / "camera_data.json").write_text("{"), "camera_data.json"),
    "pose of a wrong shape": (lambda f: damage_json(f, set_pose([[1, 0], [0, 1]])), "camera_data.json"),
    "pose with nan": (
        lambda f: damage_json(f, set_pose(np.full((4, 4), np.nan).tolist())),
        "camera_data.json",
    ),
    "left-handed pose": (
        lambda f: damage_json(f, set_pose(np.diag([-1.0, 1, 1, 1]).tolist())),
        "camera_data.json",
    ),
    "intrinsics in pixels": (
        lambda f: damage_json(
            f, lambda d: d["cameras"]["intrinsic"].update(camera_001=[140.0, 140.0, 64.0, 64.0])
        ),
        "camera_data.json, camera_001",
    ),
    "too few times": (
        lambda f: damage_json(f, lambda d: d.update(animation_time=[0, 0.5])),
        "animation_time",
    ),
    "uneven times": (
        lambda f: damage_json(f, lambda d: d["animation_time"].__setitem__(3, 1.6)),
        "animation_time",
    ),
    "a name without a seed": (lambda f: f.rename(f.with_name("scene_x")), "scene_x"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_damaged_scene_folder_is_named(built, tmp_path, capsys, mistake):
    damage, named = MISTAKES[mistake]
    folder = tmp_path / "scenes" / "scene_000000"
    shutil.copytree(built / "grids" / "scene_000000", folder)
    damage(folder)
    with pytest.raises(SystemExit) as exit_info:
        cam_x_time.main(["--scenes", str(tmp_path / "scenes"), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err.splitlines()[-1]
    assert exit_info.value.code == 2
    assert error.startswith("error: ") and named in error
    assert not (tmp_path / "out" / "cam_x_time" / form.VERSION).exists()


@pytest.mark.parametrize("kind", ["grid", "synchronised"])
def test_data_sets_of_version_1_are_read_in_todays_form(tmp_path, kind):
    """They were written by this builder of tensorflow-datasets, with cameras of these shapes."""
    wanted = synthetic.scene(3, kind=kind, cameras=1)
    synthetic.write_video(tmp_path / "0.mp4", wanted.videos[0])
    still = kind == "grid"
    record = {
        "scene": wanted.name,
        "fps": 30.0,
        "videos": [(tmp_path / "0.mp4").read_bytes()],
        "c2w": wanted.c2w[:, 0] if still else wanted.c2w,
        "intrinsics": wanted.intrinsics[:, 0] if still else wanted.intrinsics,
        "animation_time": wanted.animation_time,
    }
    identity = tfds.core.dataset_info.DatasetIdentity("old", tfds.core.Version("1.0.0"), tmp_path, "old")
    info = tfds.core.DatasetInfo(builder=identity, features=form.old_features(kind))
    writer = tfds.core.SequentialWriter(info, 9, file_format="array_record")
    writer.initialize_splits(["train"])
    writer.add_examples({"train": [record]})
    writer.close_all()
    (opened,) = open_records(tmp_path, "old", "train")
    assert set(opened) == form.FIELDS
    scene = decode_scene(opened)
    assert (scene.kind, scene.captions, scene.metric) == (kind, (), True)
    np.testing.assert_array_equal(scene.c2w, wanted.c2w)
    np.testing.assert_array_equal(scene.intrinsics, wanted.intrinsics)


def test_a_version_that_does_not_match_its_records(built, tmp_path):
    folder = tmp_path / form.VERSION
    shutil.copytree(built / "built" / "cam_x_time" / form.VERSION, folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    for version, message in (("1.0.0", "not the fields of a data set of version 1.0.0"), ("3.0.0", "3.0.0")):
        (folder / "dataset_info.json").write_text(json.dumps(info | {"version": version}))
        with pytest.raises(InputError, match=message):
            open_records(folder, "cam_x_time", "train")


def test_no_scenes_at_all(tmp_path, capsys):
    for scenes in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SystemExit):
            cam_x_time.main(["--scenes", str(scenes), "--out", str(tmp_path / "out")])
        assert f"--scenes {scenes}" in capsys.readouterr().err


def test_opening_what_is_not_there(built, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        open_records(tmp_path / "missing", "cam_x_time", "train")
    with pytest.raises(InputError, match="python -m input_pipeline.datasets.cam_x_time"):
        open_records(tmp_path, "cam_x_time", "train")
    folder = built / "built" / "multi_view" / form.VERSION
    with pytest.raises(InputError, match="of kind 'multi_view', but data.kind = 'cam_x_time'"):
        open_records(folder, "cam_x_time", "train")
    with pytest.raises(InputError, match="no split 'validation'.*train, test"):
        open_records(folder, "multi_view", "validation")


def test_bytes_that_are_no_video():
    with pytest.raises(InputError, match="scene 3: not a readable video"):
        decode_video(b"no video", "scene 3")


def test_many_scenes_are_in_several_files_which_others_read_too(built, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SCENES_OF_A_FILE", (1, 1))
    cam_x_time.main(["--scenes", str(built / "grids"), "--out", str(tmp_path)])
    opened = open_records(tmp_path, "cam_x_time", "train")
    names = [record["scene"] for record in opened]
    assert names == [b"scene_000000", b"scene_000001"]
    folder = tmp_path / "cam_x_time" / form.VERSION
    assert len(list(folder.glob("*train*"))) == 2 and not list(tmp_path.glob(".*"))
    theirs = tfds.builder_from_directory(folder).as_data_source("train")
    for one, other in zip(opened, theirs, strict=True):
        assert one["scene"] == other["scene"] and list(one["videos"]) == list(other["videos"])
