"""The editor as a person uses it: its page in a browser, its process beside it."""

import contextlib
import io
import re
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from stp_jax.controls import keyframes
from tests.edit.browser import Chromium, Wire, needs_browser
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
def chromium():
    made = Chromium()
    yield made
    made.close()


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


def files_of(packed: bytes, folder: Path) -> dict[str, bytes]:
    """What a .zip has, which is what is in a folder."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found == {
        str(path.relative_to(folder.parent)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return found


def test_a_person_directs_camera_and_clock_and_the_command_line_gives_the_same_frames(
    chromium, address, weights, tmp_path
):
    url, out = address
    take, saved = out / "take_1", tmp_path / "saved.json"
    with chromium.open(url) as editor:
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
        editor.press("Video")
        editor.wait_for("There is no take yet")
        editor.press("Render")
        editor.wait_for("The take_1 is done")
        for button, name in (("Video", "result"), ("Both", "side_by_side")):
            assert editor.download(button) == (take / f"{name}.mp4").read_bytes()
        camera = editor.download("Cameras")
        assert len(files_of(editor.download("PNGs"), take / "result_png")) == 5
        assert "take_1/settings.json" in files_of(editor.download("All"), take)
        editor.tab("Files")
        saved.write_bytes(editor.download("Save keyframes"))
        editor.choose("Clock preset", "reverse")
        editor.wait_for_clock("0:4, 4:0")
        editor.upload("Open keyframes", saved)
        editor.wait_for_clock("0:2, 2:4, 4:1")
        assert editor.download("Save keyframes") == saved.read_bytes()
    keys = keyframes.read(saved).keyframes
    assert [key.time.value for key in keys] == [0, 2, 4]
    assert keys[1].fov == 40 and keys[1].camera.left == 12 and keys[1].animation_time.value == 4
    assert keyframes.read(take / "keyframes.json") == keyframes.read(saved)
    made = tmp_path / "by_command"
    command = [sys.executable, "sample.py", "--weights", weights, "--keyframes", saved, "--also", "png"]
    subprocess.run(
        [*command, "--out", made], env=environment(devices=1), cwd=ROOT, check=True, capture_output=True
    )
    assert np.array_equal(pictures(made), pictures(take))
    assert camera == (made / "new_camera.json").read_bytes()
    assert (made / "result.mp4").read_bytes() == (take / "result.mp4").read_bytes()


def test_frames_are_played_and_scrubbed_and_a_camera_is_dragged_by_its_handles(chromium, address):
    url, _ = address
    with chromium.open(url) as editor:
        picture = editor.wait_for_picture()
        editor.set("Frame", 3)
        picture = editor.wait_for_picture(picture)
        assert editor.shown_frame() == 3
        editor.page.get_by_role("slider").first.press("ArrowLeft")
        editor.wait_for_picture(picture)
        assert editor.shown_frame() == 2 and editor.value("Frame") == "2"
        editor.press("Play")
        seen = set()
        editor.wait_until(lambda: seen.add(editor.shown_frame()) or len(seen) == 5)
        editor.press("Stop")
        editor.page.wait_for_timeout(500)
        stopped = editor.shown_frame()
        editor.page.wait_for_timeout(700)
        assert editor.shown_frame() == stopped == int(editor.value("Frame"))
        assert editor.value("Orbit", 1) == "0"
        editor.drag_view(arrow(0.7), arrow(1.4))
        editor.wait_until(lambda: float(editor.value("Orbit", 1)) < -3)  # below: the handle points down
        assert editor.clock.get_attribute("data-text") == "0:2, 4:2"
        editor.press("Undo")
        editor.wait_until(lambda: editor.value("Orbit", 1) == "0")


def arrow(length: float) -> np.ndarray:
    """A place along the downward handle of the first keyframe, where the view begins; see `drag_view`."""
    turn = np.radians(15)  # of the tiny model's default camera, 4 m from the pivot
    return np.array([4 * np.sin(turn), 0.8 * length, 4 - 4 * np.cos(turn)])


def test_tabs_do_not_mix_mistakes_are_shown_and_a_closed_tab_ends_its_work(chromium, address, tmp_path):
    url, out = address
    before = set(out.glob("closed_*"))
    with chromium.open(url) as one, one.another(url) as other:
        other.set("Frame", 1)
        other.press("Add")
        other.wait_for_clock("0:2, 1:2, 4:2")
        other.set("Frame", 3)
        other.press("Add")
        other.wait_for_clock("0:2, 1:2, 3:2, 4:2")
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
        other.page.close()  # with keyframes that were not saved
        restore = one.page.get_by_role("button", name=re.compile("Restore .*, 4 keyframes"))
        restore.wait_for()
        (closed,) = set(out.glob("closed_*")) - before
        assert len(keyframes.read(closed / "keyframes.json").keyframes) == 4
        restore.click()
        one.wait_for_clock("0:2, 1:2, 3:2, 4:2")
        assert not closed.exists()  # the work is in a tab
        restore.wait_for(state="detached")
        forget = one.page.get_by_role("button", name="Forget them")
        if forget.count():  # tabs of other tests
            forget.click()
        forget.wait_for(state="detached")


def test_a_video_and_a_trim_from_the_page(chromium, address):
    url, _ = address
    example = ROOT / "stp_jax/assets/example.mp4"
    with chromium.open(url, 800, 600) as editor:
        editor.tab("Files")
        editor.upload("Open a video", example)
        editor.tab("Time")
        editor.wait_for_clock("0:0, 4:4")
        editor.tab("Files")
        editor.wait_for("Depth: not known")
        editor.set("From second", 0.4)
        editor.set("Seconds", 1)
        editor.press("Trim")
        editor.wait_for("from 0.4 to 1.4 s")
        editor.set("From second", 0.6)  # and no Trim
        editor.choose("Camera preset", "dolly_in")
        editor.tab("Make")
        editor.wait_for("--start=0.4 --duration=1.0")
        editor.tab("Files")
        assert editor.value("From second") == "0.6"
        editor.drop(example)
        editor.wait_for("from 0 to ")
        editor.wait_until(lambda: editor.value("From second") == "0")
        editor.tab("Make")
        assert "--start" not in editor.page.locator(".stp-command").inner_text()


def test_a_reload_and_a_lost_connection_keep_the_work(chromium, address):
    url, out = address
    wire = Wire(int(re.search(r":(\d+)", url)[1]))
    with contextlib.closing(wire), chromium.open(f"http://127.0.0.1:{wire.port}/") as editor:
        editor.set("Frame", 1)
        editor.press("Add")
        editor.wait_for_clock("0:2, 1:2, 4:2")
        editor.page.reload()
        editor.wait_for_clock("0:2, 1:2, 4:2")
        assert editor.value("Frame") == "1"
        editor.set("Moment", 3)
        editor.wait_for_clock("0:2, 1:3, 4:2")
        editor.page.evaluate("window.stpBeforeTheCut = true")
        wire.cut()
        editor.page.wait_for_function("() => !window.stpBeforeTheCut")
        editor.wait_for_clock("0:2, 1:3, 4:2")
        editor.set("Moment", 4)
        editor.wait_for_clock("0:2, 1:4, 4:2")
        for text in ("0:2, 1:3, 4:2", "0:2, 1:2, 4:2", "0:2, 4:2"):  # of before, too
            editor.press("Undo")
            editor.wait_for_clock(text)
        editor.press("Redo")
        editor.wait_for_clock("0:2, 1:2, 4:2")
        kept = [len(keyframes.read(path).keyframes) for path in out.glob("closed_*/keyframes.json")]
        assert 3 not in kept  # the work is in a tab
        other = editor.another(url)
        other.wait_for_clock("0:2, 4:2")  # a tab of its own


def test_another_address_needs_the_token_and_other_pages_cannot_connect(chromium, weights, tmp_path):
    with serving("--weights", weights, "--out", tmp_path, "--host", "0.0.0.0") as url:
        plain, token = url.split("?")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(plain)
        with chromium.open(url) as editor:
            editor.wait_for_clock("0:2, 4:2")
        address = plain.replace("http", "ws") + "?" + token
        for origin in ("http://evil.example", None):
            with pytest.raises(InvalidStatus):
                connect(address if origin else plain.replace("http", "ws"), origin=origin)
