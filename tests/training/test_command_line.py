"""train.py as a user meets it: messages and exit statuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stp_jax.command_line import read_config
from stp_jax.errors import InputError

ROOT = Path(__file__).parents[2]
DEMO = ["--config", "configs/demo.py"]


def run(arguments, before=""):
    start = "import runpy, sys\nsys.argv[0] = 'train.py'\nrunpy.run_path('train.py', run_name='__main__')"
    code = f"{before}\n{start}"
    one_device = os.environ | {"XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=one_device, capture_output=True, text=True
    )


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
        ([*DEMO, "--workdir", "x", "--config.vae=/nowhere"], "/nowhere"),
        (["--config", "configs/nothing.py", "--workdir", "x"], "configs/nothing.py"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(tmp_path, arguments, message):
    done = run([str(tmp_path / "run") if a == "x" else a for a in arguments])
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and message in done.stderr and "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.glob("run/*")} <= {"lock"}  # free for another config


def test_config_that_is_no_python_is_named(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(:")
    done = run(["--config", str(broken), "--workdir", str(tmp_path / "run")])
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
def test_faults_of_a_config_are_reported_with_their_line(tmp_path, text, message):
    (tmp_path / "config.py").write_text(text)
    done = run(["--config", str(tmp_path / "config.py"), "--workdir", str(tmp_path / "run")])
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_file_without_get_config_does_not_get_that_of_the_file_before(tmp_path):
    (tmp_path / "config.py").write_text("x = 1")
    assert read_config("configs/demo.py").task == "dit"
    with pytest.raises(InputError, match="no function get_config"):
        read_config(str(tmp_path / "config.py"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes=2", "--process=1"], "--processes=2 needs --coordinator"),
    ],
)
def test_half_a_word_about_other_processes_is_refused(tmp_path, flags, message):
    done = subprocess.run(
        [sys.executable, "train.py", *DEMO, "--workdir", str(tmp_path / "run"), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("return None", 0),
        ("return signal.SIGINT", 0),
        ("return signal.SIGTERM", 143),
        ("raise KeyboardInterrupt", 130),
        ("raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')", 2),
    ],
)
def test_exit_status_says_how_the_run_ended(tmp_path, outcome, status):
    imports = "import jax, signal\nimport stp_jax.training.loop as loop"
    done = run(
        [*DEMO, "--workdir", str(tmp_path)], f"{imports}\ndef train(*_, **__): {outcome}\nloop.train = train"
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
