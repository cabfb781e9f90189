"""sample.py: a command repeats exactly, in a new folder; how it starts, stops, and reads its inputs."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sample
from stp_jax import media
from stp_jax.controls import animation_time, cameras
from stp_jax.errors import InputError
from stp_jax.official import time_patterns
from stp_jax.rerender import progress, results
from stp_jax.rerender.request import SAME_CAMERA, read_request
from stp_jax.rerender.source_parts import LONGEST
from stp_jax.weights import native, reading
from tests.tiny_model import FRAMES, NOTES, SIZE, STEPS

SCRIPT = Path(__file__).parents[2] / "sample.py"
RESULTS = {
    "result.mp4",
    "side_by_side.mp4",
    "contact_sheet.png",
    "cameras_and_time.png",
    "new_camera.json",
    "camera_path.json",
    "settings.json",
}
NOTES = native.SamplingNotes(**NOTES)


GOOD = "--weights {f}/weights --video {f}/clip.mp4"


def test_writes_everything_and_its_settings_repeat_it(run, tmp_path, monkeypatch):
    results = []
    write = sample.results.write_results
    monkeypatch.setattr(
        sample.results, "write_results", lambda *a, **k: (results.append(a[2]), write(*a, **k))
    )
    keyframes = "--camera dolly_in:0.5 --animation_time '0:0, 2:2, 4:2.5' --seed 3"
    status, out, err = run(f"{GOOD} {keyframes}")
    assert status == 0, err
    first = tmp_path / "outputs" / "clip_dolly_in_0.5_keyframes"
    assert {path.name for path in first.iterdir()} == RESULTS
    for said in ("20 frames at 10 fps, 64 x 36 -> 5 frames from 0 to 1.9 s", "stand still", str(first.name)):
        assert said in out
    video, fps = media.read_video(first / "result.mp4")
    assert video.shape == (FRAMES, 3 * SIZE, 3 * SIZE, 3) and fps == pytest.approx(4 / 1.9, rel=1e-2)
    assert media.read_video(first / "side_by_side.mp4")[0].shape[2] > 6 * SIZE
    with Image.open(first / "contact_sheet.png") as sheet:
        assert sheet.height > 2 * SIZE
    settings = json.loads((first / "settings.json").read_text())
    assert settings["settings"]["steps"] == settings["used"]["forwards"] == STEPS
    assert f"Forwards of the DiT: {STEPS}\n" in out
    assert settings["used"]["target_animation_time"] == [0, 1, 2, 2.25, 2.5]
    assert np.shape(settings["used"]["target_cameras"]["c2w"]) == (FRAMES, 4, 4)

    kept = {path.name: path.read_bytes() for path in first.iterdir()}
    assert settings["command"].startswith("python sample.py ")
    status, _, err = run(settings["command"].removeprefix("python sample.py "))
    assert status == 0, err
    second = tmp_path / "outputs" / "clip_dolly_in_0.5_keyframes_2"
    assert {path.name for path in second.iterdir()} == RESULTS
    # Before x264, which now and then codes a block of pixels in another way.
    np.testing.assert_array_equal(results[0], results[1])
    assert kept == {path.name: path.read_bytes() for path in first.iterdir()}


def test_size_speed_and_folder_can_be_chosen(run, tmp_path):
    (tmp_path / "mine").mkdir()
    lora = "--lora {f}/style_4step.safetensors:0.5"
    flags = f"--out mine --scale 1 --fps 12 --steps 1 --source_cameras {{f}}/path.json {lora}"
    status, out, err = run(f"{GOOD} {flags}")
    assert status == 0, err
    assert (
        "style_4step.safetensors (LoRA) is merged into 1 layer, strength 0.5. 1 of its layers does not fit"
        in out
    )
    assert "seems to be distilled for few steps without guidance: --steps 4 --guidance 1" in out
    video, fps = media.read_video(tmp_path / "mine" / "result.mp4")
    assert video.shape[1:3] == (SIZE, SIZE) and fps == pytest.approx(12, rel=1e-2)
    assert not (tmp_path / "outputs").exists()


def test_interrupted_run_leaves_no_empty_folder(run, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample.runs, "rerender", interrupt)
    status, _, err = run(f"{GOOD} --out mine")
    assert status == 130 and "Stopped." in err
    assert not (tmp_path / "mine").exists()


def test_a_dry_run_shows_what_would_be_made(run, tmp_path, files, monkeypatch):
    monkeypatch.setattr(reading, "load", None)  # no parameter is read
    words = "--camera {f}/path.json --lora {f}/style_4step.safetensors:0.5 --dry_run"
    status, out, err = run(f"{GOOD} {words}")
    assert status == 0, err
    folder = Path("outputs/clip_path_bullet_time_dry_run")
    for said in (
        "20 frames at 10 fps, 64 x 36 -> 5 frames",
        "its 5 poses: one for each of the 5 frames of the new video",
        "style_4step.safetensors (LoRA) is merged into 1 layer, strength 0.5. 1 of its layers does not fit",
        "style_4step.safetensors seems to be distilled for few steps without guidance: --steps 4",
        f"In {folder}:",
    ):
        assert said in out
    names = {"source.png", "cameras_and_time.png", "new_camera.json", "camera_path.json"}
    assert {path.name for path in (tmp_path / folder).iterdir()} == names
    with Image.open(tmp_path / folder / "source.png") as sheet:
        assert sheet.width > 5 * SIZE and sheet.height >= SIZE


def test_a_dry_run_says_what_is_wrong_with_the_model_and_what_lies_beside_it(run, tmp_path, files):
    shutil.copytree(files / "weights", tmp_path / "weights")
    shutil.copy(files / "style_4step.safetensors", tmp_path / "weights" / "style.safetensors")
    plain = "--weights weights --video {f}/clip.mp4 --dry_run"
    status, out, _ = run(plain)
    assert status == 0 and "style.safetensors is an adapter (LoRA) and is NOT applied" in out
    for mistake, message in {
        "--frames 4": "4 frames: the model takes 4n + 1",
        "--window 6": "6 frames: the model takes 4n + 1",
        "--overlap 1": "--overlap 1: the video has one window alone",
        "--size 33 32": "33 x 32 pixels: the model takes multiples of",
        "--vae nowhere": "nowhere does not exist",
        "--lora {f}/wide.safetensors": "It was made for another model",
        "--tiled": "--tiled has no effect",
    }.items():
        status, _, err = run(f"{plain} --out mine {mistake}")
        assert status == 2 and message in err and not (tmp_path / "mine").exists()


def test_a_disk_that_fills_is_one_line_that_says_what_is_there(files, tmp_path):
    """As by a limit of a file's size, 64 kB, which is reached by one of the files."""
    made = request(files)
    folder = tmp_path / "results"
    folder.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        for name, write in (
            ("cameras_and_time.png", lambda: results.write_plan(folder, made, 10)),
            (
                "settings.json",
                lambda: results.write_settings(folder / "settings.json", {"prompt": "x" * 90_000}, made),
            ),
        ):
            with pytest.raises(InputError, match=f"{name} .*: File too large. Written before: source.png in"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in folder.iterdir()} == {"source.png"}


