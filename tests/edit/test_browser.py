"""The editor as a person uses it: its page in a browser, its process beside it."""

import contextlib
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from stp_jax.controls import keyframes
from tests.edit.browser import Editor, needs_browser
from tests.environment import ROOT, environment
from tests.tiny_model import write_tiny_model

pytestmark = needs_browser


@contextlib.contextmanager
def serving(*words):
    """The address of an editor that runs."""
    command = [sys.executable, "-m", "stp_jax.edit", "--port", "0", *map(str, words)]
    process = subprocess.Popen(
        command,
        env=environment(devices=1),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield found[0]
                break
        else:
            raise AssertionError("the editor did not begin")
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def address(tmp_path_factory, weights):
    out = tmp_path_factory.mktemp("out")
    with serving("--weights", weights, "--out", out) as found:
        yield found, out


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "result_png").glob("*.png"))])


def test_a_person_directs_camera_and_clock_and_the_command_line_gives_the_same_frames(
    address, weights, tmp_path
):
    url, out = address
    editor = Editor(url)
    try:
        editor.wait_for_clock("0:2, 4:2")  # bullet_time of 5 frames
        editor.set("Frame", 2)
        editor.press("Add")
        editor.wait_for_clock("0:2, 2:2, 4:2")
        editor.set("Moment", 4)
        editor.wait_for_clock("0:2, 2:4, 4:2")
        editor.set("Field of view", 40)
        editor.set("Orbit", 12, part=0)
        editor.drag_clock(2, 4, 1)
        editor.wait_for_clock("0:2, 2:4, 4:1")
        editor.press("Undo")
        editor.wait_for_clock("0:2, 2:4, 4:2")
        editor.press("Redo")
        editor.wait_for_clock("0:2, 2:4, 4:1")
        editor.tab("Make")
        editor.wait_for("The preview is done")
        editor.press("Render")
        editor.wait_for("The take_1 is done")
        editor.tab("Files")
        saved = tmp_path / "saved.json"
        saved.write_bytes(editor.download("Save keyframes"))
        editor.choose("Clock preset", "reverse")
        editor.wait_for_clock("0:4, 4:0")
        editor.upload("Open keyframes", saved)
        editor.wait_for_clock("0:2, 2:4, 4:1")
        assert editor.download("Save keyframes") == saved.read_bytes()
        assert not editor.outside and not editor.errors
    finally:
        editor.close()
    keys = keyframes.read(saved).keyframes
    assert [key.time.value for key in keys] == [0, 2, 4]
    assert keys[1].fov == 40 and keys[1].camera.left == 12 and keys[1].animation_time.value == 4
    take = out / "take_1"
    assert keyframes.read(take / "keyframes.json") == keyframes.read(saved)
    made = tmp_path / "by_command"
    command = [sys.executable, "sample.py", "--weights", weights, "--keyframes", saved, "--also", "png"]
    subprocess.run(
        [*command, "--out", made], env=environment(devices=1), cwd=ROOT, check=True, capture_output=True
    )
    assert np.array_equal(pictures(made), pictures(take))


def test_tabs_do_not_mix_mistakes_are_shown_and_a_closed_tab_ends_its_work(address, tmp_path):
    url, out = address
    one = Editor(url)
    try:
        other = one.another(url)
        other.set("Frame", 1)
        other.press("Add")
        other.wait_for_clock("0:2, 1:2, 4:2")
        one.page.bring_to_front()  # a tab behind draws nothing
        one.set("Clock", "0:1, 9:3")
        one.press("Apply the clock")
        one.wait_for("keyframe 9:3 is outside this video")
        assert one.clock.get_attribute("data-text") == "0:2, 4:2"
        one.tab("Files")
        bad = tmp_path / "bad.json"
        bad.write_text('{"version": 1, "keyframes": [{"time": 0, "fov": 500}]}')
        one.upload("Open keyframes", bad)
        one.wait_for("bad.json: keyframes[0] at frame 0: fov: expected a number from 1 to 179, found 500")
        clip = tmp_path / "clip.mp4"
        clip.write_bytes(b"no video")
        one.upload("Open a video", clip)
        one.wait_for("clip.mp4")
        other.page.close()  # with a keyframe that was not saved
        one.page.wait_for_timeout(500)
        (closed,) = out.glob("closed_*")
        assert len(keyframes.read(closed / "keyframes.json").keyframes) == 3
        assert not one.errors and not one.outside
    finally:
        one.close()


def test_a_video_and_a_trim_from_the_page(address):
    url, _ = address
    editor = Editor(url, 800, 600)
    try:
        editor.tab("Files")
        editor.upload("Open a video", ROOT / "stp_jax/assets/example.mp4")
        editor.tab("Time")
        editor.wait_for_clock("0:0, 4:4")
        editor.tab("Files")
        editor.wait_for("Depth: not known")
        editor.set("From second", 0.4)
        editor.set("Seconds", 1)
        editor.press("Trim")
        editor.wait_for("from 0.4 to 1.4 s")
        editor.choose("Camera preset", "dolly_in")
        editor.tab("Make")
        editor.wait_for("--start=0.4 --duration=1.0")
        assert not editor.errors and not editor.outside
    finally:
        editor.close()


def test_another_address_needs_the_token_and_other_pages_cannot_connect(weights, tmp_path):
    with serving("--weights", weights, "--out", tmp_path, "--host", "0.0.0.0") as url:
        plain, token = url.split("?")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(plain)
        editor = Editor(url)
        try:
            editor.wait_for_clock("0:2, 4:2")
        finally:
            editor.close()
        address = plain.replace("http", "ws") + "?" + token
        for origin in ("http://evil.example", None):
            with pytest.raises(InvalidStatus):
                connect(address if origin else plain.replace("http", "ws"), origin=origin)
