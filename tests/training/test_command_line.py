"""train.py as a user meets it: messages and exit statuses."""

import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import train
from stp_jax.command_line import read_config
from stp_jax.devices import hardware
from stp_jax.errors import InputError
from stp_jax.training import loop

ROOT = Path(__file__).parents[2]
DEMO = ["--config", "configs/demo.py"]


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs train.py's main with these flags: its exit status and what it printed to stderr."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the handlers here stay
    monkeypatch.setattr(hardware, "use_compilation_cache", lambda: None)

    def run_main(*flags) -> tuple[int, str]:
        capsys.readouterr()
        status = 0
        try:
            train.main([str(flag) for flag in flags])
        except SystemExit as ended:
            status = ended.code
        return status, capsys.readouterr().err

    return run_main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (DEMO, "--workdir is missing"),
        (["--workdir", "x"], "--config is missing"),
        (["--config", "configs/demo.py:xpu", "--workdir", "x"], "choose demo.py or demo.py:gpu"),
        ([*DEMO, "--workdir", ""], "--workdir is missing"),
        ([*DEMO, "--workdir", "x", "--config.train.stepps=3"], "no such field: stepps. Did you mean"),
        ([*DEMO, "--workdir", "x", "--config.train.batch_size=0"], "train.batch_size is 0"),
        ([*DEMO, "--workdir", "x", "--config.train.steps=0"], "train.steps is 0"),
        ([*DEMO, "--workdir", "x", "--config.train.log_every=0"], "train.log_every is 0"),
        ([*DEMO, "--workdir", "x", "--config.train.batch_size=8", "--config.vae=/nowhere"], "/nowhere"),
        (["--config", "configs/nothing.py", "--workdir", "x"], "configs/nothing.py"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(run, tmp_path, arguments, message):
    status, printed = run(*(tmp_path / "run" if word == "x" else word for word in arguments))
    assert status == 2 and printed.startswith("error: ") and message in printed
    assert {path.name for path in tmp_path.glob("run/*")} <= {"lock"}  # free for another config


def test_config_that_is_no_python_is_named(tmp_path):
    """Of the program itself, as a user starts it."""
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(:")
    done = subprocess.run(
        [sys.executable, "train.py", "--config", broken, "--workdir", tmp_path / "run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "broken.py, line 1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return undefined", "config.py:2: NameError: name 'undefined'"),
        ("x = 1", "the file has no function get_config()"),
        (
            "def get_config():\n    import math\n    return math.no",
            "config.py:3: AttributeError: module 'math' has no",
        ),
    ],
)
def test_faults_of_a_config_are_reported_with_their_line(run, tmp_path, text, message):
    (tmp_path / "config.py").write_text(text)
    status, printed = run("--config", tmp_path / "config.py", "--workdir", tmp_path / "run")
    assert status == 2 and message in printed


def test_a_file_without_get_config_does_not_get_that_of_the_file_before(tmp_path):
    (tmp_path / "config.py").write_text("x = 1")
    assert read_config("configs/demo.py").task == "dit"
    with pytest.raises(InputError, match="no function get_config"):
        read_config(str(tmp_path / "config.py"))


def test_half_a_word_about_other_processes_is_refused(run, tmp_path):
    status, printed = run(*DEMO, "--workdir", tmp_path / "run", "--processes=2", "--process=1")
    assert status == 2 and "--processes=2 needs --coordinator" in printed


def stops_by(number):
    return lambda *_, **__: number


def fails_with(error):
    def train(*_, **__):
        raise error

    return train


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (stops_by(None), 0),
        (stops_by(signal.SIGINT), 0),
        (stops_by(signal.SIGTERM), 143),
        (fails_with(KeyboardInterrupt()), 130),
        (fails_with(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")), 2),
    ],
)
def test_exit_status_says_how_the_run_ended(run, tmp_path, monkeypatch, outcome, status):
    monkeypatch.setattr(loop, "train", outcome)
    found, printed = run(*DEMO, "--workdir", tmp_path)
    assert found == status, printed
