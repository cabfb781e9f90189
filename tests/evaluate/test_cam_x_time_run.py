"""`python -m stp_jax.evaluate --cam_x_time`: the published set from its folder to figures."""

import csv
import json

import numpy as np
import pytest

from stp_jax.evaluate.cam_x_time_folder import MODES, moments, read_frames
from stp_jax.evaluate.cases import TIME
from stp_jax.evaluate.command import main
from stp_jax.evaluate.metrics import psnr, psnr_frames
from stp_jax.evaluate.rows import SOURCE
from stp_jax.rerender.rerenderer import Rerenderer
from tests.evaluate.test_cam_x_time_folder import SCENES, write_set
from tests.tiny_model import FRAMES, SIZE, write_tiny_model


def test_command_line_evaluates_the_published_set(tmp_path, capsys, monkeypatch, without_lpips):
    monkeypatch.setattr("stp_jax.devices.hardware.use_compilation_cache", lambda: None)
    prompts = []

    def darker(self, video, cameras, time, target_cameras, target_time, *, prompt, seed):
        """Instead of the model, which would be compiled for long."""
        assert target_cameras is None and len(cameras.c2w) == len(time) == len(target_time) == FRAMES
        prompts.append(prompt)
        return video // 2

    monkeypatch.setattr(Rerenderer, "__call__", darker)
    monkeypatch.setattr(Rerenderer, "reconstruct", lambda self, video: video)
    folder = write_set(tmp_path / "CamxTime_eval")
    weights, out = str(write_tiny_model(tmp_path / "tiny")), tmp_path / "out"
    command = ["--cam_x_time", str(folder), "--weights", weights, "--out", str(out), "--sheets", "1"]
    main(command)
    result = json.loads((out / "metrics.json").read_text())
    assert list(result["means"]) == [TIME] and list(result["cases"][TIME]) == list(MODES)
    assert result["scenes"] == len(SCENES)
    with open(out / "per_scene.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == SOURCE]
    assert len(rows) == len(SCENES) * len(MODES)
    for row in rows:
        videos = folder / "eval_input" / "videos" / f"{row['scene']}.mp4"
        truth = folder / "eval_gt_wan2.1_format" / row["scene"] / MODES[row["mode"]][1]
        pair = [read_frames(path, FRAMES, SIZE, SIZE) for path in (videos, truth)]
        assert float(row["psnr"]) == pytest.approx(psnr(*pair))
        assert float(row["psnr_frames"]) == pytest.approx(psnr_frames(*pair))
    assert prompts == [f"a scene, {scene}" for scene in SCENES for _ in MODES]
    tiny = result["cases"][TIME]["reverse"]["tiny"]
    assert 3 < tiny["psnr"]["mean"] < tiny["psnr_frames"]["mean"] < 25
    assert (out / "sheets" / f"{SCENES[0]}_time_control_slow_motion.png").exists()
    assert "by case" in capsys.readouterr().out
    np.testing.assert_array_equal(moments("reverse", FRAMES), [4, 3, 2, 1, 0])


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--cam_x_time nowhere --split test", "--split"),
        ("--cam_x_time nowhere --measures time", "--measures"),
        ("--cam_x_time nowhere --config configs/demo.py", "not allowed with"),
        ("--config configs/demo.py --fov 40", "--fov"),
        ("", "required"),
    ],
)
def test_flags_that_do_not_go_together(capsys, flags, message):
    with pytest.raises(SystemExit) as exit_:
        main(flags.split())
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and message in error and error.count("\n") == 1
