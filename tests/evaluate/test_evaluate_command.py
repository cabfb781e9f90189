"""`python -m stp_jax.evaluate`: from weights and a config to figures, and its messages."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from stp_jax.errors import InputError
from stp_jax.evaluate.cases import BOTH, CAMERA, TIME
from stp_jax.evaluate.command import labels_of, main, read_models
from stp_jax.evaluate.rows import CEILING
from tests.tiny_model import SHIFT, STEPS, edit_index, write_tiny_model


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


def write_config(path, data, frames=5):
    path.write_text(f"""
from ml_collections import ConfigDict
def get_config():
    data = dict(path={data.path!r}, kind="cam_x_time", frames={frames})
    return ConfigDict(dict(task="dit", pictures=dict(data=data, split="test")))
""")
    return str(path)


def test_command_line_evaluates_weights(data, tmp_path, capsys, monkeypatch, without_lpips):
    monkeypatch.setattr("stp_jax.devices.hardware.use_compilation_cache", lambda: None)
    for name in ("runs/a/weights", "runs/b/weights"):
        write_tiny_model(tmp_path / name)
    edit_index(tmp_path / "runs" / "b" / "weights", "dit", notes={"sampling_steps": 1})
    save_file({"x.lora_A.weight": np.zeros(2)}, tmp_path / "runs" / "b" / "weights" / "style.safetensors")
    config = write_config(tmp_path / "config.py", data)
    folders = [str(tmp_path / "runs" / name / "weights") for name in "ab"]
    command = ["--config", config, "--weights", *folders, "--out", str(tmp_path / "out")]
    main(
        [
            *command,
            "--scenes",
            "1",
            "--sheets",
            "1",
            "--split",
            "test",
            "--measures",
            "time",
            "disentanglement",
        ]
    )
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(result["settings"]["weights"]) == ["a", "b"]
    for label, steps in (("a", STEPS), ("b", 1)):
        settings = result["settings"]["weights"][label]
        assert settings["sampling"].items() >= {"steps": steps, "shift": SHIFT, "dtype": "float32"}.items()
        assert all(3 < result["means"][group][label]["psnr"]["mean"] < 20 for group in (TIME, CAMERA, BOTH))
    checksums = [result["settings"]["weights"][label]["checksums"] for label in "ab"]
    assert checksums[0] == checksums[1] and CEILING in result["means"][BOTH]  # one VAE, one ceiling
    pairs = [(d["method"], d["against"]) for d in result["differences"] if d["metric"] == "ssim"]
    assert len(pairs) == 3 * 3 and pairs[2] == ("b", "a")
    output = capsys.readouterr().out
    assert output.count("style.safetensors is an adapter (LoRA) and is NOT applied") == 1
    assert (tmp_path / "out" / "table.txt").read_text().strip() in output and "20 videos" in output
    # Time is also found in noise; in the ground truth it is the commanded one.
    truth = result["measures"]["time"][BOTH]["ground truth"]
    assert truth["mean_absolute_error_frames"]["mean"] < 0.05
    assert result["measures"]["time"]["bullet time"]["ground truth"]["spread_frames"]["mean"] < 0.05
    assert result["measures"]["disentanglement"]["whole scene"]["a"]
    plots = sorted(path.name for path in (tmp_path / "out" / "plots").iterdir())
    assert plots == ["disentanglement.png", "metrics.png", "time.png", "time_curves.png"]
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--scenes", "1"])
    assert exit_.value.code == 2 and "complete evaluation" in capsys.readouterr().err


def one_line_error(capsys, command):
    with pytest.raises(SystemExit) as exit_:
        main(command)
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error


def test_mistakes_in_weights_and_data_are_reported_before_the_work(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stp_jax.devices.hardware.use_compilation_cache", lambda: None)
    config = write_config(tmp_path / "config.py", data)
    command = ["--config", config, "--out", str(tmp_path / "out"), "--scenes", "1", "--weights"]
    small, large = (str(write_tiny_model(tmp_path / name)) for name in ("small", "large"))
    edit_index(tmp_path / "large", "dit", notes={"height": 64})
    assert "given twice" in one_line_error(capsys, [*command, small, f"{small}/."])
    missing = str(tmp_path / "missing")
    assert missing in one_line_error(capsys, [*command, small, missing])
    error = one_line_error(capsys, [*command, small, large])
    assert "5 frames of 32 x 64 pixels" in error and "5 frames of 32 x 32 pixels" in error
    error = one_line_error(capsys, [*command, large])
    assert "--weights large: its videos are 5 frames of 32 x 64 pixels, the data's" in error
    assert "'validation'" in one_line_error(capsys, [*command, small, "--split", "validation"])
    assert "unknown measure" in one_line_error(capsys, [*command, small, "--measures", "sharpness"])
    assert not (tmp_path / "out").exists()


def test_loras_are_merged_into_the_models_and_are_among_the_settings(tmp_path, capsys):
    folder = str(write_tiny_model(tmp_path / "a"))
    q = "diffusion_model.blocks.1.self_attn.q"
    down, up = np.ones((2, 48), np.float32), np.ones((48, 2), np.float32)
    save_file({f"{q}.lora_A.weight": down, f"{q}.lora_B.weight": up}, tmp_path / "style.safetensors")
    lora = f"{tmp_path / 'style.safetensors'}:0.5"
    models, settings = read_models([folder], loras=[lora], steps=3)
    assert "style.safetensors (LoRA) is merged into 1 layer, strength 0.5" in capsys.readouterr().out
    (said,) = settings["a+style"].pop("loras")
    assert said["strength"] == 0.5 and len(said["checksum"]) == 16
    _, plain = read_models([folder], steps=3)
    assert list(plain.values()) == list(settings.values()) and plain["a"]["sampling"]["steps"] == 3
    (model,) = models
    (other,), _ = read_models([folder])
    changed = np.concatenate([np.ravel(x) for x in jax.tree.leaves(model.rerender._dit.state())])
    given = np.concatenate([np.ravel(x) for x in jax.tree.leaves(other.rerender._dit.state())])
    assert (changed != given).sum() == 48 * 48
    np.testing.assert_allclose((changed - given)[changed != given], 0.5 * 2, atol=1e-5)  # alpha is the rank
    with pytest.raises(InputError, match="another model"):
        save_file({f"{q}.lora_A.weight": down, f"{q}.lora_B.weight": up[:9]}, tmp_path / "wide.safetensors")
        read_models([folder], loras=[str(tmp_path / "wide.safetensors")])
    for flag in (["--lora", lora], ["--speed", "fast"]):
        assert "needs" in one_line_error(capsys, ["--cam_x_time", "x", "--videos", "y", *flag])


def test_presets_of_speed_are_models_side_by_side(tmp_path, capsys):
    folder = str(write_tiny_model(tmp_path / "a"))
    models, settings = read_models([folder], speeds=["exact", "draft"])
    assert [model.label for model in models] == list(settings) == ["a", "a+draft"]
    assert "speed" not in settings["a"]["sampling"]  # an evaluation that was begun earlier goes on
    assert settings["a+draft"]["sampling"]["speed"]["cache_threshold"] == 0.1
    assert "a+draft: " in capsys.readouterr().out
    error = one_line_error(capsys, ["--config", "configs/demo.py", "--speed", "quick"])
    assert "invalid choice: 'quick'" in error


@pytest.mark.parametrize(
    "folders, labels",
    [
        (["runs/demo/weights"], ["demo"]),
        (["runs/a/weights", "runs/b/weights"], ["a", "b"]),
        (["one/a/weights", "two/a/weights", "two/b"], ["one/a", "two/a", "b"]),
        (["runs/a/best", "runs/b/best"], ["a/best", "b/best"]),
        (["runs/taken"], ["runs/taken"]),
    ],
)
def test_labels_are_short_and_differ(folders, labels):
    assert labels_of(folders, ["taken"]) == labels
