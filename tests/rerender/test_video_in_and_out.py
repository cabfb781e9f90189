"""What sample.py says of a video, how fast its results play, and names that a terminal cannot show."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stp_jax import media
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
