"""A pipe to which nobody writes is refused where a file is expected, and not waited for."""

import os
import signal

import pytest

from input_pipeline.datasets.cam_x_time_evaluation import _read_metadata
from input_pipeline.datasets.records import read_videos
from stp_jax.command_line import read_config
from stp_jax.errors import InputError
from stp_jax.files import array_header, read_json, read_json_lines
from stp_jax.media import sources
from stp_jax.rerender import jobs
from stp_jax.text import read_embeddings
from stp_jax.user_input import load
from stp_jax.weights import recognition
from stp_jax.weights.files import open_tensors


class Waits(BaseException):
    """No `OSError`, which readers would catch."""


@pytest.fixture
def alarm():
    """Ends a reader that waits."""

    def stop(*_):
        raise Waits

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(3)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "name, read",
    [
        ("a.mp4", sources.is_still),
        ("a.mp4", lambda path: list(sources.frames(path))),
        ("a.exr", sources.times),
        ("a.jsonl", lambda path: jobs.read_lines(path, [])),
        ("a.json", read_json),
        ("a.jsonl", read_json_lines),
        ("a.npy", array_header),
        ("a.npy", lambda path: load(path, (".npy",))),
        ("a.npz", lambda path: read_embeddings(path, 4)),
        ("a.safetensors", recognition.recognise),
        ("a.ckpt", lambda path: recognition.recognise(path, "vae")),
        ("a.safetensors", open_tensors),
        ("a.py", lambda path: read_config(str(path))),
        ("a.csv", _read_metadata),
        ("a.mp4", lambda path: read_videos(path.parent, ["a"])),
    ],
)
def test_a_pipe_is_refused_at_once(tmp_path, alarm, name, read):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=name):
        read(tmp_path / name)


def test_devices_are_no_weights():
    for path in ("/dev/null", "/dev/zero"):
        with pytest.raises(InputError, match="is no file"):
            recognition.recognise(path)