def test_progress_bar_shows_every_part_of_the_work(capsys):
    parts = [("reading the clip, compiling", 0.0), ("step 1 of 2, compiling", 0.6), ("step 2 of 2", 0.65)]
    parts += [("decoding, compiling", 0.7)]
    with progress.bar() as show:
        for part in parts:
            show(*part)
    shown = capsys.readouterr().err
    for what, done in parts:
        assert re.search(rf"{what} *{100 * done:.0f}%", shown), (what, shown)


def test_help_list_mistakes_and_a_plain_dry_run_do_not_load_jax(tmp_path, files):
    code = (
        "import sys, runpy; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print('JAX' if 'jax' in sys.modules else 'quick', 'matplotlib' in sys.modules)"
    )
    of_tiny = ["--weights", str(files / "weights"), "--video"]
    for words, status, expected in (
        (["--help"], 0, "--animation_time"),
        (["--list"], 0, "freeze_middle"),
        ([*of_tiny, str(files / "text.mp4")], 2, "is not a video"),
        ([*of_tiny, str(files / "clip.mp4"), "--dry_run"], 0, f"Model: {files / 'weights'}"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, str(SCRIPT), *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(SCRIPT.parent)},
        )
        plots = "--dry_run" in words
        assert done.returncode == status and done.stdout.endswith(f"quick {plots}\n"), done
        assert expected in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_list_explains_every_preset(run):
    status, out, _ = run("--list")
    assert status == 0
    for name in [*cameras.PRESETS, SAME_CAMERA, *animation_time.PRESETS, *time_patterns.PATTERNS]:
        assert f"\n  {name} " in out


