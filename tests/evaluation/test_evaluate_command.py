"""`python -m stp_jax.evaluate`: from weights and a config to figures, and its messages."""

import json

import pytest

from stp_jax.evaluate import main
from stp_jax.evaluation.cases import BOTH, CAMERA, TIME
from tests.tiny_model import SHIFT, STEPS, write_tiny_model


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file"),
        ("def get_config(:", "line 1"),
        ("x = 1", "no function get_config"),
        ("def get_config(): raise ValueError('unknown variant')", "unknown variant"),
        (
            "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'task': 'vae'})",
            "task",
        ),
    ],
)
def test_command_line_mistakes_are_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "config.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as exit_:
        main(["--config", str(path)])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --config {path}") and message in error and error.count("\n") == 1


@pytest.mark.parametrize("flags", ["--scenes 0", "--scenes many", "--seed -1", "--scene 3"])
def test_mistakes_in_flags_are_one_line(capsys, flags):
    with pytest.raises(SystemExit) as exit_:
        main(["--config", "configs/demo.py", *flags.split()])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert flags.split()[0] in error and "_" not in error


def test_command_line_evaluates_weights(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stp_jax.hardware.use_compilation_cache", lambda: None)
    write_tiny_model(tmp_path / "weights")
    config = f"""
from ml_collections import ConfigDict
def get_config():
    data = dict(path={data.path!r}, kind="cam_x_time", frames=5)
    return ConfigDict(dict(task="dit", pictures=dict(data=data, split="test")))
"""
    (tmp_path / "config.py").write_text(config)
    arguments = {"config": "config.py", "weights": "weights", "out": "out"}
    command = [text for name, value in arguments.items() for text in (f"--{name}", str(tmp_path / value))]
    main([*command, "--scenes", "1", "--sheets", "1"])
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    settings = result["settings"]["weights"][label]
    assert settings["sampling"] == {"steps": STEPS, "shift": SHIFT, "dtype": "float32"}
    assert all(3 < result["means"][group][label]["psnr"]["mean"] < 20 for group in (TIME, CAMERA, BOTH))
    assert (tmp_path / "out" / "table.txt").read_text().strip() in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--scenes", "1"])
    assert exit_.value.code == 2 and "complete evaluation" in capsys.readouterr().err
