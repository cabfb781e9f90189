"""The command of the editor: mistakes are one or two lines, before any long work."""

import socket

import pytest

from stp_jax.edit import command, server
from stp_jax.edit.state import State


def said(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        command.main([str(word) for word in words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") <= 2
    return error


@pytest.mark.parametrize(
    "words, message",
    [
        (["--video", "no.mp4"], "no.mp4"),
        (["--keyframes", "no.json"], "no.json"),
        (["--weights", "nowhere"], "--weights nowhere does not exist"),
        (["--depth", "no.npz"], "no.npz"),
        (["--camera", "orbit_lefft"], "did you mean orbit_left"),
        (["--dry_run"], "--dry_run: is for sample.py"),
        (["--jobs", "jobs.jsonl"], "--jobs: is for sample.py"),
        (["--portt", "1"], "portt"),
        (["--port", "99999"], "--port"),
        (["--host", "no host"], "--host no host"),
        (["--seed", "x"], "--seed"),
        (["--frames", "33"], "--frames 33: the editor makes one window, of 17 frames"),
    ],
)
def test_mistakes_are_said_before_the_page_is_there(capsys, words, message):
    assert message in said(capsys, *words)


def test_a_port_in_use_is_said_by_its_number(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port}: Address already in use" in said(capsys, "--port", port)


def test_the_extra_is_named_where_it_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'stp-jax[editor]'" in said(capsys)


def test_it_begins_with_what_the_flags_say(tmp_path):
    _, flags = command.main_flags(["--camera", "dolly_in", "--animation_time", "reverse", "--seed", "5"])
    source, keys = command.begin(flags, None)
    state = State(source, keys)
    assert state.view().c2w[-1][2, 3] > 0.5 and state.view().animation_time[0] == 16
    assert "--seed=5" in state.command("k.json") and "dolly_in" not in state.command("k.json")
    path = tmp_path / "keys.json"
    path.write_text(state.text())
    _, again = command.main_flags(["--keyframes", str(path)])
    assert command.begin(again, None)[1] == keys
