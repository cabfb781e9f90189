"""The evaluation's cases index the grid as they say, and its figures are those computed by hand."""

import csv
import json

import numpy as np
import pytest

from input_pipeline.datasets import reading
from input_pipeline.shots import Scene, SceneReader
from stp_jax.errors import InputError
from stp_jax.evaluate import lpips, tables
from stp_jax.evaluate.cases import (
    BOTH,
    CAMERA,
    CASES_PER_SCENE,
    QUICK_CASES,
    TIME,
    cases_of,
    check_scene,
    example_of,
)
from stp_jax.evaluate.rows import CEILING, NEAREST, SOURCE, Row
from stp_jax.evaluate.run import evaluate
from stp_jax.evaluate.scores import Model
from stp_jax.evaluate.summary import summarise

FRAMES, CAMERAS = 9, 9
OURS = "ours"
METHODS = (OURS, NEAREST, SOURCE, CEILING)


def grid_scene(cameras=CAMERAS, frames=FRAMES, step=0.5, kind="grid") -> Scene:
    """Every frame of one colour: red tells the camera, green the grid time. Camera c stands at x = c."""
    times = round((frames - 1) / step) + 1
    videos = np.zeros((cameras, times, 8, 8, 3), np.uint8)
    videos[..., 0] = 10 * np.arange(cameras)[:, None, None, None]
    videos[..., 1] = 7 * np.arange(times)[:, None, None]
    c2w = np.tile(np.eye(4, dtype=np.float32), (cameras, times, 1, 1))
    c2w[..., 0, 3] = np.arange(cameras)[:, None]
    return Scene(
        name="grid",
        videos=videos,
        c2w=c2w,
        intrinsics=np.full((cameras, times, 4), 0.5, np.float32),
        animation_time=np.arange(times, dtype=np.float32) * step,
        kind=kind,
    )


