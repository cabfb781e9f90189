"""What sample.py says of a video, how fast its results play, and names that a terminal cannot show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stp_jax import media
from stp_jax.errors import InputError
from stp_jax.media import Clip
from stp_jax.rerender.request import read_request
from stp_jax.rerender.results import playback
from stp_jax.weights.native import SamplingNotes
from tests.media.video_files import encode, gradient_video
from tests.tiny_model import FRAMES, NOTES

CASES = Path(__file__).parents[1] / "media" / "cases"


def request(path, **more):
    given = {"video": path, "camera": "static", "animation_time": "forward", **more}
    return read_request(SamplingNotes(**NOTES), **given)


def test_two_frames_give_a_video_that_can_be_watched(tmp_path):
    path = encode(tmp_path / "two.mp4", gradient_video(2), rate=25)
    made = request(path)
    assert made.seconds == (0, pytest.approx(0.04)) and made.clip.fps == pytest.approx((FRAMES - 1) / 0.04)
    assert f"(the source has 2 frames there for {FRAMES}: frames repeat)" in made.summary
    fps, said = playback(made.clip)
    assert FRAMES / fps >= 1 and f"{FRAMES} frames at {fps:.3g} fps, 1 s, 20 times slower" in said
    assert "--fps" in said


@pytest.mark.parametrize(
    "frames, speed, chosen, fps, said",
    [
        (81, 16, None, 16, "81 frames at 16 fps, 5.06 s, at the speed of the source"),
        (17, 400, None, 17, "17 frames at 17 fps, 1 s, 23.5 times slower than the source; --fps"),
        (17, 5.33, 24, 24, "4.5 times faster than the source"),
        (5, 1e-9, None, 0.1, "times faster"),
        (1, 25, None, 1, "1 frames at 1 fps, 1 s, at the speed"),
        (500, 1000, None, 240, "240 fps"),
    ],
)
def test_results_play_at_the_speed_of_the_source_but_for_a_second_at_least(frames, speed, chosen, fps, said):
    clip = Clip(np.zeros((frames, 2, 2, 3), np.uint8), speed, (2, 2))
    found, sentence = playback(clip, chosen)
    assert found == pytest.approx(fps) and said in sentence


def test_the_summary_says_how_colours_were_read():
    for official in (False, True):
        made = request(CASES / "hdr_hlg.mp4", official=official)
        assert "\n  (HDR (HLG, BT.2020) tone-mapped to SDR)" in made.summary
        made = request(CASES / "c_709_untagged_720.mp4", official=official)
        assert "\n  (no colour tags: read as BT.709" in made.summary


def test_poses_follow_the_frames_of_a_variable_rate(tmp_path):
    path = encode(tmp_path / "a.mkv", gradient_video(6), pts=[0, 1, 4, 5, 6, 7])
    c2w = np.tile(np.eye(4), (6, 1, 1))
    c2w[:, 2, 3] = np.arange(6)
    np.save(tmp_path / "a_extrinsics.npy", np.linalg.inv(c2w))
    made = request(path, source_cameras=tmp_path / "a_extrinsics.npy", official=True)
    assert made.clip.source_frames == (0, 1, 1, 1, 2)
    np.testing.assert_allclose(made.source.c2w[:, 2, 3], [0, 1, 1, 1, 2], atol=1e-6)


def test_names_that_a_terminal_cannot_show_are_printed_all_the_same(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    encode(path, gradient_video(3))
    assert len(media.read_video(path)[0]) == 3
    code = (
        "import os, sys; from stp_jax.errors import InputError, exit_on_input_error\n"
        "@exit_on_input_error\n"
        "def main():\n    print(os.fsdecode(sys.argv[1])); raise InputError(sys.argv[1])\n"
        "main()"
    )
    for encoding in ("ascii:strict", "latin-1:strict", "utf-8:strict"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.returncode == 2 and b"Traceback" not in done.stderr, done
        assert b"caf\\udce9.mp4" in done.stdout and done.stderr.startswith(b"error: ")


def write_pictures(folder, count, suffix="png"):
    folder.mkdir()
    for number, frame in enumerate(gradient_video(count)):
        Image.fromarray(frame).save(folder / f"f_{number:03d}.{suffix}")
    return folder


@pytest.mark.parametrize("official", [False, True])
def test_pictures_play_at_the_rate_that_is_given(tmp_path, official):
    folder = write_pictures(tmp_path / "shot", 9)
    made = request(folder / "f_%03d.png", official=official, fps=4)
    assert "f_%03d.png: 9 frames at 4 fps" in made.summary and "another rate" not in made.summary
    assert made.clip.fps == pytest.approx(4 if official else 2)
    assert made.clip.source_frames == (tuple(range(5)) if official else (0, 2, 4, 6, 8))
    assert playback(made.clip, made.fps)[0] == pytest.approx(made.clip.fps)
    assert "(pictures at 24 a second; --fps says another rate)" in request(folder).summary


@pytest.mark.parametrize("official", [False, True])
def test_a_still_picture_stands_still(tmp_path, official):
    picture = write_pictures(tmp_path / "shot", 1) / "f_000.png"
    for video in (picture, tmp_path / "shot"):
        made = request(video, official=official, fps=12)
        assert "a still picture, 64 x 48 -> 5 frames" in made.summary
        assert "stands still, whatever the animation time" in made.summary
        assert (made.clip.frames == made.clip.frames[:1]).all() and made.clip.frames.shape[0] == FRAMES
        assert playback(made.clip, made.fps)[0] == 12
    assert playback(request(picture).clip)[0] == FRAMES  # a second at least


def test_the_camera_of_a_still_is_one_pose(tmp_path):
    picture = write_pictures(tmp_path / "shot", 1) / "f_000.png"
    c2w = np.tile(np.eye(4), (3, 1, 1))
    c2w[:, 0, 3] = [2, 5, 6]
    for count in (1, 3):
        lens = {"c2w": c2w[:count].tolist(), "intrinsics": [0.9, 1.2, 0.5, 0.5]}
        (tmp_path / "lens.json").write_text(json.dumps(lens))
        made = request(picture, source_cameras=tmp_path / "lens.json", camera="orbit_left")
        np.testing.assert_allclose(made.world[:3, 3], [2, 0, 0])
        np.testing.assert_allclose(made.source.c2w, np.tile(np.eye(4), (FRAMES, 1, 1)), atol=1e-6)
        assert ("WARNING: lens.json: has 3 poses" in made.summary) == (count == 3)


@pytest.mark.parametrize("asked", [{"start": 1}, {"duration": 2}, {"source_cameras": "estimate"}])
def test_what_has_no_meaning_for_a_still_is_refused(tmp_path, asked):
    picture = write_pictures(tmp_path / "shot", 1) / "f_000.png"
    with pytest.raises(InputError, match=f"--{next(iter(asked))}.* is a still picture: leave it out"):
        request(picture, **asked)
