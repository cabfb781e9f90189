"""The editor as a person uses it: its page in a browser, its process beside it."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
