"""Work of closed tabs: what is kept, and for how long."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from stp_jax.controls import keyframes
from stp_jax.edit import closed
from stp_jax.edit.closed import Closed, ClosedTabs
from stp_jax.edit.takes import Take, Takes

KEYS = keyframes.parse({"version": 1, "keyframes": [{"time": 0, "fov": 50}]})


@pytest.fixture
def tabs():
    return ClosedTabs()


def tab(key, at=None, video=None, folder=None):
    clip = SimpleNamespace(frames=np.zeros((1, 2, 2, 3), np.uint8))
    state = SimpleNamespace(keys=KEYS, source=SimpleNamespace(clip=clip))
    takes = Takes("preview")
    if video is not None:
        takes.keep(Take("take_1", video, KEYS))
    return Closed(key, time.time() if at is None else at, state, KEYS, takes, 0, 0, folder, False)


def test_the_latest_is_first_and_each_is_taken_once(tabs):
    for key in "abc":
        tabs.add(tab(key))
    assert [one.key for one in tabs.tabs] == ["c", "b", "a"]
    assert tabs.take("b").key == "b" and tabs.take("b") is None
    assert [one.key for one in tabs.tabs] == ["c", "a"]
    tabs.clear()
    assert not tabs.tabs and tabs.take("a") is None


def test_they_are_kept_for_a_while_and_as_far_as_their_videos_fit(tabs, monkeypatch):
    tabs.add(tab("old", at=time.time() - closed.SECONDS - 1))
    tabs.add(tab("a", video=np.zeros((4, 8, 8, 3), np.uint8)))
    assert [one.key for one in tabs.tabs] == ["a"]
    monkeypatch.setattr(closed, "MOST_BYTES", 1000)
    tabs.add(tab("b", video=np.zeros((4, 8, 8, 3), np.uint8)))
    assert [one.key for one in tabs.tabs] == ["b"]
    tabs.add(tab("c", video=np.zeros((9, 16, 16, 3), np.uint8)))
    assert [one.key for one in tabs.tabs] == ["c"]  # the latest one always


def test_its_label_says_when_and_what_and_its_file_goes_when_it_is_back(tmp_path):
    folder = tmp_path / "closed_1"
    folder.mkdir()
    (folder / "keyframes.json").write_text("{}")
    one = tab("a", at=time.mktime((2026, 11, 27, 21, 43, 10, 0, 0, -1)), folder=folder)
    assert one.label == "Restore 21:43:10, 1 keyframe"
    one.forget()
    assert not folder.exists()