def request(files, **more):
    return read_request(
        NOTES, **{"video": files / "clip.mp4", "camera": "static", "animation_time": "forward", **more}
    )


@pytest.mark.parametrize("height, width", [(90, 40), (37, 51), (32, 32), (17, 200)])
def test_field_of_view_is_that_of_the_shorter_side_whatever_the_shape(files, tmp_path, height, width):
    frames = np.random.default_rng(0).integers(0, 256, (6, height, width, 3), dtype=np.uint8)
    media.write_video(tmp_path / "clip.mp4", frames, 5)
    made = request(files, video=tmp_path / "clip.mp4", fov=90.0)
    assert made.clip.frames.shape == (FRAMES, SIZE, SIZE, 3)
    # tan(45 degrees) = 1: half of the picture is one focal length. Odd sizes are written one pixel larger.
    np.testing.assert_allclose(made.source.intrinsics, [[0.5] * 4] * FRAMES, atol=0.02)
    np.testing.assert_array_equal(made.source.intrinsics, made.target.intrinsics)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_grey_and_transparent_animations_are_videos(files, tmp_path, mode, suffix):
    rng = np.random.default_rng(0)
    shape = (40, 30, 4) if mode == "RGBA" else (40, 30)
    pictures = [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(6)]
    path = tmp_path / f"clip.{suffix}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    assert request(files, video=path).clip.frames.shape == (FRAMES, SIZE, SIZE, 3)


def test_long_videos_are_used_in_part_and_it_is_said(files, tmp_path):
    frames = np.zeros((60, 16, 16, 3), np.uint8)
    media.write_video(tmp_path / "long.mp4", frames, 5)
    made = request(files, video=tmp_path / "long.mp4", start=2.0)
    assert made.seconds == (2.0, 2.0 + LONGEST) and "--duration" in made.summary
    made = request(files, video=tmp_path / "long.mp4", start=2.0, duration=8.0)
    assert made.seconds == (2.0, 10.0) and made.clip.fps == pytest.approx((FRAMES - 1) / 8)


def test_the_new_camera_may_be_the_sources(files, tmp_path):
    path = cameras.preset("orbit_left:30:5", FRAMES)
    np.savez(tmp_path / "path.npz", c2w=path.c2w)
    made = request(files, camera="source", source_cameras=tmp_path / "path.npz")
    assert made.same_camera
    for one, other in zip(made.source[:2], made.target[:2], strict=True):
        np.testing.assert_array_equal(one, other)
    still = request(files, camera="source")
    np.testing.assert_array_equal(still.target.c2w, cameras.preset("static", FRAMES).c2w)


