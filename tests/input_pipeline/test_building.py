"""Conversion: what is broken is named and left out, what is interrupted goes on to the same result."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import stored
from stored import TIMES, Stored

from input_pipeline import pipeline
from input_pipeline.config import CAMERA_EXTENT, default_config
from input_pipeline.datasets import building, checking, records
from input_pipeline.datasets.building import Options
from input_pipeline.datasets.checking import Checks
from input_pipeline.datasets.reading import open_records
from input_pipeline.shots import decode_scene
from stp_jax.errors import InputError

TURNED = Path(__file__).parents[1] / "media" / "cases" / "q_rot90cw.mp4"


def encoded(path, times=range(TIMES), size=(16, 8), **options):
    """A small H.264 file whose frames are shown at these times, in units of 1/30 s."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for place in times:
            picture = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = place, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return encoded(tmp_path_factory.mktemp("video") / "v.mp4", movflags="faststart")


def scenes(parent, video, count, **changes):
    return [stored.write(parent / f"scene_{i:02d}", stored.record(video, **changes)) for i in range(count)]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("kind", "cameras"), [("static", 2), ("static", 1), ("single", 1)])
def test_other_kinds_are_decoded_and_paired(tmp_path, video, kind, cameras):
    known = stored.record(video, kind, cameras, captions=["one", "två"], metric=False)
    folder = records.build(Stored, tmp_path, {"train": [stored.write(tmp_path / "s" / "a", known)]})
    scene = decode_scene(open_records(folder, "stored", "train")[0])
    assert (scene.name, scene.kind, scene.captions, scene.metric) == ("a", kind, ("one", "två"), False)
    assert scene.videos.shape == (cameras, TIMES, 8, 16, 3)
    np.testing.assert_array_equal(scene.c2w, known["c2w"])
    np.testing.assert_array_equal(scene.intrinsics[:, 3], known["intrinsics"][:, 0])
    config = default_config()
    config.update(kind="stored", path=str(tmp_path), frames=5, height=8, width=16)
    batches = iter(pipeline.make_dataset(config, split="train", seed=0, batch_size=4))
    moved = np.linalg.norm(next(batches)["target_c2w"][..., :3, 3], axis=-1)
    batches.close()
    centres = known["c2w"][..., :3, 3].reshape(-1, 3).astype(np.float64)
    centres *= CAMERA_EXTENT / np.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean())  # not metric
    known_moves = np.linalg.norm(centres[:, None] - centres, axis=-1).ravel()
    assert moved.max() > 0 and (np.abs(moved[..., None] - known_moves).min(-1) < 1e-4).all()


# What is broken -----------------------------------------------------------------------------------------


def change_pose(change):
    def damage(known):
        known["c2w"] = known["c2w"].copy()
        change(known["c2w"][1, 4])

    return damage


def flip(pose):
    pose[:3, 0] *= -1


def set_videos(make):
    return lambda known: known["videos"].__setitem__(1, make(known["videos"][1]))


