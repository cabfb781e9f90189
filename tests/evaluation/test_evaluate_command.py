"""`python -m stp_jax.evaluate`: from weights and a config to figures, and its messages."""

import dataclasses
import json

import pytest
from flax import nnx

from stp_jax import weights
from stp_jax.evaluate import main
from stp_jax.evaluation.cases import BOTH, CAMERA, TIME
from stp_jax.evaluation.scores import OURS
from stp_jax.models.dit import DiTConfig, SpaceTimeDiT
from stp_jax.models.vae import VAE, VAEConfig


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file"),
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


def tiny_weights(folder):
    """Untrained models of the full architecture for 5 frames of 32 x 32 pixels."""
    vae_config = VAEConfig(
        dim=4,
        z_dim=4,
        dim_mult=(1, 1, 1),
        res_blocks=1,
        temporal_downsample=(True, True),
        latent_mean=(0,) * 4,
        latent_std=(1,) * 4,
    )
    dit_config = DiTConfig(
        dim=16, ffn_dim=16, layers=1, heads=2, channels=4, freq_dim=8, conditioning_dim=8, dtype="float32"
    )
    notes = {"frames": 5, "height": 32, "width": 32, "sampling_steps": 2, "sampling_shift": 1.0}
    for name, model, config in (
        ("vae", VAE(vae_config, rngs=nnx.Rngs(0)), vae_config),
        ("dit", SpaceTimeDiT(dit_config, rngs=nnx.Rngs(0)), dit_config),
    ):
        weights.save_weights(folder, name, weights.flatten(model), dataclasses.asdict(config), notes=notes)


def test_command_line_evaluates_weights(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stp_jax.rerender.use_compilation_cache", lambda: None)
    tiny_weights(tmp_path / "weights")
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
    assert result["settings"]["sampling"] == {"steps": 2, "shift": 1.0, "dtype": "float32"}
    assert all(3 < result["means"][group][OURS]["psnr"] < 20 for group in (TIME, CAMERA, BOTH))
    assert (tmp_path / "out" / "table.txt").read_text().strip() in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--scenes", "1"])
    assert exit_.value.code == 2 and "complete evaluation" in capsys.readouterr().err