def test_official_files_are_taken_frame_by_frame_for_source_and_target(files, tmp_path):
    c2w = np.tile(np.eye(4), (12, 1, 1))
    c2w[:, 2, 3] = np.arange(12)
    np.save(tmp_path / "a_extrinsics.npy", np.linalg.inv(c2w))
    media.write_video(tmp_path / "clip.mp4", np.zeros((12, 16, 16, 3), np.uint8), 5)
    given = dict(camera=str(tmp_path / "a_extrinsics.npy"), source_cameras=tmp_path / "a_extrinsics.npy")
    made = request(files, video=tmp_path / "clip.mp4", official=True, **given)
    for path in (made.source, made.target):
        np.testing.assert_allclose(path.c2w[:, 2, 3], np.arange(FRAMES), atol=1e-6)
    spread = request(files, video=tmp_path / "clip.mp4", official=True, duration=2.2, **given)
    np.testing.assert_allclose(spread.target.c2w[-1, 2, 3], 11, atol=1e-5)


def test_a_video_shorter_than_the_official_frames_is_named_and_its_last_pose_repeated(files, tmp_path):
    c2w = np.tile(np.eye(4), (3, 1, 1))
    c2w[:, 2, 3] = np.arange(3)
    np.save(tmp_path / "a_extrinsics.npy", np.linalg.inv(c2w))
    media.write_video(tmp_path / "clip.mp4", np.zeros((3, 16, 16, 3), np.uint8), 5)
    given = dict(video=tmp_path / "clip.mp4", official=True)
    made = request(files, **given, source_cameras=tmp_path / "a_extrinsics.npy")
    assert f"the last is repeated {FRAMES - 3} times" in made.summary
    np.testing.assert_allclose(made.source.c2w[:, 2, 3], [0, 1] + [2] * (FRAMES - 2), atol=1e-6)
    np.save(tmp_path / "b_extrinsics.npy", np.linalg.inv(c2w[:2]))
    with pytest.raises(InputError, match="2 poses; frames 0 to 2 need one each"):
        request(files, **given, source_cameras=tmp_path / "b_extrinsics.npy")


def test_a_single_frame_is_a_video(run, tmp_path):
    status, _, err = run(f"{GOOD} --frames 1 --out one")
    assert status == 0, err
    frames, fps = media.read_video(tmp_path / "one/result.mp4")
    assert len(frames) == 1 and fps > 0


def test_source_cameras_follow_the_part_of_the_video(files, tmp_path):
    # The camera moves right by a metre a second, through a clip of 1.9 s.
    c2w = np.tile(np.eye(4), (39, 1, 1))
    c2w[:, 0, 3] = 5 + np.linspace(0, 1.9, 39)
    np.savez(tmp_path / "path.npz", c2w=c2w, intrinsics=np.array([1.0, 1.0, 0.5, 0.5]))
    made = request(files, source_cameras=tmp_path / "path.npz", start=0.4, duration=0.8)
    np.testing.assert_allclose(made.source.c2w[:, 0, 3], [0, 0.2, 0.4, 0.6, 0.8], atol=1e-5)
    # A square cut from 64 x 36 has 36 / 64 of the width, so that the lens is longer there.
    np.testing.assert_allclose(made.source.intrinsics[0], [64 / 36, 1, 0.5, 0.5], rtol=1e-5)
    # Presets start at the first camera used; files are in the world of the source's file.
    np.testing.assert_allclose(made.target.c2w, np.tile(np.eye(4), (FRAMES, 1, 1)), atol=1e-6)
    np.save(tmp_path / "target.npy", c2w[:FRAMES])
    made = request(
        files, source_cameras=tmp_path / "path.npz", start=0.4, camera=str(tmp_path / "target.npy")
    )
    np.testing.assert_allclose(made.target.c2w[:, 0, 3], c2w[:FRAMES, 0, 3] - 5.4, atol=1e-5)
    # Without a source file, a target file is as seen from the source's first camera.
    made = request(files, camera=str(tmp_path / "target.npy"))
    np.testing.assert_allclose(made.target.c2w, c2w[:FRAMES], atol=1e-5)
