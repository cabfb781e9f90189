"""Many re-renderings with one start of the model: mistakes come first, what is finished is not redone."""

import importlib.util
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from stp_jax import media
from stp_jax.rerender import jobs, records, runs
from stp_jax.rerender.flags import parse_flags
from tests.tiny_model import FRAMES, SIZE, write_tiny_model

SCRIPT = Path(__file__).parents[2] / "sample.py"


@pytest.fixture(scope="module")
def sample():
    spec = importlib.util.spec_from_file_location("sample", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_tiny_model(folder / "weights")
    frames = np.random.default_rng(0).integers(0, 255, (8, SIZE, SIZE, 3), np.uint8)
    media.write_video(folder / "clip.mp4", frames, 8)
    Image.fromarray(frames[0]).save(folder / "still.png")
    (folder / "path.json").write_text(json.dumps({"c2w": np.tile(np.eye(4), (FRAMES, 1, 1)).tolist()}))
    return folder


@pytest.fixture
def run(sample, files, tmp_path, monkeypatch, capsys):
    """`run(lines, flags)` -> status, stdout, stderr, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("clip.mp4", "still.png", "path.json"):
        (tmp_path / name).write_bytes((files / name).read_bytes())

    def call(lines, *flags):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        Path("many.jsonl").write_text(text)
        try:
            sample.main(["--jobs", "many.jsonl", "--weights", str(files / "weights"), *flags])
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return call


LINES = [
    {"video": "clip.mp4", "camera": "orbit_left", "animation_time": "forward", "also": ["png", "png16"]},
    {"video": "still.png", "camera": "path.json", "seed": 3, "out": "my still"},
    {
        "video": "clip.mp4",
        "camera": "orbit_left",
        "animation_time": "forward",
        "start": 0.25,
        "also": "10bit",
    },
]
FOLDERS = ["clip_orbit_left_forward", "my still", "clip_orbit_left_forward_2"]


def stop(*args, **kwargs):
    raise KeyboardInterrupt


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_jobs_are_done_once(run, tmp_path, monkeypatch):
    loaded, load = [], runs.load_model
    monkeypatch.setattr(runs, "load_model", lambda *a, **k: loaded.append(1) or load(*a, **k))
    steps = "--steps=1"
    status, out, err = run(LINES[:2], steps)
    assert status == 0, err
    assert "2 jobs, 0 finished before" in out and "1 of 2: line 1" in out and loaded == [1]
    folder = tmp_path / "outputs" / "many"
    assert len(list((folder / FOLDERS[0] / "result_png").iterdir())) == FRAMES
    with av.open(str(folder / FOLDERS[0] / "result_png16" / "0002.png")) as picture:
        deep = next(picture.decode(video=0)).to_ndarray()
    with Image.open(folder / FOLDERS[0] / "result_png" / "0002.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.round(deep / 257))
    assert (deep % 257 != 0).mean() > 0.5  # these are not 8 bits made longer
    shown = media.read_video(folder / "my still" / "result.mp4")[0]
    assert len(shown) == FRAMES
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.height == 2 * (SIZE + 2)
    repeat = json.loads((folder / "my still" / "settings.json").read_text())["settings"]
    assert repeat["seed"] == 3 and "jobs" not in repeat and "out" not in repeat

    # Another one, stopped on the way.
    before = stamps(folder / FOLDERS[0]) | stamps(folder / "my still")
    with monkeypatch.context() as patch:
        patch.setattr(runs.results, "write_form", stop)
        status, out, err = run(LINES, steps)
    assert status == 130 and err.splitlines()[-1] == "Stopped."
    assert (folder / f".{FOLDERS[2]}.partial" / "result.mp4").is_file()
    assert not (folder / FOLDERS[2]).exists()
    status, out, err = run(LINES, steps)
    assert status == 0 and "3 jobs, 2 finished before" in out and "1 of 1: line 3" in out, err
    assert before == stamps(folder / FOLDERS[0]) | stamps(folder / "my still")
    assert len(media.read_video(folder / FOLDERS[2] / "result_10bit.mp4")[0]) == FRAMES
    assert {path.name for path in folder.iterdir()} == {*FOLDERS, "contact_sheet.png", ".lock"}
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.height == 3 * (SIZE + 2)

    status, out, _ = run(LINES, steps)
    assert status == 0 and "3 jobs, 3 finished before" in out and loaded == [1, 1, 1]
    for lines, change in (
        ([{**LINES[0], "seed": 1, "out": FOLDERS[0]}], "seed"),
        (LINES[1:2], "file of camera"),
    ):
        (tmp_path / "path.json").write_text('{"c2w": []}')
        status, _, err = run(lines, steps)
        assert status == 2 and f"was made with another {change}: choose another 'out'" in err, err


def test_what_a_job_was_made_from_are_also_folders_and_loras(tmp_path, monkeypatch):
    def record():
        where = {"video": "pictures", "camera": "model:1", "animation_time": "0%:0%, 100%:50%"}
        words = [f"--{name}={value}" for name, value in where.items()]
        return records.record(parse_flags([*words, "--lora", "style.safetensors:0.5"]))

    monkeypatch.chdir(tmp_path)
    for folder in ("pictures", "model"):
        (tmp_path / folder).mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8)).save(f"pictures/{i}.png")
    changes = ["model/images.txt", "style.safetensors", "pictures/1.png"]
    for name in changes[:2]:
        Path(name).write_text("1")
    before = record()
    assert {name for name in before if name.startswith("file of")} == {
        "file of video",
        "file of camera",
        "file of lora style.safetensors",
    }
    for name in changes:
        Path(name).write_text("other")
        assert record() != before
        before = record()


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "has no job: write a JSON object"),
        ([{}, "", '{"seed": 1'], "many.jsonl: line 3: a job: broken or truncated JSON"),
        (["[1]"], "line 1: a job: must hold an object"),
        ([{}, {"camra": "orbit_left"}], "line 2: unknown field 'camra': did you mean camera?"),
        ([{"bogus": 1}], "line 1: unknown field 'bogus': choose one of video, start, "),
        ([{"trajectory": "x"}], "did you mean camera"),
        ([{"steps": 4}], "line 1: 'steps' is for all jobs, as the model is loaded once: give it as --steps"),
        ([{"jobs": "a"}], "line 1: unknown field 'jobs'"),
        ([{"seed": -1}], "line 1: argument --seed: '-1' is not a whole number"),
        ([{"seed": {}}], "line 1: 'seed' is {}: a text, a number or true was expected"),
        ([{"video": ""}], "line 1: --video is empty"),
        ([{"also": ["gif"]}], "line 1: argument --also: invalid choice: 'gif'"),
        ([{}, {"video": "nowhere.mp4"}], "many.jsonl: line 2: nowhere.mp4: there is no such file"),
        ([{}, {"camera": "orbit_lefft"}], "line 2: unknown camera preset"),
        ([{"prompt": "a dog"}], "line 1: --prompt: "),
        ([{"out": "a"}, {"out": "a"}], "many.jsonl: line 2: out 'a': line 1 has the same: choose another"),
        ([{"out": "../a"}], "line 1: out '../a': must be the name of a folder within outputs/many"),
        ([{"out": ".a"}], "must be the name of a folder"),
        (
            [{"video": "still.png", "start": 1}],
            "line 1: --start 1: still.png is a still picture: leave it out",
        ),
        ([{"video": "still.png", "source_cameras": "estimate"}], "estimate"),
    ],
)
def test_mistakes_are_found_before_anything_is_done(run, tmp_path, monkeypatch, lines, message):
    monkeypatch.setattr(runs, "load_model", lambda *a, **k: pytest.fail("the model was loaded"))
    status, _, err = run(lines)
    assert status == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "outputs").exists()


def test_what_is_in_the_way_stays(run, tmp_path):
    (tmp_path / "mine" / "a").mkdir(parents=True)
    (tmp_path / "mine" / "a" / "mine.txt").write_text("keep me")
    status, _, err = run([{"out": "a"}], "--out", "mine")
    assert status == 2 and "a has something else, and nothing is overwritten: choose another 'out'" in err
    with records.locked(tmp_path / "mine"):
        status, _, err = run([{"video": "clip.mp4"}], "--out=mine")
    assert status == 2 and "another run works in mine" in err


def test_a_dry_run_writes_nothing(run, tmp_path):
    status, out, _ = run(LINES, "--dry_run")
    assert status == 0 and "still.png: a still picture, 32 x 32 -> 5 frames" in out
    assert "line 3, outputs/many/clip_orbit_left_forward_2" in out and not (tmp_path / "outputs").exists()


def test_the_command_line_holds_for_all_lines(files):
    path = files / "jobs.jsonl"
    path.write_text('{"seed": 2}\n\n{"fps": 12, "key_poses": true, "prompt": null}\n')
    argv = ["--jobs", str(path), "--seed", "7", "--out=here", "--also", "png", "lossless"]
    (first, one), (second, two) = jobs.read_lines(path, argv)
    assert (first, second) == ("line 1", "line 3")
    assert (one.seed, one.also, one.out) == (2, ["png", "lossless"], None)
    assert (two.seed, two.fps, two.key_poses, two.prompt) == (7, 12, True, None)