def cells(video):
    """(camera, grid time) of each frame, read off its colours."""
    return [tuple(cell) for cell in (video[:, 0, 0, :2] // [10, 7]).tolist()]


@pytest.mark.parametrize("number", range(8))
def test_cases_show_what_they_say(number):
    scene = grid_scene()
    cases = cases_of(number, CAMERAS, FRAMES)
    assert len(cases) == CASES_PER_SCENE == 10
    forward = np.arange(FRAMES)
    expected_times = {
        "forward": forward,
        "reverse": forward[::-1],
        "bullet_time": np.full(FRAMES, 4),
        "slow_motion": forward / 2,
        "zigzag": [0, 1, 2, 3, 4, 3, 2, 1, 0],
    }
    for case in cases:
        example = example_of(scene, case)
        source, target = cells(example["source_video"]), cells(example["target_video"])
        assert [time for _, time in source] == list(range(0, 2 * FRAMES, 2))
        assert [time / 2 for _, time in target] == list(expected_times[case.mode])
        # Poses are those of the cameras in the pictures, as the source's first camera sees them.
        for clip, shown in (("source", source), ("target", target)):
            x = example[f"{clip}_c2w"][:, 0, 3] + source[0][0]
            np.testing.assert_allclose(x, [camera for camera, _ in shown])
            np.testing.assert_allclose(example[f"{clip}_animation_time"] * 2, [time for _, time in shown])
        if case.group == TIME:
            assert [camera for camera, _ in target] == [camera for camera, _ in source]
            assert len({camera for camera, _ in source}) > 3  # on a camera that stands, reverse is a copy
            assert (source == target) == (case.mode == "forward")
        else:
            assert not {camera for camera, _ in source} & {camera for camera, _ in target}
            assert not set(source) & set(target)
    groups = [case.group for case in cases]
    assert [groups.count(group) for group in (TIME, CAMERA, BOTH)] == [5, 1, 4]


@pytest.mark.parametrize("cameras", range(7, 34))
@pytest.mark.parametrize("frames", [5, 17, 33])
def test_no_target_frame_is_a_source_frame_on_any_rig(cameras, frames):
    for number in range(4):
        for case in cases_of(number, cameras, frames)[5:]:
            assert not set(case.source_camera) & set(case.target_camera)
            both = np.concatenate([case.source_camera, case.target_camera])
            assert both.min() >= 0 and both.max() < cameras


@pytest.mark.parametrize("wrong", [{"cameras": 6}, {"step": 1.0}, {"kind": "synchronised"}, {"frames": 8}])
def test_scenes_without_the_cells_are_refused(wrong):
    with pytest.raises(InputError, match="scene grid"):
        check_scene(grid_scene(**wrong), FRAMES)


class Oracle:
    """Finds scene and first camera by the source's first frame, and copies the frames asked for."""

    def __init__(self, data):
        records_ = reading.open_records(data.path, data.kind, "test")
        reader = SceneReader(records_, cached_scenes=len(records_))
        self.scenes = [reader[i] for i in range(len(records_))]
        self.calls = 0
        self.fail_at = None

    def __call__(self, source_video, source, target, *, seed):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return np.stack(
            [
                self.one(*arrays)
                for arrays in zip(source_video, target.c2w, target.animation_time, strict=True)
            ]
        )

    def one(self, source, target_c2w, target_time):
        for scene in self.scenes:
            for camera, video in enumerate(scene.videos):
                if np.array_equal(video[0], source[0]):
                    cameras = np.rint(target_c2w[:, 0, 3]).astype(int) + camera
                    return scene.videos[cameras, np.rint(2 * target_time).astype(int)]
        raise AssertionError("no such source")


def run(data, out, rerender, **changes):
    options = dict(split="test", scenes=2, seed=0, batch_size=3, sheets=1, settings={"steps": 4})
    models = [Model(OURS, rerender, lambda video: 255 - video)]
    return evaluate(models, data=data, out=out, **(options | changes))


def by_hand(scene, case, frames_of_source):
    """PSNR from the cells, one by one; `frames_of_source[i]` is the source frame shown as frame i."""
    squares = []
    for i, j in enumerate(frames_of_source):
        target = scene.videos[case.target_camera[i], int(2 * case.target_animation_time[i])]
        shown = scene.videos[case.source_camera[j], 2 * j]
        squares.append((target.astype(float) - shown) ** 2)
    mean = np.mean(squares)
    return 10 * np.log10(255**2 / mean) if mean else np.inf


def test_perfect_model_and_baselines(data, tmp_path, without_lpips):
    oracle = Oracle(data)
    text = run(data, tmp_path / "out", oracle)
    with open(tmp_path / "out" / "per_scene.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * CASES_PER_SCENE * len(METHODS)
    found = {(r["scene"], r["group"], r["mode"], r["method"]): float(r["psnr"]) for r in rows}
    # Nearest in animation time among source frames 0..4, the earlier of two.
    nearest = {
        "forward": [0, 1, 2, 3, 4],
        "reverse": [4, 3, 2, 1, 0],
        "bullet_time": [2] * 5,
        "slow_motion": [0, 0, 1, 1, 2],
        "zigzag": [0, 1, 2, 1, 0],
    }
    for number, scene in enumerate(oracle.scenes):
        for case in cases_of(number, 7, 5):
            key = (scene.name, case.group, case.mode)
            assert found[(*key, OURS)] == np.inf
            assert found[(*key, SOURCE)] == pytest.approx(by_hand(scene, case, range(5)))
            assert found[(*key, NEAREST)] == pytest.approx(by_hand(scene, case, nearest[case.mode]))
            target = scene.videos[case.target_camera, (2 * case.target_animation_time).astype(int)]
            error = np.mean((target.astype(float) - (255 - target)) ** 2)
            assert found[(*key, CEILING)] == pytest.approx(10 * np.log10(255**2 / error))

    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result["scenes"] == 2 and result["settings"]["steps"] == 4
    assert result["lpips"] == lpips.NOT_INSTALLED
    own = [found[(scene.name, BOTH, "zigzag", NEAREST)] for scene in oracle.scenes]
    assert result["cases"][BOTH]["zigzag"][NEAREST]["psnr"]["mean"] == pytest.approx(np.mean(own))
    assert result["cases"][TIME]["forward"][SOURCE]["psnr"]["mean"] is None  # the copy: infinite
    modes = ("reverse", "bullet_time", "slow_motion", "zigzag")
    of_group = [found[(s.name, TIME, mode, SOURCE)] for s in oracle.scenes for mode in modes]
    assert result["means"][TIME][SOURCE]["psnr"]["mean"] == pytest.approx(np.mean(of_group))
    assert (
        "camera control: ours +inf dB beside the better baseline" in text
        and (tmp_path / "out" / "table.txt").read_text() == text + "\n"
    )
    first = oracle.scenes[0].name
    assert len(list((tmp_path / "out" / "sheets").iterdir())) == CASES_PER_SCENE
    assert (tmp_path / "out" / "sheets" / f"{first}_both_bullet_time.png").exists()
    assert (tmp_path / "out" / "videos" / f"{first}_camera_control_forward.mp4").exists()


def test_lpips_is_zero_of_equal_videos_alone(data, tmp_path):
    if not lpips.load():
        pytest.skip("the extra eval is not installed")
    models = [Model(OURS, Oracle(data), None)]  # no ceiling: LPIPS takes a quarter of a second each time
    options = dict(split="test", scenes=1, seed=0, batch_size=5, sheets=0, settings={}, chosen=QUICK_CASES)
    text = evaluate(models, data=data, out=tmp_path / "out", **options)
    with open(tmp_path / "out" / "per_scene.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(QUICK_CASES) * (len(METHODS) - 1)
    assert all((float(r["lpips"]) < 1e-5) == (float(r["psnr"]) == np.inf) for r in rows)
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result["lpips"] == lpips.TITLE and "LPIPS" in text


def test_a_quick_evaluation_has_its_cases_alone_and_says_how_long_it_takes(
    data, tmp_path, capsys, monkeypatch, without_lpips
):
    whole = Oracle(data)
    monkeypatch.setattr("stp_jax.evaluate.pace.duration", lambda seconds: "a while")
    model = Model(OURS, whole, None)
    options = dict(scenes=2, seed=0, batch_size=5, sheets=0, settings={}, chosen=QUICK_CASES)
    evaluate([model], data=data, split="test", out=tmp_path, **options)
    with open(tmp_path / "per_scene.csv", newline="") as file:
        found = {(row["group"], row["mode"]) for row in csv.DictReader(file)}
    assert found == set(QUICK_CASES) and whole.calls == 2
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert result["settings"]["cases"] == [list(case) for case in QUICK_CASES]
    assert list(result["means"]) == [TIME, CAMERA, BOTH]
    printed = "".join(capsys.readouterr())
    assert "2 scenes, 5 videos each: 10 videos in all" in printed
    assert "The first 5 videos took a while" in printed and "the other 5 will take about a while" in printed


def test_an_interrupted_evaluation_goes_on(data, tmp_path, without_lpips, without_metrics_plot):
    whole, broken = Oracle(data), Oracle(data)
    run(data, tmp_path / "whole", whole)
    broken.fail_at = 6  # in the second scene
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "broken", broken)
    with open(tmp_path / "broken" / "scenes.jsonl", "a") as file:
        file.write(f'[["{broken.scenes[1].name}", "both", "zig')  # a line cut off
    run(data, tmp_path / "broken", broken)
    assert broken.calls == 4 + 2 + 4  # the first scene was not run again
    for name in (
        "scenes.jsonl",
        "per_scene.csv",
        "means.csv",
        "differences.csv",
        "metrics.json",
        "table.txt",
    ):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_folders_in_use_are_left_alone(data, tmp_path, without_lpips, without_metrics_plot):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        run(data, tmp_path / "thesis", Oracle(data))
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["thesis.txt"]
    run(data, tmp_path / "done", Oracle(data), scenes=1, sheets=0)
    with pytest.raises(InputError, match="complete evaluation"):
        run(data, tmp_path / "done", Oracle(data), scenes=1, sheets=0)
    (tmp_path / "done" / "metrics.json").unlink()
    with pytest.raises(InputError, match="other settings"):
        run(data, tmp_path / "done", Oracle(data), scenes=1, sheets=0, settings={"steps": 5})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        run(data, tmp_path / "file", Oracle(data))


def test_more_scenes_than_there_are(data, tmp_path):
    with pytest.raises(InputError, match="--scenes 3.*has 2 scenes"):
        run(data, tmp_path / "out", Oracle(data), scenes=3)
    assert not (tmp_path / "out").exists()


def rows_of(psnr, groups=(TIME, CAMERA, BOTH), scenes=1, step=0.0):
    modes = {TIME: "reverse", CAMERA: "forward", BOTH: "zigzag"}
    return [
        Row(f"s{scene}", group, modes[group], method, {"psnr": value + step * scene, "ssim": 0.5})
        for scene in range(scenes)
        for group in groups
        for method, value in psnr.items()
    ]


def test_table_warns_of_baselines_that_are_too_good():
    psnr = {OURS: 20.0, NEAREST: 17.0, SOURCE: 16.0, CEILING: 30.0}
    rows = rows_of(psnr, (TIME, CAMERA)) + rows_of({m: value + 2 for m, value in psnr.items()}, (BOTH,))
    lines = tables.text(summarise(rows, [OURS], METHODS)).splitlines()
    assert f"camera control: ours +3.00 dB beside the better baseline ({NEAREST}, 17.00 dB)" in lines
    assert lines[-1].startswith("both: ours +3.00 dB") and "not under 18 dB" in lines[-1]
    assert "LPIPS" not in "\n".join(lines)


def test_tables_show_every_model_with_its_interval():
    psnr = {"a": 20.0, "b": 20.5, NEAREST: 17.0, SOURCE: 16.0, CEILING: 30.0}
    rows = rows_of(psnr, scenes=3, step=1.0)
    summary = summarise(rows, ["a", "b"], list(psnr))
    text = tables.text(summary)
    # Of three scenes 20, 21, 22 one draw in 27 is all of the first, so the percentile lies at it.
    assert "21.00 [20.00, 22.00]" in next(line for line in text.splitlines() if line.startswith("a "))
    # Scene by scene b is always 0.5 better, although the scenes differ by more.
    assert "both: b +0.50 dB [+0.50, +0.50] beside a" in text.splitlines()
    heads = next(line for line in text.splitlines() if line.startswith("by case")).split("  ")
    assert [head.strip() for head in heads if head.strip()] == ["by case", *psnr]


def test_difference_that_may_be_chance_is_called_so():
    rows = rows_of({"a": 20.0, NEAREST: 17.0, SOURCE: 16.0, CEILING: 30.0}, scenes=4)
    for scene, value in enumerate((19.0, 21.5, 19.5, 20.5)):
        rows += [r._replace(scene=f"s{scene}") for r in rows_of({"b": value})]
    text = tables.text(summarise(rows, ["a", "b"], ["a", "b", NEAREST, SOURCE, CEILING]))
    assert "beside a: no clear difference" in text