BROKEN = {
    "cut off": (set_videos(lambda data: data[: len(data) * 2 // 3]), "video 1: (truncated|not a readable)"),
    "no video": (set_videos(lambda data: b"no video"), "video 1: not a readable video"),
    "turned": (set_videos(lambda data: TURNED.read_bytes()), "video 1: is to be turned"),
    "other length": (lambda known: known.update(animation_time=np.arange(8.0)), "animation_time has shape"),
    "poses of other frames": (lambda known: known.update(c2w=known["c2w"][:, 1:]), "but poses"),
    "a camera less": (lambda known: known.update(c2w=known["c2w"][1:]), "but poses"),
    "no videos": (lambda known: known.update(videos=[]), "has no videos"),
    "nan": (change_pose(lambda pose: pose.__setitem__((0, 3), np.nan)), "frame 13: the pose has NaN"),
    "mirrored": (change_pose(flip), "frame 13: the rotation is left-handed"),
    "jump": (change_pose(lambda pose: pose.__setitem__((0, 3), 50)), "camera 1: its poses jump from frame 3"),
    "empty caption": (lambda known: known.update(captions=["a dog", " "]), "caption 1 is empty"),
    "no rate": (lambda known: known.update(fps=0.0), "0.0 frames in a second"),
    "unprintable name": (lambda known: known.update(scene="a\nb"), "is no name of a scene"),
}


@pytest.fixture(scope="module")
def with_broken(tmp_path_factory, video):
    """The lines of skipped.txt of a data set of a good scene, and all of BROKEN."""
    parent = tmp_path_factory.mktemp("broken")
    folders = []
    for name, (damage, _) in BROKEN.items():
        known = stored.record(video)
        damage(known)
        folders.append(stored.write(parent / name, known))
    folders.insert(3, stored.write(parent / "good", stored.record(video)))
    folder = records.build(Stored, parent / "out", {"train": folders})
    assert [record["scene"] for record in open_records(folder, "stored", "train")] == [b"good"]
    return folders, (folder / building.SKIPPED).read_text().splitlines()


def test_all_that_is_broken_is_listed_in_order(with_broken):
    folders, lines = with_broken
    assert [line.split("\t")[:2] for line in lines] == [
        ["train", str(folder)] for folder in folders if folder.name != "good"
    ]


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_said(with_broken, name):
    (reason,) = (line.split("\t")[2] for line in with_broken[1] if Path(line.split("\t")[1]).name == name)
    assert re.search(BROKEN[name][1], reason)


def test_rates_that_vary_are_for_scenes_that_stand_still(tmp_path):
    times = [*range(4), *range(6, 11)]
    uneven = encoded(tmp_path / "v.mp4", times)
    folders = [
        stored.write(tmp_path / "s" / kind, stored.record(uneven, kind))
        for kind in ("static", "synchronised")
    ]
    folder = records.build(Stored, tmp_path, {"train": folders})
    assert [record["scene"] for record in open_records(folder, "stored", "train")] == [b"static"]
    assert "video 0: its frame rate varies (frame 4 comes after 0.1 s" in (folder / "skipped.txt").read_text()


def test_damage_within_a_video_is_found_by_decoding(tmp_path, video):
    damaged = bytearray(video)
    damaged[-500:-300] = bytes(200)
    folders = scenes(tmp_path / "s", video, 2)
    stored.write(folders[1], stored.record(bytes(damaged)))
    assert len(open_records(records.build(Stored, tmp_path / "a", {"x": folders}), "stored", "x")) == 2
    folder = records.build(Stored, tmp_path / "b", {"x": folders}, Options(Checks(decode=True)))
    assert len(open_records(folder, "stored", "x")) == 1
    assert "not a readable video (Invalid data" in (folder / "skipped.txt").read_text()


def test_names_that_are_there_twice(tmp_path, video):
    folders = scenes(tmp_path / "s", video, 9)
    stored.write(folders[8], stored.record(video, scene="scene_02"))
    folder = records.build(Stored, tmp_path, {"train": folders[:3], "test": folders[3:]})
    assert len(open_records(folder, "stored", "test")) == 5
    reason = f"{folders[8]}: has the name of {folders[2]}, 'scene_02'"
    assert (folder / "skipped.txt").read_text() == f"test\t{folders[8]}\t{reason}\n"
    with pytest.raises(InputError, match="has the name of"):
        records.build(Stored, tmp_path / "strict", {"train": folders}, Options(strict=True))
    with pytest.raises(InputError, match="scene_00: this scene is given twice"):
        records.build(Stored, tmp_path / "twice", {"train": folders, "test": folders[:1]})


def test_strict_stops_and_goes_on_when_the_scene_is_mended(tmp_path, video):
    folders = scenes(tmp_path / "s", video, 12)
    stored.write(folders[9], stored.record(video, captions=[""]))
    strict = Options(strict=True)
    with pytest.raises(InputError, match="^scene_09: caption 0 is empty"):
        records.build(Stored, tmp_path / "out", {"train": folders}, strict)
    with pytest.raises(InputError, match="no data set"):
        open_records(tmp_path / "out", "stored", "train")
    stored.write(folders[9], stored.record(video))
    folder = records.build(Stored, tmp_path / "out", {"train": folders}, strict)
    assert len(open_records(folder, "stored", "train")) == 12
    assert os.listdir(tmp_path / "out") == ["stored"]


def test_splits_of_broken_scenes_alone(tmp_path, video):
    folders = scenes(tmp_path / "s", video, 3)
    stored.write(folders[2], stored.record(video, captions=[""]))
    with pytest.raises(InputError, match="all scenes of test are broken; the first: scene_02: caption 0"):
        records.build(Stored, tmp_path / "out", {"train": folders[:2], "test": folders[2:]})
    assert not os.listdir(tmp_path / "out")


# Interruptions ------------------------------------------------------------------------------------------

COMMAND = """
import sys
from pathlib import Path
from stored import Stored
from input_pipeline.datasets import records
from input_pipeline.datasets.building import Options
if __name__ == "__main__":
    scenes = sorted(Path(sys.argv[1]).iterdir())
    records.build(Stored, Path(sys.argv[2]), {"train": scenes}, Options(workers=2))
"""


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_build_that_is_killed_goes_on_to_the_same_bytes(tmp_path, video):
    folders = scenes(tmp_path / "s", video, 17)
    waits = folders[11] / "wait"
    waits.touch()
    (tmp_path / "command.py").write_text(COMMAND)
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    process = subprocess.Popen(
        [sys.executable, tmp_path / "command.py", tmp_path / "s", tmp_path / "out"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.DEVNULL,
    )
    notes = tmp_path / "out" / ".stored.partial" / "notes"
    until(lambda: (notes / "train-00000.json").exists() and (notes / "train-00002.json").exists())
    tasks = f"/proc/{process.pid}/task/*/children"
    workers = {pid for path in Path("/").glob(tasks[1:]) for pid in path.read_text().split()}
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    until(lambda: not any(is_running(pid) for pid in workers))  # though one of them waits for the scene
    with pytest.raises(InputError, match="no data set"):
        open_records(tmp_path / "out", "stored", "train")
    kept = (notes / "train-00000.json").stat().st_mtime_ns
    waits.unlink()
    went_on = records.build(Stored, tmp_path / "out", {"train": folders}, Options(workers=1))
    assert kept < (went_on / "features.json").stat().st_mtime_ns
    at_once = records.build(Stored, tmp_path / "again", {"train": folders}, Options(workers=1))
    assert files(went_on) == files(at_once) and len(files(at_once)) == 5
    assert len(open_records(went_on, "stored", "train")) == 17


def is_running(pid):
    try:
        return Path("/proc", pid, "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def begun(tmp_path, video):
    """A build of 12 scenes, of which the first file is there: the second ended in an error."""
    folders = scenes(tmp_path / "s", video, 12)
    stored.write(folders[9], {})
    with pytest.raises(KeyError):
        records.build(Stored, tmp_path / "out", {"train": folders})
    stored.write(folders[9], stored.record(video))
    return folders


def finish(folders, tmp_path, capsys):
    folder = records.build(Stored, tmp_path / "out", {"train": folders})
    assert [int(record["scene"][-2:]) for record in open_records(folder, "stored", "train")] == list(
        range(12)
    )
    return "1 of 2 files were there already" in capsys.readouterr().out


def test_finished_files_are_kept(begun, tmp_path, capsys):
    assert finish(begun, tmp_path, capsys)


def test_a_finished_file_that_was_damaged_is_made_again(begun, tmp_path, capsys):
    (file,) = (tmp_path / "out").rglob("*.array_record*")
    data = bytearray(file.read_bytes())
    data[data.index(b"ftyp") + 100] ^= 1
    file.write_bytes(data)
    assert not finish(begun, tmp_path, capsys)


def test_a_finished_file_whose_scenes_changed_is_made_again(begun, tmp_path, capsys, video):
    stored.write(begun[3], stored.record(video, captions=["new"]))
    assert not finish(begun, tmp_path, capsys)
    assert list(open_records(tmp_path / "out", "stored", "train")[3]["captions"]) == [b"new"]


@pytest.mark.parametrize(
    ("scenes_", "options", "settings", "message"),
    [
        (11, Options(), {}, "other scenes of train (.*12 in 2 files.*; now 11 in 2 files"),
        (12, Options(Checks(decode=True)), {}, "other --decode .False; now True"),
        (12, Options(), {"unit": 0.5}, "other unit .none; now 0.5"),
    ],
)
def test_another_build_does_not_go_on_with_it(begun, tmp_path, scenes_, options, settings, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(", 1)):
        records.build(Stored, tmp_path / "out", {"train": begun[:scenes_]}, options, **settings)


# Rules --------------------------------------------------------------------------------------------------


def path_of(positions, degrees=None):
    positions = np.asarray(positions, np.float64)
    angles = np.radians(np.zeros(len(positions)) if degrees is None else degrees)
    c2w = np.tile(np.eye(4), (len(positions), 1, 1))
    c2w[:, 0, 3] = positions
    c2w[:, 0, 0], c2w[:, 0, 2] = np.cos(angles), np.sin(angles)
    c2w[:, 2, 0], c2w[:, 2, 2] = -np.sin(angles), np.cos(angles)
    return c2w


FRAMES = np.arange(40.0)


@pytest.mark.parametrize(
    "path",
    [
        path_of(FRAMES),
        path_of(FRAMES**3),
        path_of(np.maximum(FRAMES - 20, 0)),  # starts
        path_of(np.minimum(FRAMES, 20)),  # stops
        path_of(np.sin(FRAMES)),
        path_of(0 * FRAMES, 30 * FRAMES),
        path_of(0 * FRAMES + np.random.default_rng(0).normal(0, 1e-4, 40)),  # a tripod, as estimated
        path_of([0.0]),
        path_of([0.0, 9.0, 9.1, 9.2]),
    ],
)
def test_these_paths_do_not_jump(path):
    checking.check_jumps(path, "x")


@pytest.mark.parametrize(
    ("path", "at"),
    [
        (path_of(FRAMES + 100 * (FRAMES > 12)), 12),  # another shot
        (path_of(FRAMES + 100 * (FRAMES == 12)), 11),  # a pose out of place
        (path_of(100.0 * (FRAMES > 12)), 12),
        (path_of(FRAMES, 45 * (FRAMES > 12)), 12),
        (path_of(FRAMES, 170 * (FRAMES % 2)), 0),  # to and fro
        (path_of([0, 0], [0, 120]), 0),
    ],
)
def test_these_paths_jump(path, at):
    with pytest.raises(InputError, match=f"x: its poses jump from frame {at} to {at + 1} .*--keep_jumps"):
        checking.check_jumps(path, "x")


@pytest.mark.parametrize(("scenes_", "shards", "largest"), [(1, 1, 1), (17, 3, 8), (13_600, 252, 54)])
def test_files_depend_on_the_number_of_scenes_alone(scenes_, shards, largest):
    split = building.split_up("train", [Path(str(i)) for i in range(scenes_)])
    assert len(split) == shards and max(len(shard.paths) for shard in split) == largest
    assert [path.name for shard in split for path in shard.paths] == [str(i) for i in range(scenes_)]


def test_what_describes_a_data_set_does_not_name_where_it_was_built(tmp_path, video):
    folder = records.build(Stored, tmp_path, {"train": scenes(tmp_path / "s", video, 1)})
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["name"] == "stored" and info["version"] == "2.1.0" and "partial" not in json.dumps(info)
